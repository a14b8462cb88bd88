"""Small files that ask for much: each costs a decoder a gigabyte, or minutes, that is not on its guard."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

SIDE = 12_000  # 144 megapixels, within the limit of pixels
MANY = 25_000_000  # bytes, as many as an upload may have


def chunk(kind: bytes, body: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, *more: bytes, interlaced: bool = False) -> bytes:
    """A PNG of zeros; colour as its head counts it."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    sizes = [(width, height)]
    if interlaced:
        starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
        sizes = [((width - x + dx - 1) // dx, (height - y + dy - 1) // dy) for x, y, dx, dy in starts]
    packer, packed = zlib.compressobj(6), []
    for columns, rows in sizes:
        row = bytes(1 + (columns * channels * bits + 7) // 8)
        packed += [packer.compress(row * min(64, rows - at)) for at in range(0, rows if columns else 0, 64)]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    palette = [chunk(b"PLTE", bytes(768))] if colour == 3 else []
    body = b"".join([*packed, packer.flush()])
    chunks = [chunk(b"IHDR", head), *palette, *more, chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return b"".join([b"\x89PNG\r\n\x1a\n", *chunks])


def tiff(entries: Sequence[tuple[int, int, int, bytes]], data: bytes = b"", order: str = "<") -> bytes:
    """A TIFF of one directory: tag, type, how many and their bytes; those of more than four go behind it.

    Bytes that begin with `@` stand for the place of the data, plus the number that follows.
    """
    at = 8 + 2 + 12 * len(entries) + 4
    behind, table = b"", b""
    for tag, kind, count, value in sorted(entries, key=lambda entry: entry[0]):
        if len(value) > 4:
            table += struct.pack(f"{order}HHII", tag, kind, count, at + len(behind))
            behind += value
        else:
            table += struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    return head + table + bytes(4) + behind + data


def simple_tiff(
    width: int, height: int, strips: int, bits: Sequence[int] = (8,), packed: bool = True, form: int = 1
) -> bytes:
    """A TIFF of zeros, all of whose strips are one piece of data."""
    rows = -(-height // strips)
    data = bytes(rows * ((width * sum(bits) + 7) // 8))
    data = zlib.compress(data) if packed else data
    long = lambda *numbers: struct.pack(f"<{len(numbers)}I", *numbers)  # noqa: E731
    shorts = struct.pack(f"<{len(bits)}H", *bits)

    def made(place: int) -> bytes:
        return tiff(
            [
                (256, 4, 1, long(width)),
                (257, 4, 1, long(height)),
                (258, 3, len(bits), shorts),
                (259, 3, 1, struct.pack("<H", 8 if packed else 1)),
                (262, 3, 1, struct.pack("<H", 2 if len(bits) > 1 else 1)),
                (273, 4, strips, long(*[place] * strips)),
                (277, 3, 1, struct.pack("<H", len(bits))),
                (278, 4, 1, long(rows)),
                (279, 4, strips, long(*[len(data)] * strips)),
                (339, 3, len(bits), struct.pack(f"<{len(bits)}H", *[form] * len(bits))),
            ],
            data,
        )

    return made(len(made(0)) - len(data))


def saved(image: Image.Image, format: str, **options) -> bytes:
    """A photo's file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def jpeg(*segments: bytes, side: int = 64, **options) -> bytes:
    """A grey JPEG with segments before its picture."""
    content = saved(Image.new("L", (side, side), 90), "JPEG", **options)
    return content[:2] + b"".join(segments) + content[2:]


def segment(marker: int, body: bytes) -> bytes:
    """Of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def resized(content: bytes, width: int, height: int) -> bytes:
    """A JPEG that says that it has another size than it has."""
    at = next(at for at in range(2, len(content)) if content[at : at + 2] in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"))
    return content[: at + 5] + struct.pack(">HH", height, width) + content[at + 9 :]


def scans(side: int, n: int) -> bytes:
    """A grey progressive JPEG that refines nothing, many times over."""
    content = saved(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    start = content.index(b"\xff\xda")
    length = struct.unpack(">H", content[start + 2 : start + 4])[0]
    second = content.index(b"\xff\xda", start + 2 + length)
    # A table of one code, the longest run of blocks without anything new in a band.
    table = segment(0xC4, bytes([0x10]) + bytes([1] + [0] * 15) + bytes([0xE0]))
    blocks = (-(-side // 8)) ** 2
    runs = blocks // 32767 + 1
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    scan = segment(0xDA, bytes([1, 1, 0, 1, 63, 0x00])) + body
    return content[:second] + table + scan * n + b"\xff\xd9"


def gif(width: int, height: int, *blocks: bytes, frames: int = 1) -> bytes:
    """A GIF with blocks before its first frame."""
    content = saved(Image.new("P", (width, height)), "GIF")
    frame = content.index(b",")
    return content[:frame] + b"".join(blocks) + content[frame:-1] * frames + b";"


def webp_frames(n: int) -> bytes:
    """An animated WebP of many frames."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    content = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    at = content.index(b"ANMF")
    size = 8 + struct.unpack("<I", content[at + 4 : at + 8])[0]
    body = content[12:at] + content[at : at + size] * n
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def apng_frames(n: int) -> bytes:
    """An animated PNG of many frames."""
    content = png(16, 16, 8, 2)
    packed = zlib.compress(bytes(16 * 49))
    control = struct.pack(">IIIIIHHBB", 0, 16, 16, 0, 0, 1, 1, 0, 0)
    frames = b"".join(chunk(b"fcTL", control) + chunk(b"fdAT", bytes(4) + packed) for _ in range(n))
    at = content.index(b"IDAT") - 4
    return content[:at] + chunk(b"acTL", struct.pack(">II", n + 1, 0)) + content[at:-12] + frames + content[-12:]


def bmp_of_runs(width: int, height: int, body: bytes) -> bytes:
    """A BMP of 8 bits, packed by runs."""
    palette = bytes(1024)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(body), 0, 0, 54 + 1024) + info + palette + body


def tags_on_one_place(n: int, size: int) -> bytes:
    """A TIFF of many tags that are the same bytes."""
    entries = [(1000 + i, 7, size, b"") for i in range(n)]
    content = bytearray(tiff([(256, 3, 1, b"\x10\0"), (257, 3, 1, b"\x10\0"), *entries], bytes(size)))
    for i in range(n):
        struct.pack_into("<I", content, 10 + 12 * (i + 2) + 8, len(content) - size)
    return bytes(content)


def profile(n: int) -> bytes:
    """An sRGB profile with many bytes behind it."""
    from PIL import ImageCms

    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(n))
    struct.pack_into(">I", content, 0, len(content))
    return bytes(content)


def _large(format: str, mode: str = "RGB", side: int = SIDE, **options) -> Callable[[], bytes]:
    return lambda: saved(Image.new(mode, (side, side)), format, **options)


HARD: dict[str, Callable[[], bytes]] = {
    "huge-tile.tif": lambda: tiff(
        [
            (256, 3, 1, b"\x10\0"),
            (257, 3, 1, b"\x10\0"),
            (258, 3, 1, b"\x08\0"),
            (259, 3, 1, b"\x08\0"),
            (262, 3, 1, b"\x01\0"),
            (322, 4, 1, struct.pack("<I", 30_000)),
            (323, 4, 1, struct.pack("<I", 30_000)),
            (324, 4, 1, struct.pack("<I", 8)),
            (325, 4, 1, struct.pack("<I", 100)),
        ]
    ),
    "strips-plain.tif": lambda: simple_tiff(100, 80_000, 80_000, packed=False),
    "strips-packed.tif": lambda: simple_tiff(100, 80_000, 80_000),
    "strips-more.tif": lambda: simple_tiff(10, 2_000_000, 2_000_000, packed=False),
    "strips-more-packed.tif": lambda: simple_tiff(10, 2_000_000, 2_000_000),
    "rgb.tif": lambda: simple_tiff(SIDE, SIDE, 100, (8, 8, 8)),
    "rgb-one-strip.tif": lambda: simple_tiff(SIDE, SIDE, 1, (8, 8, 8)),
    "rgb16.tif": lambda: simple_tiff(SIDE, SIDE, 100, (16, 16, 16)),
    "grey16.tif": lambda: simple_tiff(SIDE, SIDE, 100, (16,)),
    "grey32.tif": lambda: simple_tiff(7745, 7745, 100, (32,), form=1),
    "float.tif": lambda: simple_tiff(7745, 7745, 100, (32,), form=3),
    "float-large.tif": lambda: simple_tiff(SIDE, SIDE, 100, (32,), form=3),
    "tags-on-one-place.tif": lambda: tags_on_one_place(2000, 4_000_000),
    "rgb.png": lambda: png(SIDE, SIDE, 8, 2),
    "rgba.png": lambda: png(SIDE, SIDE, 8, 6),
    "rgba16.png": lambda: png(SIDE, SIDE, 16, 6),
    "grey16.png": lambda: png(7745, 7745, 16, 0),
    "grey16-large.png": lambda: png(SIDE, SIDE, 16, 0),
    "grey-opacity.png": lambda: png(SIDE, SIDE, 8, 4),
    "palette-transparent.png": lambda: png(SIDE, SIDE, 8, 3, chunk(b"tRNS", bytes(256))),
    "interlaced.png": lambda: png(SIDE, SIDE, 8, 2, interlaced=True),
    "interlaced-60mp.png": lambda: png(7745, 7745, 8, 2, interlaced=True),
    "profile-60mp.png": lambda: png(7745, 7745, 8, 6, chunk(b"iCCP", b"x\0\0" + zlib.compress(profile(0)))),
    "texts.png": lambda: png(
        16, 16, 8, 2, chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(bytes(1 << 24))) * 1500
    ),
    "profiles.png": lambda: png(16, 16, 8, 2, chunk(b"iCCP", b"x\0\0" + zlib.compress(profile(1 << 24))) * 1500),
    "raw-profile.png": lambda: png(
        16, 16, 8, 2, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"a " * (1 << 23)))
    ),
    "chunks.png": lambda: png(16, 16, 8, 2, chunk(b"IDAT", b"") * (MANY // 12)),
    "texts-tiny.png": lambda: png(16, 16, 8, 2, chunk(b"tEXt", b"a\0b") * (MANY // 15)),
    "frames.png": lambda: apng_frames(MANY // 100),
    "large.gif": lambda: gif(SIDE, SIDE),
    "frames.gif": lambda: gif(16, 16, frames=MANY // 40),
    "comments.gif": lambda: gif(16, 16, (b"!\xfe" + b"\x01a" + b"\0") * (MANY // 5)),
    "comment-of-small-blocks.gif": lambda: gif(16, 16, b"!\xfe" + b"\x01a" * (MANY // 2) + b"\0"),
    "extensions.gif": lambda: gif(16, 16, b"!\xff\x0bNETSCAPE2.0" + b"\x01a" * (MANY // 2) + b"\0"),
    "large.webp": lambda: saved(Image.new("RGB", (16_383, 8_700)), "WEBP", quality=1, method=0),
    "frames.webp": lambda: webp_frames(MANY // 100),
    "text.pgm": lambda: b"P2 5000 2500 255\n" + b"0 " * 12_500_000,
    "text-bits.pbm": lambda: b"P1 5000 5000\n" + b"0" * MANY,
    "text-60mp.pgm": lambda: b"P2 7745 7745 255\n" + b"0 " * 12_500_000,
    "comment.pgm": lambda: b"P5 #" + b"x" * MANY + b"\n4 4 255\n" + bytes(16),
    "large.ppm": lambda: b"P6 12000 12000 255\n" + bytes(16),
    "exif-markers.jpg": lambda: jpeg(segment(0xE1, b"Exif\0\0") * 400_000),
    "exif-markers-filled.jpg": lambda: jpeg(segment(0xE1, b"Exif\0\0" + bytes(40)) * (MANY // 50)),
    "comments.jpg": lambda: jpeg(segment(0xFE, b"") * (MANY // 4)),
    "tables.jpg": lambda: jpeg(segment(0xDB, bytes(65)) * (MANY // 69)),
    "fill.jpg": lambda: jpeg(b"\xff" * MANY),
    "fill-then-nothing.jpg": lambda: b"\xff\xd8" + b"\xff" * MANY,
    "tables-after.jpg": lambda: jpeg()[:-2] + b"\xff\xc4" * (MANY // 2),
    "progressive.jpg": _large("JPEG", progressive=True),
    "scans.jpg": lambda: scans(2000, 20_000),
    "scans-large.jpg": lambda: scans(7745, 2_000),
    "cut-off.jpg": lambda: resized(jpeg(), 65_500, 65_500)[:-2],
    "cut-off-progressive.jpg": lambda: resized(jpeg(progressive=True), 12_000, 12_000)[:-2],
    "huge.jpg": lambda: resized(jpeg(), 65_500, 65_500),
    "inks.jpg": _large("JPEG", "CMYK"),
    "runs-wide.bmp": lambda: bmp_of_runs(100_000_000, 1, b"\0\2\xff\xff" * 4),
    "runs-wide-and-high.bmp": lambda: bmp_of_runs(10_000_000, 14, b"\0\2\xff\xff" * 4),
    "runs.bmp": lambda: bmp_of_runs(5000, 5000, b"\1\1" * (MANY // 2)),
    "large.bmp": lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, SIDE, SIDE, 1, 24, 0, 0, 0, 0, 0, 0),
    "large.jp2": _large("JPEG2000"),
    "tiles.jp2": _large("JPEG2000", side=2000, tile_size=(8, 8)),
    "large.avif": lambda: saved(Image.new("RGB", (9000, 9000)), "AVIF", speed=10),
}


def hard_photos() -> Iterator[tuple[str, bytes]]:
    """All of them, one at a time."""
    for name, make in HARD.items():
        yield name, make()
