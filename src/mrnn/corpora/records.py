"""Rows of a JSON file, whichever way they are arranged.

A list of records, itself or under one name; a list of photo and captions; captions by photo; columns, as pandas writes.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mrnn.corpora.base import read_captions_file
from mrnn.files import unicode_encoding
from mrnn.images import IMAGE_SUFFIXES

_LIMIT = 1 << 20
_NUMBER = re.compile(r"#\d+$")  # of a caption, behind the photo's name


def photo_name(value: Any) -> str:
    """A value as the name of a photo's file, without the number of a caption behind it; empty if it is none."""
    name = _NUMBER.sub("", value.strip()) if isinstance(value, str) else ""
    return name if "://" not in name and Path(name).suffix.lower() in IMAGE_SUFFIXES else ""


def read_records(path: Path) -> list[Any]:
    """The rows of a JSON file, or of one that has a JSON value a line; those of another form are broken ones.

    Raises:
        ValueError: It is not UTF-8.
    """
    text = read_captions_file(path)
    try:
        return _rows(json.loads(text))
    except (ValueError, RecursionError):
        return [json_or_none(line) for line in text.split("\n") if line.strip()]


def may_have_records(path: Path) -> bool:
    """Whether a JSON file's beginning looks like it; COCO's own files, which may be huge, do not."""
    with path.open("rb") as file:
        start = file.read(_LIMIT)
    text = start.decode(unicode_encoding(start), "replace").lstrip()
    coco = '"images"' in text and any(f'"{name}"' in text for name in ("info", "licenses", "annotations"))
    return text.startswith(("{", "[")) and not coco


def json_or_none(line: str) -> Any:
    """A JSON value; None for what is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _rows(value: Any) -> list[Any]:
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        columns = [v for v in value.values() if isinstance(v, dict | list)]
        if len(lists) == 1:
            value = lists[0]
        elif _most(value, photo_name):
            value = [
                {"image": name, **(row if isinstance(row, dict) else {"caption": row})} for name, row in value.items()
            ]
        elif len(columns) == len(value) and len({len(column) for column in columns}) == 1:
            cells = [list(v.values()) if isinstance(v, dict) else v for v in columns]
            value = [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]
    if not isinstance(value, list):
        return []
    return [{"image": row[0], "caption": row[1:]} if isinstance(row, list) and row else row for row in value]


def _most(values: Collection, test) -> bool:
    return 2 * sum(map(bool, map(test, values))) > len(values)
