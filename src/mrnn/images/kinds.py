"""What a photo may be: endings of names, formats, sources; and the error of one that cannot be used."""

import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import IO, Self

import numpy as np
from PIL import Image

RAW_SUFFIXES = frozenset(
    (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")
)
_HEIF_SUFFIXES = frozenset((".heic", ".heics", ".heif", ".heifs", ".hif"))
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo")
_COMMON = (*_JPEG, ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif", ".avifs", ".jxl")
_RARE = (".jp2", ".j2k", ".j2c", ".jpx", ".jpf", ".ppm", ".pgm", ".pbm", ".pnm")
IMAGE_SUFFIXES = RAW_SUFFIXES.union(_HEIF_SUFFIXES, _COMMON, _RARE)
# Those of Pillow that are photos. It knows others that run programs (EPS) or hold many things.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "HEIF", "JPEG2000", "PPM", "JXL")


@dataclass(frozen=True)
class StoredPhoto:
    """A photo within a larger file, such as a shard: where its bytes lie, not the bytes.

    It may stand wherever a photo's `Path` stands.

    Args:
        file: The larger file.
        member: What the photo is called in there; no other photo of the file is called the same.
        size: In bytes; None if only reading tells.
    """

    file: Path
    member: str
    size: int | None

    @property
    def name(self) -> str:
        """The member's name without folders."""
        return PurePosixPath(self.member).name

    def read_bytes(self) -> bytes:
        """The photo's own bytes.

        Raises:
            OSError: They cannot be read.
        """
        raise NotImplementedError

    def resolve(self) -> Self:
        """The same with the larger file's path made absolute."""
        return replace(self, file=self.file.resolve())

    def __str__(self) -> str:
        return f"{self.file}/{self.member}"


@dataclass(frozen=True)
class PreparedPhoto:
    """What an encoder takes of a photo, read before: it may stand for the photo wherever that encoder is asked.

    Args:
        pixels: What `Encoder.pixels` gave.
    """

    pixels: np.ndarray


PhotoFile = Path | StoredPhoto
ImageSource = (
    str
    | os.PathLike
    | StoredPhoto
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | Image.Image
    | np.ndarray
    | PreparedPhoto
)


class ImageError(ValueError):
    """A photo that cannot be used.

    Args:
        name: The file's path, or what stands for it.
        reason: Why, in a few words.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self):
        return ImageError, (self.name, self.reason)


def readable_suffixes() -> frozenset[str]:
    """Those of `IMAGE_SUFFIXES` that what is installed can open."""
    needed = {"rawpy": RAW_SUFFIXES, "pillow_jxl": {".jxl"}, "pillow_heif": _HEIF_SUFFIXES}
    return IMAGE_SUFFIXES.difference(*(some for name, some in needed.items() if find_spec(name) is None))
