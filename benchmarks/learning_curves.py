"""How much data each model needs: python -m benchmarks.learning_curves DIR/flickr8k RUNS RECIPE...

Trains each recipe on 10, 30 and 100 % of the train photos, the smaller shares within the larger, and measures dev
perplexity and CIDEr. A run that is there is not run again. Writes docs/beyond/curves.json and curves.png.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

from mrnn.corpora import Corpus, read_corpora
from mrnn.encoders import FeatureCache
from mrnn.encoders.splits import encode_split
from mrnn.evaluation import evaluate_captions
from mrnn.files import write_json
from mrnn.pipeline import load
from mrnn.recipes import RECIPES, train_recipe

SHARES = (0.1, 0.3, 1.0)
OUT = Path("docs/beyond")


def part(corpus: Corpus, share: float) -> Corpus:
    """The corpus with the first share of its train photos."""
    train = sorted(
        (p for p in corpus.photos if p.split == "train"), key=lambda p: hashlib.sha256(p.id.encode()).hexdigest()
    )
    kept = {p.id for p in train[: round(share * len(train))]}
    return replace(corpus, photos=tuple(p for p in corpus.photos if p.split != "train" or p.id in kept))


def main() -> None:
    folder, runs, *names = sys.argv[1:]
    corpus = read_corpora([Path(folder)])
    path = OUT / "curves.json"
    curves = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        for share in SHARES:
            out = Path(runs) / f"{name}-{share:g}"
            trained = (out / "model.safetensors").exists()
            pipe = load(out) if trained else train_recipe(name, RECIPES[name](), part(corpus, share), out)
            dev = encode_split(corpus, "dev", FeatureCache(pipe.encoder))
            references = [photo.captions for photo in dev.photos]
            figures, _ = evaluate_captions(pipe, references, dev.features)
            perplexity = pipe.provenance["training"]["dev_perplexity"]
            curves.setdefault(name, {})[f"{share:g}"] = {
                "perplexity": perplexity,
                "words": len(pipe.vocabulary),
                "CIDEr": figures["CIDEr"],
            }
            print(name, share, curves[name][f"{share:g}"], flush=True)
            write_json(path, curves)
    _draw(curves)


def _draw(curves: dict[str, dict[str, dict[str, float]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        shares = sorted(points, key=float)
        axes.plot([100 * float(s) for s in shares], [points[s]["CIDEr"] for s in shares], marker="o", label=name)
    axes.set(
        xscale="log", xlabel="train photos, %", ylabel="dev CIDEr", xticks=[10, 30, 100], xticklabels=[10, 30, 100]
    )
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(OUT / "curves.png", dpi=120)


if __name__ == "__main__":
    main()
