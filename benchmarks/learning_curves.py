"""How much photos are worth: python -m benchmarks.learning_curves RUNS RECIPE... -- DIR...

Trains each recipe on 10, 30 and 100 % of the train photos of all data sets together, the smaller shares within the
larger, and measures the captions of each data set's dev photos, searched for without a choice. A run that is there is
not run again. Writes docs/beyond/curves.json and curves.png.
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
    runs, *names = sys.argv[1:]
    names, folders = names[: names.index("--")], [Path(folder) for folder in names[names.index("--") + 1 :]]
    data, corpus = " + ".join(folder.name for folder in folders), read_corpora(folders)
    path = OUT / "curves.json"
    curves = json.loads(path.read_text()) if path.exists() else []
    for name in names:
        for share in SHARES:
            out, some = Path(runs) / f"{name}-{len(folders)}-{share:g}", part(corpus, share)
            trained = (out / "model.safetensors").exists()
            pipe = load(out) if trained else train_recipe(name, RECIPES[name](), some, out)
            photos = sum(photo.split == "train" for photo in some.photos)
            for folder in folders:
                figures = measured(pipe, folder)
                if figures:
                    asked = {"recipe": name, "data": data, "photos": photos, "dev": folder.name}
                    curves = [point for point in curves if not asked.items() <= point.items()]
                    curves.append({**asked, "words": len(pipe.vocabulary), **figures})
                    print(curves[-1], flush=True)
            write_json(path, curves)
    draw(curves)


def measured(pipe, folder: Path) -> dict[str, float]:
    """Figures of the captions of a data set's dev photos; none if it gives no dev split."""
    corpus = read_corpora([folder])
    if corpus.held_out:
        return {}
    dev = encode_split(corpus, "dev", FeatureCache(pipe.encoder))
    plain = replace(pipe.generation, prior_weight=0.0, agreement=0.0)
    figures, _ = evaluate_captions(pipe, [photo.captions for photo in dev.photos], dev.features, plain)
    return {"CIDEr": figures["CIDEr"], "BLEU-4": figures["BLEU-4"]}


def draw(curves: list[dict]) -> None:
    from matplotlib.figure import Figure

    devs = sorted({point["dev"] for point in curves}, reverse=True)
    figure = Figure(figsize=(4.2 * len(devs), 3.4), layout="constrained")
    for axes, dev in zip(figure.subplots(1, len(devs), squeeze=False)[0], devs, strict=True):
        for recipe, data in dict.fromkeys((point["recipe"], point["data"]) for point in curves if point["dev"] == dev):
            points = sorted(
                (point["photos"], point["CIDEr"])
                for point in curves
                if (point["recipe"], point["data"], point["dev"]) == (recipe, data, dev)
            )
            sets = data if data.count("+") < 2 else f"{data.count('+') + 1} data sets"
            axes.plot(*zip(*points, strict=True), marker="o", label=f"{recipe}, {sets}")
        axes.set(title=f"{dev}, dev", xscale="log", xlabel="train photos", ylabel="CIDEr")
        axes.set_xticks(ticks := [600, 2000, 6000, 15000], [f"{tick:,}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(OUT / "curves.png", dpi=120)


if __name__ == "__main__":
    main()
