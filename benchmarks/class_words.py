"""Are things named that training captions hardly name? python -m benchmarks.class_words SPLIT DATA MODEL... -- DIR...

For every word of ImageNet's classes that the train captions of the data sets DIR... use fewer than 50 times: of the
photos of a split of DATA whose references have it twice or more, how many does the model's caption name it for, and of
its captions that have the word, how many are of photos whose references have it. Then scikit-image's samples.
"""

import sys
from collections import Counter
from pathlib import Path

import skimage.data
from PIL import Image

from mrnn.corpora import read_corpora
from mrnn.encoders import FeatureCache
from mrnn.encoders.splits import encode_split
from mrnn.models.imagenet_words import WORDS
from mrnn.pipeline import load
from mrnn.text import tokenise

RARE = 50


def main() -> None:
    arguments = sys.argv[1:]
    cut = arguments.index("--")
    split, data, *models = arguments[:cut]
    train = read_corpora([Path(folder) for folder in arguments[cut + 1 :]]).split("train")
    counts = Counter(word for photo in train for caption in photo.captions for word in set(tokenise(caption)))
    rare = {word for word in WORDS if counts[word] < RARE}
    for name in models:
        pipe = load(name)
        photos = encode_split(read_corpora([Path(data)]), split, FeatureCache(pipe.encoder))
        said = [set(several[0].tokens) & rare for several in pipe.caption_features(photos.features)]
        mentions = [Counter(w for c in photo.captions for w in set(tokenise(c))) for photo in photos.photos]
        there = [{word for word in rare if some[word] >= 2} for some in mentions]
        asked = sum(bool(words) for words in there)
        named = sum(bool(words & mine) for words, mine in zip(there, said, strict=True))
        right = sum(bool(mine & set(some)) for mine, some in zip(said, mentions, strict=True))
        print(f"{name}: names it for {named} of {asked} photos; {right} of {sum(map(bool, said))} namings are right")
        print("   words said:", ", ".join(sorted({word for words in said for word in words})) or "none")
        for sample in ("chelsea", "coffee"):
            photo = Image.fromarray(getattr(skimage.data, sample)())
            print(f"   {sample}: {pipe.caption([photo])[0][0].text}")


if __name__ == "__main__":
    main()
