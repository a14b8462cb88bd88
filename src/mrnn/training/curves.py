"""A picture of a training run, from its log."""

import json
from pathlib import Path

from mrnn.files import atomic_path, plain


def plot_curves(log: Path, picture: Path) -> None:
    """Draw training bits and dev perplexity against steps.

    Args:
        log: `log.jsonl` of a run.
        picture: PNG to write.
    """
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in log.read_text().splitlines()]
    most = 300  # bits: 2 ** more is beyond what can be drawn
    train = [(r["step"], 2 ** min(r["bits"], most)) for r in records if "bits" in r]
    dev = [(r["step"], r["dev_perplexity"]) for r in records if "dev_perplexity" in r]
    if not train or not dev:  # the log was deleted
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*train, strict=True), color="0.7", linewidth=1, label="train, with dropout")
    axes.plot(*zip(*dev, strict=True), color="tab:blue", marker="o", markersize=4, label="dev")
    best = min(dev, key=lambda point: point[1])
    axes.annotate(f"{best[1]:.2f}", best, textcoords="offset points", xytext=(0, 8), ha="center")
    axes.set(xlabel="step", ylabel="perplexity", yscale="log", title=f"Training of {plain(log.parent.name)}")
    axes.set_ylim(top=min(max(p for _, p in train), 8 * best[1]))
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_formatter("{x:.0f}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=120)
