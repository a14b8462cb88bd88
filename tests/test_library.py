import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from made import COLOURS, photo, pipeline
from PIL import Image

pytest.importorskip("lancedb", reason="lancedb is not installed")

from mrnn.cli import main
from mrnn.draw import draw_sheet
from mrnn.encoders.proposals import Proposals, Proposer
from mrnn.encoders.regions import BoxRegions
from mrnn.library import Filters, Library, photo_files
from mrnn.models import MRNNRegions, RegionsConfig
from mrnn.models.hand import TorchRuntime
from mrnn.networks import load_encoder
from mrnn.pipeline import Pipeline
from mrnn.tasks.familiarity import GUESS


@pytest.fixture(scope="module")
def pipe():
    return pipeline(references=5)


def made_photos(folder: Path) -> Path:
    for i, colour in enumerate(COLOURS):
        photo(folder / ("deep/er" if i % 2 else "") / f"{colour}.jpg", colour, i)
    return folder


@pytest.fixture
def photos(tmp_path):
    return made_photos(tmp_path / "photos")


@pytest.fixture
def library(pipe, tmp_path):
    return Library(tmp_path / "library", pipe)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Photos that no test changes."""
    return made_photos(tmp_path_factory.mktemp("album") / "photos")


@pytest.fixture(scope="module")
def shelf(pipe, album, tmp_path_factory):
    """A library of them."""
    library = Library(tmp_path_factory.mktemp("shelf") / "library", pipe)
    library.index(album)
    return library


def names(found) -> list[str]:
    return [f.path.stem for f in found]


def counts(report) -> tuple[int, int, int, int]:
    return report.added, report.recognised, report.removed, report.unchanged


def test_only_what_changed_is_read_again(library, photos, monkeypatch):
    assert counts(library.index(photos)) == (4, 0, 0, 0)
    monkeypatch.setattr(Library, "_read", None)  # nothing may be read
    assert counts(library.index(photos)) == (0, 0, 0, 4)
    monkeypatch.undo()
    (photos / "red.jpg").rename(photos / "crimson.jpg")
    (photos / "blue.jpg").unlink()
    photo(photos / "deep" / "er" / "green.jpg", "yellow", 77)
    photo(photos / "violet.png", "blue", 5)
    monkeypatch.setattr(Library, "_encode", _counting(Library._encode, encoded := []))
    assert counts(library.index(photos)) == (2, 1, 2, 1)
    assert encoded == [2], "the renamed photo is known by its content"
    assert len(library) == 4
    assert sorted(names(library.search("a square"))) == ["crimson", "green", "violet", "yellow"]


def test_photos_renamed_one_onto_the_next_keep_their_own_rows(library, tmp_path, monkeypatch):
    monkeypatch.setattr("mrnn.library.BATCH", 2)
    folder = tmp_path / "numbered"
    for i in range(6):
        photo(folder / f"{i}.jpg", list(COLOURS)[i % 4], i)
    library.index(folder)
    columns = ["path", "hash", "thumbnail", "image"]
    before = {row["path"]: row for row in library._rows(columns).to_pylist()}
    for i in reversed(range(6)):
        (folder / f"{i}.jpg").rename(folder / f"{i + 1}.jpg")
    report = library.index(folder)
    assert report.added + report.recognised == 6
    after = {row["path"]: row for row in library._rows(columns).to_pylist()}
    assert len(after) == 6
    for i in range(6):
        old, new = before[str(folder / f"{i}.jpg")], after[str(folder / f"{i + 1}.jpg")]
        assert (old["hash"], old["thumbnail"]) == (new["hash"], new["thumbnail"]), i
        assert new["image"] == pytest.approx(old["image"], abs=1e-3)


def test_a_folder_is_the_same_however_it_is_named(library, photos, monkeypatch):
    library.index(photos)
    roundabout = photos / "deep" / ".." / "." / "deep" / ".."
    assert counts(library.index(roundabout)) == (0, 0, 0, 4)
    assert len(library.search("a square", filters=Filters(folder=roundabout))) == 4
    monkeypatch.chdir(photos)
    assert counts(library.index(Path("deep"))) == (0, 0, 0, 2)


def _counting(method, seen):
    def wrapped(self, fresh):
        seen.append(len(fresh))
        return method(self, fresh)

    return wrapped


def test_photos_are_indexed_by_the_boxes_found_in_them(pipe, album, tmp_path):
    quarter = np.array([[0, 0, 0.5, 0.5]], np.float32)
    proposer = Proposer("made", "made", lambda photo: Proposals(quarter, np.ones(1, np.float32)))
    encoder = BoxRegions("boxes:made:efficientnet_lite0", load_encoder("efficientnet_lite0"), proposer, "made")
    torch.manual_seed(0)
    sizes = RegionsConfig(embedding=4, word=6, recurrent=6, multimodal=8, attention=3)
    model = TorchRuntime(MRNNRegions(sizes, len(pipe.vocabulary), 1280), "mrnn-regions", encoder.feature_shape)
    boxed = Library(tmp_path / "boxed", Pipeline(model, pipe.vocabulary, encoder))
    assert boxed.index(album).added == 4
    assert len(boxed.search("a red square")) == 4


def test_folders_are_walked_once_and_other_files_passed_over(photos, tmp_path):
    (photos / "deep" / "loop").symlink_to(photos)
    (photos / "notes.txt").write_text("no photo")
    (photos / "broken-link.jpg").symlink_to(tmp_path / "nothing.jpg")
    (photos / "deep" / "UPPER.JPG").write_bytes((photos / "red.jpg").read_bytes())
    found = sorted(Path(path).relative_to(photos).as_posix() for path, _ in photo_files(photos, []))
    assert found == ["blue.jpg", "deep/UPPER.JPG", "deep/er/green.jpg", "deep/er/yellow.jpg", "red.jpg"]


def test_photos_of_a_folder_that_cannot_be_read_are_kept(library, photos, monkeypatch):
    library.index(photos)
    scandir = os.scandir

    def refused(place):
        if Path(place).name == "er":
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refused)
    report = library.index(photos)
    assert report.removed == 0 and len(library) == 4
    assert [(Path(e.name).name, e.reason) for e in report.errors] == [("er", "cannot be read (Permission denied)")]


def test_what_is_no_file_is_no_photo(library, photos):
    os.mkfifo(photos / "pipe.jpg")
    assert library.index(photos).added == 4


def test_a_library_is_made_by_indexing_alone(photos, tmp_path):
    library = tmp_path / "mistyped"
    for arguments in (["search", "a dog"], ["export", tmp_path / "c.csv"], ["index", tmp_path / "nothing"]):
        assert main([*map(str, arguments), "--library", str(library)]) == 1
        assert not library.exists()
    (library / "photos.lance").mkdir(parents=True)  # all that a full disk let through
    (library / "photos.lance" / "half").touch()
    assert main(["index", str(photos), "--library", str(library)]) == 0


def test_bad_photos_are_named_each_time_and_found_never(library, photos):
    (photos / "bad.jpg").write_bytes(b"no photo")
    (photos / "empty.png").write_bytes(b"")
    for _ in range(2):
        report = library.index(photos)
        assert sorted((Path(e.name).name, e.reason) for e in report.errors) == [
            ("bad.jpg", "is not an image in a known format"),
            ("empty.png", "is empty"),
        ]
    assert len(library) == 4
    photo(photos / "bad.jpg", "red", 9)
    report = library.index(photos)
    assert report.added == 1
    assert len(report.errors) == 1


def test_another_folders_photos_stay(library, photos, tmp_path):
    library.index(photos)
    photo(tmp_path / "more" / "red2.jpg", "red", 50)
    assert counts(library.index(tmp_path / "more")) == (1, 0, 0, 0)
    assert len(library) == 5
    assert names(library.search("a square", filters=Filters(folder=tmp_path / "more"))) == ["red2"]


def test_nothing_is_written_outside_the_library(library, photos, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in photos.rglob("*")}
    library.index(photos)
    library.search("a red square")
    assert {p: p.stat().st_mtime_ns for p in photos.rglob("*")} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["library", "photos"]


def test_a_sentence_ranks_as_exact_likelihood_does(shelf, album):
    found = shelf.search("a red square", shortlist=4)
    paths = sorted(p for p in album.rglob("*.jpg"))
    exact = dict(zip(paths, shelf.pipeline.log_likelihood(paths, ["a red square"])[:, 0].tolist(), strict=True))
    assert [f.path for f in found] == sorted(paths, key=lambda p: -exact[p])
    # The thumbnail is cut from the same decoding as the encoder's input.
    assert [f.score for f in found] == pytest.approx([exact[f.path] for f in found], abs=0.05)
    assert len(shelf.search("a red square", top=2, shortlist=1)) == 2


def test_a_photo_finds_itself_first_and_both_go_together(shelf, album):
    found = shelf.search(like=album / "red.jpg")
    assert names(found)[0] == "red"
    assert found[0].score == pytest.approx(1, abs=1e-3)
    both = shelf.search("a square", like=album / "blue.jpg")
    assert len(both) == 4
    assert both[0].score >= both[-1].score


def test_filters(library, photos):
    exif = Image.Exif()
    exif[0x0132] = "2020:05:17 10:00:00"
    image = Image.open(photos / "red.jpg")
    image.save(photos / "dated.jpg", exif=exif)
    library.index(photos)
    all_of_them = library.search("a square", filters=Filters(before=date(2020, 5, 17)))
    assert names(all_of_them) == ["dated"]
    assert all_of_them[0].taken == "2020-05-17T10:00:00"
    assert "dated" not in names(library.search("a square", filters=Filters(after=date(2020, 5, 18))))
    assert sorted(names(library.search("a square", filters=Filters(folder=photos / "deep")))) == ["green", "yellow"]
    word = library.search("a square")[0].caption.split()[0]
    assert names(library.search("a square", filters=Filters(caption=word.upper())))
    assert library.search("a square", filters=Filters(caption="zebra")) == []


def test_an_upright_thumbnail(library, photos):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.open(photos / "red.jpg").resize((640, 400)).save(photos / "turned.jpg", exif=exif)
    library.index(photos)
    with Image.open(io.BytesIO(library.thumbnail(photos / "turned.jpg"))) as small:
        assert small.size == (160, 256)
    with pytest.raises(ValueError, match="not in the library"):
        library.thumbnail("/etc/passwd")


def test_names_with_quotes_and_of_any_script(library, photos):
    for name in ("it's.jpg", "'; DROP TABLE photos.jpg", "강아지.jpg"):
        photo(photos / name, "green", len(name))
    library.index(photos)
    assert len(library) == 7
    (photos / "it's.jpg").unlink()
    assert library.index(photos).removed == 1
    assert library.thumbnail(photos / "강아지.jpg")


def test_another_models_library_is_encoded_anew_only_with_rebuild(library, photos, tmp_path):
    library.index(photos)
    other = pipeline(["a", "square", "other"], references=3)
    with pytest.raises(ValueError, match="--rebuild"):
        Library(tmp_path / "library", other)
    again = Library(tmp_path / "library", other, rebuild=True)
    assert len(again) == 0
    assert again.index(photos).added == 4
    assert len(Library(tmp_path / "library", other, rebuild=True)) == 4, "of this model: nothing to rebuild"
    with pytest.raises(ValueError, match="no photo library"):
        Library(photos, other)
    with pytest.raises(ValueError, match="no such folder"):
        again.index(tmp_path / "nowhere")


def test_captions_are_exported(shelf, tmp_path):
    assert shelf.export(tmp_path / "captions.csv") == 4
    rows = list(csv.DictReader((tmp_path / "captions.csv").open()))
    assert {Path(row["image"]).stem for row in rows} == set(COLOURS)
    shelf.export(tmp_path / "captions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert {line["image"]: line["captions"][0] for line in lines} == {row["image"]: row["caption"] for row in rows}
    guesses = {line["image"] for line in lines if not line["familiar"]}
    assert guesses == {str(f.path) for f in shelf.search("a square") if not f.familiar}
    assert guesses == {row["image"] for row in rows if row["familiar"] == "false"}


def test_captions_are_written_beside_photos_and_over_nobodys_words(library, photos, tmp_path):
    library.index(photos)
    deep, mine = photos / "deep" / "er", photos / "deep" / "er" / "green.jpg.txt"
    mine.write_text("my own words\n")
    assert library.export_sidecars(photos / "deep") == (1, [mine])
    assert mine.read_text() == "my own words\n"
    assert sorted(p.name for p in photos.rglob("*.txt")) == ["green.jpg.txt", "yellow.jpg.txt"]
    assert library.export_sidecars(photos / "deep", overwrite=True) == (2, [])
    assert mine.read_text() != "my own words\n"
    assert library.export_sidecars(photos / "deep") == (2, [])
    deep.rename(tmp_path / "elsewhere")
    assert library.export_sidecars(photos / "deep") == (0, []), "no photo, no caption beside it"
    assert not deep.exists()
    with pytest.raises(ValueError, match="no such folder"):
        library.export_sidecars(tmp_path / "nowhere")


def test_what_cannot_be_exported_and_what_is_drawn(shelf, tmp_path):
    with pytest.raises(ValueError, match=r"\.csv or \.jsonl"):
        shelf.export(tmp_path / "captions.doc")
    found = shelf.search("a square")
    thumbnails = [shelf.thumbnail(f.path) for f in found]
    draw_sheet(thumbnails, [f.caption for f in found], "a square", tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").width > 500


@pytest.fixture
def mrnn(capsys):
    """A verb, run in this process: its exit code and what it prints."""

    def run(*arguments) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return run


def test_the_verbs(mrnn, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("MRNN_LIBRARY", str(tmp_path / "library"))
    (photos / "bad.jpg").write_bytes(b"no photo")
    code, _, err = mrnn("search", "a dog")
    assert code == 1
    assert "run mrnn index FOLDER first" in err
    code, out, indexing = mrnn("index", photos)
    assert code == 1
    assert f"left out {photos / 'bad.jpg'}: is not an image" in indexing
    assert "4 photos (4 new, 0 renamed or copied, 0 gone, 0 unchanged)" in out
    paths = mrnn("search", "a red square", "--paths", "--top", "3")[1].splitlines()
    assert len(paths) == 3
    assert all(Path(path).is_file() for path in paths)
    _, out, _ = mrnn("search", photos / "red.jpg", "--json", "--sheet", tmp_path / "sheet.png")
    first = json.loads(out.splitlines()[0])
    assert first["photo"] == str(photos / "red.jpg")
    _, _, marked = mrnn("search", photos / "red.jpg")
    assert first["familiar"] == (f"{first['photo']}: {GUESS}" not in marked)
    assert (GUESS in indexing) == (GUESS in marked), "all photos are found, so what indexing counts is marked"
    assert (tmp_path / "sheet.png").is_file()
    assert mrnn("export", tmp_path / "out.csv")[0] == 0
    for wrong in (["search"], ["search", "a dog", "--after", "yesterday"], ["export"], ["search", "a", "--top", "0"]):
        assert mrnn(*wrong)[0] == 2, wrong


# Batches of 16 photos, so that a few are many.
FEW = """
import mrnn.library
mrnn.library.BATCH = 16
from mrnn.cli import main
raise SystemExit(main())
"""


def test_a_kill_and_two_at_once_do_no_harm(mrnn, tmp_path):
    photos, library = tmp_path / "photos", tmp_path / "library"
    for i in range(80):
        photo(photos / f"{i}.jpg", list(COLOURS)[i % 4], i, size=(40, 30))
    options = ["--library", str(library), "--model", "flickr8k"]
    command = [sys.executable, "-c", FEW, "index", str(photos), *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet)
    deadline = time.monotonic() + 120
    while not list((library / "photos.lance" / "data").glob("*.lance")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    both = [subprocess.Popen(command, **quiet) for _ in range(2)]
    assert [p.wait() for p in both] == [0, 0]
    _, out, _ = mrnn("index", photos, *options)
    assert "80 photos (0 new, 0 renamed or copied, 0 gone, 80 unchanged)" in out
    code, _, _ = mrnn("export", tmp_path / "out.csv", *options)
    assert code == 0
    images = [row["image"] for row in csv.DictReader((tmp_path / "out.csv").open())]
    assert len(images) == len(set(images)) == 80


def test_searching_without_words_or_photos(shelf):
    with pytest.raises(ValueError, match="give a sentence or a photo"):
        shelf.search()
    with pytest.raises(ValueError, match="no word"):
        shelf.search("...")
    assert np.isfinite([f.score for f in shelf.search("a zebra")]).all()
