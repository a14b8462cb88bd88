"""Which files of a folder, or of a list, are photos, and what is passed over."""

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from mrnn.files import unicode_encoding
from mrnn.images import IMAGE_SUFFIXES, RAW_SUFFIXES, ImageError, readable_suffixes

# Where systems, drives and other programs keep what is no photo of yours, beside all that begins with a dot.
SYSTEM_FOLDERS = frozenset(
    [
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "lost+found",
        "__macosx",
        "system volume information",
    ]
)


class Walk:
    """The photos in a folder and below it, by the endings of names; no folder is walked twice, whatever links to it.

    Args:
        folder: To walk.
        exclude: Patterns of names, or of paths below the folder, that are passed over (`*.png`, `private/*`).
        links: Follow symbolic links, also out of the folder; else they are passed over.

    Attributes:
        unread: The folders that could not be read.
        passed: How many of which kind were passed over.
    """

    def __init__(self, folder: Path, exclude: Sequence[str] = (), links: bool = True):
        self.folder, self.links = folder, links
        self.exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self.unread: list[ImageError] = []
        self.passed: Counter[str] = Counter()
        self._readable = readable_suffixes()

    def covers(self, path: str) -> bool:
        """Whether a photo that is gone would have been here."""
        return Path(path).is_relative_to(self.folder)

    def __iter__(self) -> Iterator[tuple[str, os.stat_result]]:
        seen: set[tuple[int, int]] = set()
        waiting = [os.fspath(self.folder)]
        while waiting:
            place = waiting.pop()
            try:
                here = os.stat(place)  # noqa: PTH116
                if (here.st_dev, here.st_ino) in seen:
                    continue
                seen.add((here.st_dev, here.st_ino))
                entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            except FileNotFoundError:  # has just gone
                continue
            except OSError as error:
                self.unread.append(ImageError(place, f"cannot be read ({error.strerror})"))
                continue
            for entry in entries:
                with contextlib.suppress(OSError):
                    if not self.links and entry.is_symlink():
                        self.passed["symbolic links"] += 1
                    elif entry.is_dir():
                        if not self._passes_folder(entry):
                            waiting.append(entry.path)
                    elif self._is_photo(entry):
                        yield entry.path, entry.stat()

    def _passes_folder(self, entry: os.DirEntry) -> bool:
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FOLDERS:
            self.passed["hidden, trash and thumbnail folders"] += 1
        elif self._excluded(entry):
            self.passed["excluded folders"] += 1
        else:
            return False
        return True

    def _is_photo(self, entry: os.DirEntry) -> bool:
        ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
        if ending not in IMAGE_SUFFIXES or not entry.is_file():
            return False
        if entry.name.startswith("."):
            self.passed["hidden files"] += 1
        elif self._excluded(entry):
            self.passed["excluded files"] += 1
        elif ending not in self._readable:
            extra = "raw" if ending in RAW_SUFFIXES else "jxl" if ending == ".jxl" else "heif"
            self.passed[f"{ending[1:].upper()} photos, which need an extra: pip install 'mrnn[{extra}]'"] += 1
        else:
            return True
        return False

    def _excluded(self, entry: os.DirEntry) -> bool:
        return _matches(entry.path, self.folder, self.exclude)


class Listed:
    """The photos that a list names, itself or by their folder; relative paths begin where we are.

    Whatever file it names is taken for a photo, once. What it does not name, or is gone, stays in the library.

    Args:
        file: As for `listed`.
        exclude: As for `Walk`; paths begin where we are.
        links: As for `Walk`, within the folders it names.

    Attributes:
        unread: What cannot be found.
        passed: As for `Walk`.
    """

    def __init__(self, file: Path, exclude: Sequence[str] = (), links: bool = True):
        self.links, self.exclude = links, (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self.unread: list[ImageError] = []
        self.passed: Counter[str] = Counter()
        self._paths = list(dict.fromkeys(os.fspath(normal(Path(name))) for name in listed(file.read_bytes())))

    def covers(self, path: str) -> bool:
        """As for `Walk`: a list takes nothing out."""
        return False

    def __iter__(self) -> Iterator[tuple[str, os.stat_result]]:
        seen: set[str] = set()
        for path, status in self._all():
            if path not in seen:
                seen.add(path)
                yield path, status

    def _all(self) -> Iterator[tuple[str, os.stat_result]]:
        for path in self._paths:
            try:
                status = os.stat(path)  # noqa: PTH116
            except OSError as error:
                self.unread.append(ImageError(path, f"cannot be read ({error.strerror})"))
                continue
            if stat.S_ISDIR(status.st_mode):
                walk = Walk(Path(path), self.exclude, self.links)
                yield from walk
                self.unread += walk.unread
                self.passed += walk.passed
            elif not stat.S_ISREG(status.st_mode):
                self.unread.append(ImageError(path, "is neither a file nor a folder"))
            elif _matches(path, Path.cwd(), self.exclude):
                self.passed["excluded files"] += 1
            else:
                yield path, status


def listed(content: bytes, null: bool = False) -> list[str]:
    """The names in a list, one a line; blank lines are none.

    Args:
        content: In UTF-8 or UTF-16, or in whatever bytes the file system's names are.
        null: Whether names end with a zero byte instead; they also do if there is one.
    """
    encoding = unicode_encoding(content)
    if null or (encoding == "utf-8-sig" and b"\0" in content):
        return [os.fsdecode(name) for name in content.split(b"\0") if name]
    text = content.decode(encoding, "replace") if encoding != "utf-8-sig" else os.fsdecode(content)
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    return [os.path.expanduser(line) for line in lines if line.strip()]  # noqa: PTH111


def is_list(path: Path) -> bool:
    """Whether a path is a text file that names photos (.txt, .lst)."""
    return path.suffix.lower() in (".txt", ".lst") and path.is_file()


def _matches(path: str, folder: Path, patterns: Sequence[str]) -> bool:
    below = os.path.relpath(path, folder).replace(os.sep, "/")
    return any(fnmatch(os.path.basename(path), pattern) or fnmatch(below, pattern) for pattern in patterns)  # noqa: PTH119


def normal(folder: Path) -> Path:
    """An absolute path that is the same however the folder was named; links in it stay."""
    return Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100
