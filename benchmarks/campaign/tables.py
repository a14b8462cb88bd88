"""Data sets of every layout, and libraries, one of whose files is damaged or says odd things."""

import functools
import io
import json
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.campaign import Report, hunt
from benchmarks.campaign.hard import saved
from benchmarks.campaign.mutate import damaged, drawn, odd_json, written
from mrnn.corpora import read_corpus
from mrnn.corpora.sentences import read_sentences
from mrnn.corpora.table import SUFFIXES, read_pairs
from mrnn.images import date_of
from mrnn.library.place import Folder
from mrnn.library.tables import Tables

SHARE = 0.2  # of a campaign's time
NAMES = [f"{100000 + i}_0123456789.jpg" for i in range(4)]
CAPTIONS = ["a red dog", 'two men , one "big" ball', "ein Hund läuft", "un chien\ta couru"]
ROWS = list(zip(NAMES, CAPTIONS, ("train", "train", "dev", "test"), strict=True))
WIDTH = 8


def run(seconds: float, seed: int) -> Report:
    """Read damaged data sets and libraries."""
    return hunt("tables", seconds, seed)


@functools.cache
def _photo(i: int) -> bytes:
    return saved(Image.new("RGB", (8, 8), (60 * i, 90, 30)), "JPEG")


def _photos(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(NAMES):
        (folder / name).write_bytes(_photo(i))


def _json(path: Path, value: Any, draw: random.Random) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(written(odd_json(value, draw) if draw.random() < 0.7 else value, draw))


def _text(folder: Path, draw: random.Random) -> None:
    delimiter = draw.choice(",\t;|")
    rows = [("image", "caption", "split"), *ROWS]
    quoted = [['"' + cell.replace('"', '""') + '"' if draw.random() < 0.5 else cell for cell in row] for row in rows]
    name = draw.choice(("captions.csv", "captions.tsv", "train.csv", "metadata.csv", "t.txt"))
    encoding = draw.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    (folder / name).write_bytes("\r\n".join(delimiter.join(row) for row in quoted).encode(encoding, "replace"))
    _photos(folder)


def _jsonl(folder: Path, draw: random.Random) -> None:
    rows = [{"file_name": name, "captions": [caption], "split": split} for name, caption, split in ROWS]
    lines = [written(odd_json(row, draw, 0.03), draw) for row in rows]
    (folder / draw.choice(("a.jsonl", "metadata.jsonl"))).write_bytes(b"\n".join(lines))
    _photos(folder)


def _parquet(folder: Path, draw: random.Random) -> None:
    inside = draw.random() < 0.5
    images = [{"bytes": _photo(i), "path": name} for i, name in enumerate(NAMES)] if inside else NAMES
    table = pa.table({"image": images, "caption": [[c] for c in CAPTIONS], "split": [split for *_, split in ROWS]})
    packing = draw.choice(("snappy", "none", "zstd", "gzip"))
    pq.write_table(table, folder / "a.parquet", compression=packing, row_group_size=2)
    if not inside:
        _photos(folder)


def _arrow(folder: Path, draw: random.Random) -> None:
    images = [{"bytes": _photo(i), "path": name} for i, name in enumerate(NAMES)]
    table = pa.table({"image": images, "caption": CAPTIONS})
    with pa.ipc.new_stream(folder / "data.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    _json(folder / "state.json", {"_data_files": [{"filename": "data.arrow"}], "_split": "train"}, draw)


def _tokens(folder: Path, draw: random.Random) -> None:
    lines = [f"{name}#0\t{caption}" for name, caption, _ in ROWS]
    (folder / "Made.token.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "Made.trainImages.txt").write_text("\n".join(NAMES[:2]), encoding="utf-8")
    _photos(folder / "images")


def _kaggle(folder: Path, draw: random.Random) -> None:
    text = "image,caption\n" + "\n".join(f"{name},{caption}" for name, caption, _ in ROWS)
    (folder / "captions.txt").write_text(text, encoding="utf-8")
    _photos(folder / "Images")


def _karpathy(folder: Path, draw: random.Random) -> None:
    images = [{"filename": n, "split": s, "sentences": [{"raw": c, "tokens": c.split()}]} for n, c, s in ROWS]
    _json(folder / "dataset_made.json", {"dataset": "made", "images": images}, draw)
    _photos(folder)


def _coco(folder: Path, draw: random.Random) -> None:
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(NAMES)],
        "annotations": [{"id": i, "image_id": i, "caption": c} for i, c in enumerate(CAPTIONS)],
    }
    _json(folder / "annotations" / draw.choice(("captions_train2017.json", "train.json")), content, draw)
    _photos(folder / "train2017")


def _sidecars(folder: Path, draw: random.Random) -> None:
    _photos(folder)
    for name, caption, _ in ROWS:
        beside = folder / name
        if draw.random() < 0.5:
            beside.with_suffix(".txt").write_text(caption, encoding="utf-8")
        else:
            _json(beside.with_suffix(".json"), {"caption": caption, "url": "x"}, draw)
    # What Takeout writes.
    _json(folder / f"{NAMES[0]}.json", {"photoTakenTime": {"timestamp": "1577934245"}}, draw)


def _shards(folder: Path, draw: random.Random) -> None:
    with tarfile.open(folder / "train-000.tar", "w") as tar:
        for i, caption in enumerate(CAPTIONS):
            beside = (".txt", caption.encode()) if draw.random() < 0.5 else (".json", json.dumps([caption]).encode())
            for ending, content in ((".jpg", _photo(i)), beside):
                member = tarfile.TarInfo(f"{i:04}{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _annotations(folder: Path, draw: random.Random) -> None:
    place = folder / "annotations" / "00"
    place.mkdir(parents=True)
    for i, caption in enumerate(CAPTIONS):
        text = f'<?xml version="1.0" encoding="ISO-8859-1"?>\n<DOC><DOCNO>annotations/00/{i}.eng</DOCNO>'
        text += f"<TITLE>x</TITLE><DESCRIPTION>{caption}</DESCRIPTION><IMAGE>images/00/{i}.jpg</IMAGE></DOC>"
        (place / f"{i}.eng").write_text(text, encoding="latin-1")
        (folder / "images" / "00").mkdir(parents=True, exist_ok=True)
        (folder / "images" / "00" / f"{i}.jpg").write_bytes(_photo(i))


@functools.cache
def _library_made() -> Path:
    """A library of some rows, made once a process."""
    place = Path(tempfile.mkdtemp(prefix="mrnn-campaign-library-"))
    tables = _tables(place)
    rows = [
        {
            "hash": f"{i:064x}",
            "taken": "2020-01-01T00:00:00",
            "width": 8,
            "height": 8,
            "thumbnail": _photo(i),
            "image": np.full(WIDTH, i, np.float16),
            "captions": [CAPTIONS[i]],
            "likelihoods": [-1.0],
            "taken_from": "EXIF",
        }
        for i in range(4)
    ]
    tables.commit("contents", tables.write("contents", rows))
    files = [{"path": f"/{i}.jpg", "size": 1, "time": 1, "hash": f"{i:064x}", "error": ""} for i in range(4)]
    tables.put("files", files, "path")
    return place


def _tables(place: Path) -> Tables:
    return Tables(Folder(place), {"model": "m", "encoder": "e"}, WIDTH)


def _library(folder: Path, draw: random.Random) -> None:
    shutil.copytree(_library_made(), folder, dirs_exist_ok=True)


LAYOUTS: dict[str, Callable[[Path, random.Random], None]] = {
    "text": _text,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "arrow": _arrow,
    "tokens": _tokens,
    "kaggle": _kaggle,
    "karpathy": _karpathy,
    "coco": _coco,
    "sidecars": _sidecars,
    "shards": _shards,
    "annotations": _annotations,
    "library": _library,
}


def make(seed: int, number: int, folder: Path) -> Path:
    """A data set or a library, with damage in one file that is no photo."""
    draw = drawn(seed, number)
    name = draw.choice(list(LAYOUTS))
    place = folder / name
    place.mkdir()
    LAYOUTS[name](place, draw)
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.suffix != ".jpg")
    if files and draw.random() < 0.9:
        path = draw.choice(files)
        path.write_bytes(damaged(path.read_bytes(), draw))
    return place


def check(path: Path) -> str:
    """Read it in every way."""
    if path.name == "library":
        return _check_library(path)
    texts = [file for file in path.iterdir() if file.suffix in SUFFIXES]
    works: list[Callable[[], Any]] = [lambda: _read(path)]
    works += [functools.partial(read_pairs, file) for file in texts]
    works += [functools.partial(read_sentences, file) for file in texts if file.suffix != ".parquet"]
    for work in works:
        try:
            work()
        except (ValueError, OSError) as error:
            if "\n" in str(error):
                return f"several lines: {error}"
    for photo in path.glob("*.jpg"):
        date_of(None, "", photo, 0.0)
    return ""


def _read(path: Path) -> None:
    corpus = read_corpus(path)
    corpus.summary().encode()
    list(corpus.report.lines())
    len(corpus.fingerprint)
    for photo in corpus.photos:
        "".join(photo.captions).encode()
        try:
            photo.path.read_bytes()
        except OSError:
            continue


def _check_library(path: Path) -> str:
    try:
        tables = _tables(path)
        for name in ("contents", "files"):
            tables.read(name, tables.schemas[name].names).to_pylist()
        list(tables.batches("contents", ["hash", "captions"]))
        tables.nearest(np.ones(WIDTH), 2, "", ["hash"])
    except (ValueError, OSError) as error:
        if "\n" in str(error):
            return f"several lines: {error}"
    return ""
