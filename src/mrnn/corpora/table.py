"""Your own table: CSV, TSV, JSONL or Parquet with a column for the photo and one for the caption.

A column `split` is used if there is one; otherwise the photos are split by their ids, 80 / 10 / 10. A caption
may be a list of captions (JSONL, Parquet), and a photo may have several rows.
"""

import contextlib
import csv
import io
import json
import re
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from mrnn.corpora.base import Corpus, CorpusBuilder, image_folders, is_text, normal_split
from mrnn.files import first_line, read_text

IMAGE_COLUMNS = ("image", "file_name", "filename", "image_path", "path", "file", "photo", "img")
CAPTION_COLUMNS = ("caption", "captions", "text", "sentence", "sentences", "description", "comment")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_LIMIT = 1 << 20
_TRIED = 20


def find(folder: Path) -> Path | None:
    """The folder's table, or the file itself; None if there is none with the columns."""
    files = [folder] if folder.is_file() else sorted(p for s in SUFFIXES for p in folder.glob(f"*{s}") if p.is_file())
    return next((path for path in files if path.suffix in SUFFIXES and _columns(path) is not None), None)


def recognises(folder: Path) -> bool:
    """Whether the folder, or the file, is a table with a photo and a caption column."""
    return find(folder) is not None


def read(folder: Path) -> Corpus:
    """Read the table.

    Raises:
        ValueError: It is damaged.
    """
    path = find(folder)
    assert path is not None
    columns = _columns(path)
    assert columns is not None
    image_column, caption_column, split_column = columns
    builder = CorpusBuilder(f"table ({path.name})", path.parent, image_folders(path.parent))
    for where, row in read_rows(path):
        row = row or {}
        image, captions = row.get(image_column), row.get(caption_column)
        if not isinstance(image, str) or not image.strip() or captions is None:
            builder.report.add("broken lines", where)
            continue
        if split_column and (split := str(row.get(split_column) or "")):
            if not normal_split(split):
                builder.report.add("unknown split names", f"{split!r} in {where}")
            builder.split(image.strip(), normal_split(split))
        for caption in captions if isinstance(captions, list) else [captions]:
            if isinstance(caption, str):
                builder.caption(image.strip(), caption, where=where)
            else:
                builder.report.add("broken lines", where)
    return builder.build()


def caption_columns(names: Iterable[str]) -> list[str]:
    """The columns of the first usual name that is there, also if they are numbered: `caption_0`, `caption_1`."""
    names = list(names)
    for usual in CAPTION_COLUMNS:
        if found := [name for name in names if re.fullmatch(rf"{usual}(_?\d+)?", name.strip().lower())]:
            return found
    return []


def image_column(schema) -> str | None:
    """The first column of an Arrow schema that holds photos themselves, as structs {bytes, path}."""
    from pyarrow import types

    structs = [column for column in schema if types.is_struct(column.type)]
    return next((s.name for s in structs if {"bytes", "path"} <= {field.name for field in s.type}), None)


def captions_in(row: dict[str, Any]) -> list[str]:
    """All captions of a row, whose caption columns hold one or a list each; none if any is not text."""
    values = [row[name] for name in caption_columns(row) if row[name] is not None]
    captions = [caption for value in values for caption in (value if isinstance(value, list) else [value])]
    return captions if all(isinstance(caption, str) for caption in captions) else []


def read_pairs(path: Path) -> tuple[list[tuple[str, Path, str]], list[str]]:
    """Photo-caption pairs of a table, for scoring.

    Returns:
        For every pair the photo as written, its path relative to the table's folder, and the caption; and
        the places of rows that are broken.

    Raises:
        ValueError: It is no table with a photo and a caption column.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    columns = _columns(path) if path.suffix in SUFFIXES else None
    if columns is None:
        raise ValueError(f"{path}: not a CSV, TSV, JSONL or Parquet table with an image and a caption column")
    pairs, broken = [], []
    for where, row in read_rows(path):
        image, captions = (row or {}).get(columns[0]), (row or {}).get(columns[1])
        if not isinstance(image, str) or not image.strip() or not captions:
            broken.append(where)
            continue
        for caption in captions if isinstance(captions, list) else [captions]:
            if isinstance(caption, str) and is_text(caption):
                pairs.append((image.strip(), path.parent / image.strip(), caption))
            else:
                broken.append(where)
    return pairs, broken


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Every row with the name of its place; None for a row that is broken.

    Raises:
        ValueError: The file as a whole cannot be read.
    """
    if path.suffix == ".parquet":
        with reading_arrow(path) as pyarrow:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        for number, row in enumerate(rows):
            yield f"{path.name} row {number}", row
    elif path.suffix == ".jsonl":
        for number, line in enumerate(read_text(path).split("\n"), 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                yield f"{path.name} line {number}", row if isinstance(row, dict) else None
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
        try:
            for row in reader:
                broken = None in row or None in row.values()  # more or fewer cells than the header
                yield f"{path.name} line {reader.line_num}", None if broken else row
        except csv.Error as error:
            raise ValueError(f"{path}: line {reader.line_num} is damaged ({error})") from None


def _columns(path: Path) -> tuple[str, str, str | None] | None:
    names = _column_names(path)
    lower = {name.strip().lower(): name for name in names}
    image = next((lower[c] for c in IMAGE_COLUMNS if c in lower), None)
    caption = next((lower[c] for c in CAPTION_COLUMNS if c in lower), None)
    return (image, caption, lower.get("split")) if image and caption else None


def _column_names(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        with reading_arrow(path) as pyarrow:
            schema = pyarrow.parquet.read_schema(path)
        # A file that holds the photos themselves is no table of files: `huggingface` reads it.
        return [] if image_column(schema) else schema.names
    with path.open("rb") as file:
        first = file.readline(_LIMIT).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").strip("\r\n")
        if path.suffix == ".jsonl":
            for line in (first, *(file.readline(_LIMIT) for _ in range(_TRIED))):  # some may be broken or blank
                with contextlib.suppress(ValueError, RecursionError):
                    if isinstance(row := json.loads(line), dict):
                        return list(row)
            return []
    try:
        return next(csv.reader([first], delimiter="\t" if path.suffix == ".tsv" else ","), [])
    except csv.Error:
        return []


@contextlib.contextmanager
def reading_arrow(path: Path) -> Generator[Any]:
    """Give pyarrow, and turn its errors into one that names the file.

    Raises:
        ValueError: The file is damaged, or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path}: Parquet and Arrow need pyarrow: pip install 'mrnn[parquet]'") from None
    try:
        yield pyarrow
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: damaged Parquet or Arrow file ({first_line(error)})") from None
