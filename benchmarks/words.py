"""Searching by one word, as people do: `python -m benchmarks.words DIR/coco [MODEL] [SPLIT]`.

A photo is right for a thing if one of its captions names it. For each thing that five photos or more show: the average
precision of the photos ranked for `a THING`, and how many of the first five are right; things worst first.
"""

import re
import sys

import numpy as np

from mrnn.corpora import read_corpora
from mrnn.pipeline import load

THINGS = """
person bicycle car motorcycle airplane bus train truck boat bench bird cat dog horse sheep cow elephant bear zebra
giraffe umbrella frisbee skis snowboard kite skateboard surfboard bottle cup banana apple sandwich orange broccoli
carrot pizza donut cake chair couch bed table toilet tv laptop keyboard phone microwave oven sink refrigerator book
clock vase flower beach snow street kitchen bathroom baseball tennis food fruit sign tree
"""
# What else people call it.
CALLED = {
    "person": "man woman people boy girl child",
    "airplane": "plane jet",
    "bicycle": "bike",
    "motorcycle": "motorbike",
    "couch": "sofa",
    "tv": "television",
    "phone": "cellphone",
    "donut": "doughnut",
    "dog": "puppy",
    "cat": "kitten",
    "skis": "skier skiing ski",
    "refrigerator": "fridge",
    "table": "desk",
}
FEWEST = 5


def names(thing: str) -> set[str]:
    """What a caption may call a thing, one or several of them."""
    return {name + ending for name in (thing, *CALLED.get(thing, "").split()) for ending in ("", "s", "es")}


def main(place: str, model: str = "base", split: str = "dev") -> None:
    """Print both figures, then a line a thing."""
    pipe, photos = load(model), read_corpora([place]).split(split)
    said = [set(re.findall(r"[a-z]+", " ".join(photo.captions).lower())) for photo in photos]
    shown = {thing: np.array([bool(words & names(thing)) for words in said]) for thing in THINGS.split()}
    shown = {thing: right for thing, right in shown.items() if right.sum() >= FEWEST}
    image, rows = pipe.model.encode_image(pipe.features([photo.path for photo in photos])), []
    for thing, right in shown.items():
        scores = pipe.asked(f"a {thing}", pipe.centre).exact(image)
        hits = right[np.argsort(-scores, kind="stable")]
        precision = hits.cumsum() / np.arange(1, len(hits) + 1)
        rows.append((precision[hits].mean(), hits[:5].mean(), thing, right.sum()))
    both, chance = np.mean([row[:2] for row in rows], 0), np.mean([right.mean() for right in shown.values()])
    print(
        f"{model} on {len(photos):,} photos, {len(rows)} things: mean average precision {100 * both[0]:.1f} "
        f"(chance {100 * chance:.1f}), precision at 5 {100 * both[1]:.1f}"
    )
    for average, first, thing, n in sorted(rows):
        known = "" if thing in pipe.vocabulary else "  a word that the model does not know"
        print(f"{thing:14} {100 * average:5.1f} {100 * first:5.0f}  {n:4} photos{known}")


if __name__ == "__main__":
    main(*sys.argv[1:])
