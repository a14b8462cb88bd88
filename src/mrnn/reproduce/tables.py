"""The tables as Markdown: reported figures in italics, ours below them, what was not run marked as such."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from mrnn.reproduce.plan import Row, Step
from mrnn.reproduce.reported import CAPTIONING, RETRIEVAL, Reported

Results = Mapping[str, Mapping[str, Any]]
Figures = list[Mapping[str, float]]  # one a seed

DIRECTIONS = {"image-to-sentence": "image to sentence", "sentence-to-image": "sentence to image"}
RANKS = ("R@1", "R@5", "R@10", "median rank")
# Column title, the figures in it, how they are written.
CAPTION_COLUMNS = (
    ("perplexity", ("perplexity",), "{:.2f}"),
    ("BLEU-1..4", ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"), "{:.3f}"),
    ("n-gram precision 1..3", ("precision-1", "precision-2", "precision-3"), "{:.3f}"),
    ("CIDEr", ("CIDEr",), "{:.3f}"),
)
RETRIEVAL_COLUMNS = tuple(
    (title, tuple(f"{direction} {rank}" for rank in RANKS), "{:.1f}") for direction, title in DIRECTIONS.items()
)
ABLATION_COLUMNS = (
    ("perplexity", ("perplexity",), "{:.2f}"),
    ("BLEU-4", ("BLEU-4",), "{:.3f}"),
    ("CIDEr", ("CIDEr",), "{:.3f}"),
    *((f"{title} R@1, R@10", (f"{d} R@1", f"{d} R@10"), "{:.1f}") for d, title in DIRECTIONS.items()),
)
Columns = Sequence[tuple[str, tuple[str, ...], str]]


def markdown(
    table: str,
    data: str,
    steps: Sequence[Step],
    results: Results,
    unavailable: Mapping[str, str],
    worth: Mapping[str, Mapping[str, float]],
) -> str:
    """All tables of a data set.

    Args:
        table: Its name.
        data: The corpus, for people.
        steps: Of the plan.
        results: Figures by step; a step without is not run.
        unavailable: Why a step cannot be run.
        worth: Of the image, by part of speech; empty if it was not measured.
    """
    rows = list(dict.fromkeys(step.row for step in steps))
    main, ablations = [r for r in rows if not r.ablation], [r for r in rows if r.ablation]
    of = {row: [results[s.name] for s in steps if s.row == row and s.name in results] for row in rows}
    captions = {label: [run["figures"] for run in runs] for label, runs in _labelled(main, of)}
    for row in main:
        if row.consensus:
            both = [{**run["likelihood"], **run["consensus"]} for run in of[row]]
            captions[f"{row.label}, consensus re-ranking"] = both
    ranked = {row.label: [run["figures"] for run in of[row]] for row in main if row.sees_image}
    parts = [
        f"### Captions: {data}, test\n",
        _table(CAPTION_COLUMNS, CAPTIONING[table], captions),
        "### Retrieval\n",
        _table(RETRIEVAL_COLUMNS, RETRIEVAL[table], {**_chance(results), **ranked}),
    ]
    if ablations:
        figures = {row.label: [run["figures"] for run in of[row]] for row in ablations}
        parts += ["### Ablations\n", _table(ABLATION_COLUMNS, (), figures)]
    scores = next((run["scores"] for runs in of.values() for run in runs if "scores" in run), None)
    if scores:
        by_score = {f"ranked by the {name} score": [figures] for name, figures in scores.items()}
        parts += ["### Scores that rank\n", _table(RETRIEVAL_COLUMNS, (), by_score)]
    if worth:
        parts += ["### What the image is worth\n", _worth_table(worth)]
    if reasons := sorted({unavailable[step.name] for step in steps if step.name in unavailable}):
        parts.append("\n".join(["Not run:", "", *(f"* {reason}" for reason in reasons)]) + "\n")
    return "\n".join(parts)


def _labelled(rows: Sequence[Row], of: Mapping[Row, list]) -> list[tuple[str, list]]:
    return [(row.label if len(of[row]) < 2 else f"{row.label}, {len(of[row])} seeds", of[row]) for row in rows]


def _chance(results: Results) -> dict[str, Figures]:
    for run in results.values():
        found = {k.removesuffix(" chance"): v for k, v in run["figures"].items() if k.endswith(" chance")}
        if found:
            return {"chance, and every model without an image": [found]}
    return {}


def _table(columns: Columns, reported: Sequence[Reported], ours: Mapping[str, Figures]) -> str:
    lines = ["| | " + " | ".join(title for title, _, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in reported:
        cells = [_cell([row.figures], names, form) for _, names, form in columns]
        lines.append(f"| *{row.label}: reported, {row.source}, {row.sure}* | " + " | ".join(cells) + " |")
    for label, runs in ours.items():
        cells = [_cell(runs, names, form) for _, names, form in columns] if runs else ["not run"] * len(columns)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(runs: Figures, names: Sequence[str], form: str) -> str:
    """The mean over seeds of each figure; with its spread where the cell holds one alone."""
    values = [[run[name] for run in runs if name in run] for name in names]
    texts = [
        f"{round(mean(v), 1):g}" if n.endswith("rank") else form.format(mean(v))
        for n, v in zip(names, values, strict=True)
        if v
    ]
    if len(texts) == 1 == len(names) and len(runs) > 1:
        return f"{texts[0]} ± {form.format(stdev(values[0]))}"
    return " ".join(texts) if form == "{:.3f}" else " / ".join(texts)


def _worth_table(worth: Mapping[str, Mapping[str, float]]) -> str:
    lines = ["| | tokens | m-RNN, bits | RNN-Base, bits | the image's worth, bits |", "|---|---|---|---|---|"]
    for group, f in worth.items():
        numbers = f"{f['tokens']:,.0f} | {f['bits']:.2f} | {f['without']:.2f} | {f['worth']:.2f}"
        lines.append(f"| {group} | {numbers} |")
    return "\n".join(lines) + "\n"
