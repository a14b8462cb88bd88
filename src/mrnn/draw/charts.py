"""Curves and bars, by matplotlib, which is an extra and imported when one is drawn.

Shapes: N images, S sentences.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from mrnn.files import atomic_path, plain
from mrnn.images import ImageSource, open_image


def _figure(**options: Any) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("curves need an extra: pip install 'mrnn[plots]'") from None
    return Figure(layout="constrained", **options)


def _save(figure: Any, picture: Path, dpi: int = 120) -> None:
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=dpi, format=picture.suffix[1:] or "png")


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _plain_numbers(axes: Any) -> None:
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_formatter("{x:.0f}")


def draw_training(log: Path, picture: Path) -> None:
    """Draw training bits and dev perplexity of a run against steps.

    Args:
        log: `log.jsonl` of the run.
        picture: PNG to write.
    """
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    most = 300  # bits: 2 ** more is beyond what can be drawn
    train = [(r["step"], 2 ** min(r["bits"], most)) for r in records if "bits" in r]
    dev = [(r["step"], r["dev_perplexity"]) for r in records if "dev_perplexity" in r]
    if not train or not dev:  # the log was deleted
        return
    figure = _figure(figsize=(7, 4))
    axes = figure.subplots()
    axes.plot(*zip(*train, strict=True), color="0.7", linewidth=1, label="train, with dropout")
    axes.plot(*zip(*dev, strict=True), color="tab:blue", marker="o", markersize=4, label="dev")
    best = min(dev, key=lambda point: point[1])
    axes.annotate(f"{best[1]:.2f}", best, textcoords="offset points", xytext=(0, 8), ha="center")
    axes.set(xlabel="step", ylabel="perplexity", yscale="log", title=f"Training of {plain(log.parent.name)}")
    axes.set_ylim(top=min(max(p for _, p in train), 8 * best[1]))
    _plain_numbers(axes)
    axes.legend(frameon=False)
    _bare(axes)
    _save(figure, picture)


def draw_trainings(logs: Mapping[str, Path], picture: Path) -> None:
    """Draw dev perplexity against epochs, a line a run.

    Args:
        logs: `log.jsonl` by label.
        picture: PNG to write.
    """
    if not logs:
        return
    figure = _figure(figsize=(9, 5))
    axes = figure.subplots()
    for i, (label, log) in enumerate(logs.items()):
        records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        dev = [(r["epoch"], r["dev_perplexity"]) for r in records if "dev_perplexity" in r]
        style = ("-", "--", ":")[i // 10 % 3]
        axes.plot(*zip(*dev, strict=True), style, color=f"C{i % 10}", label=f"{label}: {min(p for _, p in dev):.2f}")
    axes.set(xlabel="epoch", ylabel="dev perplexity", yscale="log")
    _plain_numbers(axes)
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    _bare(axes)
    _save(figure, picture)


def draw_recall(ranks: Mapping[str, tuple[np.ndarray, int]], picture: Path) -> None:
    """Draw recall against K.

    Args:
        ranks: By direction the rank of every query's best true match, and the number of candidates.
        picture: PNG to write.
    """
    figure = _figure(figsize=(6, 4))
    axes = figure.subplots()
    for label, (rank, candidates) in ranks.items():
        ks = np.arange(1, min(100, candidates) + 1)
        axes.plot(ks, [100 * (rank <= k).mean() for k in ks], label=f"{label}, median rank {np.median(rank):.0f}")
    axes.set(xlabel="K", ylabel="queries with a true match in the top K, %", xscale="log", ylim=(0, 100))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(frameon=False)
    _bare(axes)
    _save(figure, picture)


def draw_gallery(
    photos: Sequence[ImageSource],
    sentences: Sequence[str],
    scores: np.ndarray,
    owner: Sequence[int],
    generated: Sequence[str],
    picture: Path,
    rows: int = 6,
) -> None:
    """Draw photos with the caption written for each and the three sentences found for it, true ones marked.

    Args:
        photos: N files, of which the first `rows` are drawn.
        sentences: S.
        scores: (N, S) by which sentences are ranked for an image.
        owner: (S,) the image of each sentence.
        generated: A caption a photo; may be empty.
        picture: PNG to write.
        rows: Photos to draw.
    """
    rows = min(rows, len(photos))
    figure = _figure(figsize=(8, 1.7 * rows))
    grid = figure.subplots(rows, 2, width_ratios=(1, 3), squeeze=False)
    for i, (left, right) in enumerate(grid):
        left.imshow(open_image(photos[i], 224).resize((224, 168)))
        left.set_axis_off()
        right.set_axis_off()
        lines = [fill(f"written: {generated[i]}", 80)] if generated else []
        for j in np.argsort(-scores[i], kind="stable")[:3]:
            lines.append(fill(f"{'✓' if owner[j] == i else '·'} {scores[i, j]:.1f}  {plain(sentences[j])}", 80))
        right.text(0, 0.5, "\n".join(lines), va="center", fontsize=8)
    _save(figure, picture)


def draw_recall_bars(rows: Mapping[str, Mapping[str, float]], picture: Path) -> None:
    """Draw R@1, R@5 and R@10 in both directions, a bar a row.

    Args:
        rows: Figures by label, named as `evaluation.retrieval_figures` does.
        picture: PNG to write.
    """
    if not rows:
        return
    figure = _figure(figsize=(10, 1 + 0.35 * len(rows)))
    directions = ("image-to-sentence", "sentence-to-image")
    for axes, direction in zip(figure.subplots(1, 2, sharey=True), directions, strict=True):
        for place, name in enumerate(("R@10", "R@5", "R@1")):
            values = [figures.get(f"{direction} {name}", 0) for figures in rows.values()]
            axes.barh(list(rows), values, color=f"{0.85 - 0.25 * place}", label=name)
        axes.set(title=direction.replace("-", " "), xlabel="queries with a true match in the top K, %", xlim=(0, 100))
        _bare(axes)
    axes.invert_yaxis()
    axes.legend(frameon=False)
    _save(figure, picture)


def draw_worth(worth: Mapping[str, Mapping[str, float]], picture: Path) -> None:
    """Draw what the image is worth to each part of speech.

    Args:
        worth: What `image_worth` gave.
        picture: PNG to write.
    """
    groups = sorted(worth, key=lambda group: worth[group]["worth"])
    figure = _figure(figsize=(7, 0.8 + 0.32 * len(groups)))
    axes = figure.subplots()
    bars = axes.barh(groups, [worth[group]["worth"] for group in groups], color="tab:blue")
    axes.bar_label(bars, [f"{worth[group]['worth']:.2f}" for group in groups], padding=3, fontsize=8)
    axes.set(xlabel="bits a token that the image saves")
    _bare(axes)
    _save(figure, picture)
