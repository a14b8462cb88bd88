"""One photo from disk, bytes or PIL: the one place where photos are opened, whatever for."""

import contextlib
import io
import itertools
import math
import os
import struct
import threading
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from mrnn.images.colours import adobe_rgb, to_srgb
from mrnn.images.kinds import FORMATS, RAW_SUFFIXES, ImageError, ImageSource, PreparedPhoto, StoredPhoto
from mrnn.images.metadata import SIDEWAYS, Metadata, read_metadata
from mrnn.images.parts import MOST_PARTS, Parts, split, without_tags

MAX_PIXELS = 150_000_000
_ORIENTATION, _INK = 0x0112, 0x0106
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_LARGEST_TILE = 1 << 24  # pixels
_PROGRESSIVE = ", as a progressive JPEG is held whole while it is decoded; save it as a baseline JPEG"
_STRIP = 1 << 20  # pixels that are converted at a time
_MEMORY = 300_000_000  # bytes that decoding may take
# Pixels of the formats that are decoded through buffers of many times their size.
_MOST_PIXELS = {"WEBP": 25_000_000, "HEIF": 50_000_000, "AVIF": 40_000_000, "JPEG2000": 15_000_000}
_WHOLE = 1 << 24  # pixels up to which a photo is handed on as large as it was decoded, if a smaller one would do
_BOTH = 400_000_000  # bytes of a decoded photo and of what is handed on of it
_SCANNED = 10_000_000_000  # pixels that all scans of a JPEG may go over
_PIXELS_A_BYTE = 512  # of a JPEG, at most: a bit a block
_SMALL = 8_000_000  # bytes of a file that is decoded number by number
_LARGEST_FILE = 1_000_000_000  # bytes
_MOST_TILES = 10_000  # of a JPEG 2000
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}  # of others 4
_LARGE = threading.Lock()  # held while a photo is decoded that takes much memory


@dataclass(frozen=True)
class OpenedPhoto:
    """A photo, and what its file says of it.

    Args:
        image: Upright 8-bit RGB, in sRGB; it may be smaller than the photo, as it is of one of more than 50 megapixels.
        width: Of the upright photo, in pixels.
        height: Of the upright photo.
        taken: When it was taken, as its metadata say; None if they say nothing sensible.
        taken_from: Which of them: `EXIF`, `XMP`, `IPTC`, `GPS` or `PNG`.
    """

    image: Image.Image
    width: int
    height: int
    taken: datetime | None
    taken_from: str


def open_image(
    source: ImageSource, min_side: int | None = None, max_pixels: int = MAX_PIXELS, tolerant: bool = False
) -> Image.Image:
    """The image of `open_photo`."""
    return open_photo(source, min_side, max_pixels, tolerant).image


def open_photo(
    source: ImageSource, min_side: int | None = None, max_pixels: int = MAX_PIXELS, tolerant: bool = False
) -> OpenedPhoto:
    """Open a photo as upright 8-bit RGB, in sRGB.

    Orientation is applied, colours are brought from the photo's profile to sRGB, transparency is laid on white, 16-bit
    depth is scaled to 8, and of an animation the first frame is taken. Metadata that are broken are ignored. HEIC and
    AVIF open where Pillow, or pillow-heif if installed, can.

    Args:
        source: A path, a photo within a larger file, the bytes of a file, a file open for reading bytes, a PIL image,
            or an array of bytes (H, W, 3) in RGB, (H, W, 4) with opacity, or (H, W) in grey.
        min_side: If given, a JPEG may be reduced while it is decoded, which is much faster, and a large photo of
            another format after it, as long as both sides stay at this length or more.
        max_pixels: Photos with more pixels are refused before they are decoded (decompression bombs), and so are those
            whose decoding would take more than about 300 MB. A JPEG that can be reduced while it is decoded is reduced
            to fit. For other formats Pillow has a limit of its own, twice `PIL.Image.MAX_IMAGE_PIXELS`, about 179
            million.
        tolerant: Of a truncated photo take what there is; the rest is black or grey.

    Raises:
        ImageError: The photo is missing, unreadable, empty, truncated, too large, or no image.
    """
    name = _name(source)
    with contextlib.ExitStack() as held:
        held.enter_context(_told(name, max_pixels))
        source = _at_hand(name, source)
        if isinstance(source, Image.Image):
            image, metadata, profile = source, Metadata(), source.info.get("icc_profile")
            size = image.size
            _check(name, image, max_pixels)
            image.load()
            with contextlib.suppress(Exception):  # metadata may hold anything
                metadata = read_metadata(image.info.get("exif") or b"", _bytes(image.info.get("xmp")))
                metadata = replace(metadata, orientation=image.getexif().get(_ORIENTATION, 1))
        else:
            image, parts = _open(name, source)
            profile = parts.profile or image.info.get("icc_profile")
            metadata = _metadata(image, parts)
            size = _reduce(name, image, parts, min_side, max_pixels)
            if image.width * image.height > _WHOLE:
                held.enter_context(_LARGE)
            if parts.scan and not parts.has_end:
                image = _without_end(name, image, parts, max_pixels, tolerant)
            metadata = _load(image, metadata, tolerant)
            if isinstance(image, TiffImageFile) and image.mode == "I" and not _fits_16_bits(image):
                raise ImageError(name, "is a TIFF of 32-bit or negative numbers, which have no known range")
        profile = _bytes(profile) or (adobe_rgb() if metadata.adobe_rgb else b"")
        rgb = _to_rgb(image, profile, _scale(image, min_side))
        del image  # before its copy is turned
        if (method := _UPRIGHT.get(metadata.orientation)) is not None:
            rgb = rgb.transpose(method)
        width, height = size[::-1] if metadata.orientation in SIDEWAYS else size
        rgb.info.clear()  # what the file said of orientation and colours is not true of it any more
        return OpenedPhoto(rgb, width, height, metadata.taken, metadata.taken_from)


def said_date(source: str | os.PathLike | bytes) -> tuple[datetime | None, str]:
    """When a photo was taken and what says so, as `open_photo` gives it, without decoding the photo.

    Raises:
        ImageError: The photo cannot be used.
    """
    name = _name(source)
    with _told(name, MAX_PIXELS):
        metadata = _metadata(*_open(name, source))
        return metadata.taken, metadata.taken_from


def pixels_to_decode(source: bytes, min_side: int | None = None) -> int:
    """How many pixels `open_photo` would decode, from the photo's head alone.

    Raises:
        ImageError: The photo cannot be used.
    """
    name = _name(source)
    with _told(name, MAX_PIXELS):
        image, parts = _open(name, source)
        _reduce(name, image, parts, min_side, MAX_PIXELS)
        return image.width * image.height


@contextlib.contextmanager
def _told(name: str, max_pixels: int):
    """Whatever goes wrong, as an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(name, "no such file") from None
    except IsADirectoryError:
        raise ImageError(name, "is a folder without a photo") from None
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
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "<image>")
    if isinstance(source, np.ndarray | PreparedPhoto):
        return "<array>"
    if hasattr(source, "read"):
        return str(getattr(source, "name", "<file>"))
    if isinstance(source, (StoredPhoto, str, os.PathLike)):
        return str(source)
    raise ImageError(f"<{type(source).__name__}>", "is no path, bytes, open file, PIL image or array")


def _at_hand(name: str, source: ImageSource) -> str | os.PathLike | StoredPhoto | bytes | Image.Image:
    """What is open already, or an array, as what a file would give."""
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, np.ndarray) and source.ndim == 3 and source.shape[2] == 1:
        source = source[..., 0]
    if isinstance(source, np.ndarray):
        if (
            source.dtype != np.uint8
            or source.ndim not in (2, 3)
            or (source.ndim == 3 and source.shape[2] not in (3, 4))
        ):
            raise ImageError(name, f"is no array of bytes (H, W, 3) but {source.dtype} of shape {source.shape}")
        return Image.fromarray(source)
    if isinstance(source, PreparedPhoto):
        raise ImageError(name, "was prepared for an encoder, and is no photo any more")
    if not isinstance(source, (str, os.PathLike, StoredPhoto, bytes, Image.Image)):
        content = source.read()
        if not isinstance(content, bytes):
            raise ImageError(name, "is open for reading text; open it for reading bytes")
        return content
    return source


def read_photo(source: str | os.PathLike | StoredPhoto) -> bytes:
    """The bytes of a photo's file.

    Raises:
        ImageError: There are more than a photo has.
        OSError: They cannot be read.
    """
    if isinstance(source, StoredPhoto):
        return source.read_bytes()
    with Path(source).open("rb") as file:
        content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise ImageError(_name(source), f"has more than {_LARGEST_FILE:,} bytes")
    return content


def _open(name: str, source: str | os.PathLike | StoredPhoto | bytes) -> tuple[ImageFile, Parts]:
    """A photo that is not decoded yet, and the parts of its file."""
    content = source if isinstance(source, bytes) else read_photo(source)
    if not content:
        raise ImageError(name, "is empty")
    if content[4:8] == b"ftyp":
        _register_heif()
    if content.startswith(_JXL):
        if find_spec("pillow_jxl") is None:
            raise ImageError(name, "is a JPEG XL photo, which needs an extra: pip install 'mrnn[jxl]'")
        import_module("pillow_jxl")  # registers itself
    parts = split(content)
    if PurePosixPath(name).suffix.lower() in RAW_SUFFIXES and not parts.scan:
        preview = split(_raw_preview(name, content))
        parts = replace(preview, exif=preview.exif or parts.exif)
    file = io.BytesIO(parts.picture)
    if parts.scan:  # not by Image.open, whose limit of pixels comes before a JPEG can be reduced
        return JpegImageFile(file), parts
    Image.init()
    formats = [format for format in FORMATS if format in Image.OPEN]
    try:
        return Image.open(file, formats=formats), parts
    except Exception:
        bare = without_tags(parts.picture)
        if _needs_heif(content):
            raise ImageError(name, "is a HEIC photo, which needs an extra: pip install 'mrnn[heif]'") from None
        if bare == parts.picture and parts.exif:
            raise ImageError(
                name, "is a TIFF that is damaged, or of numbers that are not read; save it as 8 bits"
            ) from None
        if bare == parts.picture:
            raise
        return Image.open(io.BytesIO(bare), formats=formats), replace(parts, picture=bare)


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _needs_heif(content: bytes) -> bool:
    return content[4:8] == b"ftyp" and content[8:10] in (b"he", b"mi", b"ms") and "HEIF" not in Image.OPEN


def _raw_preview(name: str, content: bytes) -> bytes:
    """The JPEG that a camera keeps in a RAW file; without one, what the sensor saw, at half its size."""
    try:
        rawpy = import_module("rawpy")
    except ImportError:
        raise ImageError(name, "is a RAW photo, which needs an extra: pip install 'mrnn[raw]'") from None
    try:
        with rawpy.imread(io.BytesIO(content)) as raw:
            with contextlib.suppress(rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
                preview = raw.extract_thumb()
                if preview.format == rawpy.ThumbFormat.JPEG:
                    return preview.data
            seen = raw.postprocess(half_size=True, use_camera_wb=True, user_flip=0)
    except rawpy.LibRawError:
        raise ImageError(name, "is damaged, or a RAW photo of a kind that is not known") from None
    height, width, _ = seen.shape
    return b"P6 %d %d 255\n" % (width, height) + seen.tobytes()


def _bytes(value: object) -> bytes:
    """What a decoder found of a profile or metadata, if it found bytes."""
    return value if isinstance(value, bytes) else b""


def _metadata(image: Image.Image, parts: Parts) -> Metadata:
    exif, xmp = (parts.exif or _bytes(image.info.get("exif"))), (parts.xmp or _bytes(image.info.get("xmp")))
    metadata = read_metadata(exif, xmp, parts.iptc, parts.created, parts.changed)
    if isinstance(image, TiffImageFile):  # which turns itself, by its own reading of this tag
        return replace(metadata, orientation=image.tag_v2.get(_ORIENTATION, 1))
    return metadata


def _check(name: str, image: Image.Image, max_pixels: int, why: str = "") -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(name, f"{width} x {height} pixels are more than the limit of {max_pixels:,}{why}")
    if not width * height:
        raise ImageError(name, "has no pixels")
    if isinstance(image, TiffImageFile) and image.tile:
        _check_tiff(name, image)


def _check_memory(name: str, image: ImageFile, parts: Parts, size: tuple[int, int]) -> None:
    """Refuse a photo whose decoding would take too much memory or time.

    Args:
        name: Of the photo.
        image: As it will be decoded.
        parts: Of its file.
        size: Before a JPEG was reduced.
    """
    pixels, content = image.width * image.height, len(parts.picture)
    format = image.format or ""
    if format == "JPEG2000":
        pixels >>= 2 * getattr(image, "_reduce", 0)
    if pixels > (most := _MOST_PIXELS.get(format, pixels)):
        raise ImageError(name, f"{size[0]} x {size[1]} pixels are more than the limit of {most:,} for {format}")
    memory = pixels * _PIXEL_BYTES.get(image.mode, 4)
    if isinstance(image, TiffImageFile) and image.tile:
        memory += _piece(image)
    if parts.scan and not parts.in_rows:
        memory += round(2 * parts.samples * size[0] * size[1])
        scans = sum(1 for _ in itertools.islice(parts.scans(), MOST_PARTS))
        if scans * size[0] * size[1] > _SCANNED:
            raise ImageError(name, f"is a JPEG of {scans:,} scans, more than a photo has")
    if memory > _MEMORY:
        raise ImageError(
            name,
            f"{size[0]} x {size[1]} pixels take {memory / 1e6:,.0f} MB to decode, more than the limit of "
            f"{_MEMORY / 1e6:,.0f}{_PROGRESSIVE if parts.scan and not parts.in_rows else ''}",
        )
    if parts.scan and size[0] * size[1] > max(_WHOLE, _PIXELS_A_BYTE * content):
        raise ImageError(name, "is damaged (the file is truncated)")
    codec = image.tile[0][0] if image.tile else ""
    if codec in ("bmp_rle", "ppm_plain") and max(content, pixels, 256 * image.width) > _SMALL:
        kind = "packed" if codec == "bmp_rle" else "written as text"
        raise ImageError(name, f"is a large {format} that is {kind}, which is too slow; save it in another way")
    if format == "JPEG2000" and (tiles := _jpeg2000_tiles(parts.picture)) > _MOST_TILES:
        raise ImageError(name, f"is a JPEG 2000 of {tiles:,} tiles, more than the limit of {_MOST_TILES:,}")


def _piece(image: TiffImageFile) -> int:
    """Bytes of the largest piece of a packed TIFF, which is unpacked beside the image."""
    tags = image.tag_v2
    width, rows = tags.get(322, image.width), tags.get(323, min(image.height, tags.get(278, image.height)))
    return 0 if image.info.get("compression") == "raw" else width * rows * sum(tags.get(258, (1,))) // 8


def _jpeg2000_levels(content: bytes) -> int:
    """How often the sides of a JPEG 2000 can be halved while it is decoded."""
    head = content[content.find(b"\xff\x4f\xff\x51") :]
    return min(5, (head[head.find(b"\xff\x52") :][9:10] or b"\0")[0])


def _jpeg2000_tiles(content: bytes) -> int:
    """How many tiles the head of a JPEG 2000 speaks of."""
    head = content[content.find(b"\xff\x4f\xff\x51") :][8:40]
    if len(head) < 32:
        return 0
    right, bottom, _, _, width, height, left, top = struct.unpack(">8I", head)
    return -(-(right - left) // max(1, width)) * -(-(bottom - top) // max(1, height))


def _check_tiff(name: str, image: TiffImageFile) -> None:
    """Refuse what Pillow would read wrongly, or with far more memory than the pixels take."""
    tags, packed = image.tag_v2, image.info.get("compression") != "raw"
    tile = tags.get(322, 0) * tags.get(323, 0)
    if tile > max(image.width * image.height, _LARGEST_TILE):
        raise ImageError(name, f"is a TIFF with tiles of {tile:,} pixels, more than the photo has")
    if tags.get(284) == 2 and not packed and max(tags.get(258, (8,))) > 8:
        raise ImageError(name, "is a TIFF with 16-bit planes, which are not read; save it with its colours interleaved")
    if image.mode in ("F", "I") and packed and tags.prefix == b"MM":
        raise ImageError(name, "is a big-endian TIFF of packed numbers, which are not read; save it as 8 or 16 bits")


def _reduce(name: str, image: ImageFile, parts: Parts, min_side: int | None, max_pixels: int) -> tuple[int, int]:
    """Have a JPEG reduced while it is decoded, and refuse what is too large; the size before."""
    width, height = size = image.size
    if not parts.in_rows:  # others are held whole while they are decoded
        _check(name, image, max_pixels, _PROGRESSIVE if parts.scan else "")
    if parts.scan:
        most = min(max_pixels, _MEMORY // 4)
        fits = next((scale for scale in (1, 2, 4) if width * height <= most * scale**2), 8) * parts.in_rows
        scale = max(fits, _wanted(size, min_side))
        image.draft("RGB", (max(1, width // scale), max(1, height // scale)))
        _check(name, image, max_pixels)
    elif image.format == "JPEG2000" and width * height > _WHOLE:
        halvings = min(_jpeg2000_levels(parts.picture), _wanted(size, min_side).bit_length() - 1)
        image.reduce = halvings  # ty: ignore[invalid-assignment]
    _check_memory(name, image, parts, size)
    return size


def _wanted(size: tuple[int, int], min_side: int | None) -> int:
    """How many times smaller the sides may be, as far as decoders go."""
    wanted = 1 if min_side is None else min(size) // min_side
    return next((scale for scale in (8, 4, 2) if scale <= wanted), 1)


def _scale(image: Image.Image, min_side: int | None) -> int:
    """How many times smaller a decoded photo is handed on."""
    pixels = image.width * image.height
    if pixels <= _WHOLE:
        return 1
    held = pixels * _PIXEL_BYTES.get(image.mode, 4)
    if image.mode.startswith("I;16"):  # which are converted through larger numbers
        held += pixels
    room = max(4 * _WHOLE, _BOTH - held)
    return max(_wanted(image.size, min_side), math.ceil((4 * pixels / room) ** 0.5))


def _without_end(name: str, image: ImageFile, parts: Parts, max_pixels: int, tolerant: bool) -> ImageFile:
    """A JPEG whose end is not marked, with one, if all its rows are there.

    They are if they do not depend on what comes after the file's last byte: decoders fill what is missing.
    """
    picture = parts.picture.rstrip(b"\xff")
    if len(picture.rstrip(b"\0")) < len(picture) - 16:  # space that a download has not filled yet
        picture = picture.rstrip(b"\0\xff")
    last = max(picture.rfind(b"\xff\xc4"), picture.rfind(b"\xff\xda"))
    if last + 2 + max(2, int.from_bytes(picture[last + 2 : last + 4])) > len(picture):
        picture = picture[:last]  # the head of one more scan, cut off
    ended = JpegImageFile(io.BytesIO(picture + b"\xff\xd9"))
    if not tolerant:
        if not parts.has_all_scans:
            raise ImageError(name, "is damaged (the file is truncated)")
        _reduce(name, ended, parts, None, max_pixels)
        for bits in (0x55, 0xAA, 0xFE):
            other = JpegImageFile(io.BytesIO(picture + _more(picture, bits) + b"\xff\xd9"))
            _reduce(name, other, parts, None, max_pixels)
            if ImageChops.difference(ended.convert("RGB"), other.convert("RGB")).getbbox():
                raise ImageError(name, "is damaged (the file is truncated)")
    again = JpegImageFile(io.BytesIO(picture + b"\xff\xd9"))
    again.draft("RGB", image.size)
    return again


def _more(picture: bytes, bits: int) -> bytes:
    """Rows of nothing, also behind the marks at which a JPEG's rows may begin anew, counted on from its last."""
    last = max(picture.rfind(bytes([0xFF, mark])) for mark in range(0xD0, 0xD8))
    following = picture[last + 1] + 1 if last >= 0 else 0
    rows = bytes([bits]) * 64
    return rows + b"".join(bytes([0xFF, 0xD0 + (following + i) % 8]) + rows for i in range(8))


def _load(image: ImageFile, metadata: Metadata, tolerant: bool) -> Metadata:
    """Decode; what is left to do of the metadata's orientation."""
    tags = Image.Exif()
    tags[_ORIENTATION] = metadata.orientation
    # A decoder that turns photos itself (TIFF) asks for all tags then, and gives up where one is broken.
    image.getexif = lambda: tags
    try:
        image.load()
    except Exception:
        if not tolerant or image.im is None or image.im.getbbox() is None:
            raise
        image.tile = []  # nothing more is decoded
    return replace(metadata, orientation=tags.get(_ORIENTATION, 1))


def _to_rgb(image: Image.Image, profile: bytes, scale: int) -> Image.Image:
    """An image as RGB and a number of times smaller, some rows at a time."""
    width, height = image.size
    rows = max(1, _STRIP // (width * scale)) * scale
    black = white = 0.0
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow opens a 16-bit file as I;16 or, for some formats, as 32-bit I; F has no fixed range.
        white = 65535 if image.mode != "F" else max(_extreme(image, 1), 1.0)
        if isinstance(image, TiffImageFile) and image.mode.startswith("I;16") and image.tag_v2.get(_INK) == 0:
            black, white = white, black
    if height <= rows and scale == 1:
        return _rows_to_rgb(image, profile, black, white)
    rgb = Image.new("RGB", (-(-width // scale), -(-height // scale)))
    averages = image.mode in ("L", "LA", "RGB", "RGBA", "CMYK") and "transparency" not in image.info
    for row in range(0, height, rows):
        part = image.crop((0, row, width, min(row + rows, height)))
        part = _rows_to_rgb(part.reduce(scale) if averages else part, profile, black, white)
        rgb.paste(part if averages else part.reduce(scale), (0, row // scale))
    return rgb


def _rows_to_rgb(image: Image.Image, profile: bytes, black: float, white: float) -> Image.Image:
    if black != white:
        image = _grey(image, black, white)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if profile:
            colours = to_srgb(image.getchannel("L") if image.mode == "LA" else rgba.convert("RGB"), profile)
            colours.putalpha(rgba.getchannel("A"))
            rgba = colours
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return to_srgb(image if image.mode in ("L", "CMYK") else image.convert("RGB"), profile)


def _fits_16_bits(image: Image.Image) -> bool:
    return 0 <= _extreme(image, 0) <= _extreme(image, 1) <= 65535


def _extreme(image: Image.Image, which: int) -> float:
    """The least or largest number of an image with one band."""
    found = image.getextrema()[which]
    assert not isinstance(found, tuple)
    return found


def _grey(image: Image.Image, black: float, white: float) -> Image.Image:
    """Numbers of 16 or 32 bits, from that of black to that of white, as 8 bits."""
    with np.errstate(invalid="ignore"):  # what is no number is refused below
        values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds numbers that are not finite")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values[values == transparent] = white
    np.clip(values, min(black, white), max(black, white), out=values)
    values -= black
    values *= 255 / (white - black)
    return Image.fromarray(values.astype(np.uint8))
