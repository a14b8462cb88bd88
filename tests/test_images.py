import io
import json
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from mrnn.images import ImageError, Preprocessing, open_image

# Four solid corners: red, green / blue, white
CORNERS = np.zeros((32, 48, 3), np.uint8)
CORNERS[:16, :24] = 255, 0, 0
CORNERS[:16, 24:] = 0, 255, 0
CORNERS[16:, :24] = 0, 0, 255
CORNERS[16:, 24:] = 255, 255, 255


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(source, **options):
    image = open_image(source, **options)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def png(width, height, rows, depth=1, colour=0):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PHOTO = Image.fromarray(CORNERS)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("PPM", {}, 0),
        ("GIF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 12),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 12),
        ("JPEG2000", {}, 12),
        ("AVIF", {"quality": 95}, 12),
        ("HEIF", {"quality": 95}, 12),
    ],
)
def test_formats(tmp_path, format, options, tolerance):
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    module = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}.get(format)
    if module and not features.check(module):
        pytest.skip(f"Pillow has no {format} here")
    content = saved(PHOTO, format, **options)
    path = tmp_path / "ein Bild 图.bin"
    path.write_bytes(content)
    for source in (content, path, str(path), Image.open(path)):
        got = pixels(source)
        assert got.shape == CORNERS.shape
        assert np.abs(got[4::24, 4::8] - CORNERS[4::24, 4::8]).max() <= tolerance


def test_a_heic_photo_opens_in_a_fresh_interpreter(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    import subprocess
    import sys

    path = tmp_path / "photo.heic"
    pillow_heif.from_pillow(PHOTO).save(path)
    code = f"from mrnn.images import open_image; print(open_image({os.fspath(path)!r}).size)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "(48, 32)"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation, format):
    upright = CORNERS
    # how the camera stored it: the inverse of what the tag asks for
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    content = saved(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif, **options)
    for min_side in (None, 8):
        got = open_image(content, min_side=min_side)
        got = np.asarray(got.resize((48, 32), Image.Resampling.NEAREST)).astype(int)
        assert np.abs(got[4::24, 4::8] - CORNERS[4::24, 4::8]).max() <= 40
    assert pixels(content).shape == upright.shape


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("L", (4, 4), 77), (77, 77, 77)),
        (Image.new("LA", (4, 4), (77, 255)), (77, 77, 77)),
        (Image.new("LA", (4, 4), (77, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("RGBA", (4, 4), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("RGBa", (4, 4), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("PA", (4, 4), (0, 0)), (255, 255, 255)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("YCbCr", (4, 4), (255, 128, 128)), (255, 255, 255)),
        (Image.new("HSV", (4, 4), (0, 255, 255)), (255, 0, 0)),
        (Image.new("I;16", (4, 4), 32768), (127, 127, 127)),
        (Image.new("I", (4, 4), 32768), (127, 127, 127)),
        (Image.new("I", (4, 4), 70000), (255, 255, 255)),
        (Image.new("I", (4, 4), -5), (0, 0, 0)),
        (Image.new("F", (4, 4), 1.0), (255, 255, 255)),
        (Image.new("F", (4, 4), 255.0), (255, 255, 255)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value[0]),
)
def test_modes(image, colour):
    assert np.abs(pixels(image) - colour).max() <= 1


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_laid_on_white(mode):
    image = Image.new("RGB", (4, 4), "black")
    image.putpixel((0, 0), (255, 0, 0))
    image = image.convert(mode)
    transparent = image.getpixel((3, 3))
    got = pixels(saved(image, "PNG", transparency=transparent))
    assert (got[3, 3] == 255).all()
    assert tuple(got[0, 0]) == tuple(image.convert("RGB").getpixel((0, 0)))


def test_a_palette_gives_its_colours():
    image = PHOTO.convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    assert (pixels(saved(image, "PNG")) == CORNERS).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize(("value", "grey"), [(0, 0), (257, 1), (32768, 127), (65535, 255)])
def test_sixteen_bits_are_scaled_to_eight(format, value, grey):
    image = Image.fromarray(np.full((4, 4), value, np.uint16))
    assert np.abs(pixels(saved(image, format)) - grey).max() <= 1


def test_sixteen_bit_colour_png():
    row = b"\0" + struct.pack(">3H", 65535, 32768, 0) * 4
    assert np.abs(pixels(png(4, 4, row * 4, depth=16, colour=2)) - (255, 128, 0)).max() <= 1


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    content = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert (pixels(content) == (255, 0, 0)).all()


def test_a_decompression_bomb_is_refused_without_being_decoded(tmp_path):
    side = 50_000
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, (b"\0" + b"\xff" * (side // 8)) * 100))
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageError, match=r"pixels.* the limit of 150,000,000"):
            open_image(source)


@pytest.mark.parametrize("max_pixels", [1, 48 * 32 - 1])
def test_the_limit_of_pixels(max_pixels):
    with pytest.raises(ImageError, match=f"48 x 32 pixels are more than the limit of {max_pixels:,}"):
        open_image(saved(PHOTO, "PNG"), max_pixels=max_pixels)
    assert open_image(saved(PHOTO, "PNG"), max_pixels=48 * 32).size == (48, 32)


def test_pillows_own_limit_is_told(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(50_000, 50_000, b""))
    with pytest.raises(ImageError, match=rf"the limit of {2 * Image.MAX_IMAGE_PIXELS:,}"):
        open_image(path, max_pixels=10**10)


def test_a_grey_level_that_stands_for_transparent_becomes_white():
    levels = np.array([[0, 30_000], [60_000, 30_000]], np.uint16)
    got = pixels(saved(Image.fromarray(levels), "PNG", transparency=30_000))
    assert got[..., 0].tolist() == [[0, 255], [233, 255]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    levels = np.linspace(0, 9, 16, dtype=np.float32).reshape(4, 4)
    levels[1, 1] = value
    with pytest.raises(ImageError, match="not finite"):
        open_image(saved(Image.fromarray(levels), "TIFF"))


def test_photos_opened_by_threads_leave_the_callers_warnings_alone():
    content = saved(PHOTO, "JPEG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(open_image, [content] * 200))
    assert warnings.filters == before


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(size):
    with pytest.raises(ImageError, match="no pixels"):
        open_image(Image.new("RGB", size))


BROKEN = {
    "empty.jpg": (b"", "is empty"),
    "text.jpg": (b"not a photo\nat all\n", "is not an image in a known format"),
    "truncated.jpg": (saved(NOISE, "JPEG")[:1500], "is damaged"),
    "truncated.png": (saved(NOISE, "PNG")[:1500], "is damaged"),
    "header.png": (saved(NOISE, "PNG")[:20], "is "),
    "html.jpg": (b"<!DOCTYPE html><html>404</html>", "is not an image in a known format"),
    "fake.heic": (b"\0\0\0\x18ftypheic" + bytes(20), "is "),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_a_reason_on_one_line(tmp_path, name):
    content, reason = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    for source in (path, str(path), content):
        with pytest.raises(ImageError, match=reason) as caught:
            open_image(source)
        assert caught.value.name == (f"<{len(content)} bytes>" if source is content else str(path))
        assert str(caught.value) == f"{caught.value.name}: {caught.value.reason}"
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [("absent.jpg", "no such file"), (".", "is a folder"), ("file/photo.jpg", "no such file"), ("a\0b.jpg", "is ")],
)
def test_a_path_without_a_photo(tmp_path, name, reason):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImageError, match=reason) as caught:
        open_image(tmp_path / name)
    assert caught.value.name == str(tmp_path / name)
    assert len(caught.value.reason.splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file(tmp_path):
    path = tmp_path / "secret.jpg"
    path.write_bytes(saved(PHOTO, "JPEG"))
    path.chmod(0)
    with pytest.raises(ImageError, match="permission denied"):
        open_image(path)


def test_an_image_error_survives_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "is empty")))
    assert (error.name, error.reason, str(error)) == ("a.jpg", "is empty", "a.jpg: is empty")


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    min_side=st.integers(1, 100),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
)
@settings(max_examples=50)
def test_a_reduced_jpeg_keeps_its_sides_at_the_minimum_or_above(width, height, min_side, mode):
    got = open_image(saved(Image.new(mode, (width, height)), "JPEG"), min_side=min_side).size
    assert min(got) >= min(min_side, width, height)
    assert got[0] <= width
    assert got[1] <= height


def test_a_large_jpeg_is_reduced_and_the_callers_image_is_not(tmp_path):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (1600, 800)).save(path)
    assert open_image(path, min_side=100).size == (200, 100)
    with Image.open(path) as image:
        open_image(image, min_side=100)
        assert image.size == (1600, 800)


def test_opening_leaves_the_callers_image_as_it_was():
    image = Image.new("RGBA", (4, 4), (1, 2, 3, 0))
    open_image(image)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (1, 2, 3, 0)


MEAN, STD = (127.0,) * 3, (128.0,) * 3


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(48, 32), (32, 48), (7, 7), (1, 1), (1, 300), (300, 1), (16, 16)])
@pytest.mark.parametrize("scale", [1.0, 256 / 224])
def test_a_photo_of_any_shape_becomes_a_square_of_bytes(resize, interpolation, size, scale):
    preprocessing = Preprocessing(16, MEAN, STD, resize, interpolation, scale)
    got = preprocessing(Image.new("RGB", size, (10, 200, 30)))
    assert got.shape == (16, 16, 3)
    assert got.dtype == np.uint8
    assert (got == (10, 200, 30)).all()


@pytest.mark.parametrize("size", [(1, 2_000_000), (2_000_000, 1)])
def test_cropping_a_very_long_photo_takes_little_memory(size):
    assert Preprocessing(224, MEAN, STD, "crop", scale=256 / 224)(Image.new("RGB", size)).shape == (224, 224, 3)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (101, 67), (33, 35)])
@pytest.mark.parametrize(("interpolation", "filter"), [("bilinear", 2), ("bicubic", 3)])
def test_crop_agrees_with_resizing_and_cutting_by_hand(size, interpolation, filter):
    photo = NOISE.resize(size)
    got = Preprocessing(28, MEAN, STD, "crop", interpolation, 32 / 28)(photo)
    width, height = (32, int(size[1] * 32 / size[0])) if size[0] < size[1] else (int(size[0] * 32 / size[1]), 32)
    left, top = (width - 28) // 2, (height - 28) // 2
    whole = np.asarray(photo.resize((width, height), filter))
    assert (got == whole[top : top + 28, left : left + 28]).all()


def test_squash_shows_the_whole_photo():
    got = Preprocessing(16, MEAN, STD)(PHOTO)
    assert (got[[0, 0, -1, -1], [0, -1, 0, -1]] == CORNERS[[0, 0, -1, -1], [0, -1, 0, -1]]).all()


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_reducing_while_decoding_hardly_changes_the_result(resize):
    y, x = np.mgrid[:640, :960]
    smooth = np.stack([x / 4 % 256, y / 3 % 256, (x + y) / 8 % 256], -1).clip(0, 255).astype(np.uint8)
    photo = Image.fromarray(smooth).resize((240, 160)).resize((960, 640))
    preprocessing = Preprocessing(64, MEAN, STD, resize)
    reduced, whole = preprocessing(saved(photo, "JPEG", quality=95)), preprocessing(photo)
    assert np.abs(reduced.astype(float) - whole).mean() < 4


def test_preprocessing_survives_json():
    preprocessing = Preprocessing(224, (1.5, 2.0, 3.0), STD, "crop", "bilinear", 256 / 224)
    assert Preprocessing.from_dict(json.loads(json.dumps(asdict(preprocessing)))) == preprocessing


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"resize": "pad"}, "resize is 'squash' or 'crop', not 'pad'"), ({"interpolation": "area"}, "not 'area'")],
)
def test_bad_options_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Preprocessing(224, MEAN, STD, **options)


def test_preprocessing_names_a_broken_photo(tmp_path):
    path = tmp_path / "empty.jpg"
    path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"empty\.jpg: is empty"):
        Preprocessing(8, MEAN, STD)(path)


def opens_or_says_why(content):
    try:
        got = Preprocessing(8, MEAN, STD, "crop")(content)
    except ImageError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert got.shape == (8, 8, 3)


MAGIC = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"RIFF....WEBP",
    b"\0\0\0\x18ftypavif",
]


@given(st.sampled_from([b"", *MAGIC]), st.binary(max_size=200))
@settings(max_examples=200)
def test_random_bytes_open_or_say_why_not(magic, content):
    opens_or_says_why(magic + content)


FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]
WHOLE = {format: saved(NOISE, format) for format in FORMATS}


@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
@settings(max_examples=300)
def test_a_corrupted_photo_opens_or_says_why_not(format, changes, kept):
    content = bytearray(WHOLE[format])
    for position, value in changes:
        content[position % min(len(content), 800)] = value
    opens_or_says_why(bytes(content[: round(len(content) * kept)] if kept < 0.5 else content))


def test_real_photos_become_squares(data):
    photos = sorted(Path(data, "flickr8k", "images").glob("*.jpg"))[:3]
    for photo in photos:
        assert Preprocessing(64, MEAN, STD)(photo).std() > 5
