"""Your own table: CSV, TSV, JSON, JSONL or Parquet with a column for the photo and one or several for captions.

A column `split` is used if there is one; else the split that the table's name says, as of `train.csv`, `test.csv`;
otherwise the photos are split by their ids, 80 / 10 / 10. A caption may be a list of captions, and a photo may have
several rows. Delimiter (comma, tab, semicolon, pipe), encoding and quoting of a text are found out, and whether it has
a header: the column of photos is the one whose cells name photos, and captions are those of several words.
"""

import ast
import contextlib
import csv
import functools
import math
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mrnn.corpora.base import Corpus, CorpusBuilder, Report, is_text, read_captions_file
from mrnn.corpora.finder import PhotoFinder, is_photo
from mrnn.corpora.records import json_or_none, may_have_records, photo_name, read_records
from mrnn.corpora.splits import normal_split, split_in
from mrnn.files import first_line, unicode_encoding
from mrnn.text import tokenise

IMAGE_COLUMNS = ("image", "file_name", "filename", "image_path", "path", "file", "photo", "img")
IMAGE_COLUMNS += ("image_name", "image_file", "image_file_name", "image_filename", "file_path", "filepath")
IMAGE_COLUMNS += ("images", "image_id", "img_id")
CAPTION_COLUMNS = ("caption", "captions", "text", "sentence", "sentences", "description", "comment")
CAPTION_COLUMNS += ("raw", "prompt", "title", "alt_text", "desc")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt")
DELIMITERS = ",\t;|"
_LIMIT = 1 << 20
_TRIED = 20  # rows of a JSONL table that are looked at for its columns
_LINES = 100  # that a quoted cell may have


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what.

    Args:
        image: That names photos.
        captions: One or more.
        split: If there is one.
    """

    image: str
    captions: tuple[str, ...]
    split: str | None


def tables(folder: Path, names: Sequence[str]) -> list[Path]:
    """The tables with a photo and a caption column among a folder's files; text files that are tables come last.

    Args:
        folder: Where they lie.
        names: Of its files; a text or JSON file that is called like a photo is no table.
    """
    photos = {Path(name).stem for name in names if is_photo(name)}
    files = [Path(folder, name) for name in names]
    beside = (".txt", ".json")
    files = [
        f for f in files if f.suffix.lower() in SUFFIXES and (f.suffix.lower() not in beside or f.stem not in photos)
    ]
    files = sorted((f for f in files if f.is_file()), key=lambda f: (f.suffix.lower() == ".txt", f))
    return [path for path in files if columns_in(path) is not None]


def _found(place: Path) -> list[Path]:
    if not place.is_dir():
        return tables(place.parent, [place.name])
    return tables(place, [p.name for p in place.iterdir() if p.stem.lower() != "metadata"])


def _chosen(found: list[Path]) -> list[Path]:
    """Those to read: all whose names say a split, if one is of train photos or all say one; else the first."""
    found = list({path.stem.lower(): path for path in reversed(found)}.values())[::-1]  # one of several formats
    named = [path for path in found if split_in(path.stem)]
    if len(named) == len(found) or any(split_in(path.stem) == "train" for path in named):
        return named
    return [path for path in found if path not in named][:1]


def recognises(place: Path) -> bool:
    """Whether the folder, or the file, is a table with a photo and a caption column."""
    return bool(_found(place))


def read(place: Path, images: Sequence[Path] = ()) -> Corpus:
    """Read the table, or one a split.

    Raises:
        ValueError: It is damaged.
    """
    found = _found(place)
    paths = _chosen(found)
    builder = CorpusBuilder(f"table ({', '.join(path.name for path in paths)})", paths[0].parent, images)
    if others := [path.name for path in found if path not in paths]:
        builder.report.notes.append(f"further tables are not read: {', '.join(others)}")
    for path in paths:
        for where, image, captions, split in read_captions(path, builder.report):
            split = split_in(path.stem) or None if split is None else split
            if split is not None:
                builder.split(image, split)
            for caption in captions:
                builder.caption(image, caption, where=where)
    return builder.build()


def read_captions(path: Path, report: Report) -> Iterator[tuple[str, str, list[str], str | None]]:
    """Of every row its place, photo, captions and split (None: it says none); rows that are broken go to the report.

    Raises:
        ValueError: The table as a whole cannot be read.
    """
    for where, image, values, said, _ in _entries(path):
        captions = [value for value in values if isinstance(value, str)]
        for _ in range(len(values) - len(captions) or not values):
            report.add("broken lines", where)
        if captions:
            if said and not normal_split(said):
                report.add("unknown split names", f"{said!r} in {where}")
            yield where, image, captions, normal_split(said) if said else None


def _entries(path: Path) -> Iterator[tuple[str, str, list[Any], str, dict[str, Any]]]:
    """Of every row its place, photo, captions as they are (none if it is broken), its word on the split, and itself."""
    columns = columns_in(path)
    assert columns is not None
    for where, row in read_rows(path):
        image = row.get(columns.image) if row else None
        if row is None or not isinstance(image, str) or not image.strip():
            yield where, "", [], "", {}
            continue
        values = [value for name in columns.captions if (value := row.get(name)) is not None]
        if len(values) > 1:  # fewer captions than columns are no mistake
            values = [value for value in values if value != ""] or values[:1]
        values = [caption for value in values for caption in _several(value)]
        yield (
            where,
            photo_name(image) or image.strip(),
            values,
            str(row.get(columns.split) or "") if columns.split else "",
            row,
        )


def _several(value: Any) -> list[Any]:
    """The captions of a cell: of a list, also one that is written out in a text; of records, those they hold."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            # NumPy writes no commas.
            listed = ast.literal_eval(re.sub(r"(?<=['\"])\s+(?=['\"])", ", ", value))
            value = listed if listed and all(isinstance(one, str) for one in listed) else value
    values = value if isinstance(value, list) else [value]
    return [caption for one in values for caption in (captions_in(one) or [one] if isinstance(one, dict) else [one])]


def caption_columns(names: Iterable[str]) -> list[str]:
    """The columns of the first usual name that is there, also if they are numbered: `caption_0`, `caption1`."""
    names = list(names)
    for usual in CAPTION_COLUMNS:
        if found := [name for name in names if re.fullmatch(rf"{usual}([ _.-]?\d+)?", name.strip().lower())]:
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


@dataclass(frozen=True)
class Pair:
    """A photo and a caption to be scored, and what the table knows of them.

    Args:
        image: The photo, as written.
        path: Its file: where it would be in the table's folder, if it is not found.
        caption: What may be said of it.
        foil: A sentence nearly the same that is wrong, of a column `foil`; empty without.
        kind: Of the foil, of a column `kind`.
        ratings: How well people find that the caption fits, of the columns `rating`, `rating_1` and so on.
    """

    image: str
    path: Path
    caption: str
    foil: str = ""
    kind: str = ""
    ratings: tuple[float, ...] = ()


def read_pairs(path: Path) -> tuple[list[Pair], list[str]]:
    """Photo-caption pairs of a table, for scoring.

    Returns:
        The pairs, and the places of rows that are broken.

    Raises:
        ValueError: It is no table with a photo and a caption column.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    names = column_names(path) if path.suffix.lower() in SUFFIXES else []
    if not names or columns_in(path) is None:
        seen = f"; its columns are {', '.join(names)}" if names else ""
        raise ValueError(
            f"{path}: not a CSV, TSV, JSON, JSONL or Parquet table with an image and a caption column{seen}"
        )
    rows = list(_entries(path))
    files = PhotoFinder(path.parent, [path.parent]).find({image: "" for _, image, *_ in rows if image})
    pairs, broken = [], []
    said = {re.sub(r"\s+", "_", name.strip().lower()): name for name in names}
    rated = [name for usual, name in said.items() if re.fullmatch(r"ratings?([ _.-]?\d+)?", usual)]
    for where, image, captions, _, row in rows:
        try:
            ratings = tuple(float(row[name]) for name in rated if row.get(name) not in (None, ""))
        except (TypeError, ValueError):
            captions = []
        if not captions or captions == [""] or not all(map(math.isfinite, ratings)):
            broken.append(where)
            continue
        foil, kind = (str(row.get(said.get(name, "")) or "") for name in ("foil", "kind"))
        for caption in captions:
            if isinstance(caption, str) and is_text(caption):
                pairs.append(Pair(image, files[image] or path.parent / image, caption, foil, kind, ratings))
            else:
                broken.append(where)
    return pairs, broken


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Every row with the name of its place; None for a row that is broken.

    Raises:
        ValueError: The file as a whole cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        with reading_arrow(path) as pyarrow:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        for number, row in enumerate(rows):
            yield f"{path.name} row {number}", row
    elif suffix == ".json":
        for number, row in enumerate(read_records(path)):
            yield f"{path.name} entry {number}", row if isinstance(row, dict) else None
    elif suffix == ".jsonl":
        for number, line in enumerate(read_captions_file(path).split("\n"), 1):
            if line.strip():
                yield f"{path.name} line {number}", _json_row(line)
    else:
        lines = _lines(read_captions_file(path))
        header, delimiter, names = _header(lines)
        columns = columns_of(names)
        # Where the caption comes last and is not quoted, its own commas make further cells.
        last = columns is not None and columns.captions == tuple(names[-1:])
        for number, cells in _records(lines[header:], delimiter):
            if cells is not None and last and len(cells) > len(names):
                cells = lines[header + number - 1].split(delimiter, len(names) - 1)
            row = None if cells is None or len(cells) != len(names) else dict(zip(names, cells, strict=True))
            yield f"{path.name} line {header + number}", row


def _json_row(line: str) -> dict[str, Any] | None:
    row = json_or_none(line)
    return row if isinstance(row, dict) else None


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _header(lines: Sequence[str]) -> tuple[int, str, list[str]]:
    """How many lines a text table has up to its header, the delimiter, and the columns; none if they are not found.

    Columns of a table without a header are called by what they hold.
    """
    for used, line in enumerate(lines, 1):
        if line.strip() and not re.fullmatch("(?i)sep=.", line.strip()):  # by which Excel is told the delimiter
            with contextlib.suppress(csv.Error):
                readings = [(d, next(csv.reader([line], delimiter=d, skipinitialspace=True), [])) for d in DELIMITERS]
                for delimiter, cells in readings:
                    if len(cells) > 1 and any(map(photo_name, cells)):
                        return used - 1, delimiter, _called(lines[used - 1 :], delimiter)
                known = (reading for reading in readings if columns_of(reading[1]))
                delimiter, names = next(known, max(readings, key=lambda reading: len(reading[1])))
                return used, delimiter, _apart(names)
            break
    return len(lines), ",", []


def _apart(names: Sequence[str]) -> list[str]:
    """Names of which a later one that is there already has its number behind it."""
    return [f"{name} {i}" if name in names[: i - 1] else name for i, name in enumerate(names, 1)]


def _called(lines: Sequence[str], delimiter: str) -> list[str]:
    """Names for the columns of a table without a header, by what its first rows hold."""
    rows = [cells for _, cells in islice(_records(lines, delimiter), _TRIED) if cells and any(map(photo_name, cells))]
    names: list[str] = []
    for number, cells in enumerate(zip(*rows, strict=False), 1):
        if "image" not in names and _most(cells, photo_name):
            names.append("image")
        elif "split" not in names and all(map(normal_split, cells)):
            names.append("split")
        else:
            names.append(f"{'caption' if _most(cells, _is_sentence) else 'column'} {number}")
    return names


def _most(values: Sequence[Any], test: Callable[[Any], Any]) -> bool:
    return 2 * sum(bool(test(value)) for value in values) > len(values)


def _is_sentence(value: Any) -> bool:
    return any(isinstance(one, str) and len(tokenise(one)) > 1 for one in _several(value))


def _records(lines: Sequence[str], delimiter: str) -> Iterator[tuple[int, list[str] | None]]:
    """Of every record of a text table the number of its first line and its cells; None where a quotation is not closed.

    Such a quotation takes in all lines after it, so reading goes on with the next line.
    """
    at = 0
    while at < len(lines):
        used, cells = _record(lines[at : at + _LINES], delimiter)
        if cells != [] and lines[at].strip():
            yield at + 1, cells
        at += used


def _record(lines: Sequence[str], delimiter: str) -> tuple[int, list[str] | None]:
    """How many lines the first record takes, and its cells."""
    read = functools.partial(csv.reader, delimiter=delimiter, skipinitialspace=True)
    try:
        reader = read(f"{line}\n" for line in lines)
        cells = next(reader)
        if reader.line_num == 1:
            return 1, cells
        return reader.line_num, next(read(["\n".join(lines[: reader.line_num])], strict=True))
    except csv.Error:
        return 1, None


def columns_of(names: Iterable[str]) -> Columns | None:
    """Which of a table's columns are what; None if it has none for the photo or for captions."""
    names = list(names)
    usual = {_plain(name): name for name in names}
    image, captions = next((usual[c] for c in IMAGE_COLUMNS if c in usual), None), caption_columns(names)
    return Columns(image, tuple(captions), usual.get("split")) if image and captions else None


def _plain(name: str) -> str:
    return re.sub(r"\s+", "_", name.strip().lower())


def columns_in(path: Path) -> Columns | None:
    """Which of a table's columns are what, by their names or, where those are unusual, by what the first rows hold."""
    names = column_names(path)
    if (columns := columns_of(names)) is not None or len(names) < 2:
        return columns
    rows = [row for _, row in islice(read_rows(path), _TRIED) if row]
    image = next((name for name in names if rows and _most([row.get(name) for row in rows], photo_name)), None)
    said = [name for name in names if re.search("caption", name, re.IGNORECASE) and name != image]
    said = caption_columns(names) or [name for name in said if _most([row.get(name) for row in rows], _is_sentence)]
    if image is None:
        image = next((name for name in names if _plain(name) in IMAGE_COLUMNS), None)
    split = next((name for name in names if _plain(name) == "split"), None)
    return Columns(image, tuple(said), split) if image and len(said) == 1 else None


def column_names(path: Path) -> list[str]:
    """A table's columns; none if it cannot be told, or if it holds the photos themselves, as `huggingface` reads."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        with reading_arrow(path) as pyarrow:
            schema = pyarrow.parquet.read_schema(path)
        return [] if image_column(schema) else schema.names
    if suffix == ".json" and not may_have_records(path):
        return []
    if suffix == ".json":
        rows = [row for row in read_records(path)[:_TRIED] if isinstance(row, dict)]
        return list(dict.fromkeys(name for row in rows for name in row))
    with path.open("rb") as file:
        start = file.read(_LIMIT)
    lines = _lines(start.decode(unicode_encoding(start), "replace"))
    if suffix == ".jsonl":
        rows = filter(None, map(_json_row, filter(str.strip, lines[:_TRIED])))  # some may be broken, or lack a column
        return list(dict.fromkeys(name for row in rows for name in row))
    return _header(lines)[2]


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
