"""Flickr8K and Flickr30K: the official token and split files, and Kaggle's `captions.txt` and `results.csv`.

Official: `Flickr8k.token.txt` or `results_20130124.token`, lines of `photo.jpg#0<TAB>caption`, and the lists
`Flickr_8k.trainImages.txt`, `...devImages.txt`, `...testImages.txt`. Kaggle's files have a header, `image,caption` or
`image_name| comment_number| comment` with pipes or commas, and no lists; official lists laid beside them are used.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from mrnn.corpora.base import Corpus, CorpusBuilder, read_captions_file
from mrnn.corpora.splits import normal_split
from mrnn.corpora.table import column_names, read_captions, tables

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


def _results_file(folder: Path) -> Path | None:
    names = [path.name for path in folder.iterdir() if path.suffix.lower() != ".json"]
    header = ["image_name", "comment_number", "comment"]
    return next((p for p in tables(folder, names) if [c.strip().lower() for c in column_names(p)] == header), None)


def recognises(folder: Path) -> bool:
    """Whether the folder holds a token file or Kaggle's captions."""
    return any(find(folder) is not None for find in (_token_file, _kaggle_file, _results_file))


def read(folder: Path, images: Sequence[Path] = ()) -> Corpus:
    """Read captions and lists."""
    tokens, kaggle, results = _token_file(folder), _kaggle_file(folder), _results_file(folder)
    builder = CorpusBuilder("Flickr (token file)", folder, images, flickr=True)
    if tokens is not None:
        _read_tokens(tokens, builder)
    elif kaggle is not None:
        builder.name = "Flickr (captions.txt)"
        _read_kaggle(kaggle, builder)
    elif results is not None:
        builder.name = f"Flickr ({results.name})"
        for where, photo, captions, _ in read_captions(results, builder.report):
            for caption in captions:
                builder.caption(photo, caption, where=where)
    for split, patterns in _LISTS.items():
        for path in {path for pattern in patterns for path in folder.glob(pattern)}:
            for line in read_captions_file(path).splitlines():
                if line.strip():
                    builder.split(_photo_name(line.strip()), normal_split(split))
    return builder.build()


def _photo_name(line: str) -> str:
    """Lists name photos with or without `.jpg`."""
    return line if "." in line else f"{line}.jpg"


def _read_tokens(path: Path, builder: CorpusBuilder) -> None:
    for number, line in enumerate(read_captions_file(path).split("\n"), 1):
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
    for number, line in enumerate(read_captions_file(path).split("\n")[1:], 2):
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
