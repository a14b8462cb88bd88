"""Hugging Face's imagefolder: `metadata.csv`, `.jsonl` or `.parquet` in the folders of the photos or above them.

Photos are called by their path below the table. A table of any name is read in folders whose names are splits, too.
The split is in a column, or in the name of a folder of the table or of the photo.
"""

from collections.abc import Sequence
from pathlib import Path

from mrnn.corpora import table
from mrnn.corpora.base import Corpus, CorpusBuilder
from mrnn.corpora.finder import walk
from mrnn.corpora.splits import split_of_folder


def _tables(folder: Path) -> list[Path]:
    """One a folder."""
    found = []
    for place, files in walk(folder):
        if not split_of_folder(place, folder):
            files = [file for file in files if Path(file).stem.lower() == "metadata"]
        found += table.tables(place, files)[:1]
    return found


def recognises(folder: Path) -> bool:
    """Whether a `metadata` table, or one in a folder that is called like a split, has photos and captions."""
    return bool(_tables(folder))


def read(folder: Path, images: Sequence[Path] = ()) -> Corpus:
    """Read every table.

    Raises:
        ValueError: A table is damaged.
    """
    builder = CorpusBuilder("imagefolder", folder, images)
    for path in _tables(folder):
        for where, image, captions, split in table.read_captions(path, builder.report):
            photo = path.parent / image.replace("\\", "/")
            inside = photo.is_relative_to(folder)
            photo_id = photo.relative_to(folder).as_posix() if inside else image
            said = split_of_folder(photo.parent if inside else path.parent, folder)
            builder.split(photo_id, said if split is None else split)
            for caption in captions:
                builder.caption(photo_id, caption, where=where)
    return builder.build()
