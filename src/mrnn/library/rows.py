"""From files to rows, a pure function: whoever indexes maps it over paths and commits what comes out.

Shapes: N photos, S side of the encoder's input.
"""

import io
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mrnn.files import sha256
from mrnn.images import RAW_SUFFIXES, ImageError, date_of, open_photo, read_photo, said_date
from mrnn.pipeline import Pipeline
from mrnn.tasks.generation import generate

THUMBNAIL = 256
CAPTIONS = 3
BEAM = 5
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


def written_path(path: str) -> str:
    """A path as a row holds it: bytes that are no UTF-8 as escapes, so that two such names stay two."""
    return path.encode(errors="backslashreplace").decode()


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
        content = read_photo(path)
        row["hash"] = sha256(content)
        if row["hash"] in known:
            return ReadFile(row, {})
        encoder = pipeline.encoder
        source = path if Path(path).suffix.lower() in RAW_SUFFIXES else content
        least = max(THUMBNAIL, encoder.preprocessing.least_side)
        opened = open_photo(source, min_side=least, tolerant=encoder.tolerant)
        taken, taken_from = date_of(opened.taken, opened.taken_from, Path(path), row["time"] / 1e9)
        photo = {
            "hash": row["hash"],
            "taken": taken,
            "taken_from": taken_from,
            "width": opened.width,
            "height": opened.height,
            "thumbnail": _thumbnail(opened.image),
        }
        return ReadFile(row, photo, encoder.pixels(opened.image))
    except ImageError as error:
        row["error"] = error.reason
    except UnicodeEncodeError:
        row |= {"error": "has a name that is not UTF-8", "path": written_path(path)}
    except OSError as error:
        row["error"] = f"cannot be read ({error.strerror})"
    row["hash"] = ""
    return ReadFile(row, {})


def date_row(hash: str, path: str, time: int) -> dict[str, Any] | None:
    """When a photo was taken and what says so, as columns of its row; None if the photo cannot be read.

    Args:
        hash: Of its content.
        path: A file that holds it.
        time: Of the file, in nanoseconds.
    """
    try:
        taken, taken_from = date_of(*said_date(path), Path(path), time / 1e9)
    except ImageError:
        return None
    return {"hash": hash, "taken": taken, "taken_from": taken_from}


def encode(pipeline: Pipeline, fresh: Sequence[ReadFile]) -> tuple[list[dict[str, Any]], int]:
    """The whole rows of photos, and how many captions are no more than a guess."""
    if not fresh:
        return [], 0
    features = pipeline.encoder(np.stack([read.pixels for read in fresh if read.pixels is not None])).pooled
    image = pipeline.model.encode_image(features)
    # A choice among the captions, and the confidence of all of them, would cost an index a third of its speed.
    options = pipeline.options(n=CAPTIONS, beam=BEAM, prior_weight=0.0, agreement=0.0)
    captions = generate(pipeline.model, pipeline.vocabulary, image, options, pipeline.centre)
    best = [several[0] for several in pipeline.trusted(image, [several[:1] for several in captions])]
    rows = [
        {
            **read.photo,
            "image": b.astype(np.float16),
            "captions": [caption.text for caption in several],
            "likelihoods": [caption.log_likelihood for caption in several],
            "confidence": first.confidence,
        }
        for read, b, several, first in zip(fresh, image, captions, best, strict=True)
    ]
    return rows, sum(pipeline.guesses(image, [caption.confidence for caption in best]))


def _thumbnail(image: Image.Image) -> bytes:
    # Image.thumbnail works on a copy, which may take 200 MB.
    scale = min(1, THUMBNAIL / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), reducing_gap=2.0) if scale < 1 else image
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return out.getvalue()
