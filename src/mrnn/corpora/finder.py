"""Where the photos of a data set lie, whatever its captions call them.

A name is taken as it is written. Where that finds nothing, each folder is listed once, and a photo may also lie in
another folder, or be written otherwise: backslashes, decomposed accents (macOS), the ending in another case or left
out. Then the name must fit one photo, and no other name may fit that photo, so that captions of two photos are never
mixed.
"""

import contextlib
import filecmp
import functools
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from mrnn.corpora.splits import SPLITS, split_in, split_of_folder
from mrnn.images import IMAGE_SUFFIXES

DEPTH = 4
_USUAL = (
    "image",
    "photo",
    "flicker8k_dataset",
    "flickr8k_dataset",
    "flickr30k",
    "train20",
    "val20",
    "test20",
)


def walk(folder: Path, depth: int = DEPTH) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, each with the names of its files; hidden ones and what macOS leaves are passed over.

    Args:
        folder: Where to begin.
        depth: How many folders deeper to go.
    """
    files, folders = [], []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith((".", "__MACOSX")):
                (folders if entry.is_dir() else files).append(entry.name)
    yield folder, sorted(files)
    if depth:
        for name in sorted(folders):
            yield from walk(folder / name, depth - 1)


def is_photo(name: str) -> bool:
    """Whether a file's name is that of a photo."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def image_folders(folder: Path) -> list[Path]:
    """Where a data set's photos usually lie: its sub-folders of the usual names, then the folder itself."""
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and p.name.lower().startswith(_USUAL))
    return [*inside, folder]


class PhotoFinder:
    """Finds photos by their names.

    Args:
        folder: Of the data set.
        images: Further folders, which come first.
    """

    def __init__(self, folder: Path, images: Sequence[Path] = ()):
        self.folders = list(dict.fromkeys([*images, *image_folders(folder)]))
        self._ordered = {
            split: sorted(self.folders, key=lambda folder: bool(split) and split_in(folder.name) != split)
            for split in ("", *SPLITS)
        }
        self._trees = list(dict.fromkeys([*images, folder]))
        self.ambiguous: dict[str, list[Path]] = {}

    def find(self, splits: Mapping[str, str]) -> dict[str, Path | None]:
        """Photos of a data set, whose names are told apart from each other.

        Args:
            splits: Of each name its split, empty if it has none: of several photos, the one in a folder of that name.

        Returns:
            Of each name the file, or None; names that fit several photos are in `ambiguous`.
        """
        written = {name: self._as_written(name, split) for name, split in splits.items()}
        near = {name: self._near(name, split) for name, split in splits.items() if written[name] is None}
        names = defaultdict(set)
        for name, path in (*written.items(), *near.items()):
            names[path and os.path.normpath(path)].add(_plain(os.path.normpath(name)))
        for name, path in near.items():
            if path is not None and len(names[os.path.normpath(path)]) == 1:
                written[name] = path
        return written

    def _as_written(self, name: str, split: str) -> Path | None:
        for written in dict.fromkeys((name, name.replace("\\", "/"))):
            with contextlib.suppress(OSError, ValueError):  # no name of a file: too long, say
                if path := next((path for f in self._ordered[split] if (path := f / written).is_file()), None):
                    return path
        return None

    def _near(self, name: str, split: str) -> Path | None:
        *folders, last = _plain(name).split("/")
        for folder in self._ordered[split]:
            if paths := self._listed[0].get(_plain(os.path.normpath(folder / name))):
                return self._only(name, paths)
        said = next(filter(None, map(split_in, reversed(folders))), "")
        for tree, by_name in zip(self._trees, self._listed[1], strict=True):
            if paths := [p for p in by_name.get(last, ()) if not said or split_of_folder(p.parent, tree) in ("", said)]:
                paths = _most(paths, [_agree(folders, _plain(str(path)).split("/")[:-1]) for path in paths])
                paths = _most(paths, [split_of_folder(path.parent, tree) == split for path in paths])
                return self._only(name, paths)
        return None

    def _only(self, name: str, paths: list[Path]) -> Path | None:
        with contextlib.suppress(OSError):
            if all(filecmp.cmp(paths[0], path, shallow=False) for path in paths[1:]):  # copies of one photo
                return paths[0]
        self.ambiguous[name] = paths
        return None

    @functools.cached_property
    def _listed(self) -> tuple[dict[str, list[Path]], list[dict[str, list[Path]]]]:
        """Photos by their plain path; and of each tree, by their plain name."""
        by_path, by_names = defaultdict(list), []
        for tree in self._trees:
            by_names.append(by_name := defaultdict(list))
            for folder, files in walk(tree):
                start = os.path.normpath(folder)
                for file in filter(is_photo, files):
                    for name in (file, file.rpartition(".")[0]):
                        by_path[_plain(f"{start}/{name}")].append(folder / file)
                        by_name[_plain(name)].append(folder / file)
        return by_path, by_names


def _plain(name: str) -> str:
    """A name or path as systems that write it differently agree on."""
    stem, dot, ending = unicodedata.normalize("NFC", name.replace("\\", "/")).rpartition(".")
    return stem + dot + ending.lower()


def _agree(one: list[str], other: list[str]) -> int:
    """How many parts of two paths agree, from the end on."""
    return next((n for n, (a, b) in enumerate(zip(one[::-1], other[::-1], strict=False)) if a != b), len(one))


def _most(paths: list[Path], scores: Sequence[int]) -> list[Path]:
    """Those with the highest score."""
    return [path for path, score in zip(paths, scores, strict=True) if score == max(scores)]
