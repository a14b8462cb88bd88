"""Captions and photos of a data set. `read_corpus` recognises the layout; there is one reader a file."""

from collections.abc import Sequence
from pathlib import Path

from mrnn.corpora import (
    coco,
    flickr,
    huggingface,
    iaprtc12,
    imagefolder,
    karpathy,
    sidecars,
    table,
    vizwiz,
    webdataset,
)
from mrnn.corpora.base import Corpus, Photo, Report, combine
from mrnn.corpora.finder import walk
from mrnn.corpora.splits import SPLITS

__all__ = ["SPLITS", "Corpus", "Photo", "Report", "combine", "read_corpora", "read_corpus"]

# The first reader that recognises a folder reads it.
READERS = (karpathy, coco, iaprtc12, flickr, table, imagefolder, webdataset, huggingface, vizwiz, sidecars)
# A table file, a shard or a pattern of shards, and `huggingface:OWNER/NAME` are no folders.
OTHER_READERS = (table, webdataset, huggingface)
_DEEPER = 2  # folders, in which what was packed lies
_NAMED = 10  # tables and folders in a message


def read_corpus(place: Path | str, images: Sequence[Path | str] | Path | str = ()) -> Corpus:
    """Read the data set in a folder, whichever layout it has, or in the one folder below it that has one.

    Args:
        place: The folder; or a table, a shard, a pattern of shards such as `train-{0000..0146}.tar`, or
            `huggingface:OWNER/NAME`.
        images: Folders in which to look for photos before the data set's own.

    Raises:
        ValueError: It is no data set, or a damaged one.
    """
    place, images = Path(place), _paths(images)
    if lost := next((folder for folder in images if not folder.is_dir()), None):
        raise ValueError(f"{lost}: no such folder of photos")
    if reader := _reader(place):
        return reader.read(place, images)
    if not place.exists():
        raise ValueError(f"{place}: no such folder")
    for depth in range(1, _DEEPER + 1):
        below = [folder for folder in _folders(place, depth) if _reader(folder)]
        if len(below) > 1:
            raise ValueError(f"{place}: several data sets ({_some(below, place)}); give each with a --data of its own")
        if below and (reader := _reader(below[0])):
            return reader.read(below[0], (*images, below[0], place))
    raise ValueError(
        f"{place}: no data set is recognised there (Flickr token files or captions.txt, dataset_*.json, "
        "captions_*.json, VizWiz, IAPR TC-12 annotations, a CSV, TSV, JSON, JSONL or Parquet table with an image and a "
        "caption column, an imagefolder, photos with a .txt or .json beside each, WebDataset shards, or a Hugging Face "
        f"data set); {_seen(place)}"
    )


def _paths(given: Sequence[Path | str] | Path | str) -> list[Path]:
    return [Path(path) for path in ([given] if isinstance(given, (str, Path)) else given)]


def _reader(place: Path):
    return next((reader for reader in (READERS if place.is_dir() else OTHER_READERS) if reader.recognises(place)), None)


def _folders(place: Path, depth: int) -> list[Path]:
    folders = (folder for folder, _ in walk(place, depth)) if place.is_dir() else ()
    return [folder for folder in folders if len(folder.relative_to(place).parts) == depth]


def _some(paths: Sequence[Path], place: Path) -> str:
    names = [path.relative_to(place).as_posix() for path in paths[:_NAMED]]
    return ", ".join([*names, "..."] if len(paths) > _NAMED else names)


def _seen(place: Path) -> str:
    """The tables that are there after all, with their columns, and the folders that were searched."""
    listed = list(walk(place, _DEEPER)) if place.is_dir() else [(place.parent, [place.name])]
    paths = [folder / name for folder, names in listed for name in names]
    paths = [path for path in paths if path.suffix.lower() in table.SUFFIXES and path.suffix.lower() != ".txt"]
    top = listed[0][0]
    tables = [f"{path.relative_to(top)} has the columns {', '.join(_columns(path))}" for path in paths[:_NAMED]]
    return f"{'; '.join(tables) or 'no table is there'}; searched: {_some([folder for folder, _ in listed], top)}"


def _columns(path: Path) -> list[str]:
    return [name.strip()[:40] for name in table.column_names(path)[:_NAMED]] or ["(none)"]


def read_corpora(folders: Sequence[Path | str] | Path | str, images: Sequence[Path | str] | Path | str = ()) -> Corpus:
    """Read several data sets as one; see `combine`.

    Args:
        folders: Of the data sets, or of one; see `read_corpus`.
        images: Folders in which to look for photos before the data sets' own.

    Raises:
        ValueError: One of them is no data set, a damaged one, or given twice.
    """
    folders = _paths(folders)
    for i, folder in enumerate(folders):
        if Path(folder).resolve() in (Path(other).resolve() for other in folders[:i]):
            raise ValueError(f"{folder}: the same data set is given twice")
    return combine([read_corpus(folder, images) for folder in folders])
