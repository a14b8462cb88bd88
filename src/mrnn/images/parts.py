"""A photo's file taken apart: what decodes to pixels, and what is said beside it.

Decoders give up the whole photo for a broken comment. So JPEG, PNG and WebP are taken apart here, by their outermost
structure alone, and a decoder sees nothing but the picture.
"""

import re
import struct
import zlib
from dataclasses import dataclass

MOST = 1 << 24  # bytes of an unpacked profile or text
_SEGMENT = re.compile(rb"\xff+([\xc0-\xcf\xda-\xef\xfe])")  # of a JPEG: a marker with a length behind it
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter of more than 4 GB


@dataclass(frozen=True)
class Parts:
    """The parts of a photo's file.

    Args:
        picture: A file of the same format that holds pixels alone; the file itself for formats that stay whole.
        exif: The directories of tags, as a TIFF; empty if there are none.
        xmp: The XMP packet.
        profile: The ICC colour profile.
        iptc: Records of IPTC, with what stands around them.
        created: Of a PNG, the text that says when it was made.
        changed: Of a PNG, when it was changed, as year, month, day, hour, minute and second in seven bytes.
        scan: Of a JPEG, where its compressed rows begin in `picture`; 0 for other formats.
        components: Of a JPEG: planes of colour.
        in_rows: Whether it is a JPEG that is decoded a few rows at a time, so that a reduced size needs little memory.
    """

    picture: bytes
    exif: bytes = b""
    xmp: bytes = b""
    profile: bytes = b""
    iptc: bytes = b""
    created: bytes = b""
    changed: bytes = b""
    scan: int = 0
    components: int = 0
    in_rows: bool = False

    @property
    def has_end(self) -> bool:
        """Whether a JPEG's end is marked."""
        return self.picture.find(b"\xff\xd9", self.scan) >= 0

    @property
    def has_all_scans(self) -> bool:
        """Whether the scans of a JPEG that has begun tell every coefficient of every component to its last bit."""
        told = set()
        for match in re.finditer(rb"\xff\xda..([\1-\4])", self.picture[self.scan :], re.DOTALL):
            rest = self.picture[self.scan + match.end() :][: 2 * match[1][0] + 3]
            if len(rest) == 2 * match[1][0] + 3 and not rest[-1] & 15:
                told |= {(component, k) for component in rest[:-3:2] for k in range(rest[-3], rest[-2] + 1)}
        return len(told) == 64 * self.components


def split(content: bytes) -> Parts:
    """Take a file apart; what cannot be told from the picture stays in it."""
    if content.startswith(b"\xff\xd8\xff"):
        return _split_jpeg(content)
    if content.startswith(_PNG):
        return _split_png(content)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _split_webp(content)
    # The tags of a TIFF, and of many RAW formats, are its own.
    tags = content if content[:4] in _TIFF else b""
    return Parts(content, exif=tags, iptc=tags)


def without_tags(content: bytes) -> bytes:
    """An AVIF or HEIC whose tags are of no known kind, so that a decoder passes them over; others as they are."""
    return re.sub(rb"(infe[\2\3]...(?:..|....)..)Exif", rb"\1none", content, flags=re.DOTALL)


def _split_jpeg(content: bytes) -> Parts:
    kept, exif, xmp, profile, iptc = [b"\xff\xd8"], b"", b"", {}, b""
    frame, components, at = 0, 0, 2
    while match := _SEGMENT.search(content, at):
        marker, start = match[1][0], match.end()
        at = start + max(2, int.from_bytes(content[start : start + 2]))
        body = content[start + 2 : at]
        if at > len(content):  # longer than the file: what follows is looked for within it
            at = start
        if marker == 0xDA:
            scan = sum(map(len, kept))
            kept.append(content[match.start() :])
            in_rows = frame in (0xC0, 0xC1) and body[:1] == bytes([components])
            parts = [profile[i][1:] for i in sorted(profile)]
            whole = bool(parts) and len(parts) == next(iter(profile.values()))[0]
            icc = b"".join(parts) if whole else b""
            return Parts(b"".join(kept), exif, xmp, icc, iptc, scan=scan, components=components, in_rows=in_rows)
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif += body[6:]
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = body.split(b"\0", 1)[1]
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            profile[body[12]] = body[13:]
        elif marker == 0xED and body.startswith(b"Photoshop 3.0\0"):
            iptc += body
        elif (
            marker < 0xE0  # tables
            or (marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14)
            or (marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12)
        ):
            kept.append(content[match.start() : at])
        if marker in _FRAMES:
            frame, components = marker, body[5] if len(body) > 5 else 0
    return Parts(content)


def _split_png(content: bytes) -> Parts:
    kept, found, at = [_PNG], {}, 8
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        chunk = content[at : at + 12 + length]
        body, at = chunk[8 : 8 + length], at + 12 + length
        if kind[:1].isupper() or (kind == b"tRNS" and chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))):
            kept.append(chunk)
        elif kind == b"eXIf":
            found["exif"] = body
        elif kind == b"tIME":
            found["changed"] = body
        elif kind == b"iCCP":
            found["profile"] = _inflate(body.partition(b"\0")[2][1:])
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            key, _, text = body.partition(b"\0")
            name = _TEXTS.get(key)
            if name:
                text = _text(kind, text)
                found.setdefault(name, _raw_profile(text) if key.startswith(b"Raw") else text)
    return Parts(b"".join(kept), **found)


_TEXTS = {
    b"Raw profile type exif": "exif",
    b"Raw profile type APP1": "exif",
    b"Raw profile type xmp": "xmp",
    b"XML:com.adobe.xmp": "xmp",
    b"Raw profile type iptc": "iptc",
    b"Raw profile type 8bim": "iptc",
    b"Creation Time": "created",
    b"exif:DateTimeOriginal": "created",
}


def _text(kind: bytes, text: bytes) -> bytes:
    if kind == b"tEXt":
        return text
    if kind == b"zTXt":
        return _inflate(text[1:])
    packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]  # behind language and translated key
    return _inflate(text) if packed else text


def _raw_profile(text: bytes) -> bytes:
    """What ImageMagick writes: a name, a length, and the bytes as hexadecimal digits."""
    try:
        return bytes.fromhex("".join(text.decode("ascii", "replace").split()[2:]))
    except ValueError:
        return b""


def _inflate(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, MOST)
    except zlib.error:
        return b""


def _split_webp(content: bytes) -> Parts:
    kept, found, size, at = [], {}, 4, 12
    while at + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, at)
        chunk, at = content[at : at + 8 + length + length % 2], at + 8 + length + length % 2
        if kind in _WEBP:
            found[_WEBP[kind]] = chunk[8 : 8 + length]
            continue
        if kind not in _WEBP_PICTURE:  # nor is what follows the last chunk
            continue
        if kind == b"VP8X" and len(chunk) > 8:
            chunk = chunk[:8] + bytes([chunk[8] & 0x12]) + chunk[9:]  # alpha and animation alone
        kept.append(chunk)
        size += 8 + length + length % 2
    if size >> 32:
        return Parts(content)
    return Parts(b"".join([b"RIFF", struct.pack("<I", size), b"WEBP", *kept]), **found)


_WEBP_PICTURE = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")
_WEBP = {b"EXIF": "exif", b"XMP ": "xmp", b"ICCP": "profile"}
