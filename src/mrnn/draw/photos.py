"""Photos with what is said of them, by Pillow alone: captions, sheets, and what a caption rests on.

Shapes: T words, K regions, GH x GW grid cells, H height, W width.
"""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mrnn.files import atomic_path
from mrnn.images import ImageSource, open_image
from mrnn.tasks.explanation import Explanation, Word

RED, BLUE, WHITE, BLACK, GREY = (202, 0, 32), (5, 113, 176), (255, 255, 255), (0, 0, 0), (110, 110, 110)
_FONTS = ("DejaVuSans.ttf", "Arial.ttf", "NotoSans-Regular.ttf")  # of more scripts than Pillow's own
_MOST_BITS = 4.0  # of evidence, that a word is coloured by


@cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _readable(text: str) -> str:
    """Bytes of a file's name that are no UTF-8 as marks."""
    return text.encode(errors="replace").decode()


class _Canvas:
    """A white picture to put photos and lines of text on."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGB", (width, height), WHITE)
        self.pen = ImageDraw.Draw(self.image)

    def photo(self, image: Image.Image, left: int, top: int, side: int) -> None:
        """A photo in the middle of a square."""
        small = image.convert("RGB")
        scale = side / max(small.size)
        size = max(1, round(small.width * scale)), max(1, round(small.height * scale))
        small = small.resize(size, Image.Resampling.LANCZOS)
        self.image.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))

    def lines(self, text: str, left: int, top: int, width: int, size: int, most: int = 4) -> None:
        """Lines in the middle of a column."""
        font = _font(size)
        letters = max(1, int(width / max(1.0, font.getlength("n"))))
        for i, line in enumerate(wrap(_readable(text), letters)[:most]):
            self.pen.text((left + width / 2, top + i * 1.3 * size), line, BLACK, font, anchor="ma")

    def save(self, picture: Path) -> None:
        """As PNG, or as the ending says."""
        with atomic_path(picture) as temporary:
            self.image.save(temporary, Image.registered_extensions().get(picture.suffix.lower(), "PNG"))


def draw_captions(photos: Sequence[ImageSource], captions: Sequence[str], picture: Path, side: int = 216) -> None:
    """Draw photos in a row, each with its caption below.

    Args:
        photos: Files.
        captions: One a photo.
        picture: PNG to write.
        side: Of a photo.
    """
    canvas, step = _Canvas((side + 8) * len(photos), side + 92), side + 8
    for i, (photo, caption) in enumerate(zip(photos, captions, strict=True)):
        canvas.image.paste(open_image(photo, side).resize((side, side), Image.Resampling.LANCZOS), (i * step + 4, 4))
        canvas.lines(caption, i * step + 4, side + 12, side, 14)
    canvas.save(picture)


def draw_sheet(
    thumbnails: Sequence[bytes], titles: Sequence[str], heading: str, picture: Path, columns: int = 5, side: int = 240
) -> None:
    """Draw a sheet of photos.

    Args:
        thumbnails: Encoded photos.
        titles: Of each.
        heading: Above them.
        picture: PNG to write.
        columns: Photos a row.
        side: Of a photo.
    """
    rows, step, height = -(-len(thumbnails) // columns), side + 16, side + 62
    canvas = _Canvas(step * columns, 40 + height * rows)
    canvas.lines(heading, 0, 10, step * columns, 18, 1)
    for i, (thumbnail, title) in enumerate(zip(thumbnails, titles, strict=True)):
        left, top = i % columns * step + 8, 40 + i // columns * height
        canvas.photo(Image.open(io.BytesIO(thumbnail)), left, top, side)
        canvas.lines(title, left, top + side + 6, side, 12, 3)
    canvas.save(picture)


def draw_explanation(explanation: Explanation, photo: Image.Image, picture: Path, columns: int = 4) -> None:
    """Draw the photo, the words coloured by evidence, and a heat map, with the attended boxes, a content word.

    Args:
        explanation: What `explain` gave.
        photo: Upright RGB.
        picture: PNG to write.
        columns: Pictures a row.
    """
    shown = [w for w in explanation.words if w.content and (w.heat is not None or w.attention is not None)]
    side, rows = 260, -(-(1 + len(shown)) // columns)
    step, head = side + 16, 110
    canvas = _Canvas(step * columns, head + rows * (side + 34))
    title = f"{explanation.text}: bits of evidence from the photo"
    canvas.lines(f"{title} ({explanation.note})" if explanation.note else title, 0, 8, step * columns, 15, 1)
    _draw_words(canvas, explanation.words[:-1], step * columns)
    canvas.photo(photo, 8, head + 26, side)
    limit = max([float(np.abs(w.heat).max()) for w in shown if w.heat is not None], default=1.0) or 1.0
    for i, word in enumerate(shown, 1):
        left, top = i % columns * step + 8, head + i // columns * (side + 34)
        seen = photo.convert("L").convert("RGB") if word.heat is None else heat_over(photo, word.heat / limit)
        if word.attention is not None and explanation.boxes is not None:
            seen = _with_boxes(seen, explanation.boxes, word.attention)
        canvas.lines(f"{word.token}  {word.evidence:+.1f}", left, top + 4, side, 15, 1)
        canvas.photo(seen, left, top + 26, side)
    canvas.save(picture)


def _draw_words(canvas: _Canvas, words: Sequence[Word], width: int) -> None:
    """Each word on its shade, its bits below; smaller where they are many."""
    size = 17
    while size > 8 and sum(_font(size).getlength(w.token) + size for w in words) > width - 16:
        size -= 1
    font, small, left = _font(size), _font(max(8, size - 5)), 8.0
    for word in words:
        span = font.getlength(word.token) + 0.7 * size
        shade = _blend(WHITE, RED if word.evidence > 0 else BLUE, 0.75 * min(1.0, abs(word.evidence) / _MOST_BITS))
        canvas.pen.rectangle((left, 40, left + span, 44 + 1.6 * size), shade)
        canvas.pen.text((left + span / 2, 42 + 0.8 * size), _readable(word.token), BLACK, font, anchor="mm")
        canvas.pen.text((left + span / 2, 50 + 1.6 * size), f"{word.evidence:+.1f}", GREY, small, anchor="ma")
        left += span + 0.3 * size


def _blend(a: tuple[int, int, int], b: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    mixed = [round(x + share * (y - x)) for x, y in zip(a, b, strict=True)]
    return mixed[0], mixed[1], mixed[2]


def heat_over(photo: Image.Image, heat: np.ndarray) -> Image.Image:
    """A photo in grey with red where heat is above 0 and blue where it is below.

    Args:
        photo: RGB.
        heat: (GH, GW) between -1 and 1.
    """
    spread = Image.fromarray(heat.astype(np.float32)).resize(photo.size, Image.Resampling.BILINEAR)
    value = np.asarray(spread)[..., None]
    grey = np.asarray(photo.convert("L"), np.float32)[..., None] * 0.6 + 102
    colour = np.where(value > 0, np.array(RED), np.array(BLUE))
    strength = 0.75 * np.abs(value).clip(0, 1)
    return Image.fromarray((grey * (1 - strength) + colour * strength).clip(0, 255).astype(np.uint8))


def _with_boxes(photo: Image.Image, boxes: np.ndarray, attention: np.ndarray) -> Image.Image:
    """The boxes that got more than their even share, the surer the stronger."""
    layer = Image.new("RGBA", photo.size, (0, 0, 0, 0))
    pen, width = ImageDraw.Draw(layer), max(2, round(max(photo.size) / 130))
    for box, share in zip(boxes, attention, strict=True):
        if share >= 1 / len(boxes):
            corners = (box * np.array([*photo.size, *photo.size])).tolist()
            pen.rectangle(corners, outline=(*RED, round(255 * min(1.0, 0.2 + float(share)))), width=width)
    return Image.alpha_composite(photo.convert("RGBA"), layer).convert("RGB")
