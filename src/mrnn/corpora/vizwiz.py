"""VizWiz-Captions: COCO's layout in files called `train.json`, `val.json` and `test.json`, beside folders of photos.

Captions that a crowd worker's review rejected, and the canned one for photos on which nothing can be recognised, are
left out.
"""

from collections.abc import Sequence
from pathlib import Path

from mrnn.corpora.base import Corpus, CorpusBuilder
from mrnn.corpora.coco import has_layout, read_files
from mrnn.corpora.splits import normal_split


def _files(folder: Path) -> list[Path]:
    files = sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")])
    return [path for path in files if normal_split(path.stem) and has_layout(path)]


def recognises(folder: Path) -> bool:
    """Whether the folder holds a `train.json`, `val.json` or `test.json` of images and annotations."""
    return bool(_files(folder))


def read(folder: Path, images: Sequence[Path] = ()) -> Corpus:
    """Read every annotation file of the folder.

    Raises:
        ValueError: A file has another layout.
    """
    splits = {path: normal_split(path.stem) for path in _files(folder)}
    return read_files(CorpusBuilder("VizWiz", folder, images), splits)
