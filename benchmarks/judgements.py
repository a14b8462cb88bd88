"""A reference-free score against people: `python -m benchmarks.judgements DIR/flickr8k [MODEL]`.

CrowdFlower's workers said of 47,830 pairs of a Flickr8K photo and a caption whether it describes the photo (Hodosh et
al. 2013). Kendall's tau with the share that said yes, at several weights of the sentence prior, and blind, by the prior
alone; a photo's own captions are left out. These are test photos, on which nothing is chosen.
"""

import sys
from pathlib import Path

import numpy as np

from mrnn.corpora import read_corpora
from mrnn.encoders import FeatureCache
from mrnn.evaluation.pairs import rating_agreement, weighed
from mrnn.files import read_text
from mrnn.pipeline import load
from mrnn.text import tokenise

AT_ONCE = 2000


def judged(folder: Path) -> list[tuple[str, str, float]]:
    """File of the photo, caption, and the share of yes, of every pair of a photo and another's caption."""
    lines = [line.split("\t") for line in read_text(folder / "Flickr8k.token.txt").splitlines()]
    captions = dict(lines)
    rows = [line.split("\t") for line in read_text(folder / "CrowdFlowerAnnotations.txt").splitlines()]
    return [
        (image, captions[key], float(share))
        for image, key, share, *_ in rows
        if key in captions and key.partition("#")[0] != image and tokenise(captions[key])
    ]


def main() -> None:
    """Print Kendall's tau by the weight of the prior."""
    folder = Path(sys.argv[1])
    pipe = load(sys.argv[2] if len(sys.argv) > 2 else "base")
    pairs = judged(folder)
    paths = {photo.path.name: photo.path for photo in read_corpora([folder]).photos}
    names = [name for name in dict.fromkeys(image for image, *_ in pairs) if name in paths]
    features, usable, _ = FeatureCache(pipe.encoder).features([paths[name] for name in names])
    place = {names[position]: i for i, position in enumerate(usable)}
    # Pairs of one caption together, whose work is done once.
    pairs = sorted((pair for pair in pairs if pair[0] in place), key=lambda pair: pair[1])
    scored = []
    for start in range(0, len(pairs), AT_ONCE):
        some = pairs[start : start + AT_ONCE]
        scored += pipe.score_pairs(features, [place[image] for image, *_ in some], [text for _, text, _ in some])
    raw, prior = (np.array([fields[key] for fields in scored], np.float64) for key in ("raw", "prior"))
    print(f"{len(pairs):,} pairs of {len(place):,} photos")
    for name, scores in weighed(raw, prior).items():
        taus = rating_agreement(scores, [[share] for *_, share in pairs])
        print(f"{name:>6}  " + "  ".join(f"{tau} {100 * value:.1f}" for tau, value in taus.items()), flush=True)


if __name__ == "__main__":
    main()
