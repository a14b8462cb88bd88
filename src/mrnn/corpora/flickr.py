"""Flickr8K and Flickr30K: the official token and split files, and Kaggle's `captions.txt`.

Official: `Flickr8k.token.txt` or `results_20130124.token`, lines of `photo.jpg#0<TAB>caption`, and the lists
`Flickr_8k.trainImages.txt`, `...devImages.txt`, `...testImages.txt`. Kaggle's file has a header `image,caption`
and no lists; official lists laid beside it are used.
"""

import csv
from pathlib import Path

from mrnn.corpora.base import Corpus, CorpusBuilder, image_folders, normal_split
from mrnn.files import read_text

_LISTS = {
    "train": ("*trainImages.txt", "train.txt", "*_train.txt"),
    "dev": ("*devImages.txt", "dev.txt", "val.txt", "*_dev.txt", "*_val.txt"),
    "test": ("*testImages.txt", "test.txt", "*_test.txt"),
}


def _token_file(folder: Path) -> Path | None:
    files = [*folder.glob("*.token.txt"), *folder.glob("*.token")]
    return next((f for f in sorted(files) if "lemma" not in f.name.lower()), None)


def _kaggle_file(folder: Path) -> Path | None:
    path = folder / "captions.txt"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return path if file.readline().removeprefix(b"\xef\xbb\xbf").strip().lower() == b"image,caption" else None


def recognises(folder: Path) -> bool:
    """Whether the folder holds a token file or Kaggle's captions."""
    return _token_file(folder) is not None or _kaggle_file(folder) is not None


def read(folder: Path) -> Corpus:
    """Read captions and lists."""
    tokens = _token_file(folder)
    name = "Flickr (token file)" if tokens else "Flickr (captions.txt)"
    builder = CorpusBuilder(name, folder, image_folders(folder), flickr=True)
    if tokens is not None:
        _read_tokens(tokens, builder)
    else:
        kaggle = _kaggle_file(folder)
        assert kaggle is not None
        _read_kaggle(kaggle, builder)
    for split, patterns in _LISTS.items():
        for path in {path for pattern in patterns for path in folder.glob(pattern)}:
            for line in read_text(path).splitlines():
                if line.strip():
                    builder.split(_photo_name(line.strip()), normal_split(split))
    return builder.build()


def _photo_name(line: str) -> str:
    """Lists name photos with or without `.jpg`."""
    return line if "." in line else f"{line}.jpg"


def _read_tokens(path: Path, builder: CorpusBuilder) -> None:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        key, tab, caption = line.rstrip("\r").partition("\t")
        photo, sign, index = key.rpartition("#")
        if not tab or not sign or not index.isdigit():
            builder.report.add("broken lines", f"{path.name} line {number}")
        else:
            builder.caption(photo, caption, key=key, where=f"{path.name} line {number}")


def _read_kaggle(path: Path, builder: CorpusBuilder) -> None:
    # Kaggle's file does not quote commas within a caption: everything after the first comma is the caption.
    for number, line in enumerate(read_text(path).split("\n")[1:], 2):
        if not line.strip():
            continue
        photo, comma, caption = line.rstrip("\r").partition(",")
        if not comma or "." not in photo:
            builder.report.add("broken lines", f"{path.name} line {number}")
            continue
        if caption.startswith('"'):
            try:
                caption = next(csv.reader([caption]))[0]
            except csv.Error:
                builder.report.add("broken lines", f"{path.name} line {number}")
                continue
        builder.caption(photo, caption, where=f"{path.name} line {number}")
