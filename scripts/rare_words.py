"""Choose captions that name what a data set hardly names: python scripts/rare_words.py CAPTIONS.json OUT.json DIR...

Of a file of captions without photos it keeps those with a word for one of ImageNet's classes that the train captions
of the data sets DIR... use fewer than 100 times, but for those of these data sets' own photos.
`mrnn train --text OUT.json` then learns those words from text alone.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from mrnn.corpora import read_corpora
from mrnn.corpora.base import photo_key
from mrnn.files import write_json
from mrnn.models.imagenet_words import WORDS
from mrnn.text import tokenise

RARE = 100


def main() -> None:
    captions, out, *folders = (Path(argument) for argument in sys.argv[1:])
    corpus = read_corpora(folders)
    own = {photo.key for photo in corpus.photos}
    counts = Counter(
        token for photo in corpus.split("train") for caption in photo.captions for token in set(tokenise(caption))
    )
    rare = {word for word in WORDS if counts[word] < RARE}
    images = []
    for image in json.loads(captions.read_text())["images"]:
        if photo_key(Path(image["filename"])) in own:
            continue
        kept = [s for s in image["sentences"] if rare & set(tokenise(s))]
        if kept:
            images.append({**image, "sentences": kept})
    write_json(out, {"images": images})
    print(f"{out}: {sum(len(image['sentences']) for image in images):,} captions of {len(images):,} photos")


if __name__ == "__main__":
    main()
