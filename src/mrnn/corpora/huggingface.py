"""Data sets of Hugging Face: what `save_to_disk` wrote, Parquet files with an image column, and names on the hub.

An image column is a struct {bytes, path}. Captions and paths are read at once; the bytes stay where they are until a
photo is asked for. In Arrow files, which are not compressed, a photo is a stretch of the file; in Parquet files a whole
row group has to be read for it. A column `split` is used if there is one, else the names of files and folders.
"""

import errno
import functools
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mrnn.corpora.base import Corpus, CorpusBuilder, PackedPhoto
from mrnn.corpora.splits import normal_split, split_in, split_of_file
from mrnn.corpora.table import caption_columns, captions_in, image_column, reading_arrow
from mrnn.files import first_line, read_json
from mrnn.images import StoredPhoto

PREFIX = "huggingface:"
_LOCK = threading.Lock()


@dataclass(frozen=True)
class ParquetPhoto(StoredPhoto):
    """A photo in a cell of a Parquet file.

    Args:
        column: The image column.
        group: Row group.
        row: Within the row group.
    """

    column: str
    group: int
    row: int

    def read_bytes(self) -> bytes:
        import pyarrow

        try:
            with _LOCK:  # or two threads would read the same row group
                cells = _cells(self.file, self.file.stat().st_mtime_ns, self.group, self.column)
            return cells[self.row].as_py() or b""
        except (pyarrow.ArrowException, IndexError) as error:
            raise OSError(errno.EIO, first_line(error)) from None


# Photos are asked for in order, but for the few that threads run ahead: so two row groups are enough.
@functools.lru_cache(maxsize=2)
def _cells(file: Path, changed: int, group: int, column: str):
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as parquet:
        return parquet.read_row_group(group, columns=[f"{column}.bytes"]).flatten().column(0)


def recognises(place: Path) -> bool:
    """Whether it is `huggingface:OWNER/NAME`, a saved data set, or Parquet with an image and a caption column."""
    if str(place).startswith(PREFIX) or _is_saved(place):
        return True
    first = next(iter(_parquet_files(place)), None)
    if first is None:
        return False
    with reading_arrow(first) as pyarrow:
        schema = pyarrow.parquet.read_schema(first)
    return bool(image_column(schema) and caption_columns(schema.names))


def read(place: Path, images: Sequence[Path] = ()) -> Corpus:
    """Read every file; one from the hub is fetched first.

    Raises:
        ValueError: A file is damaged or has other columns, or the data set cannot be had from the hub.
    """
    if str(place).startswith(PREFIX):
        name = str(place).removeprefix(PREFIX)
        files = _from_hub(name)
    else:
        files = _saved_files(place) if _is_saved(place) else [(file, "") for file in _parquet_files(place)]
        name = f"{len(files)} file{'s' * (len(files) > 1)}"
    if not files:
        raise ValueError(f"{place}: a data set without files")
    folder = place if place.is_dir() else Path(os.path.commonpath([file.parent for file, _ in files]))
    builder = CorpusBuilder(f"Hugging Face ({name})", folder, images)
    for file, split in files:
        split = split or split_of_file(file, folder)
        for number, (photo, path, row) in enumerate(_rows(file)):
            where = f"{file.name} row {number}"
            captions = captions_in(row)
            if not captions or (photo is None and not path):
                builder.report.add("broken rows", where)
                continue
            photo_id = path if photo is None else builder.photo(photo, PurePosixPath(path).name)
            own = str(row.get("split") or "")
            if own and not normal_split(own):
                builder.report.add("unknown split names", f"{own!r} in {where}")
            builder.split(photo_id, normal_split(own) if own else split)
            for caption in captions:
                builder.caption(photo_id, caption, where=where)
    return builder.build()


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _saved_files(folder: Path) -> list[tuple[Path, str]]:
    """The Arrow files that `save_to_disk` wrote, with their splits."""
    index = folder / "dataset_dict.json"
    try:
        if index.is_file():
            names = read_json(index)["splits"]
            return [(file, split_in(name)) for name in names for file, _ in _saved_files(folder / name)]
        index = folder / "state.json"
        state = read_json(index)
        return [(folder / file["filename"], split_in(state.get("_split") or "")) for file in state["_data_files"]]
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{index}: not written by save_to_disk") from None
    except FileNotFoundError:
        raise ValueError(f"{index}: no such file, so the data set is not complete") from None


def _parquet_files(place: Path) -> list[Path]:
    if place.is_dir():
        return sorted(path for where in ("*", "*/*", "*/*/*") for path in place.glob(f"{where}.parquet"))
    return [place] if place.suffix == ".parquet" and place.is_file() else []


def _from_hub(name: str) -> list[tuple[Path, str]]:
    """The Arrow files into which `datasets` turns a data set of the hub, once, in a cache of its own."""
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{PREFIX}{name} needs datasets: pip install 'mrnn[hf-data]'") from None
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it tells of every try to reach the hub
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # what is wrong with a network, a name or a file makes it raise almost anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{PREFIX}{name} cannot be loaded ({reason})") from None
    return [
        (Path(file["filename"]), split_in(str(split))) for split, part in splits.items() for file in part.cache_files
    ]


def _rows(file: Path) -> Iterator[tuple[StoredPhoto | None, str, dict[str, Any]]]:
    """Of every row the photo, None if there is but a path; its path, empty if there is none; and other columns."""
    with reading_arrow(file) as pyarrow:
        if file.suffix == ".parquet":
            yield from _parquet_rows(file, pyarrow)
        else:
            yield from _arrow_rows(file, pyarrow)


def _columns(file: Path, schema) -> tuple[str, list[str]]:
    image, captions = image_column(schema), caption_columns(schema.names)
    if image is None or not captions:
        raise ValueError(f"{file}: no image column {{bytes, path}} and caption column, only {', '.join(schema.names)}")
    return image, [*captions, *(name for name in schema.names if name == "split")]


def _member(number: int, path: str) -> str:
    return "/".join(filter(None, (str(number), PurePosixPath(path).name)))


def _parquet_rows(file: Path, pyarrow) -> Iterator[tuple[StoredPhoto | None, str, dict[str, Any]]]:
    with pyarrow.parquet.ParquetFile(file) as parquet:
        image, columns = _columns(file, parquet.schema_arrow)
        number = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.read_row_group(group, columns=[f"{image}.path", *columns]).to_pylist()
            for i, row in enumerate(rows):
                path = (row.pop(image) or {}).get("path") or ""
                yield ParquetPhoto(file, _member(number, path), None, image, group, i), path, row
                number += 1


def _arrow_rows(file: Path, pyarrow) -> Iterator[tuple[StoredPhoto | None, str, dict[str, Any]]]:
    with pyarrow.memory_map(str(file)) as source:
        start = source.read_buffer(1).address
        source.seek(0)
        number = 0
        for batch in pyarrow.ipc.open_stream(source):
            batch.validate(full=True)  # of a damaged file the ends of values may lie anywhere in memory
            image, columns = _columns(file, batch.schema)
            cells = batch.column(image)
            fields = dict(zip((field.name for field in cells.type), cells.flatten(), strict=True))
            content, paths = fields["bytes"], fields["path"].to_pylist()
            _, ends, data = content.buffers()
            width = np.int64 if pyarrow.types.is_large_binary(content.type) else np.int32
            bounds = np.frombuffer(ends, width)[content.offset : content.offset + len(content) + 1].tolist()
            # The file is mapped into memory, so where the values lie there is where they lie in the file.
            base = data.address - start if data else 0
            if not 0 <= base + bounds[0] <= base + bounds[-1] <= source.size():
                raise ValueError(f"{file}: compressed, so its photos cannot be reached one by one")
            there = content.is_valid().to_pylist()
            for i, row in enumerate(batch.select(columns).to_pylist()):
                path = paths[i] or ""
                photo = PackedPhoto(file, _member(number, path), bounds[i + 1] - bounds[i], base + bounds[i])
                yield photo if there[i] else None, path, row
                number += 1
