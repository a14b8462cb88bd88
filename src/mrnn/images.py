"""One photo from disk, bytes or PIL, safely; and the preprocessing that travels with an encoder.

Shapes: H height, W width, S side of the encoder's square input.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 150_000_000
RAW_SUFFIXES = frozenset(
    (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")
)
_HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
_COMMON = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".jxl")
IMAGE_SUFFIXES = RAW_SUFFIXES.union(_HEIF_SUFFIXES, _COMMON, (".ppm", ".pgm", ".pbm"))
BY_NAME = RAW_SUFFIXES | {".jxl"}  # formats that are told by the file's name


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


PhotoFile = Path | StoredPhoto
ImageSource = str | os.PathLike | StoredPhoto | bytes | Image.Image


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


def open_image(source: ImageSource, min_side: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a photo as upright 8-bit RGB.

    EXIF orientation is applied, transparency is laid on white, 16-bit depth is scaled to 8, and of an
    animation the first frame is taken. HEIC and AVIF open where Pillow, or pillow-heif if installed, can.

    Args:
        source: A path, a photo within a larger file, the bytes of a file, or a PIL image.
        min_side: If given, a JPEG may be reduced while it is decoded, which is much faster, as long as
            both its sides stay at this length or more.
        max_pixels: Photos with more pixels are refused before they are decoded (decompression bombs). Pillow has a
            limit of its own, twice `PIL.Image.MAX_IMAGE_PIXELS`, about 179 million.

    Raises:
        ImageError: The photo is missing, unreadable, empty, truncated, too large, or no image.
    """
    name = _name(source)
    try:
        image = source if isinstance(source, Image.Image) else _open(name, source)
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(name, f"{width} x {height} pixels are more than the limit of {max_pixels:,}")
        if not width * height:
            raise ImageError(name, "has no pixels")
        if min_side is not None and image is not source:  # the caller's own image stays as it is
            image.draft("RGB", (min_side, min_side))
        return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(name, "no such file") from None
    except IsADirectoryError:
        raise ImageError(name, "is a folder, not a photo") from None
    except PermissionError:
        raise ImageError(name, "may not be read (permission denied)") from None
    except Image.DecompressionBombError:
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise ImageError(name, f"has more pixels than the limit of {limit:,}") from None
    except Image.UnidentifiedImageError:
        raise ImageError(name, "is not an image in a known format") from None
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise ImageError(
            name, f"is damaged ({str(error).splitlines()[0] if str(error) else 'no reason given'})"
        ) from None


def _name(source: ImageSource) -> str:
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "<image>")
    return str(source) if isinstance(source, StoredPhoto) else os.fspath(source)


def _open(name: str, source: str | os.PathLike | StoredPhoto | bytes) -> Image.Image:
    if isinstance(source, bytes):
        content = source
    else:
        content = (source if isinstance(source, StoredPhoto) else Path(source)).read_bytes()
    if not content:
        raise ImageError(name, "is empty")
    if content[4:8] == b"ftyp":
        _register_heif()
    if PurePosixPath(name).suffix.lower() == ".jxl" and find_spec("pillow_jxl"):
        import_module("pillow_jxl")  # registers itself
    if PurePosixPath(name).suffix.lower() in RAW_SUFFIXES:
        content = _raw_preview(name, content)
    return Image.open(io.BytesIO(content))


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _raw_preview(name: str, content: bytes) -> bytes:
    """The JPEG that a camera keeps in a RAW file."""
    try:
        rawpy = import_module("rawpy")
    except ImportError:
        raise ImageError(name, "is a RAW photo, which needs an extra: pip install 'mrnn[raw]'") from None
    with rawpy.imread(io.BytesIO(content)) as raw:
        preview = raw.extract_thumb()
        if preview.format != rawpy.ThumbFormat.JPEG:
            raise ImageError(name, "is a RAW photo without a preview")
        return preview.data


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it holds numbers that are not finite")
        # Pillow opens a 16-bit file as I;16 or, for some formats, as 32-bit I; F has no fixed range.
        top = 65535 if image.mode != "F" else max(float(values.max(initial=0)), 1.0)
        if isinstance(transparent := image.info.get("transparency"), int):
            values[values == transparent] = top
        image = Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes an encoder's input; saved with every model, so that it never drifts.

    Args:
        side: Side S of the square input.
        mean: Subtracted from the RGB values, on the scale 0..255.
        std: Divides them after that.
        resize: `squash` scales the whole photo to the square, so that nothing is cut off;
            `crop` scales the shorter side and takes the centre.
        interpolation: `bicubic` or `bilinear`.
        scale: For `crop`: the shorter side is scaled to side * scale first (ImageNet's 256 / 224).
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str = "squash"
    interpolation: str = "bicubic"
    scale: float = 1.0

    def __post_init__(self):
        if self.resize not in ("squash", "crop"):
            raise ValueError(f"resize is 'squash' or 'crop', not {self.resize!r}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation is 'bicubic' or 'bilinear', not {self.interpolation!r}")

    def __call__(self, source: ImageSource) -> np.ndarray:
        """Read one photo.

        Returns:
            (S, S, 3) unsigned bytes; the encoder subtracts mean and std itself, a batch at a time.

        Raises:
            ImageError: The photo cannot be used.
        """
        longer = round(self.side * self.scale)
        image = open_image(source, min_side=longer)
        filter = Image.Resampling[self.interpolation.upper()]
        if self.resize == "squash":
            return np.asarray(image.resize((self.side, self.side), filter))
        # Of a very long photo the middle is enough; scaled as a whole it would not fit into memory.
        image = _centre(image, *(min(x, 16 * min(image.size)) for x in image.size))
        width, height = (x * longer // min(image.size) for x in image.size)
        return np.asarray(_centre(image.resize((width, height), filter), self.side, self.side))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Preprocessing":
        """Rebuild from the JSON form that a saved model holds."""
        as_tuples: dict[str, Any] = {
            k: tuple(v) if isinstance(v, Sequence) and not isinstance(v, str) else v for k, v in fields.items()
        }
        return cls(**as_tuples)
