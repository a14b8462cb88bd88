"""Pictures of a table: training curves of all rows, recall in both directions, and the image's worth."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrnn.files import atomic_path
from mrnn.reproduce.plan import Step
from mrnn.reproduce.reported import RETRIEVAL


def _save(figure, picture: Path) -> None:
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=120)


def plot_curves_of(logs: Mapping[str, Path], picture: Path) -> None:
    """Draw dev perplexity against epochs, a line a row.

    Args:
        logs: `log.jsonl` by label.
        picture: PNG to write.
    """
    from matplotlib.figure import Figure

    if not logs:
        return
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for i, (label, log) in enumerate(logs.items()):
        records = [json.loads(line) for line in log.read_text().splitlines()]
        dev = [(r["epoch"], r["dev_perplexity"]) for r in records if "dev_perplexity" in r]
        style = ("-", "--", ":")[i // 10 % 3]
        axes.plot(*zip(*dev, strict=True), style, color=f"C{i % 10}", label=f"{label}: {min(p for _, p in dev):.2f}")
    axes.set(xlabel="epoch", ylabel="dev perplexity", yscale="log")
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_formatter("{x:.0f}")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, picture)


def plot_retrieval(table: str, steps: Sequence[Step], results: Mapping[str, Mapping[str, Any]], picture: Path) -> None:
    """Draw R@1, R@5 and R@10 in both directions, reported and ours.

    Args:
        table: Its name.
        steps: Of the plan.
        results: Figures by step.
        picture: PNG to write.
    """
    from matplotlib.figure import Figure

    rows = {f"{row.label} (reported)": row.figures for row in RETRIEVAL[table]}
    for step in steps:
        if step.name in results and not step.row.ablation and "sentence-to-image R@1" in results[step.name]["figures"]:
            rows.setdefault(step.row.label, results[step.name]["figures"])
    if not rows:
        return
    figure = Figure(figsize=(10, 1 + 0.35 * len(rows)), layout="constrained")
    for axes, direction in zip(
        figure.subplots(1, 2, sharey=True), ("image-to-sentence", "sentence-to-image"), strict=True
    ):
        for place, name in enumerate(("R@10", "R@5", "R@1")):
            values = [figures.get(f"{direction} {name}", 0) for figures in rows.values()]
            axes.barh(list(rows), values, color=f"{0.85 - 0.25 * place}", label=name)
        axes.set(title=direction.replace("-", " "), xlabel="queries with a true match in the top K, %", xlim=(0, 100))
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    axes.legend(frameon=False)
    _save(figure, picture)


def plot_worth(worth: Mapping[str, Mapping[str, float]], picture: Path) -> None:
    """Draw what the image is worth to each part of speech.

    Args:
        worth: What `image_worth` gave.
        picture: PNG to write.
    """
    from matplotlib.figure import Figure

    groups = sorted(worth, key=lambda group: worth[group]["worth"])
    figure = Figure(figsize=(7, 0.8 + 0.32 * len(groups)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(groups, [worth[group]["worth"] for group in groups], color="tab:blue")
    axes.bar_label(bars, [f"{worth[group]['worth']:.2f}" for group in groups], padding=3, fontsize=8)
    axes.set(xlabel="bits a token that the image saves")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, picture)
