"""Captions and photos of a data set. `read_corpus` recognises the layout; there is one reader a file."""

from collections.abc import Sequence
from pathlib import Path

from mrnn.corpora import coco, flickr, iaprtc12, karpathy, table
from mrnn.corpora.base import SPLITS, Corpus, Photo, Report, combine

__all__ = ["SPLITS", "Corpus", "Photo", "Report", "combine", "read_corpora", "read_corpus"]

# The first reader that recognises a folder reads it.
READERS = (karpathy, coco, iaprtc12, flickr, table)


def read_corpus(folder: Path | str) -> Corpus:
    """Read the data set in a folder (or a table file), whichever layout it has.

    Raises:
        ValueError: It is no data set, or a damaged one.
    """
    folder = Path(folder)
    if not folder.exists():
        raise ValueError(f"{folder}: no such folder")
    for reader in READERS if folder.is_dir() else (table,):
        if reader.recognises(folder):
            return reader.read(folder)
    raise ValueError(
        f"{folder}: no data set is recognised there (Flickr token files or captions.txt, dataset_*.json, "
        "captions_*.json, IAPR TC-12 annotations, or a CSV, TSV, JSONL or Parquet table with an image and a "
        "caption column)"
    )


def read_corpora(folders: Sequence[Path | str]) -> Corpus:
    """Read several data sets as one; see `combine`."""
    return combine([read_corpus(folder) for folder in folders])
