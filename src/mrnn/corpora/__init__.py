"""Captions and photos of a data set. `read_corpus` recognises the layout; there is one reader a file."""

from collections.abc import Sequence
from pathlib import Path

from mrnn.corpora import coco, flickr, huggingface, iaprtc12, karpathy, table, webdataset
from mrnn.corpora.base import SPLITS, Corpus, Photo, Report, combine

__all__ = ["SPLITS", "Corpus", "Photo", "Report", "combine", "read_corpora", "read_corpus"]

# The first reader that recognises a folder reads it.
READERS = (karpathy, coco, iaprtc12, flickr, table, webdataset, huggingface)
# A table file, a shard or a pattern of shards, and `huggingface:OWNER/NAME` are no folders.
OTHER_READERS = (table, webdataset, huggingface)


def read_corpus(place: Path | str) -> Corpus:
    """Read the data set in a folder, whichever layout it has.

    Args:
        place: The folder; or a table, a shard, a pattern of shards such as `train-{0000..0146}.tar`, or
            `huggingface:OWNER/NAME`.

    Raises:
        ValueError: It is no data set, or a damaged one.
    """
    place = Path(place)
    for reader in READERS if place.is_dir() else OTHER_READERS:
        if reader.recognises(place):
            return reader.read(place)
    if not place.exists():
        raise ValueError(f"{place}: no such folder")
    raise ValueError(
        f"{place}: no data set is recognised there (Flickr token files or captions.txt, dataset_*.json, "
        "captions_*.json, IAPR TC-12 annotations, a CSV, TSV, JSONL or Parquet table with an image and a "
        "caption column, WebDataset shards, or a Hugging Face data set)"
    )


def read_corpora(folders: Sequence[Path | str]) -> Corpus:
    """Read several data sets as one; see `combine`.

    Raises:
        ValueError: One of them is no data set, a damaged one, or given twice.
    """
    for i, folder in enumerate(folders):
        if Path(folder).resolve() in (Path(other).resolve() for other in folders[:i]):
            raise ValueError(f"{folder}: the same data set is given twice")
    return combine([read_corpus(folder) for folder in folders])
