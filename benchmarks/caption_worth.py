"""A caption's worth: how well the likelihood tells true photo-caption pairs from shuffled ones (docs/retrieval.md).

python -m benchmarks.caption_worth DATA_DIR [MODEL]  writes docs/retrieval/worth.json and worth.png.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from mrnn.corpora import read_corpus
from mrnn.encoders import FeatureCache
from mrnn.encoders.splits import encode_split
from mrnn.files import atomic_path, write_json
from mrnn.pipeline import load
from mrnn.text import tokenise

OUT = Path("docs/retrieval")
NAMES = {
    "raw": "log P(w | I)",
    "normalised": "log P(w | I) / P(w)",
    "raw_bits": "raw, a word",
    "normalised_bits": "normalised, a word",
}


def roc(true: np.ndarray, false: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """False and true positive rates at every threshold, and the area under the curve."""
    scores = np.concatenate([true, false])
    labels = np.concatenate([np.ones(len(true)), np.zeros(len(false))])[np.argsort(-scores, kind="stable")]
    hits, alarms = np.cumsum(labels) / len(true), np.cumsum(1 - labels) / len(false)
    return alarms, hits, float(np.trapezoid(hits, alarms))


def main() -> None:
    """Score every dev caption with its own photo and with another."""
    pipe = load(sys.argv[2] if len(sys.argv) > 2 else "flickr8k")
    split = encode_split(read_corpus(sys.argv[1]), "dev", FeatureCache(pipe.encoder))
    pairs = [(i, c) for i, photo in enumerate(split.photos) for c in photo.captions if tokenise(c)]
    n = len(split.photos)
    generator = torch.Generator().manual_seed(0)
    shift = torch.randint(1, n, (len(pairs),), generator=generator).tolist()
    sentences = [c for _, c in pairs]
    true = pipe.score_pairs(split.features, [i for i, _ in pairs], sentences)
    false = pipe.score_pairs(split.features, [(i + s) % n for (i, _), s in zip(pairs, shift, strict=True)], sentences)
    areas, curves = {}, {}
    for key in NAMES:
        a, b = (np.array([row[key] for row in rows]) for rows in (true, false))
        *curves[key], areas[key] = roc(a, b)
    write_json(OUT / "worth.json", {"pairs": len(pairs), "area": areas})
    print(areas)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for key, (alarms, hits) in curves.items():
        axes.plot(alarms, hits, label=f"{NAMES[key]}: area {areas[key]:.3f}")
    axes.set(xlabel="shuffled pairs accepted", ylabel="true pairs accepted")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(OUT / "worth.png") as temporary:
        figure.savefig(temporary, dpi=120)


if __name__ == "__main__":
    main()
