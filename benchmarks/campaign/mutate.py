"""Damage of all kinds, drawn by a seeded generator."""

import json
import random
import struct
from typing import Any

# Lengths, offsets and dimensions that arithmetic goes wrong with.
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def drawn(seed: int, number: int) -> random.Random:
    """The generator of an input."""
    return random.Random(f"{seed} {number}")


def damaged(content: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """A file with one to four kinds of damage; heads are hit as often as the rest."""
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
        kind = draw.choice(("bit", "bit", "byte", "number", "number", "cut", "copy", "delete", "swap", "join", "fill"))
        at = draw.randrange(max(1, min(len(made), 600) if draw.random() < 0.5 else len(made)))
        length = min(draw.choice((1, 2, 4, 8, 16, 64, 256, 4096)), len(made))
        if kind == "bit" and made:
            for _ in range(draw.choice((1, 1, 8))):
                made[draw.randrange(len(made)) if draw.random() < 0.3 else at] ^= 1 << draw.randrange(8)
        elif kind == "byte" and made:
            made[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, draw.randrange(256)))
        elif kind == "number":
            form = draw.choice(("<H", ">H", "<I", ">I"))
            number = draw.choice((*NUMBERS, draw.randrange(1 << 32))) & ((1 << 8 * struct.calcsize(form)) - 1)
            made[at : at + struct.calcsize(form)] = struct.pack(form, number)
        elif kind == "cut":
            del made[draw.randrange(len(made) + 1) :]
        elif kind == "copy":
            start = draw.randrange(len(made) + 1)
            made[at:at] = made[start : start + length] * draw.choice((1, 1, 2, 100))
        elif kind == "delete":
            del made[at : at + length]
        elif kind == "swap":
            places = sorted(draw.randrange(len(made) + 1) for _ in range(3))
            a, b, c = places
            made[a:c] = made[b:c] + made[a:b]
        elif kind == "join" and other:
            made[at:] = other[draw.randrange(len(other)) :]
        elif kind == "fill":
            made[at : at + length] = bytes([draw.choice((0, 0xFF, 0x20, 0x41))]) * length
    return bytes(made)


ODD: tuple[Any, ...] = (
    None,
    True,
    "",
    "a",
    "../../x",
    "\ud800",
    "\x1b[2J",
    "a" * 20_000,
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    10**9,
    10**12,
    2**63,
    10**400,
    [],
    [[]],
    {},
    {"a": 1},
    [None],
)


def odd_json(value: Any, draw: random.Random, chance: float = 0.05) -> Any:
    """JSON some of whose values are others than they should be."""
    if draw.random() < chance:
        return draw.choice(ODD)
    if isinstance(value, dict):
        return {
            (draw.choice(("", "id", "a" * 300)) if draw.random() < chance / 3 else key): odd_json(inner, draw, chance)
            for key, inner in value.items()
            if draw.random() > chance / 3
        }
    if isinstance(value, list):
        return [odd_json(inner, draw, chance) for inner in value if draw.random() > chance / 3]
    return value


def written(value: Any, draw: random.Random) -> bytes:
    """JSON as text, now and then nested deeper than any program goes."""
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5)
    if draw.random() < 0.02:
        depth = draw.choice((100, 2_000, 200_000))
        text = "[" * depth + text + "]" * depth
    return text.encode(errors="surrogatepass")
