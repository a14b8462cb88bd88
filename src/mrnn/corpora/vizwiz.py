"""VizWiz-Captions: COCO's layout in files called `train.json`, `val.json` and `test.json`, beside folders of photos.

Captions that a crowd worker's review rejected, and the canned one for photos on which nothing can be recognised, are
left out.
"""

from collections.abc import Sequence
from pathlib import Path

from mrnn.corpora.base import Corpus, CorpusBuilder
from mrnn.corpora.coco import read_files
from mrnn.corpora.splits import normal_split

_LIMIT = 1 << 16


def _files(folder: Path) -> list[Path]:
    files = sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")])
    return [path for path in files if normal_split(path.stem) and _is_coco(path)]


def _is_coco(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_LIMIT)
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and (b'"images"' in start or b'"annotations"' in start)


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
