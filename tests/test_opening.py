"""Photo files as cameras, phones and programs leave them: colours, broken metadata, truncation, size, dates."""

import io
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, features

from benchmarks.campaign.hard import HARD, png
from mrnn.images import IMAGE_SUFFIXES, ImageError, Preprocessing, date_of, open_image, open_photo, pixels_to_decode
from mrnn.images.dates import date_in_name, parse_date
from mrnn.images.metadata import read_metadata

FIELD = Path(os.environ.get("MRNN_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data").parent / "field"


@pytest.fixture
def field():
    if not FIELD.is_dir():
        pytest.skip(f"no field cases at {FIELD}")
    return FIELD


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(source, **options):
    return np.asarray(open_image(source, **options)).astype(int)


def smooth(width=96, height=64):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(np.uint8)


PHOTO = Image.fromarray(smooth())
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))


# Colours


def profile(space, tags, kind=b"mntr", connection=b"XYZ "):
    """A minimal ICC profile."""
    table, data, offset = [], b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table.append(name + struct.pack(">II", offset + len(data), len(content)))
        data += content
    body = struct.pack(">I", len(tags)) + b"".join(table) + data
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"test", 0x02400000, kind, space, connection)
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", *(round(x * 65536) for x in (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + body


def fixed(*numbers):
    return struct.pack(f">{len(numbers)}i", *(round(x * 65536) for x in numbers))


def matrix_profile(red, green, blue, gamma):
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249)}
    for letter, primary in ((b"r", red), (b"g", green), (b"b", blue)):
        tags |= {letter + b"XYZ": b"XYZ " + bytes(4) + fixed(*primary), letter + b"TRC": curve}
    return profile(b"RGB ", tags)


def ink_profile():
    """CMYK whose cyan is a green, so that no other conversion gives it."""
    lab = np.zeros((2, 2, 2, 2, 3), np.uint8)
    lab[..., 0], lab[..., 1:] = 40, 128
    lab[0, 0, 0, 0], lab[1, 0, 0, 0], lab[0, 0, 0, 1] = (255, 128, 128), (130, 70, 180), (0, 128, 128)
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return profile(b"CMYK", {b"A2B0": table + ramp * 4 + lab.tobytes() + ramp * 3}, b"prtr", b"Lab ")


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ADOBE = matrix_profile((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457), 2.2)
P3 = matrix_profile((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407), 2.2)
PROPHOTO = matrix_profile((0.79767, 0.28804, 0), (0.13519, 0.71188, 0), (0.03134, 0.00009, 0.82491), 1.8)
GREY = profile(b"GRAY", {b"kTRC": b"curv" + bytes(4) + struct.pack(">IH", 1, 256)})  # linear


@pytest.mark.parametrize("given", [ADOBE, P3, PROPHOTO], ids=["adobe", "p3", "prophoto"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_colours_are_brought_to_srgb(given, format):
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    dull = Image.fromarray(smooth() // 3 + 80)  # within every space
    there = ImageCms.buildTransform(io.BytesIO(SRGB), io.BytesIO(given), "RGB", "RGB")
    converted = ImageCms.applyTransform(dull, there)
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {"quality": 98})
    content = saved(converted, format, icc_profile=given, **options)
    assert np.abs(np.asarray(converted).astype(int) - np.asarray(dull)).mean() > 2
    assert np.abs(pixels(content) - np.asarray(dull)).mean() < 1.5
    image = Image.open(io.BytesIO(content))
    assert np.abs(pixels(image) - np.asarray(dull)).mean() < 1.5
    again = open_image(open_image(content))
    assert (np.asarray(again) == pixels(content)).all(), "nothing is converted twice"


def test_a_camera_may_say_that_its_colours_are_adobes():
    dull = Image.fromarray(smooth() // 3 + 80)
    converted = ImageCms.applyTransform(
        dull, ImageCms.buildTransform(io.BytesIO(SRGB), io.BytesIO(ADOBE), "RGB", "RGB")
    )
    for index in ("R03", "R98"):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA005] = {1: index}
        got = pixels(saved(converted, "JPEG", quality=98, subsampling=0, exif=exif.tobytes()))
        assert (np.abs(got - np.asarray(dull)).mean() < 1.5) == (index == "R03")


def test_transparent_palette_and_grey_photos_have_profiles_too():
    red = Image.new("RGBA", (8, 8), (200, 60, 60, 255))
    red.putpixel((0, 0), (0, 0, 0, 0))
    got = pixels(saved(red, "PNG", icc_profile=ADOBE))
    assert (got[0, 0] == 255).all()
    assert got[4, 4, 0] > 215  # Adobe's red is redder
    palette = red.convert("RGB").quantize(4)
    assert pixels(saved(palette, "PNG", icc_profile=ADOBE))[4, 4, 0] > 215
    for mode in ("L", "LA"):
        grey = Image.new(mode, (8, 8), 55 if mode == "L" else (55, 255))
        got = pixels(saved(grey, "PNG", icc_profile=GREY))
        assert np.abs(got - 128).max() <= 3, "a fifth of the light is the middle of sRGB"


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_inks_are_brought_to_srgb(format):
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    red, green, blue = pixels(saved(cyan, format, icc_profile=ink_profile()))[8, 8]
    assert green > red + 30
    assert green > blue + 30
    assert (pixels(saved(Image.new("CMYK", (16, 16)), format, icc_profile=ink_profile())) >= 250).all()


@pytest.mark.parametrize(
    "given",
    [b"", b"no profile", ADOBE[:200], random.Random(0).randbytes(5000), GREY, ink_profile(), SRGB],
    ids=["empty", "text", "cut", "random", "of greys", "of inks", "sRGB"],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_without_a_profile_that_changes_anything_pixels_are_as_decoded(given, format):
    options = {"icc_profile": given} if given else {}
    content = saved(PHOTO, format, **options)
    decoded = Image.open(io.BytesIO(content)).convert("RGB")
    assert (pixels(content) == np.asarray(decoded)).all()


def test_preprocessing_of_a_plain_photo_is_pillows_own():
    content = saved(PHOTO.resize((1200, 800)), "JPEG", quality=90)
    image = Image.open(io.BytesIO(content))
    image.draft("RGB", (100, 100))
    expected = np.asarray(image.convert("RGB").resize((100, 100), Image.Resampling.BICUBIC))
    assert (Preprocessing(100, (0.0,) * 3, (1.0,) * 3)(content) == expected).all()
    assert image.size == (150, 100)


def test_the_field_cases_of_colours(field):
    base = pixels(field / "08" / "00-base.png")
    for name, most in (("icc-adobergb.jpg", 0.9), ("icc-displayp3.jpg", 0.8)):
        assert np.abs(pixels(field / "08" / name) - base).mean() < most


# Metadata


def segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def chunk(kind, body, crc=None):
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def tags(entries, order="<"):
    """A TIFF of one directory: (tag, type, count, four bytes)."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    body = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack(f"{order}HHI", tag, kind, count) + value
    return head + body + bytes(4)


SIDE = (0x0112, 3, 1, b"\x06\0\0\0")
BROKEN_EXIF = {
    "random": random.Random(1).randbytes(60_000),
    "text": b"no tags",
    "empty": b"",
    "cut": tags([SIDE])[:12],
    "far": b"II*\0\xff\xff\xff\xff",
    "endless": b"II*\0\x08\0\0\0\xff\xff" + bytes(60_000),
    "huge count": tags([(0x0131, 2, 2**32 - 1, b"\x08\0\0\0"), (0x0112, 3, 2**32 - 1, b"\xff\xff\xff\xff")]),
    "unknown type": tags([(0x0112, 99, 1, b"\6\0\0\0"), (0x0132, 0, 0, b"\0\0\0\0")]),
    "orientation 40000": tags([(0x0112, 3, 1, struct.pack("<HH", 40000, 0))]),
    "orientation 0": tags([(0x0112, 3, 1, bytes(4))]),
    "loops": tags([(0x8769, 4, 1, b"\x08\0\0\0"), (0x8825, 4, 1, b"\x08\0\0\0")]),
    "rational software": tags([(0x0131, 5, 1, b"\x08\0\0\0")]),
    "resolution of nothing": tags([(0x011A, 5, 1, b"\xff\0\0\0"), (0x0128, 3, 1, b"\2\0\0\0")]),
}


def with_exif(format, exif, upright=PHOTO):
    """A file with any bytes for its tags."""
    if format == "JPEG":
        content = saved(upright, "JPEG", quality=95)
        return content[:2] + segment(0xE1, b"Exif\0\0" + exif) + content[2:]
    if format == "PNG":
        content = saved(upright, "PNG")
        return content[:33] + chunk(b"eXIf", exif) + content[33:]
    return saved(upright, "WEBP", lossless=True, exif=exif or b"\0")


@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_broken_tags_cost_nothing(format, exif):
    opened = open_photo(with_exif(format, exif))
    assert (opened.width, opened.height, opened.taken) == (96, 64, None)
    assert np.abs(np.asarray(opened.image).astype(int) - smooth()).mean() < 3


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "other",
    [(0x0131, 5, 1, b"\x08\0\0\0"), (0x010E, 2, 2**31, b"\xff\xff\xff\xff"), (0x011A, 12, 7, b"abcd")],
    ids=["rational software", "endless description", "odd resolution"],
)
def test_the_orientation_is_taken_whatever_else_is_broken(format, order, other):
    side = (0x0112, 3, 1, struct.pack(f"{order}HH", 6, 0))
    opened = open_photo(with_exif(format, tags([other, side, other], order)))
    assert opened.image.size == (opened.width, opened.height) == (64, 96)
    turned = np.asarray(PHOTO.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(np.asarray(opened.image).astype(int) - turned).mean() < 3


@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
@pytest.mark.filterwarnings("ignore")
def test_broken_tags_within_boxes_cost_nothing(format, exif):
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif not features.check("avif"):
        pytest.skip("Pillow has no AVIF here")
    place = tags([(0x0131, 2, 4, b"abc\0")]) + bytes(500)
    content = saved(PHOTO, format, exif=b"Exif\0\0" + place)
    at = content.find(place)
    assert at > 0
    broken = content[:at] + exif[: len(place)].ljust(len(place), b"\0") + content[at + len(place) :]
    assert np.abs(pixels(broken) - pixels(content)).max() == 0


def test_a_tiff_with_broken_tags_opens_upright():
    content = saved(PHOTO, "TIFF", tiffinfo={0x0112: 6, 0x0131: "software"})
    broken = content.replace(struct.pack("<HH", 0x0131, 2), struct.pack("<HH", 0x8769, 4))  # points anywhere
    for one in (content, broken):
        opened = open_photo(one)
        assert opened.image.size == (opened.width, opened.height) == (64, 96)


@pytest.mark.parametrize(
    "more",
    [
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta " + b"\xff" * 60_000),
        segment(0xE2, b"ICC_PROFILE\0\1\3" + b"part of three"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"MPF\0" + random.Random(2).randbytes(300)),
        segment(0xED, b"Photoshop 3.0\x008BIM" + random.Random(3).randbytes(3000)),
        segment(0xE0, b"JFIF\0"),
        segment(0xEE, b"Adobe"),
        segment(0xFE, b"\xff\xd9\xff\xda" * 100),
        segment(0xE1, b"") + segment(0xEB, b"\0"),
        segment(0xE1, b"Exif\0\0" + random.Random(4).randbytes(65_000)) * 40,
        b"",
        b"\xff\xe1\xff\xff" + b"too long for the file",
        b"\xff\xec\0\0",
        segment(0xFE, b"short")[:-2] + b"junk between",
    ],
    ids=[
        "xmp",
        "icc part",
        "icc empty",
        "mpf",
        "photoshop",
        "jfif",
        "adobe",
        "comment",
        "empty",
        "megabytes",
        "nothing",
        "too long",
        "no length",
        "junk",
    ],
)
def test_a_jpeg_opens_whatever_stands_before_its_picture(more):
    content = saved(PHOTO, "JPEG", quality=95)
    assert (pixels(content[:2] + more + content[2:]) == pixels(content)).all()


@pytest.mark.parametrize(
    "more",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000))),
        chunk(b"zTXt", b"Comment\0\7" + b"packed by nobody"),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 4\nzz")),
        chunk(b"tEXt", b"Comment\0" + b"a" * 3_000_000) * 30,
        chunk(b"tEXt", b"Comment\0text", crc=1),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + b"not packed"),
        chunk(b"iTXt", b"XML:com.adobe.xmp"),
        chunk(b"iCCP", b"name\0\0" + b"not packed"),
        chunk(b"iCCP", b"name\0\7" + zlib.compress(ADOBE)[:40]),
        chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(30_000_000))),
        chunk(b"iCCP", b""),
        chunk(b"eXIf", b"II*\0", crc=7),
        chunk(b"gAMA", b"\0"),
        chunk(b"pHYs", b""),
        chunk(b"sRGB", b"") + chunk(b"cHRM", b"x"),
    ],
    ids=lambda more: f"{more[4:8].decode()} {len(more)}",
)
def test_a_png_opens_whatever_its_texts_and_profiles_are(more):
    content = saved(PHOTO, "PNG")
    assert (pixels(content[:33] + more + content[33:]) == smooth()).all()
    assert (pixels(content[:-12] + more + content[-12:]) == smooth()).all()
    assert (pixels(content[:-12] + more[: len(more) // 2]) == smooth()).all(), "and what is cut off is behind it"


@pytest.mark.parametrize("kind", [b"EXIF", b"XMP ", b"ICCP", b"????"])
def test_a_webp_opens_whatever_is_beside_its_picture(kind):
    content = saved(PHOTO, "WEBP", lossless=True, exif=b"Exif\0\0" + tags([SIDE]), icc_profile=SRGB)
    for more in (random.Random(5).randbytes(501), b""):
        body = content[12:] + kind + struct.pack("<I", len(more)) + more + bytes(len(more) % 2)
        for behind in (b"", b"zz" * 50):
            image = open_image(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body + behind)
            assert sorted(image.size) == [64, 96]


def test_the_field_cases_of_metadata(field):
    for photo, size in (("06/exif-6-res-rational-in-string-tag.jpg", None), ("50/orientation40000.jpg", (160, 160))):
        opened = open_photo(field / photo)
        assert opened.image.size == (opened.width, opened.height)
        assert size in (None, opened.image.size)


def test_only_formats_of_photos_are_opened():
    for content in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        saved(PHOTO, "ICO"),
        saved(PHOTO, "PCX"),
        saved(PHOTO, "PDF"),
    ):
        with pytest.raises(ImageError, match="not an image in a known format"):
            open_image(content)


def test_endings_are_in_one_list():
    for ending in (
        ".hif",
        ".heic",
        ".jfif",
        ".jpe",
        ".jfi",
        ".pjpeg",
        ".avif",
        ".apng",
        ".dib",
        ".j2k",
        ".tif",
        ".pnm",
    ):
        assert ending in IMAGE_SUFFIXES


# Truncation


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"optimize": True}],
    ids=str,
)
@pytest.mark.parametrize("image", [NOISE, PHOTO, Image.new("L", (96, 64), 90)], ids=["noise", "smooth", "flat"])
def test_a_jpeg_with_all_its_rows_opens_and_another_does_not(image, options):
    content = saved(image, "JPEG", quality=85, **options)
    whole = pixels(content)
    for end in (content[:-2], content[:-1], content[:-2] + b"\0", content[:-2] + b"\xff\xff"):
        assert (pixels(end) == whole).all()
        assert open_image(end, min_side=16).size == open_image(content, min_side=16).size
    start = content.find(b"\xff\xda") + 20
    for cut in range(start, len(content) - 2, max(1, (len(content) - start) // 200)):
        try:
            got = pixels(content[:cut])
        except ImageError as error:
            assert error.reason.startswith("is damaged (")
        else:  # what was cut off was nothing but padding
            assert (got == whole).all()
            assert cut > len(content) - 8


def test_a_download_that_was_given_its_space_beforehand_is_no_whole_photo():
    content = saved(NOISE, "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        open_image(content[: len(content) // 2] + bytes(len(content) // 2))


def test_tolerance_takes_what_there_is():
    for format in ("JPEG", "PNG", "GIF", "TIFF"):
        content = saved(NOISE, format, **({"interlace": False} if format == "GIF" else {}))
        half = content[: len(content) * 2 // 3]
        if format != "TIFF":  # whose directory is behind the pixels
            whole, got = pixels(content), pixels(half, tolerant=True)
            assert (got[:16] == whole[:16]).all(), format
            assert got.shape == whole.shape
        with pytest.raises(ImageError):
            open_image(half)
    with pytest.raises(ImageError, match="is "):
        open_image(saved(NOISE, "PNG")[:60], tolerant=True)
    progressive = saved(NOISE, "JPEG", progressive=True)
    for cut in range(600, len(progressive), 7):
        assert np.ptp(pixels(progressive[:cut], tolerant=True)) > 50


def test_the_field_case_of_a_missing_end(field):
    content = (field / "09" / "baseline-no-eoi.jpg").read_bytes()
    assert (pixels(content) == pixels(content + b"\xff\xd9")).all()


# Size


def grey_jpeg(width, height, **options):
    return saved(Image.new("L", (width, height), 90), "JPEG", **options)


def test_the_limit_of_pixels_is_that_of_what_is_decoded():
    content = grey_jpeg(4000, 3000)
    assert open_image(content, min_side=300, max_pixels=1_000_000).size == (500, 375)
    opened = open_photo(content, max_pixels=1_000_000)
    assert (opened.image.size, opened.width, opened.height) == ((1000, 750), 4000, 3000)
    assert pixels_to_decode(content, 300) == 500 * 375
    with pytest.raises(ImageError, match="500 x 375 pixels are more than the limit of 100,000"):
        open_image(content, max_pixels=100_000)
    with pytest.raises(ImageError, match=r"4000 x 3000 pixels are more .* progressive"):
        open_image(grey_jpeg(4000, 3000, progressive=True), min_side=300, max_pixels=1_000_000)
    for format in ("PNG", "GIF", "WEBP", "TIFF", "BMP"):
        with pytest.raises(ImageError, match="more than the limit"):
            open_image(saved(Image.new("L", (400, 300)), format), min_side=10, max_pixels=100_000)


def test_a_phones_photo_of_200_megapixels_opens(tmp_path):
    path = tmp_path / "large.jpg"
    path.write_bytes(grey_jpeg(16320, 12288))
    code = (
        "import sys; from resource import *; from mrnn.images import open_photo; a = getrusage(RUSAGE_SELF).ru_maxrss;"
        "o = open_photo(sys.argv[1], min_side=260); b = getrusage(RUSAGE_SELF).ru_maxrss;"
        "print(o.width, o.height, *o.image.size, (b - a) // 1024)"
    )
    said = subprocess.check_output([sys.executable, "-c", code, path], text=True).split()
    assert said[:4] == ["16320", "12288", "2040", "1536"]
    assert sys.platform != "linux" or int(said[4]) < 150  # megabytes


def test_a_reduced_photo_on_its_side_has_the_size_of_the_upright_one():
    opened = open_photo(with_exif("JPEG", tags([SIDE]), PHOTO.resize((1000, 1001))), min_side=100)
    assert (opened.width, opened.height) == (1001, 1000)


def test_tiffs_open_right_or_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    base, refused = smooth(), 0
    deep, grey = base.astype(np.uint16) * 257, base[..., 0]
    kinds = [
        (deep, base, {"photometric": "rgb"}),
        (np.moveaxis(deep, -1, 0), base, {"photometric": "rgb", "planarconfig": "separate"}),
        (np.moveaxis(base, -1, 0), base, {"photometric": "rgb", "planarconfig": "separate"}),
        (255 - grey, grey, {"photometric": "miniswhite"}),
        ((255 - grey).astype(np.uint16) * 257, grey, {"photometric": "miniswhite"}),
        (grey.astype(np.float32) / 255, grey, {}),
        (grey.astype(np.float32), grey, {}),
        (grey.astype(np.uint32) * 2**24, grey, {}),
        (grey.astype(np.float64) / 255, grey, {}),
        (base.astype(np.float32) / 255, base, {"photometric": "rgb"}),
    ]
    for values, wanted, options in kinds:
        for more in ({}, {"compression": "zlib"}, {"tile": (32, 32)}, {"compression": "zlib", "tile": (32, 32)}):
            for order in "<>":
                file = io.BytesIO()
                tifffile.imwrite(file, np.ascontiguousarray(values), byteorder=order, **options, **more)
                try:
                    got = pixels(file.getvalue())
                except ImageError:
                    refused += 1
                    continue
                assert np.abs(got - (wanted if wanted.ndim == 3 else wanted[..., None])).mean() < 2, (options, more)
    assert 0 < refused < 40


def test_a_tile_larger_than_its_photo_is_refused(field):
    with pytest.raises(ImageError, match=r"tiles of 900,000,000 pixels"):
        open_image(field / "50" / "hugetile.tif")


def test_deep_grey_photos_take_little_more_memory_than_their_pixels():
    import tracemalloc

    content = saved(Image.fromarray(np.full((3000, 4000), 30_000, np.uint16)), "PNG")
    tracemalloc.start()
    image = open_image(content)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    assert (np.asarray(image)[::100] == 116).all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("huge-tile.tif", "tiles of 900,000,000 pixels"),
        ("strips-more.tif", "more than 200,000 parts"),
        ("large.bmp", "12000 x 12000 pixels take 576 MB to decode"),
        ("large.ppm", "12000 x 12000 pixels take 576 MB to decode"),
        ("exif-markers.jpg", "more than 200,000 parts"),
        ("chunks.png", "more than 200,000 parts"),
        ("fill-then-nothing.jpg", "holds no picture"),
        ("scans.jpg", "20,001 scans"),
        ("cut-off.jpg", "truncated"),
        ("huge.jpg", "truncated"),
        ("text.pgm", "written as text"),
        ("runs-wide.bmp", "is packed"),
    ],
)
def test_a_small_file_that_asks_for_much_is_refused(name, reason):
    with pytest.raises(ImageError, match=reason):
        open_photo(HARD[name](), min_side=260)


@pytest.mark.parametrize("name", ["strips-plain.tif", "frames.gif", "fill.jpg", "comment.pgm", "raw-profile.png"])
def test_what_stands_around_a_picture_costs_little(name):
    assert open_photo(HARD[name](), min_side=260).image.getpixel((0, 0)) in ((0, 0, 0), (90, 90, 90))


def test_a_large_photo_is_handed_on_reduced():
    for colour, more in ((0, ()), (3, (chunk(b"tRNS", bytes([0] + [255] * 255)),))):
        opened = open_photo(png(6000, 4000, 8, colour, *more), min_side=500)
        assert (opened.width, opened.height, opened.image.size) == (6000, 4000, (750, 500))
        assert opened.image.getcolors() == [(750 * 500, (255,) * 3 if more else (0,) * 3)]
    assert open_image(png(10_000, 8500, 1, 0)).size == (5000, 4250)


# When


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("2019:03:04 05:06:07", "2019-03-04T05:06:07"),
        ("2019-03-04 05:06:07", "2019-03-04T05:06:07"),
        ("2019-03-04T05:06:07.25+02:00", "2019-03-04T05:06:07"),
        ("2019-03-04T05:06Z", "2019-03-04T05:06:00"),
        ("2019/03/04 05:06:07", "2019-03-04T05:06:07"),
        ("2019: 3: 4  5: 06: 07", "2019-03-04T05:06:07"),
        ("20190304050607", "2019-03-04T05:06:07"),
        ("Mon, 04 Mar 2019 05:06:07 GMT", "2019-03-04T05:06:07"),
        ("2019:03:04", "2019-03-04T00:00:00"),
        ("20190304", "2019-03-04T00:00:00"),
        ("2019:03:04 24:00:00", "2019-03-04T00:00:00"),
        ("2019:03:04   :  :  ", "2019-03-04T00:00:00"),
        ("2016:12:31 23:59:60", "2016-12-31T23:59:59"),
        ("0000:00:00 00:00:00", None),
        ("    :  :     :  :  ", None),
        ("2019:02:30 05:06:07", None),
        ("9999:12:31 23:59:59", None),
        ("2019-12", None),
        ("2019", None),
        ("", None),
        ("yesterday", None),
    ],
)
def test_dates_as_they_are_written(text, taken):
    assert parse_date(text) == (None if taken is None else datetime.fromisoformat(taken))


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("IMG_20190304_050607.jpg", "2019-03-04T05:06:07"),
        ("PXL_20190304_050607123.MP.jpg", "2019-03-04T05:06:07"),
        ("20190304_050607.heic", "2019-03-04T05:06:07"),
        ("IMG20190304050607.jpg", "2019-03-04T05:06:07"),
        ("2019-03-04 05.06.07.jpg", "2019-03-04T05:06:07"),
        ("2019-03-04T05_06_07Z.png", "2019-03-04T05:06:07"),
        ("signal-2019-03-04-05-06-07-123.jpg", "2019-03-04T05:06:07"),
        ("Screenshot 2019-03-04 at 5.06.07\u202fPM.png", "2019-03-04T17:06:07"),
        ("Screenshot_2019-03-04-05-06-07-99.png", "2019-03-04T05:06:07"),
        ("WhatsApp Image 2019-03-04 at 05.06.07 (1).jpeg", "2019-03-04T05:06:07"),
        ("WhatsApp Image 2019-03-04 at 12.06.07 AM.jpeg", "2019-03-04T00:06:07"),
        ("IMG-20190304-WA0012.jpg", "2019-03-04T00:00:00"),
        ("2019-03-04 at the beach.jpg", "2019-03-04T00:00:00"),
        ("2019_03_04.jpg", "2019-03-04T00:00:00"),
        ("photo_2019-03-04_05-06-07.jpg", "2019-03-04T05:06:07"),
        ("IMG_20190304_1234.jpg", "2019-03-04T00:00:00"),
        ("FB_IMG_1551675967123.jpg", datetime.fromtimestamp(1551675967).isoformat()),
        ("4006381333931.jpg", None),
        ("IMG_1234.jpg", None),
        ("1000268201_693b08cb0e.jpg", None),
        ("20190304123.jpg", None),
        ("20191304.jpg", None),
        ("120190304.jpg", None),
        ("DSC02019.jpg", None),
    ],
)
def test_dates_in_names(name, taken):
    assert date_in_name(name) == (None if taken is None else datetime.fromisoformat(taken))


def dated(original="", digitized="", changed="", gps="", time=(), xmp=b""):
    exif = Image.Exif()
    for tag, text, where in ((0x9003, original, 0x8769), (0x9004, digitized, 0x8769), (0x1D, gps, 0x8825)):
        if text:
            exif.get_ifd(where)[tag] = text
    if time:
        exif.get_ifd(0x8825)[7] = time
    if changed:
        exif[0x0132] = changed
    return exif, xmp


DATE = "2019:03:04 05:06:07"
ZERO = "0000:00:00 00:00:00"
XMP = b'<x:xmpmeta><rdf:Description exif:DateTimeOriginal="%s"/></x:xmpmeta>'


@pytest.mark.parametrize(
    ("said", "taken", "source"),
    [
        ({"original": DATE, "digitized": "2020:01:01 00:00:00", "changed": "2021:01:01 00:00:00"}, DATE, "EXIF"),
        ({"original": ZERO, "digitized": DATE, "changed": "2021:01:01 00:00:00"}, DATE, "EXIF"),
        ({"original": " ", "digitized": "    :  :     :  :  ", "changed": DATE}, DATE, "EXIF"),
        ({"changed": ZERO, "xmp": XMP % b"2019-03-04T05:06:07+01:00"}, DATE, "XMP"),
        ({"xmp": b"<xmp:CreateDate>2019-03-04T05:06:07</xmp:CreateDate> <broken"}, DATE, "XMP"),
        ({"xmp": (XMP % b"2019-03-04T05:06:07").decode().encode("utf-16-le")}, DATE, "XMP"),
        ({"gps": "2019:03:04"}, "2019:03:04 00:00:00", "GPS"),
        ({"gps": "2019:03:04", "time": (5.0, 6.0, 7.0)}, DATE, "GPS"),
        ({"original": "9999:99:99 99:99:99", "gps": "0000:00:00"}, None, ""),
        ({}, None, ""),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_every_tag_of_a_date_in_turn(said, taken, source, format, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    exif, xmp = dated(**said)
    if format == "PNG":
        info = PngImagePlugin.PngInfo()
        if xmp and b"\0" not in xmp:
            info.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
        elif xmp:
            pytest.skip("texts of a PNG are UTF-8")
        content = saved(PHOTO, "PNG", exif=exif.tobytes(), pnginfo=info)
    else:
        content = saved(PHOTO, format, exif=exif, **({"xmp": xmp} if xmp else {}))
    opened = open_photo(content)
    wanted = None if taken is None else datetime.strptime(taken, "%Y:%m:%d %H:%M:%S")
    assert (opened.taken, opened.taken_from) == (wanted, source)
    assert open_photo(Image.open(io.BytesIO(content))).taken == wanted


@pytest.mark.parametrize("format", ["TIFF", "AVIF", "HEIF"])
def test_formats_that_stay_whole_have_dates(format):
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif, _ = dated(original=DATE)
    exif[0x0112] = 6
    options = {"tiffinfo": {0x0112: 6, 0x0132: DATE}} if format == "TIFF" else {"exif": exif.tobytes()}
    opened = open_photo(saved(PHOTO, format, **options))
    assert (opened.taken, opened.taken_from) == (datetime(2019, 3, 4, 5, 6, 7), "EXIF")
    assert opened.image.size == (opened.width, opened.height) == (64, 96)
    assert open_image(opened.image).size == (64, 96), "nothing is turned twice"


RECORDS = b"Photoshop 3.0\x008BIM\4\4\0\0\0\0\0\x40\x1c\2\5\0\5title\x1c\2\x37\0\x0820190304"
TIME = b"\x1c\2\x3c\0\x0b050607+0100"


def large_tiff():
    """A BigTIFF whose date is in EXIF's own directory."""
    content = saved(PHOTO, "TIFF", big_tiff=True, tiffinfo={0x0112: 6, 0x8769: len(saved(PHOTO, "TIFF"))})
    at = len(content)
    where = content.index(struct.pack("<H", 0x8769))
    content = content[: where + 12] + struct.pack("<Q", at) + content[where + 20 :]
    own = struct.pack("<QHHQQQ", 1, 0x9003, 2, 20, at + 36, 0)
    return content + own + DATE.encode() + b"\0"


def png_with(*more):
    content = saved(PHOTO, "PNG")
    return content[:33] + b"".join(more) + content[33:]


@pytest.mark.parametrize(
    ("content", "taken", "source"),
    [
        (saved(PHOTO, "TIFF", big_tiff=True, tiffinfo={0x0132: DATE}), DATE, "EXIF"),
        (large_tiff(), DATE, "EXIF"),
        (saved(PHOTO, "TIFF", tiffinfo={33723: RECORDS + TIME}), DATE, "IPTC"),
        (saved(PHOTO, "JPEG")[:2] + segment(0xED, RECORDS + TIME) + saved(PHOTO, "JPEG")[2:], DATE, "IPTC"),
        (saved(PHOTO, "JPEG")[:2] + segment(0xED, RECORDS) + saved(PHOTO, "JPEG")[2:], "2019:03:04 00:00:00", "IPTC"),
        (png_with(chunk(b"tEXt", b"Creation Time\0Mon, 04 Mar 2019 05:06:07 GMT")), DATE, "PNG"),
        (png_with(chunk(b"iTXt", b"Creation Time\0\0\0\0\x002019-03-04T05:06:07+09:00")), DATE, "PNG"),
        (png_with(chunk(b"tIME", b"\x07\xe3\3\4\5\6\7")), DATE, "PNG"),
        (png_with(chunk(b"tIME", b"\x07\xe3\x0d\4\5\6\7")), None, ""),
        (png_with(chunk(b"tEXt", b"Creation Time\0soon"), chunk(b"tIME", b"\7")), None, ""),
    ],
)
def test_dates_that_are_no_camera_tags(content, taken, source, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    opened = open_photo(content)
    wanted = None if taken is None else datetime.strptime(taken, "%Y:%m:%d %H:%M:%S")
    assert (opened.taken, opened.taken_from) == (wanted, source)


def test_the_first_heic_photo_of_a_process_has_date_and_size(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif, _ = dated(original=DATE)
    pillow_heif.from_pillow(PHOTO).save(tmp_path / "photo.heic", exif=exif.tobytes())
    code = "import sys; from mrnn.images import open_photo as o; p = o(sys.argv[1]); print(p.taken, p.width, p.height)"
    said = subprocess.check_output([sys.executable, "-c", code, tmp_path / "photo.heic"], text=True)
    assert said.strip() == "2019-03-04 05:06:07 96 64"


def test_the_field_case_of_heic(field):
    pytest.importorskip("pillow_heif")
    for photo in (field / "04" / "H").iterdir():
        opened = open_photo(photo)
        assert (opened.taken, opened.width, opened.height) == (datetime(2019, 7, 6, 5, 4, 3), 224, 224)


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("photo.jpg", "photo.jpg.json"),
        ("photo.jpg", "photo.jpg.supplemental-metadata.json"),
        ("photo.jpg", "photo.jpg.supplemental-me.json"),
        ("photo.jpg", "photo.jpg.s.json"),
        ("photo.jpg", "photo.jpg..json"),
        ("photo.jpg", "photo.json"),
        ("photo(2).jpg", "photo.jpg(2).json"),
        ("photo(2).jpg", "photo.jpg.supplemental-metadata(2).json"),
        ("photo(2).jpg", "photo(2).jpg.json"),
        ("photo-edited.jpg", "photo.jpg.json"),
        ("photo-bearbeitet.jpg", "photo.jpg.supplemental-metadata.json"),
        ("photo-수정됨(1).jpg", "photo.jpg(1).json"),
        ("a" * 60 + ".jpg", "a" * 46 + ".json"),
        ("a" * 44 + ".jpg", "a" * 44 + ".j.json"),
    ],
)
def test_takeouts_file_beside_a_photo(tmp_path, monkeypatch, name, beside):
    moment = 1551675967
    (tmp_path / beside).write_text(json.dumps({"title": name, "photoTakenTime": {"timestamp": str(moment)}}))
    wanted = datetime.fromtimestamp(moment).isoformat()
    assert date_of(None, "", tmp_path / name, 0) == (wanted, "Takeout")
    assert date_of(datetime(2001, 1, 1), "EXIF", tmp_path / name, 0) == ("2001-01-01T00:00:00", "EXIF")


@pytest.mark.parametrize(
    "beside",
    ["", "[]", '{"photoTakenTime": 3}', "\x00", "[" * 10**5]
    + [f'{{"photoTakenTime": {{"timestamp": {time}}}}}' for time in ('"1e400"', "1e400")],
)
def test_what_is_beside_a_photo_may_be_anything(tmp_path, beside):
    (tmp_path / "photo.jpg.json").write_text(beside)
    assert date_of(None, "", tmp_path / "photo.jpg", 1e9)[1] == "file"
    assert date_of(None, "", tmp_path / "photo.jpg", 1e300) == ("1970-01-01T00:00:00", "")


def test_metadata_of_gps_from_a_real_layout():
    exif, _ = dated(gps="2019:03:04", time=(5.0, 6.0, 7.0))
    assert ExifTags.GPS.GPSDateStamp == 0x1D
    assert read_metadata(exif.tobytes(), b"").taken_from == "GPS"


def test_what_lacks_its_extra_says_so(monkeypatch, tmp_path):
    for name in ("rawpy", "pillow_jxl", "pillow_heif"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("mrnn.images.opening.find_spec", lambda name: None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    (tmp_path / "photo.nef").write_bytes(tags([SIDE]))
    for source, extra in (
        (tmp_path / "photo.nef", "raw"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
        (b"\xff\x0a\x30", "jxl"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "heif"),
    ):
        with pytest.raises(ImageError, match=f"needs an extra: pip install 'mrnn.{extra}.'"):
            open_image(source)
    (tmp_path / "jpeg.nef").write_bytes(saved(PHOTO, "JPEG"))
    assert open_image(tmp_path / "jpeg.nef").size == PHOTO.size


def test_a_jpeg_xl_is_told_by_its_content():
    pytest.importorskip("pillow_jxl")
    exif, _ = dated(original=DATE)
    exif[0x0112] = 6
    opened = open_photo(saved(PHOTO, "JXL", exif=exif.tobytes()))
    assert (opened.image.size, opened.taken) == ((64, 96), datetime(2019, 3, 4, 5, 6, 7))


def test_a_raw_photo_without_a_preview_opens_by_its_pixels(tmp_path):
    pytest.importorskip("rawpy")
    tifffile = pytest.importorskip("tifffile")
    file, seen = tmp_path / "photo.dng", np.full((480, 640), 1000, np.uint16)
    more = [(33421, 3, 2, (2, 2)), (33422, 1, 4, b"\0\1\1\2"), (50706, 1, 4, b"\1\4\0\0"), (50717, 3, 1, 4095)]
    more += [(50708, 2, 0, "Camera"), (50778, 3, 1, 21), (274, 3, 1, 6)]
    more += [(50721, 10, 9, (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)), (50728, 5, 3, (1, 1) * 3)]
    tifffile.imwrite(file, seen, photometric=32803, extratags=[(*tag, True) for tag in more])
    assert open_photo(file).image.size == (240, 320)
