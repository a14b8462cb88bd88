"""Pictures of an evaluation: recall at K in both directions, and a gallery of what was found.

Shapes: N images, S sentences.
"""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import numpy as np

from mrnn.evaluation.ranking import ranks
from mrnn.files import atomic_path, plain
from mrnn.images import ImageSource, open_image


def plot_recall(scores: dict[str, np.ndarray], owner: Sequence[int], picture: Path) -> None:
    """Draw recall against K for both directions.

    Args:
        scores: (N, S) of each query kind.
        owner: (S,) the image of each sentence.
        picture: PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for query, label, candidates in (("image", "image to sentence", 1), ("sentence", "sentence to image", 0)):
        rank = ranks(scores[query], np.asarray(owner), query)
        top = min(100, scores[query].shape[candidates])
        ks = np.arange(1, top + 1)
        axes.plot(ks, [100 * (rank <= k).mean() for k in ks], label=f"{label}, median rank {np.median(rank):.0f}")
    axes.set(xlabel="K", ylabel="queries with a true match in the top K, %", xscale="log", ylim=(0, 100))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=120)


def plot_gallery(
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
    from matplotlib.figure import Figure

    rows = min(rows, len(photos))
    figure = Figure(figsize=(8, 1.7 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, width_ratios=(1, 3), squeeze=False)
    for i, (left, right) in enumerate(grid):
        left.imshow(open_image(photos[i], 224).resize((224, 168)))
        left.set_axis_off()
        right.set_axis_off()
        lines = [fill(f"written: {generated[i]}", 80)] if generated else []
        for j in np.argsort(-scores[i], kind="stable")[:3]:
            lines.append(fill(f"{'✓' if owner[j] == i else '·'} {scores[i, j]:.1f}  {plain(sentences[j])}", 80))
        right.text(0, 0.5, "\n".join(lines), va="center", fontsize=8)
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=110)
