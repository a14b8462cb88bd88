"""Karpathy and Fei-Fei's `dataset_*.json` of Flickr8K, Flickr30K and COCO: captions and splits in one file."""

from collections.abc import Sequence
from pathlib import Path

from mrnn.corpora.base import Corpus, CorpusBuilder
from mrnn.corpora.splits import normal_split
from mrnn.files import read_json

# Files of Hugging Face's layouts.
_OTHERS = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json")


def _file(folder: Path) -> Path | None:
    return next((file for file in sorted(folder.glob("dataset*.json")) if file.name not in _OTHERS), None)


def recognises(folder: Path) -> bool:
    """Whether the folder holds a `dataset*.json`."""
    return _file(folder) is not None


def read(folder: Path, images: Sequence[Path] = ()) -> Corpus:
    """Read captions and splits; `restval` counts as train.

    Raises:
        ValueError: The file has another layout.
    """
    path = _file(folder)
    assert path is not None
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f"{path}: has no list 'images', so it is not Karpathy's layout")
    name = f"Karpathy ({content.get('dataset', path.stem)})"
    builder = CorpusBuilder(name, folder, images, flickr=True)
    seen: set[str] = set()
    for number, image in enumerate(content["images"]):
        where = f"image {number}"
        try:
            name = "/".join(filter(None, (image.get("filepath"), image["filename"])))
            split = normal_split(image.get("split", ""))
            sentences = [s["raw"] if "raw" in s else " ".join(s["tokens"]) for s in image["sentences"]]
            if not all(isinstance(sentence, str) for sentence in sentences):
                raise TypeError
        except (KeyError, TypeError, AttributeError):
            builder.report.add("broken entries", where)
            continue
        if name in seen:
            builder.report.add("duplicate keys", name)
            continue
        seen.add(name)
        builder.split(name, split)
        for sentence in sentences:
            builder.caption(name, sentence, where=name)
    return builder.build()
