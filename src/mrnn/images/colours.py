"""Colours as sRGB, whatever profile a photo was saved with."""

import io
import struct
from functools import cache, lru_cache
from typing import Any

import numpy as np
from PIL import Image

_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # of a profile, by the mode of its pixels
# Adobe RGB (1998), which cameras name and do not embed: white, primaries and exponent.
_WHITE = (0.9642, 1.0, 0.8249)
_PRIMARIES = {b"r": (0.60974, 0.31111, 0.01947), b"g": (0.20528, 0.62567, 0.06087), b"b": (0.14919, 0.06322, 0.74457)}
_EXPONENT = 563 / 256
_ALIKE = 3  # levels of 255, by which a profile that is sRGB in all but name differs from it


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An image as RGB of sRGB; a profile that is broken, or of other colours than the image's, is left aside.

    Args:
        image: RGB, L or CMYK.
        profile: ICC; empty for none, which is taken for sRGB.
    """
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image.convert("RGB")
    from PIL import ImageCms

    return ImageCms.applyTransform(image, transform) or image


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> Any:
    """From a profile to sRGB; None if there is nothing to do."""
    try:
        from PIL import ImageCms

        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if given.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(given, _srgb(), mode, "RGB")
        probe = _probe(mode)
        changed = ImageCms.applyTransform(probe, transform)
    except Exception:  # a broken profile makes it raise almost anything; Pillow may be without ImageCms too
        return None
    difference = np.asarray(changed).astype(int) - np.asarray(probe.convert("RGB"))
    return None if np.abs(difference).max() <= _ALIKE else transform


@cache
def adobe_rgb() -> bytes:
    """The profile of Adobe RGB (1998)."""

    def point(numbers: tuple[float, ...]) -> bytes:
        return b"XYZ " + struct.pack(">4x3i", *(round(number * 65536) for number in numbers))

    curve = b"curv" + struct.pack(">4xIH2x", 1, round(_EXPONENT * 256))
    tags = [(b"wtpt", point(_WHITE))]
    for letter, primary in _PRIMARIES.items():
        tags += [(letter + b"XYZ", point(primary)), (letter + b"TRC", curve)]
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags:
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(content))
        data += content
    head = struct.pack(">I4xI4s4s4s12x4s28x", 128 + len(table + data), 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return (head + point(_WHITE)[8:]).ljust(128, b"\0") + table + data


@cache
def _srgb() -> Any:
    from PIL import ImageCms

    return ImageCms.createProfile("sRGB")


def _probe(mode: str) -> Image.Image:
    """Colours from all over the space."""
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    if mode == "L":
        return Image.fromarray(steps[None])
    grid = np.stack(np.meshgrid(*[steps] * len(mode)), -1).reshape(-1, len(mode))
    return Image.frombytes(mode, (len(grid), 1), grid.tobytes())
