"""The names of splits, as files, folders and columns say them."""

import hashlib
import re
from pathlib import Path

SPLITS = ("train", "dev", "test")
_NAMES = {
    **dict.fromkeys(("train", "training", "restval", "trn"), "train"),
    **dict.fromkeys(("dev", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}


def normal_split(name: str) -> str:
    """`train`, `dev` or `test` for the names that data sets use; empty for others."""
    return _NAMES.get(name.strip().lower(), "")


def split_in(name: str) -> str:
    """The split that a word of a name says, as in `train-0000`; empty if none does."""
    return next(filter(None, map(normal_split, re.split(r"[^A-Za-z]+", name))), "")


def split_of_file(path: Path, folder: Path) -> str:
    """The split that a file's name says, or else one of its folders' below `folder`; empty if none does."""
    return split_in(path.stem) or split_of_folder(path.parent, folder)


def split_of_folder(path: Path, folder: Path) -> str:
    """The split that a folder's name says, or else one above it and below `folder`; empty if none does."""
    return next(filter(None, map(split_in, reversed(path.relative_to(folder).parts))), "")


def draw(photo_id: str, seed: str) -> float:
    """A number from 0 to 1, always the same for a photo's id and a seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{photo_id}".encode()).digest()[:8]) / 2**64


def seeded_split(photo_id: str, seed: int = 0) -> str:
    """A split drawn by the photo's id, 80 / 10 / 10, that does not change when photos are added."""
    drawn = draw(photo_id, str(seed))
    return "train" if drawn < 0.8 else "dev" if drawn < 0.9 else "test"
