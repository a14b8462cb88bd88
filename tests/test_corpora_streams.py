"""Photos within larger files: WebDataset shards and Hugging Face data sets."""

import builtins
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from made import COLOURS
from PIL import Image

from mrnn.corpora import SPLITS, read_corpora, read_corpus
from mrnn.corpora.webdataset import _expand
from mrnn.draw import draw_gallery
from mrnn.encoders import FeatureCache
from mrnn.images import ImageError, open_image
from mrnn.networks import load_encoder

# Name, captions and split of every photo; the photo is made from the name's place here.
ROWS = [
    (f"{1000000 + i}.png", [f"a {colour} square", f"photo {i}"], split)
    for i, (colour, split) in enumerate(zip([*COLOURS] * 3, ["train"] * 6 + ["val"] * 3 + ["test"] * 3, strict=True))
]


def content(i, side=24):
    noise = np.random.default_rng(i).integers(-20, 20, (side, side, 3))
    pixels = (np.array(list(COLOURS.values())[i % 4]) + noise).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PHOTOS = [content(i) for i in range(len(ROWS))]


def tar(path, members):
    """A shard of (name, bytes) in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def sample(key, i=0, caption="a dog"):
    return [(f"{key}.png", PHOTOS[i]), (f"{key}.txt", caption.encode())]


def table(folder):
    lines = []
    for (name, captions, split), photo in zip(ROWS, PHOTOS, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(photo)
        lines.append(json.dumps({"image": name, "caption": captions, "split": split}))
    (folder / "t.jsonl").write_text("\n".join(lines))


def by_split(of_shard):
    return {split: [row for row in zip(ROWS, PHOTOS, strict=True) if row[0][2] == split] for split in of_shard}


def shards(name):
    """Shards whose names are `name` with the split in it, with captions as text in one and as JSON in the others."""

    def make(folder):
        for split, rows in by_split(("train", "val", "test")).items():
            members = []
            for (photo, captions, _), data in rows:
                key = photo.removesuffix(".png")
                members += [(f"{key}.cls", b"3"), (photo, data)]
                if split == "train":
                    members.append((f"{key}.txt", "\n".join(captions).encode()))
                else:
                    members.append((f"{key}.json", json.dumps({"caption": captions, "url": "x"}).encode()))
            tar(folder / name.format(split), members)

    return make


def records(rows, captions="caption"):
    for (name, sentences, _), data in rows:
        cell = {"bytes": data, "path": name}
        if captions == "caption":
            yield {"image": cell, "caption": sentences}
        else:
            yield {"image": cell, **{f"{captions}_{n}": sentence for n, sentence in enumerate(sentences)}}


def parquet(name, captions="caption"):
    def make(folder):
        pyarrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        for split, rows in by_split(("train", "val", "test")).items():
            path = folder / name.format(split)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_table(pyarrow.Table.from_pylist(list(records(rows, captions))), path, row_group_size=2)

    return make


def one_parquet(folder):
    """All splits in one file, by a column; and a column that names files, which are not there."""
    pyarrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = list(zip(ROWS, PHOTOS, strict=True))
    split = [{"split": row[2], "filename": row[0]} for row in ROWS]
    table = pyarrow.Table.from_pylist([a | b for a, b in zip(records(rows), split, strict=True)])
    folder.mkdir(exist_ok=True)
    files.write_table(table, folder / "test-00000-of-00001.parquet")


def saved(folder):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "caption": [datasets.Value("string")]})
    parts = {
        split: datasets.Dataset.from_list(list(records(rows)), features=features)
        for split, rows in by_split(("train", "val", "test")).items()
    }
    datasets.DatasetDict(parts).save_to_disk(folder)


LAYOUTS = {
    "shards by name": (shards("mine-{}-0000.tar"), "WebDataset (3 shards)"),
    "shards by folder": (shards("{}/0000.tar"), "WebDataset (3 shards)"),
    "Parquet": (parquet("data/{}-00000-of-00001.parquet"), "Hugging Face (3 files)"),
    "Parquet by folder": (parquet("default/{}/0000.parquet"), "Hugging Face (3 files)"),
    "Parquet with numbered captions": (parquet("{}.parquet", "text"), "Hugging Face (3 files)"),
    "Parquet with a split column": (one_parquet, "Hugging Face (1 file)"),
    "save_to_disk": (saved, "Hugging Face (3 files)"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_holds_what_the_same_table_holds(tmp_path, layout):
    make, name = LAYOUTS[layout]
    make(tmp_path / "stored")
    table(tmp_path / "table")
    stored, plain = read_corpus(tmp_path / "stored"), read_corpus(tmp_path / "table")
    assert stored.name == name
    assert stored.summary().startswith(f"{name}: 12 photos (6 train, 3 dev, 3 test), 24 captions")
    assert not stored.report.counts and not stored.report.notes
    assert stored.fingerprint == plain.fingerprint
    for split in SPLITS:
        assert [p.captions for p in stored.split(split)] == [p.captions for p in plain.split(split)]
    in_order = sorted(stored.photos, key=lambda photo: photo.id)
    for one, other in zip(in_order, plain.photos, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
        assert one.path.name == other.path.name
        assert one.key == other.key or "/stored/" in one.key
        assert str(one.path).startswith(str(one.path.file)) and str(one.path).endswith(other.path.name)
        again = pickle.loads(pickle.dumps(one))
        assert again == one and len(pickle.dumps(one)) < 1000
        assert np.array_equal(open_image(one.path), open_image(other.path))


@pytest.mark.parametrize("layout", ["shards by name", "Parquet", "save_to_disk"])
def test_features_and_galleries_take_stored_photos(tmp_path, layout):
    LAYOUTS[layout][0](tmp_path / "stored")
    table(tmp_path / "table")
    cache = FeatureCache(load_encoder("efficientnet_lite2"), tmp_path / "cache")
    stored = [p.path for p in sorted(read_corpus(tmp_path / "stored").photos, key=lambda photo: photo.id)]
    rows, usable, errors = cache.features(stored)
    assert usable == list(range(12)) and not errors
    encoded = cache._rows_file.stat().st_size
    plain, *_ = cache.features([p.path for p in read_corpus(tmp_path / "table").photos])
    assert cache._rows_file.stat().st_size == encoded, "known by their content"
    assert np.array_equal(rows, plain)
    draw_gallery(stored, ["one"], np.zeros((12, 1)), [0], [], tmp_path / "gallery.png", rows=2)
    stored[0].file.unlink()
    _, usable, errors = cache.features(stored[:1])
    assert not usable and str(errors[0]) == f"{stored[0]}: no such file"
    with pytest.raises(ImageError, match=r"no such file"):
        open_image(stored[0])


def test_a_broken_photo_in_a_shard_is_named(tmp_path):
    tar(tmp_path / "a.tar", [*sample("good"), ("bad.jpg", PHOTOS[0][:99]), ("bad.txt", b"x"), ("no.png", b"")])
    tar(tmp_path / "b.tar", [("none.jpg", b""), ("none.txt", b"x")])
    cache = FeatureCache(load_encoder("efficientnet_lite2"), tmp_path / "cache")
    photos = [photo.path for photo in read_corpus(tmp_path).photos]
    _, usable, errors = cache.features(photos)
    assert len(usable) == 1
    assert {error.name for error in errors} == {f"{tmp_path}/a.tar/bad.jpg", f"{tmp_path}/b.tar/none.jpg"}


def test_shards_by_file_pattern_and_list(tmp_path):
    for n in range(12):
        tar(tmp_path / f"train-{n:02}.tar", sample(f"{n:03}", n))
    tar(tmp_path / "val" / "0.tar", sample("v"))
    everything = read_corpus(tmp_path)
    assert [len(everything.split(split)) for split in ("train", "dev")] == [12, 1]
    pattern = read_corpus(f"{tmp_path}/{{train-{{08..11}},val/0}}.tar")
    assert [photo.id for photo in pattern.photos] == ["008.png", "009.png", "010.png", "011.png", "v.png"]
    assert [photo.split for photo in pattern.photos] == ["train"] * 4 + ["dev"]
    assert [photo.id for photo in read_corpus(tmp_path / "train-03.tar").photos] == ["003.png"]
    both = read_corpora([tmp_path / "train-03.tar", tmp_path / "val" / "0.tar"])
    assert [photo.id for photo in both.photos] == ["003.png", "v.png"]
    with pytest.raises(ValueError, match=r"train-12\.tar: no such shard"):
        read_corpus(f"{tmp_path}/train-{{10..12}}.tar")


def test_braces():
    assert _expand("a") == ["a"]
    assert _expand("{8..10}") == ["8", "9", "10"]
    assert _expand("{a,b}/{00..01}") == ["a/00", "a/01", "b/00", "b/01"]


def test_without_splits_they_are_drawn_by_photo_and_stay_when_shards_are_cut_anew(tmp_path):
    keys = [f"p{n}" for n in range(60)]
    for size in (20, 30):
        for start in range(0, 60, size):
            members = [member for key in keys[start : start + size] for member in sample(key)]
            tar(tmp_path / str(size) / f"{start}.tar", members)
    first, second = (read_corpus(tmp_path / size) for size in ("20", "30"))
    assert {photo.split for photo in first.photos} == set(SPLITS)
    assert first.fingerprint == second.fingerprint
    assert any("drawn by photo" in note for note in first.report.notes)


def test_shards_that_number_their_photos_each_on_their_own(tmp_path):
    tar(tmp_path / "train" / "0.tar", sample("0", 0, "one"))
    tar(tmp_path / "val" / "0.tar", sample("0", 1, "two"))
    corpus = read_corpus(tmp_path)
    assert {p.id: p.captions for p in corpus.photos} == {"0.png": ("one",), "val/0.tar/0.png": ("two",)}
    assert len({p.key for p in corpus.photos}) == 2
    tar(tmp_path / "val" / "0.tar", sample("0", 0, "two"))
    with pytest.raises(ValueError, match="is in both train and dev"):
        read_corpus(tmp_path)
    tar(tmp_path / "train" / "1.tar", sample("0", 0, "two"))
    (tmp_path / "val" / "0.tar").unlink()
    (photo,) = read_corpus(tmp_path / "train").photos
    assert photo.captions == ("one", "two")


def test_a_photo_with_a_row_a_caption_is_one_photo(tmp_path):
    pyarrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [("a.png", 0, "one"), ("a.png", 0, "two"), ("a.png", 1, "three"), (None, 2, "four"), (None, 3, "five")]
    cells = [{"image": {"bytes": PHOTOS[i], "path": path}, "text": text} for path, i, text in rows]
    files.write_table(pyarrow.Table.from_pylist(cells), tmp_path / "train.parquet", row_group_size=2)
    assert {p.id: p.captions for p in read_corpus(tmp_path / "train.parquet").photos} == {
        "a.png": ("one", "two"),
        "train.parquet/2/a.png": ("three",),
        "train.parquet/3": ("four",),
        "train.parquet/4": ("five",),
    }


def test_a_shard_counts_what_is_broken_and_goes_on(tmp_path):
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = tar(
        tmp_path / "train-0.tar",
        [
            *sample("good"),
            ("README", b"no key"),
            ("._good.png", b"junk of a Mac"),
            ("latin.png", PHOTOS[1]),
            ("latin.txt", "café".encode("latin-1")),
            ("json.png", PHOTOS[2]),
            ("json.json", b'{"caption": '),
            ("deep.png", PHOTOS[2]),
            ("deep.json", b"[" * 100_000),
            ("number.png", PHOTOS[2]),
            ("number.json", b'{"caption": 3}'),
            ("empty.png", PHOTOS[2]),
            ("empty.txt", b" \n"),
            ("bare.png", PHOTOS[3]),
            ("alone.txt", b"no photo"),
            ("good.png", PHOTOS[4]),
            ("long.png", PHOTOS[5]),
            ("long.txt", b"x " * 600_000),
            ("list.webp", PHOTOS[5]),
            ("list.json", b'["one", "two"]'),
        ],
    )
    with tarfile.open(path, "a") as file:
        file.addfile(link)
    corpus = read_corpus(tmp_path)
    assert {photo.id: photo.captions for photo in corpus.photos} == {
        "good.png": ("a dog",),
        "list.webp": ("one", "two"),
    }
    assert corpus.report.counts == {
        "broken captions": 4,
        "samples without a photo": 1,
        "photos without captions": 7,
        "empty captions": 1,
        "duplicate keys": 1,
    }
    assert "train-0.tar/latin.txt" in corpus.report.examples["broken captions"]


def test_nothing_is_written_whatever_a_member_is_called(tmp_path):
    place = tmp_path / "deep" / "shards"
    tar(place / "train.tar", [*sample("../../evil"), *sample(f"{tmp_path}/evil2"), *sample("./x/fine")])
    before = sorted(tmp_path.rglob("*"))
    corpus = read_corpus(place)
    assert [open_image(photo.path).size for photo in corpus.photos] == [(24, 24)] * 3
    assert {"../../evil.png", "x/fine.png"} <= {photo.id for photo in corpus.photos}
    assert sorted(tmp_path.rglob("*")) == before


def test_of_a_shard_that_is_cut_the_whole_samples_are_used(tmp_path):
    path = tar(tmp_path / "whole.tar", [member for n in range(4) for member in sample(f"{n}", n)])
    data = path.read_bytes()
    with tarfile.open(path) as file:
        ends = [m.offset_data + m.size for m in file if m.name.endswith(".txt")]
    path.unlink()
    shard = tmp_path / "train-0.tar"
    for cut in range(0, ends[-1] + 512, 256):
        shard.write_bytes(data[:cut])
        whole = [f"{n}.png" for n, end in enumerate(ends) if end <= cut]
        if not whole:
            with pytest.raises(ValueError, match=r"cut short or damaged: 1 \(train-0\.tar at byte"):
                read_corpus(tmp_path)
            continue
        corpus = read_corpus(tmp_path)
        assert [photo.id for photo in corpus.photos] == whole
        assert corpus.report.counts["shards cut short or damaged"] == 1
    header = ends[1] + -ends[1] % 512
    shard.write_bytes(data[:header] + b"\xff" * 512 + data[header + 512 :])
    tar(tmp_path / "train-1.tar", sample("next"))
    corpus = read_corpus(tmp_path)
    assert [photo.id for photo in corpus.photos] == ["0.png", "1.png", "next.png"]
    assert corpus.report.examples["shards cut short or damaged"] == [f"train-0.tar at byte {header:,}"]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_compressed_shards_are_refused(tmp_path, name):
    with tarfile.open(tmp_path / name, "w:gz"):
        pass
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=rf"{name}: gzip-compressed.*gunzip"):
            read_corpus(place)


class Counted(io.FileIO):
    """A file that counts what is read from it, behind any buffer."""

    total = 0

    def readinto(self, buffer):
        n = super().readinto(buffer)
        Counted.total += n
        return n

    def read(self, size=-1):
        data = super().read(size)
        Counted.total += len(data)
        return data

    def readall(self):
        data = super().readall()
        Counted.total += len(data)
        return data


@pytest.fixture
def counted(monkeypatch):
    def count(file, mode="r", buffering=-1, *rest, **options):
        if mode == "rb" and str(file).endswith(".tar"):
            return io.BufferedReader(Counted(file))
        return real(file, mode, buffering, *rest, **options)

    real = io.open
    monkeypatch.setattr(io, "open", count)
    monkeypatch.setattr(builtins, "open", count)
    Counted.total = 0


def test_of_large_shards_only_what_is_asked_is_read(tmp_path, counted):
    size, n = 1 << 20, 16
    for split in ("train", "val"):
        members = [m for i in range(n) for m in ((f"{split}{i}.png", bytes(size)), (f"{split}{i}.txt", b"a dog"))]
        tar(tmp_path / f"{split}.tar", members)
    Counted.total = 0
    corpus = read_corpus(tmp_path)
    assert len(corpus.photos) == 2 * n
    assert 0 < Counted.total < 2 * n * size / 20
    Counted.total = 0
    assert len(corpus.photos[7].path.read_bytes()) == size
    assert size <= Counted.total < size + 20_000
    assert [p.path.offset for p in corpus.split("train")] == sorted(p.path.offset for p in corpus.split("train"))


def test_of_parquet_only_the_row_group_that_is_asked_is_read(tmp_path, monkeypatch):
    pyarrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"image": {"bytes": bytes([n]) * 100_000, "path": f"{n}.png"}, "caption": "a dog"} for n in range(40)]
    files.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet", row_group_size=4)
    asked = []
    read = files.ParquetFile.read_row_group

    def counting(self, group, columns):
        asked.append((group, columns))
        return read(self, group, columns=columns)

    monkeypatch.setattr(files.ParquetFile, "read_row_group", counting)
    corpus = read_corpus(tmp_path)
    assert asked == [(group, ["image.path", "caption"]) for group in range(10)], "no bytes yet"
    asked.clear()
    for n, photo in enumerate(corpus.photos):
        if n >= 8:
            assert photo.path.read_bytes() == bytes([n]) * 100_000
    assert asked == [(group, ["image.bytes"]) for group in range(2, 10)], "each once"


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("data/train-0.parquet", lambda path: path.write_bytes(b"PAR1 nothing"), "damaged Parquet"),
        ("state.json", lambda path: path.write_text("[]"), "not written by save_to_disk"),
        ("dataset_dict.json", lambda path: path.write_text('{"splits": ["train"]}'), "no such file"),
        ("state.json", lambda path: path.write_text('{"_data_files": []}'), "without files"),
        (
            "state.json",
            lambda path: path.write_text('{"_data_files": [{"filename": "x.arrow"}]}'),
            r"x\.arrow: damaged",
        ),
        ("dataset_dict.json", lambda path: path.write_text("{"), "not JSON"),
        ("train.tar", lambda path: path.write_bytes(b"no tar"), r"train\.tar at byte 0"),
    ],
)
def test_what_is_damaged_is_refused_by_name(tmp_path, name, make, message):
    pytest.importorskip("pyarrow")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    with pytest.raises(ValueError, match=message) as error:
        read_corpus(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_files_of_other_columns_are_refused_and_broken_rows_counted(tmp_path):
    pyarrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cells = [{"bytes": PHOTOS[n], "path": f"{n}.png"} for n in range(4)]
    rows = [{"image": cell, "caption": text} for cell, text in zip(cells, ["one", None, " ", "four"], strict=True)]
    files.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    corpus = read_corpus(tmp_path)
    assert [photo.id for photo in corpus.photos] == ["0.png", "3.png"]
    assert corpus.report.counts == {"broken rows": 1, "empty captions": 1, "photos without captions": 1}
    files.write_table(pyarrow.Table.from_pylist([{"label": 1, "image": cells[0]}]), tmp_path / "z.parquet")
    with pytest.raises(ValueError, match=r"z\.parquet: no image column .* and caption column, only label, image"):
        read_corpus(tmp_path)


def test_a_cut_arrow_file_is_refused_and_a_row_with_a_path_alone_is_a_file(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "b.png").write_bytes(PHOTOS[1])
    cells = [{"bytes": PHOTOS[0], "path": "a.png"}, {"bytes": None, "path": "files/b.png"}, None]
    batch = pyarrow.RecordBatch.from_pylist([{"image": cell, "caption": "a dog"} for cell in cells])
    path = tmp_path / "data.arrow"
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch.slice(0, 1))
        writer.write_batch(batch.slice(1))
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}], "_split": "train[:10]"}')
    corpus = read_corpus(tmp_path)
    assert [photo.path.read_bytes() for photo in corpus.photos] == PHOTOS[:2]
    assert corpus.photos[1].path == tmp_path / "files" / "b.png"
    assert corpus.report.counts == {"broken rows": 1}
    assert {photo.split for photo in corpus.photos} == {"train", "dev"}, "of train alone one is held out"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"data\.arrow: damaged"):
        read_corpus(tmp_path)


def test_an_arrow_file_whose_ends_lie_anywhere_is_refused():
    data = Path(os.environ.get("MRNN_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    field = data.parent / "field" / "51" / "arrow_segfault"
    if not field.is_dir():
        pytest.skip(f"no field cases at {field}")
    with pytest.raises(ValueError, match=r"data-0\.arrow: damaged Parquet or Arrow file"):
        read_corpus(field)


def test_a_data_set_of_the_hub_is_read_where_the_library_keeps_it(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    parquet("data/{}-00000-of-00001.parquet")(tmp_path / "hub")
    table(tmp_path / "table")
    load, asked = datasets.load_dataset, []
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or load(str(tmp_path / "hub")))
    corpus = read_corpus("huggingface:someone/something")
    assert asked == ["someone/something"]
    assert corpus.name == "Hugging Face (someone/something)"
    assert corpus.fingerprint == read_corpus(tmp_path / "table").fingerprint
    assert [photo.path.read_bytes() for photo in sorted(corpus.photos, key=lambda photo: photo.id)] == PHOTOS

    def offline(name):
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ValueError, match=r"^huggingface:a/b cannot be loaded \(Couldn't reach the Hub\)$"):
        read_corpus("huggingface:a/b")


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    parquet("data/{}.parquet")(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"huggingface:a/b needs datasets: pip install 'mrnn\[hf-data\]'"):
        read_corpus(Path("huggingface:a/b"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"\.parquet: .* need pyarrow: pip install 'mrnn\[parquet\]'"):
        read_corpus(tmp_path)


def test_the_shell_trains_on_shards_and_measures_on_parquet(tmp_path):
    shards("{}-0000.tar")(tmp_path / "shards")
    parquet("data/{}.parquet")(tmp_path / "parquet")
    small = ["--training.epochs", "2", "--training.batch", "6", "--min-count", "1", "--model.multimodal", "16"]
    run, cache = tmp_path / "run", ["--cache", tmp_path / "cache"]
    for arguments, said in (
        (
            ["train", "mrnn", "--data", tmp_path / "shards", "--out", run, *small],
            "WebDataset (3 shards): 12 photos",
        ),
        (
            ["evaluate", run, "--data", tmp_path / "parquet", "--metrics", "likelihood"],
            "Hugging Face (3 files): 12 photos",
        ),
    ):
        command = [sys.executable, "-m", "mrnn", *map(str, (*arguments, *cache))]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert said in result.stderr and "perplexity" in result.stdout
