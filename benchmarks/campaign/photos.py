"""Photos: files of all formats, damaged; and small ones that ask for much."""

import functools
import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.campaign import Report, hunt
from benchmarks.campaign.hard import HARD, chunk, jpeg, png, saved, segment, simple_tiff, tiff
from benchmarks.campaign.mutate import NUMBERS, damaged, drawn
from mrnn.demo import sample_photos
from mrnn.encoders import Encoder
from mrnn.images import ImageError, Preprocessing, open_photo, pixels_to_decode
from mrnn.library.rows import file_row, read_file

SHARE = 0.35  # of a campaign's time
HARD_EVERY = 400
_TAGS = (0x0112, 0x0132, 0x9003, 0x9004, 0x8769, 0x8825, 0xA005, 256, 257, 258, 259, 273, 277, 278, 322, 323, 700)
_ENDINGS = {"JPEG": "jpg", "JPEG2000": "jp2", "TIFF": "tif", "PPM": "ppm"}


def run(seconds: float, seed: int) -> Report:
    """Open damaged photos."""
    return hunt("photos", seconds, seed)


@functools.cache
def samples() -> list[tuple[str, bytes]]:
    """Small whole photos of every format and kind, by ending."""
    real = [Image.open(path).convert("RGB").resize((96, 64)) for path in sample_photos()[:3]]
    photo, grey = real[0], real[1].convert("L")
    clear = photo.convert("RGBA")
    clear.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x0132] = 6, "2020:01:02 03:04:05"
    made: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", photo, {"exif": exif.tobytes()}),
        ("JPEG", grey, {"progressive": True}),
        ("JPEG", photo, {"progressive": True, "exif": exif.tobytes()}),
        ("JPEG", photo.convert("CMYK"), {}),
        ("JPEG", photo, {"restart_marker_rows": 1}),
        ("PNG", photo, {"exif": exif.tobytes()}),
        ("PNG", clear, {}),
        ("PNG", deep, {"transparency": 300}),
        ("PNG", photo.quantize(16), {"transparency": 3}),
        ("PNG", grey.convert("1"), {}),
        ("PNG", photo, {"save_all": True, "append_images": real[1:]}),
        ("GIF", photo.quantize(64), {"save_all": True, "append_images": [other.quantize(8) for other in real]}),
        ("GIF", grey, {"interlace": True, "comment": b"hello"}),
        ("BMP", photo, {}),
        ("BMP", photo.quantize(16), {}),
        ("DIB", photo, {}),
        ("WEBP", photo, {"exif": exif.tobytes()}),
        ("WEBP", clear, {"lossless": True}),
        ("WEBP", photo, {"save_all": True, "append_images": real[1:]}),
        ("AVIF", photo, {"speed": 10}),
        ("AVIF", clear, {"speed": 10}),
        ("AVIF", photo, {"speed": 10, "save_all": True, "append_images": real[1:]}),
        ("HEIF", photo, {}),
        ("JPEG2000", photo, {}),
        ("JPEG2000", clear, {"tile_size": (32, 32), "no_jp2": True}),
        ("PPM", photo, {}),
        ("PPM", grey, {}),
        ("PPM", grey.convert("1"), {}),
        ("PPM", deep.convert("I"), {}),
        ("PPM", grey.convert("F"), {}),
        ("TIFF", deep, {}),
        ("TIFF", grey.convert("F"), {"compression": "tiff_adobe_deflate"}),
    ]
    made += [
        ("TIFF", image, {"compression": packing, "exif": exif})
        for packing in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4")
        for image in ((grey.convert("1"),) if packing == "group4" else (photo, grey, clear))
        if not (packing == "jpeg" and image is clear)
    ]
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except ImportError:
        made = [one for one in made if one[0] != "HEIF"]
    found = [(_ENDINGS.get(format, format.lower()), saved(image, format, **how)) for format, image, how in made]
    found += [
        ("png", png(40, 30, 8, 2, interlaced=True)),
        ("png", png(40, 30, 16, 6, chunk(b"zTXt", b"Raw profile type exif\0\0x"), chunk(b"iCCP", b"x\0\0y"))),
        ("tif", simple_tiff(50, 40, 40, (8, 8, 8), packed=False)),
        ("tif", simple_tiff(50, 40, 4, (16,))),
        ("tif", _bigtiff()),
        ("pgm", b"P2\n# text\n4 3\n15\n1 2 3 4 5 6 7 8 9 10 11 12\n"),
        ("pbm", b"P1\n4 3\n010101010101\n"),
        ("ppm", b"P3 2 2 255\n" + b"1 2 3 " * 4),
    ]
    return found


def _bigtiff() -> bytes:
    entries = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 16, 1, 400)]
    entries += [(277, 3, 1, 1), (278, 3, 1, 8), (279, 16, 1, 64)]
    table = b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
    head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(entries)) + table + bytes(8)
    return head.ljust(400, b"\0") + bytes(range(64))


def make(seed: int, number: int, folder: Path) -> Path:
    """One photo: damaged, with odd tags, or one that asks for much."""
    draw = drawn(seed, number)
    if number % HARD_EVERY == HARD_EVERY - 1:
        name = draw.choice(list(HARD))
        content = HARD[name]()
    else:
        ending, content = draw.choice(samples())
        if draw.random() < 0.15:
            ending, content = _with_odd_tags(draw)
        if draw.random() < 0.95:
            content = damaged(content, draw, draw.choice(samples())[1])
        name = f"{draw.choice(('photo', 'IMG_20241231_235959', 'a' * 100))}.{ending}"
    path = folder / name
    path.write_bytes(content)
    return path


def _with_odd_tags(draw) -> tuple[str, bytes]:
    """A photo whose tags hold anything."""
    order = draw.choice("<>")
    entries = []
    for _ in range(draw.randrange(1, 12)):
        tag = draw.choice(_TAGS)
        number = draw.choice((*NUMBERS, draw.randrange(1 << 32)))
        value = draw.choice((struct.pack(f"{order}I", number), b"9999:12:31 23:59:60\0", draw.randbytes(24)))
        entries.append((tag, draw.randrange(15), draw.choice((1, 1, number)), value))
    exif = tiff(entries, order=order)
    if draw.random() < 0.3:
        return "tif", exif + bytes(200)
    if draw.random() < 0.5:
        return "png", png(30, 20, 8, 2, chunk(b"eXIf", exif))
    return "jpg", jpeg(segment(0xE1, b"Exif\0\0" + exif))


@functools.cache
def _pipeline() -> Any:
    """What `read_file` asks of a pipeline."""
    preprocessing = Preprocessing(64, (0.0,) * 3, (1.0,) * 3)
    return SimpleNamespace(encoder=Encoder("none", lambda pixels: (pixels, None), preprocessing, 3, ""))


def check(path: Path) -> str:
    """Open the photo in every way, and make the library's row of it."""
    draw = drawn(0, path.stat().st_size)
    time = draw.choice((0, -1, 2**63, -(2**80), 10**20, 253_402_300_800 * 10**9, path.stat().st_mtime_ns))
    read = read_file(_pipeline(), file_row(os.fspath(path), path.stat().st_size, time), ())
    if read.pixels is None and not read.file["error"]:
        return "no row, no error"
    if read.photo and not (0 < read.photo["width"] < 2**31 and 0 < read.photo["height"] < 2**31):
        return f"a size that fits no column: {read.photo['width']} x {read.photo['height']}"
    if path.stat().st_size < 1_000_000:
        for work in (
            lambda: open_photo(path, tolerant=True),
            lambda: pixels_to_decode(path.read_bytes(), 64),
        ):
            try:
                work()
            except ImageError as error:
                if "\n" in str(error):
                    return f"several lines: {error}"
    return ""
