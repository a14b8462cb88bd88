"""From files to rows, a pure function: whoever indexes maps it over paths and commits what comes out.

Shapes: N photos, S side of the encoder's input.
"""

import contextlib
import io
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mrnn.files import sha256
from mrnn.images import BY_NAME, ImageError, open_image
from mrnn.pipeline import Pipeline

THUMBNAIL = 256
CAPTIONS = 3
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations whose width and height change places
_INT64 = 2**63 - 1


@dataclass(frozen=True)
class ReadFile:
    """A file that was read.

    Args:
        file: Its row.
        photo: The row of what it holds, without what the model says of it; empty if that is known, or unusable.
        pixels: The encoder's input; None where `photo` is empty.
    """

    file: dict[str, Any]
    photo: dict[str, Any]
    pixels: np.ndarray | None = None


def file_row(path: str, size: int, time: int) -> dict[str, Any]:
    """The row of a file, of what the file system says alone; its time in nanoseconds."""
    return {"path": path, "size": size, "time": max(-_INT64, min(time, _INT64)), "hash": "", "error": ""}


def read_file(pipeline: Pipeline, file: dict[str, Any], known: Container[str]) -> ReadFile:
    """Read a file, and decode it unless its content is known.

    Args:
        pipeline: Whose encoder says how large photos are.
        file: Its row, of what the file system says.
        known: Hashes of photos that need no rows.
    """
    row, path = dict(file), file["path"]
    try:
        path.encode()
        content = Path(path).read_bytes()
        row["hash"] = sha256(content)
        if row["hash"] in known:
            return ReadFile(row, {})
        encoder = pipeline.encoder
        side = round(encoder.preprocessing.side * encoder.preprocessing.scale)
        by_name = Path(path).suffix.lower() in BY_NAME
        image = open_image(path if by_name else content, min_side=max(THUMBNAIL, side))
        photo = {"hash": row["hash"], **_head(content, row["time"] / 1e9), "thumbnail": _thumbnail(image)}
        return ReadFile(row, photo, encoder.pixels(image))
    except ImageError as error:
        row["error"] = error.reason
    except UnicodeEncodeError:
        row |= {"error": "has a name that is not UTF-8", "path": path.encode(errors="backslashreplace").decode()}
    except OSError as error:
        row["error"] = f"cannot be read ({error.strerror})"
    row["hash"] = ""
    return ReadFile(row, {})


def encode(pipeline: Pipeline, fresh: Sequence[ReadFile]) -> tuple[list[dict[str, Any]], int]:
    """The whole rows of photos, and how many of them are unlike what the model was trained on."""
    if not fresh:
        return [], 0
    features = pipeline.encoder(np.stack([read.pixels for read in fresh if read.pixels is not None])).pooled
    image = pipeline.model.encode_image(features)
    said = pipeline.describe_features([read.file["path"] for read in fresh], features, pipeline.options(n=CAPTIONS))
    rows = [
        {
            **read.photo,
            "image": b.astype(np.float16),
            "captions": [caption.text for caption in described.captions],
            "likelihoods": [caption.log_likelihood for caption in described.captions],
        }
        for read, b, described in zip(fresh, image, said, strict=True)
    ]
    return rows, sum(not described.familiar for described in said)


def _head(content: bytes, modified: float) -> dict[str, Any]:
    """Date and upright size of a photo, from its head alone."""
    taken = "1970-01-01T00:00:00"
    with contextlib.suppress(ValueError, OverflowError, OSError):  # a file's time may be any number
        taken = datetime.fromtimestamp(modified).isoformat(timespec="seconds")
    width = height = 0
    with contextlib.suppress(Exception):  # metadata may hold anything; whether it is a photo is found out later
        image = Image.open(io.BytesIO(content))
        width, height = image.size
        exif = image.getexif()
        if exif.get(0x0112) in SIDEWAYS:
            width, height = height, width
        original = exif.get_ifd(0x8769).get(0x9003) or exif.get(0x0132)
        if original:
            taken = datetime.strptime(str(original)[:19], "%Y:%m:%d %H:%M:%S").isoformat()
    return {"taken": taken, "width": width, "height": height}


def _thumbnail(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return out.getvalue()
