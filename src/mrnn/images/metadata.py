"""The few tags of a photo that matter here: how it lies, and when it was taken.

They are read by hand, as what reads all tags fails where one of them is broken.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from mrnn.images.dates import at_utc, parse_date

_ORIENTATION, _DATE_TIME, _ORIGINAL, _DIGITIZED, _EXIF, _GPS = 0x0112, 0x0132, 0x9003, 0x9004, 0x8769, 0x8825
_GPS_TIME, _GPS_DATE = 0x07, 0x1D
_INTEROP, _INTEROP_INDEX = 0xA005, 0x01
# Bytes of a value, by its type; the last three are those of a large TIFF.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 13: 4} | {16: 8, 17: 8, 18: 8}
_LONGEST = 64  # bytes of a value
_XMP_DATES = ("exif:DateTimeOriginal", "photoshop:DateCreated", "xmp:CreateDate", "xap:CreateDate")
_XMP_DATES += ("exif:DateTimeDigitized",)
_IPTC_DATES = ((0x37, 0x3C), (0x3E, 0x3F))  # numbers of records: day and time of creation, then of digitisation
SIDEWAYS = (5, 6, 7, 8)  # orientations whose width and height change places
_Tags = dict[int, tuple[int, bytes]]


@dataclass(frozen=True)
class Metadata:
    """What a photo's file says of it.

    Args:
        orientation: As EXIF counts it, 1 to 8; 1 if nothing sensible is said.
        taken: When it was taken; None if nothing sensible is said.
        taken_from: What says so: `EXIF`, `XMP`, `IPTC`, `GPS`, `PNG`, or nothing.
        adobe_rgb: Whether a camera says that its colours are Adobe RGB's.
    """

    orientation: int = 1
    taken: datetime | None = None
    taken_from: str = ""
    adobe_rgb: bool = False


def read_metadata(exif: bytes, xmp: bytes, iptc: bytes = b"", created: bytes = b"", changed: bytes = b"") -> Metadata:
    """What can be read, whatever else is broken.

    Args:
        exif: A TIFF, or the head of one.
        xmp: XML, or what is left of it.
        iptc: Bytes that hold records of IPTC.
        created: A text that says when the photo was made (PNG).
        changed: When it was changed, in seven bytes (PNG).
    """
    exif = exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    tags, gps, interop = ({}, {}, {}) if order is None else _tags(exif, order)
    xmp = xmp.replace(b"\0", b"")  # UTF-16 reads as ASCII then
    orientation = _number(tags, _ORIENTATION, order)
    if orientation is None and (match := re.search(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*(\d)", xmp)):
        orientation = int(match[1])
    taken, taken_from = _taken(tags, xmp, iptc)
    if taken is None and (day := parse_date(_string(gps, _GPS_DATE))):
        taken, taken_from = _with_gps_time(day, gps, order), "GPS"
    if taken is None and (taken := parse_date(created[:_LONGEST].decode("latin-1")) or _changed(changed)):
        taken_from = "PNG"
    sensible = orientation if orientation and 1 <= orientation <= 8 else 1
    return Metadata(sensible, taken, taken_from, _string(interop, _INTEROP_INDEX) == "R03")


def _taken(tags: _Tags, xmp: bytes, iptc: bytes) -> tuple[datetime | None, str]:
    for tag in (_ORIGINAL, _DIGITIZED, _DATE_TIME):
        if taken := parse_date(_string(tags, tag)):
            return taken, "EXIF"
    for name in _XMP_DATES:
        for match in re.finditer(rb"%s\s*(?:=\s*[\"']|>)\s*([^\"'<]{4,40})" % name.encode(), xmp):
            if taken := parse_date(match[1].decode(errors="replace")):
                return taken, "XMP"
    for day, time in _IPTC_DATES:
        if match := re.search(rb"\x1c\x02\x%02x\x00\x08(\d{8})" % day, iptc):
            hour = re.search(rb"\x1c\x02\x%02x\x00[\x06-\x0b](\d{6})" % time, iptc)
            if taken := parse_date((match[1] + (b"T" + hour[1] if hour else b"")).decode()):
                return taken, "IPTC"
    return None, ""


def _changed(time: bytes) -> datetime | None:
    """PNG's own time, which is that of Greenwich, as the time here."""
    if len(time) != 7:
        return None
    taken = parse_date("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}".format(*struct.unpack(">H5B", time)))
    return taken and at_utc(taken)


def _with_gps_time(day: datetime, gps: _Tags, order: str | None) -> datetime:
    """A satellite's day and its time, which is that of Greenwich, as the time here; the day alone if it has no time."""
    kind, value = gps.get(_GPS_TIME, (0, b""))
    if kind != 5 or len(value) < 24:
        return day
    parts = struct.unpack(f"{order}6I", value[:24])
    hour, minute, second = (parts[i] // (parts[i + 1] or 1) for i in (0, 2, 4))
    try:
        return at_utc(day.replace(hour=hour, minute=minute, second=min(second, 59)))
    except (ValueError, OverflowError):
        return day


def _tags(exif: bytes, order: str) -> tuple[_Tags, _Tags, _Tags]:
    """Tags of the first directory and EXIF's own, those of GPS, and those of interoperability."""
    start = exif[8:16] if _is_big(exif) else exif[4:8]
    tags = _directory(exif, order, int.from_bytes(start, "little" if order == "<" else "big"))
    own, gps = (_directory(exif, order, _number(tags, tag, order) or 0) for tag in (_EXIF, _GPS))
    interop = _directory(exif, order, _number(own, _INTEROP, order) or 0)
    return {**tags, **{tag: own[tag] for tag in (_ORIGINAL, _DIGITIZED) if tag in own}}, gps, interop


def _directory(exif: bytes, order: str, offset: int) -> _Tags:
    found: _Tags = {}
    for tag, kind, value in _entries(exif, order, offset):
        found.setdefault(tag, (kind, value))
    return found


def _entries(exif: bytes, order: str, offset: int) -> Iterator[tuple[int, int, bytes]]:
    number, word, head, width = ("Q", "Q", 8, 8) if _is_big(exif) else ("H", "I", 2, 4)
    if not 8 <= offset <= len(exif) - head:
        return
    (n,) = struct.unpack_from(f"{order}{number}", exif, offset)
    step, first = 4 + 2 * width, offset + head
    for at in range(first, min(first + step * n, len(exif) - step + 1), step):
        tag, kind, count, where = struct.unpack_from(f"{order}HH{word}{word}", exif, at)
        size = _SIZES.get(kind, 0) * count
        start = at + 4 + width if size <= width else where
        yield tag, kind, exif[start : start + min(size, _LONGEST)]


def _is_big(exif: bytes) -> bool:
    """Whether it is a TIFF whose offsets have eight bytes."""
    return exif[2:4] in (b"+\0", b"\0+")


def _number(tags: _Tags, tag: int, order: str | None) -> int | None:
    kind, value = tags.get(tag, (0, b""))
    form = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i", 13: "I", 16: "Q", 18: "Q"}.get(kind)
    if form is None or len(value) < struct.calcsize(f"={form}"):
        return None
    return struct.unpack_from(f"{order}{form}", value)[0]


def _string(tags: _Tags, tag: int) -> str:
    return tags.get(tag, (0, b""))[1].partition(b"\0")[0].decode(errors="replace")
