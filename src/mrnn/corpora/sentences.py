"""Captions without their photos, for a language model to learn words and their order from.

A JSON file in the layout of Karpathy's, `{"images": [{"filename": ..., "sentences": [...]}]}`, or a text file with a
caption a line.
"""

from collections.abc import Collection
from pathlib import Path

from mrnn.corpora.base import photo_key
from mrnn.files import read_json, read_text


def read_sentences(path: Path, held_out: Collection[str] = ()) -> list[str]:
    """Read captions.

    Args:
        path: The file.
        held_out: Keys of photos (see `Photo.key`) whose captions are left out, as they are to be tested on.

    Raises:
        ValueError: The file is damaged, or holds no caption.
    """
    if path.suffix != ".json":
        sentences = [line.strip() for line in read_text(path).splitlines()]
    else:
        try:
            images = read_json(path)["images"]
            rows = [(photo_key(Path(image["filename"]), flickr=True), image["sentences"]) for image in images]
            kept = [s for key, several in rows if key not in held_out for s in several]
            sentences = [(s if isinstance(s, str) else s["raw"]).strip() for s in kept]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a JSON file of captions ({error!r})") from None
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        raise ValueError(f"{path}: holds no caption")
    return sentences
