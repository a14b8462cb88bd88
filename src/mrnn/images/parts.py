"""A photo's file taken apart: what decodes to pixels, and what is said beside it.

Decoders give up the whole photo for a broken comment, and spend minutes on a million of them. So JPEG, PNG, GIF and
WebP are taken apart here, by their outermost structure alone, and a decoder sees nothing but the first picture.
"""

import contextlib
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MOST = 1 << 22  # bytes of an unpacked profile or text
MOST_PARTS = 200_000  # segments, chunks, blocks or strips: the largest photos have fewer
_SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xda-\xef\xfe])")  # of a JPEG: a marker with a length behind it
_SCAN = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")  # the same behind the first scan, and the end
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
        samples: Of a JPEG: numbers a pixel, of all components.
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
    samples: float = 0.0
    in_rows: bool = False

    @property
    def has_end(self) -> bool:
        """Whether a JPEG's end is marked."""
        return self.picture.find(b"\xff\xd9", self.scan) >= 0

    @property
    def has_all_scans(self) -> bool:
        """Whether the scans of a JPEG that has begun tell every coefficient of every component to its last bit."""
        told = set()
        for start in self.scans():
            n = self.picture[start + 4] if start + 4 < len(self.picture) else 0
            rest = self.picture[start + 5 : start + 8 + 2 * n]
            if 1 <= n <= 4 and len(rest) == 2 * n + 3 and not rest[-1] & 15:
                told |= {(component, k) for component in rest[:-3:2] for k in range(rest[-3], rest[-2] + 1)}
        return len(told) == 64 * self.components

    def scans(self) -> Iterator[int]:
        """Where the scans of a JPEG begin."""
        at = self.scan
        while (match := _SCAN.search(self.picture, at)) and match[1] != b"\xd9":
            if match[1] == b"\xda":
                yield match.start()
            length = int.from_bytes(self.picture[match.end() : match.end() + 2])
            at = match.end() + (length if 2 <= length <= len(self.picture) - match.end() else 0)


def split(content: bytes) -> Parts:
    """Take a file apart; what cannot be told from the picture stays in it.

    Raises:
        ValueError: It has more parts than a photo has, or none that is a picture.
    """
    if content.startswith(b"\xff\xd8\xff"):
        return _split_jpeg(content)
    if content.startswith(_PNG):
        return _split_png(content)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _split_webp(content)
    if content[:4] == b"GIF8":
        return _split_gif(content)
    if re.match(rb"P[1-6f]\s", content):
        return _split_pnm(content)
    if content[:2] in (b"II", b"MM"):
        _count_values(content)
    # The tags of a TIFF, and of many RAW formats, are its own.
    tags = content if content[:4] in _TIFF else b""
    return Parts(content, exif=tags, iptc=tags)


def without_tags(content: bytes) -> bytes:
    """An AVIF or HEIC whose tags are of no known kind, so that a decoder passes them over; others as they are."""
    return re.sub(rb"(infe[\2\3]...(?:..|....)..)Exif", rb"\1none", content, flags=re.DOTALL)


def _split_jpeg(content: bytes) -> Parts:
    kept, exif, xmp, profile, iptc = [b"\xff\xd8"], [], b"", {}, []
    frame, components, samples, at, n = 0, 0, 0.0, 2, 0
    while match := _SEGMENT.search(content, at):
        n = _one_more(n)
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
            return Parts(
                b"".join(kept),
                exif=b"".join(exif),
                xmp=xmp,
                profile=b"".join(parts) if whole and sum(map(len, parts)) <= MOST else b"",
                iptc=b"".join(iptc),
                scan=scan,
                components=components,
                samples=samples,
                in_rows=in_rows,
            )
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif.append(body[6:])
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = body.split(b"\0", 1)[1]
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            profile[body[12]] = body[13:]
        elif marker == 0xED and body.startswith(b"Photoshop 3.0\0"):
            iptc.append(body)
        elif (
            marker < 0xE0  # tables
            or (marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14)
            or (marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12)
        ):
            kept.append(content[match.start() : at])
        if marker in _FRAMES:
            frame, components = marker, body[5] if len(body) > 5 else 0
            shares = [(factors >> 4) * (factors & 15) for factors in body[7::3][:components]]
            samples = sum(shares) / max([1, *shares])
    raise ValueError("it holds no picture")


def _one_more(n: int) -> int:
    if n >= MOST_PARTS:
        raise ValueError(f"it has more than {MOST_PARTS:,} parts")
    return n + 1


def _split_png(content: bytes) -> Parts:
    kept, found, at, n = [_PNG], {}, 8, 0
    while at + 8 <= len(content):
        n = _one_more(n)
        length, kind = struct.unpack_from(">I4s", content, at)
        chunk = content[at : at + 12 + length]
        body, at = chunk[8 : 8 + length], at + 12 + length
        if kind[:1].isupper() or (kind == b"tRNS" and chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))):
            kept.append(chunk)
        elif kind == b"eXIf":
            found["exif"] = body
        elif kind == b"tIME":
            found["changed"] = body
        elif kind == b"iCCP" and "profile" not in found:
            found["profile"] = _inflate(body.partition(b"\0")[2][1:])
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            key, _, text = body.partition(b"\0")
            name = _TEXTS.get(key)
            if name and name not in found:
                text = _text(kind, text)
                found[name] = _raw_profile(text) if key.startswith(b"Raw") else text
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
        return bytes.fromhex(text.decode("ascii").split(None, 2)[2])
    except (ValueError, IndexError):
        return b""


def _inflate(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, MOST)
    except zlib.error:
        return b""


def _split_webp(content: bytes) -> Parts:
    kept, found, size, at, pictures, n = [], {}, 4, 12, 0, 0
    while at + 8 <= len(content):
        n = _one_more(n)
        kind, length = struct.unpack_from("<4sI", content, at)
        chunk, at = content[at : at + 8 + length + length % 2], at + 8 + length + length % 2
        if kind in _WEBP:
            found.setdefault(_WEBP[kind], chunk[8 : 8 + length])
            continue
        pictures += kind == b"ANMF"
        if kind == b"ANMF" and pictures > 1:
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


def _split_gif(content: bytes) -> Parts:
    """What stands before the first frame, and the frame."""
    start = at = 13 + (3 << (content[10] & 7) + 1 if len(content) > 12 and content[10] & 0x80 else 0)
    control, n = b"", 0
    while (match := _BLOCK.search(content, at)) and match[0] != b";":
        n = _one_more(n)
        at = match.start()
        if match[0] == b",":
            local = content[at + 9] if at + 9 < len(content) else 0
            end = _behind(content, at + 11 + (3 << (local & 7) + 1 if local & 0x80 else 0))
            return Parts(content[:start] + control + content[at:end] + b";" * (end <= len(content)))
        end = _behind(content, at + 2)
        if content[at + 1 : at + 2] == b"\xf9":
            control = content[at:end]
        at = end
    return Parts(content[:start])


_BLOCK = re.compile(rb"[!,;]")


def _behind(content: bytes, at: int) -> int:
    """Where the blocks that begin here end, each of which says how long it is."""
    while at < len(content) and content[at]:
        at += 1 + content[at]
    return at + 1


def _split_pnm(content: bytes) -> Parts:
    """The numbers of the head without comments, and what follows them."""
    head, at = [content[:2]], 2
    for _ in range(2 if content[1:2] in b"14" else 3):
        match = _NUMBER.match(content, at)
        if match is None:
            raise ValueError("it holds no picture")
        head.append(match[1])
        at = match.end()
    return Parts(b" ".join(head) + content[at:])


_NUMBER = re.compile(rb"(?:\s++|#[^\r\n]*+[\r\n])*+([^\s#]{1,10})")


def _count_values(content: bytes) -> None:
    """Refuse a TIFF whose tags hold more numbers than a decoder should make lists of."""
    order = "<" if content[:2] == b"II" else ">"
    long, entry, first = ("Q", "HHQ8x", 8) if content[2:4] in (b"+\0", b"\0+") else ("I", "HHI4x", 4)
    with contextlib.suppress(struct.error):
        (at,) = struct.unpack_from(order + long, content, first)
        (n,) = struct.unpack_from(order + ("Q" if first == 8 else "H"), content, at)
        at += 8 if first == 8 else 2
        for _ in range(n):
            _, kind, count = struct.unpack_from(order + entry, content, at)
            at += struct.calcsize(order + entry)
            if kind not in (1, 2, 6, 7):  # bytes and text, which stay as they are
                _one_more(count)
