"""Turn a trained run into a bundled model: float16 weights, and a card with figures from `mrnn evaluate`.

python scripts/bundle.py RUN NAME DATA_DIR... [--rounded]   (evaluates on the test split of each data set)

With --rounded photos are encoded in 8-bit numbers, whose ranges are those of some train photos.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

import mrnn
from mrnn.corpora import read_corpora
from mrnn.encoders import FeatureCache
from mrnn.encoders.splits import encode_split
from mrnn.models.rounding import round_encoder
from mrnn.pipeline import Pipeline, load
from mrnn.recipes import RECIPES

BUNDLED = Path(mrnn.__file__).parent / "bundled"
CALIBRATED = 128  # photos that say which ranges numbers have
PROVENANCE = """\
The weights were trained on the photos and captions named above, which are not in this package: {sources}. What sees
is EfficientNet-Lite, which began with ImageNet weights (Apache-2.0).

The model knows only what these captions tell: mostly people and dogs outdoors{more}. It describes anything
else in their words, and is then wrong. Captions name the sex, age and doings of people by their looks, with the
biases of those who wrote the training captions. Do not use it to decide anything about anyone."""
SOURCES = {
    "flickr8k": "Flickr8K (Hodosh et al. 2013) is for non-commercial research use",
    "flickr30k": "so is Flickr30K (Young et al. 2014)",
    "coco": "each COCO photo bears its own Creative Commons licence",
    "pascal": "Pascal Sentences (Rashtchian et al. 2010) states no licence",
}


def main() -> None:
    """Save, evaluate, and save again with the figures."""
    run, name, *folders = (word for word in sys.argv[1:] if word != "--rounded")
    target = BUNDLED / name
    pipe = load(Path(run), "torch", "cpu")
    training = pipe.provenance["training"]
    recipe = training["recipe_name"]
    if recipe not in RECIPES:
        raise SystemExit(f"{run}: no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    more = ", and some everyday indoor scenes" if "coco" in training["data"] else ""
    typed = training["command"]
    used = sorted((n for f in folders if (n := Path(f).name) in typed), key=typed.index)
    data = " ".join(f"--data {n}" for n in used)
    seed = training["recipe"]["training"]["seed"]
    flags = f"{data} --training.seed {seed}" if seed else data
    if " --start " not in typed:  # else the run says itself what came before it
        training["command"] = f"mrnn train {recipe} {flags} --out runs/{name}"
    # The search may have been tuned on dev after the training.
    pipe.generation = RECIPES[recipe]().generation
    training["recipe"]["generation"] = asdict(pipe.generation)
    # What it came after lay where nobody else has it; the recipe trains that first.
    training["recipe"]["start"] = ""
    pipe.provenance["provenance"] = PROVENANCE.format(
        more=more, sources="; ".join(said for data, said in SOURCES.items() if data in training["command"])
    )
    pipe.provenance["results"] = []
    _save(pipe, name, folders)
    use = load(target)  # the hand that people have
    dev = encode_split(read_corpora(list(map(Path, folders))), "dev", FeatureCache(use.encoder))
    use.calibrate(dev.features, [photo.captions for photo in dev.photos])
    pipe.confidence = use.confidence
    _save(pipe, name, folders)
    for folder in folders:
        with tempfile.TemporaryDirectory() as place:
            figures = Path(place) / "figures.json"
            command = ["evaluate", name, "--data", folder, "--json", str(figures)]
            subprocess.run([sys.executable, "-m", "mrnn", *command], check=True)
            result = json.loads(figures.read_text())
        pipe.provenance["results"].append(
            {
                "data": result["data"],
                "split": result["split"],
                "command": f"mrnn evaluate {name} --data {Path(folder).name}",
                "figures": {k: v for k, v in result["figures"].items() if not k.endswith((" low", " high"))},
            }
        )
    _save(pipe, name, folders)


def _save(pipe: Pipeline, name: str, folders: Sequence[str]) -> None:
    """Save the model; with `--rounded` with a rounded encoder too."""
    pipe.save(BUNDLED / name, torch.float16, name)
    if "--rounded" in sys.argv:
        train = [photo for folder in folders for photo in read_corpora([Path(folder)]).photos if photo.split == "train"]
        some = train[:: max(1, len(train) // CALIBRATED)]
        round_encoder(BUNDLED / name, (pipe.encoder.pixels(photo.path) for photo in some))


if __name__ == "__main__":
    main()
