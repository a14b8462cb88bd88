import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from made import COLOURS, photo, pipeline
from PIL import Image

pytest.importorskip("lance", reason="pylance is not installed")

from mrnn.cli import main
from mrnn.draw import draw_sheet
from mrnn.encoders.proposals import Proposals, Proposer
from mrnn.encoders.regions import BoxRegions
from mrnn.library import Filters, Library, LibraryGone, Walk, reading
from mrnn.library.tables import vectors as base_vectors
from mrnn.models import MRNNRegions, RegionsConfig
from mrnn.models.hand import TorchRuntime
from mrnn.networks import load_encoder
from mrnn.pipeline import Pipeline
from mrnn.tasks.confidence import GUESS


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
    monkeypatch.setattr(reading, "read_file", None)  # nothing may be read
    assert counts(library.index(photos)) == (0, 0, 0, 4)
    monkeypatch.undo()
    (photos / "red.jpg").rename(photos / "crimson.jpg")
    (photos / "blue.jpg").unlink()
    photo(photos / "deep" / "er" / "green.jpg", "yellow", 77)
    photo(photos / "violet.png", "blue", 5)
    encode, encoded = reading.encode, []

    def counting(pipe, fresh):
        encoded.append(len(fresh))
        return encode(pipe, fresh)

    monkeypatch.setattr(reading, "encode", counting)
    assert counts(library.index(photos)) == (2, 1, 2, 1)
    assert encoded == [2], "the renamed photo is known by its content"
    assert len(library) == 4
    assert sorted(names(library.search("a square"))) == ["crimson", "green", "violet", "yellow"]


def test_photos_renamed_one_onto_the_next_keep_their_own_rows(library, tmp_path, monkeypatch):
    monkeypatch.setattr("mrnn.library.reading.BATCH", 2)
    folder = tmp_path / "numbered"
    for i in range(6):
        photo(folder / f"{i}.jpg", list(COLOURS)[i % 4], i)
    library.index(folder)
    before = {path: library.thumbnail(path) for path in map(str, folder.iterdir())}
    for i in reversed(range(6)):
        (folder / f"{i}.jpg").rename(folder / f"{i + 1}.jpg")
    report = library.index(folder)
    assert report.added + report.recognised == 6
    assert len(library) == 6
    for i in range(6):
        assert library.thumbnail(folder / f"{i + 1}.jpg") == before[str(folder / f"{i}.jpg")], i


def test_a_folder_is_the_same_however_it_is_named(library, photos, monkeypatch):
    library.index(photos)
    roundabout = photos / "deep" / ".." / "." / "deep" / ".."
    assert counts(library.index(roundabout)) == (0, 0, 0, 4)
    assert len(library.search("a square", filters=Filters(folder=roundabout))) == 4
    monkeypatch.chdir(photos)
    assert counts(library.index(Path("deep"))) == (0, 0, 0, 2)


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
    found = sorted(Path(path).relative_to(photos).as_posix() for path, _ in Walk(photos))
    assert found == ["blue.jpg", "deep/UPPER.JPG", "deep/er/green.jpg", "deep/er/yellow.jpg", "red.jpg"]


def test_photos_of_a_folder_that_cannot_be_read_are_kept(library, photos, monkeypatch):
    library.index(photos)
    scandir = os.scandir

    def refused(place):
        if str(place).endswith("er"):
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
    told = "a red square a square"  # more than a phrase
    found = shelf.search(told, shortlist=4)
    paths = sorted(p for p in album.rglob("*.jpg"))
    exact = dict(zip(paths, shelf.pipeline.log_likelihood(paths, [told])[:, 0].tolist(), strict=True))
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
    guesses = {line["image"] for line in lines if line["guess"]}
    assert guesses == {str(f.path) for f in shelf.search("a square") if f.guess}
    assert guesses == {row["image"] for row in rows if row["guess"] == "true"}


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
    paths = mrnn("search", "a red square", "--paths", "--top", "3", "--all")[1].splitlines()
    assert len(paths) == 3
    assert all(Path(path).is_file() for path in paths)
    _, out, _ = mrnn("search", photos / "red.jpg", "--json", "--sheet", tmp_path / "sheet.png")
    first = json.loads(out.splitlines()[0])
    assert first["photo"] == str(photos / "red.jpg")
    _, _, marked = mrnn("search", photos / "red.jpg")
    assert first["guess"] == (f"{first['photo']}: {GUESS}" in marked)
    assert ("no more than a guess" in indexing) == (GUESS in marked), (
        "all photos are found, so what indexing counts is marked"
    )
    assert (tmp_path / "sheet.png").is_file()
    assert mrnn("export", tmp_path / "out.csv")[0] == 0
    for wrong in (["search"], ["search", "a dog", "--after", "yesterday"], ["export"], ["search", "a", "--top", "0"]):
        assert mrnn(*wrong)[0] == 2, wrong


# Batches of 16 photos, so that a few are many.
FEW = """
import mrnn.library.reading
mrnn.library.reading.BATCH = 16
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
    while not list((library / "contents.lance" / "data").glob("*.lance")) and time.monotonic() < deadline:
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
    assert [f.taken for f in shelf.search()] == sorted((f.taken for f in shelf.search()), reverse=True)
    with pytest.raises(ValueError, match="no word"):
        shelf.search("...")
    assert np.isfinite([f.score for f in shelf.search("a zebra")]).all()


def test_a_drive_that_is_away_costs_nothing(library, photos, tmp_path, mrnn):
    library.index(photos)
    away = tmp_path / "away"
    photos.rename(away)
    with pytest.raises(ValueError, match="gone or not mounted; its 4 photos stay"):
        library.index(photos)
    photos.mkdir()
    assert (library.index(photos).kept, len(library)) == (4, 4)
    photo(photos / "new.jpg", "red", 99)
    report = library.index(photos)
    assert (report.added, report.kept, len(library)) == (1, 4, 5), "fewer than half are left"
    (photos / "new.jpg").unlink()
    photos.rmdir()
    away.rename(photos)
    assert counts(library.index(photos)) == (0, 0, 1, 4)
    (photos / "red.jpg").rename(tmp_path / "red.jpg")
    for path in photos.rglob("*.jpg"):
        path.unlink()
    assert library.index(photos, prune=True).removed == 4
    assert len(library) == 0


def test_a_folder_that_was_renamed_keeps_its_photos_once(library, photos, tmp_path):
    library.index(photos)
    ids = {f.id for f in library.search("a square")}
    photos.rename(tmp_path / "renamed")
    assert counts(library.index(tmp_path / "renamed")) == (0, 4, 4, 0)
    found = library.search("a square")
    assert {f.id for f in found} == ids
    assert all(len(f.places) == 1 and f.path.is_file() for f in found)
    assert all(library.path_of(id).is_file() for id in ids)
    with pytest.raises(ValueError, match="no such folder"):
        library.index(photos)


def test_copies_are_one_result_with_its_places(library, photos, mrnn):
    copy = photos / "copy.jpg"
    copy.write_bytes((photos / "red.jpg").read_bytes())
    report = library.index(photos)
    assert (report.added, report.recognised, len(library)) == (4, 1, 4)
    assert library.duplicates() == [[copy, photos / "red.jpg"]]
    (both,) = [f for f in library.search("a square") if len(f.places) > 1]
    assert both.places == (copy, photos / "red.jpg")
    copy.unlink()
    library.index(photos)
    assert library.duplicates() == []
    assert len(library) == 4


def test_photos_are_forgotten_on_purpose(library, photos, tmp_path):
    library.index(photos)
    assert library.forget(photos / "deep") == 2
    assert len(library) == 2
    assert library.forget(tmp_path / "nowhere") == 0
    assert counts(library.index(photos)) == (2, 0, 0, 2)


def test_errors_that_may_have_healed_are_tried_again(library, photos, monkeypatch):
    bad, odd = photos / "bad.jpg", photos / "odd.jpg"
    bad.write_bytes((photos / "red.jpg").read_bytes()[:300])
    odd.write_bytes(b"of a format that an extra opens")
    assert len(library.index(photos).errors) == 2
    read, tried = reading.read_file, []

    def counting(pipe, file, known):
        tried.append(Path(file["path"]).name)
        return read(pipe, file, known)

    monkeypatch.setattr(reading, "read_file", counting)
    assert len(library.index(photos).errors) == 2
    assert tried == ["odd.jpg"]
    tried.clear()
    library.index(photos, retry=True)
    assert sorted(tried) == ["bad.jpg", "odd.jpg"]


def test_what_is_no_photo_of_yours_is_passed_over_and_counted(library, photos):
    for name in (".Trash-1000/a.jpg", "#recycle/b.jpg", "@eaDir/c.jpg", ".thumbnails/d.jpg", "._red.jpg", "x/raw.CR2"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes((photos / "red.jpg").read_bytes())
    photo(photos / "private" / "mine.jpg", "red", 5)
    report = library.index(photos, exclude=["private", "blue*"])
    assert report.added == 3
    assert report.errors == []
    assert report.passed["hidden, trash and thumbnail folders"] == 4
    assert report.passed["hidden files"] == 1
    assert report.passed["excluded folders"] == report.passed["excluded files"] == 1
    assert any(kind.startswith("CR2 photos, which need an extra") for kind in report.passed)


def test_links_are_followed_unless_that_is_not_asked_for(library, photos, tmp_path):
    elsewhere = photo(tmp_path / "elsewhere" / "a.jpg", "red", 7)
    (photos / "file.jpg").symlink_to(elsewhere)
    (photos / "folder").symlink_to(elsewhere.parent)
    assert library.index(photos).added == 5
    report = library.index(photos, links=False)
    assert (report.unchanged, report.removed, report.passed) == (4, 2, {"symbolic links": 2})


def test_two_names_of_no_utf8_stay_two(library, photos):
    content = (photos / "red.jpg").read_bytes()
    names = [os.fsdecode(name) for name in (b"\xfe.jpg", b"\xff.jpg")]
    for name in names:
        (photos / name).write_bytes(content)
    for _ in range(2):
        report = library.index(photos)
        assert sorted(Path(error.name).name for error in report.errors) == [r"\udcfe.jpg", r"\udcff.jpg"]
        assert report.removed == 0


def test_a_full_disk_and_a_damaged_table_are_told_in_our_words(library, photos, monkeypatch):
    def full(*_args):
        raise OSError("LanceError(IO): No space left on device (os error 28), /home/lance/src/local.rs:1:2")

    reason = f"{library.place}: .*No space left on device"
    with monkeypatch.context() as patched, pytest.raises(OSError, match=reason) as e:
        patched.setattr(library.tables, "latest", full)
        library.tables.write("files", [{"path": "a", "size": 1, "time": 1, "hash": "", "error": ""}])
    assert ".rs" not in str(e.value)
    library.index(photos)
    (data,) = (Path(str(library.place)) / "files.lance" / "data").glob("*.lance")
    data.write_bytes(data.read_bytes()[:-40] + bytes(40))
    with pytest.raises(LibraryGone):
        Library(str(library.place), library.pipeline).tables.read("files", ["path"])


def test_a_list_says_what_is_read_and_takes_nothing_out(library, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    listed = tmp_path / "photos.txt"
    listed.write_text(f"red.jpg\n\n{photos / 'deep/er/green.jpg'}\nred.jpg\nnothing.jpg\ndeep/er\n", "utf-16")
    report = library.index(listed)
    assert counts(report) == (3, 0, 0, 0), "a folder's photos, and none twice"
    assert [(Path(e.name).name, e.reason) for e in report.errors] == [
        ("nothing.jpg", "cannot be read (No such file or directory)")
    ]
    (photos / "red.jpg").unlink()
    listed.write_text("blue.jpg\n")
    assert counts(library.index(listed, exclude=["*.png"], prune=True)) == (1, 0, 0, 0)
    assert len(library) == 4
    assert library.index(listed, exclude="blue*").passed == {"excluded files": 1}
    (photos / "blue.jpg").rename(photos / "azure.jpg")
    listed.write_text("azure.jpg\n")
    assert counts(library.index(listed)) == (0, 1, 1, 0)


def test_a_second_writer_says_for_whom_it_waits(library, photos):
    told = []
    with library.tables.writing():
        later = threading.Thread(target=lambda: library.index(photos, waiting=told.append))
        later.start()
        deadline = time.monotonic() + 60
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
    later.join()
    assert told[0].startswith(f"process {os.getpid()} on ")
    assert len(library) == 4


def test_a_library_deleted_or_made_anew_is_told_and_found_again(library, pipe, photos, tmp_path):
    library.index(photos)
    assert library.search("a square")
    shutil.rmtree(tmp_path / "library")
    with pytest.raises(LibraryGone, match="is gone"):
        library.search("a square")
    again = Library(tmp_path / "library", pipe)
    assert library.search("a square") == []
    again.index(photos)
    assert len(library.search("a square")) == 4


def test_photos_are_listed_by_date_without_a_query(library, photos, mrnn, tmp_path):
    exif = Image.Exif()
    exif[0x0132] = "2031:05:17 10:00:00"
    Image.open(photos / "red.jpg").save(photos / "newest.jpg", exif=exif)
    library.index(photos)
    found = library.search(top=2)
    assert names(found)[0] == "newest"
    assert found[0].taken > found[1].taken
    assert names(library.search(filters=Filters(after=date(2031, 1, 1)))) == ["newest"]


def test_what_a_photo_speaks_against_is_cut_off(shelf):
    found = shelf.search("a red square")
    assert all(f.evidence is not None for f in found)
    assert [f.fits for f in found] == [f.evidence > 1 for f in found], "one bit makes the sentence twice as likely"
    assert found[0].evidence == max(f.evidence for f in found)


def test_a_library_of_the_first_format_is_taken_over(pipe, photos, tmp_path, monkeypatch):
    lance, pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    library = Library(tmp_path / "new", pipe)
    (photos / "bad.jpg").write_bytes(b"no photo")
    library.index(photos)
    found = library.search("a square")
    files = {
        row["hash"]: row for row in library.tables.read("files", ["path", "size", "time", "hash", "error"]).to_pylist()
    }
    contents = library.tables.read("contents", library.tables.schemas["contents"].names).to_pylist()
    rows = [{**files[row["hash"]], **row, "orientation": 1} for row in contents]
    rows.append({**files[""], "orientation": None, "image": None})
    kinds = {"size": pa.int64(), "time": pa.int64(), "orientation": pa.int16(), "width": pa.int32()}
    kinds |= {"height": pa.int32(), "thumbnail": pa.binary(), "image": pa.list_(pa.float32(), pipe.model.image_width)}
    kinds |= {"captions": pa.list_(pa.string()), "likelihoods": pa.list_(pa.float64())}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in rows[0]])
    old = tmp_path / "old"
    lance.write_dataset(pa.Table.from_pylist(rows, schema=schema), old / "photos.lance")
    (old / "library.json").write_text(json.dumps({**library.tables.identity, "format": 1}))
    monkeypatch.setattr(reading, "encode", None)  # no photo is encoded again
    taken = Library(old, pipe)
    assert [(f.id, f.path, f.caption) for f in taken.search("a square")] == [(f.id, f.path, f.caption) for f in found]
    assert not (old / "photos.lance").exists()
    monkeypatch.undo()
    assert counts(taken.index(photos)) == (0, 0, 0, 4)


def test_a_library_of_the_second_format_gets_a_column(pipe, photos, tmp_path, monkeypatch):
    lance = pytest.importorskip("lance")
    library = Library(tmp_path / "library", pipe)
    library.index(photos)
    found = [(f.id, f.path, f.caption, f.taken) for f in library.search("a square")]
    lance.dataset(str(tmp_path / "library" / "contents.lance")).drop_columns(["taken_from", "confidence"])
    (tmp_path / "library" / "library.json").write_text(json.dumps({**library.tables.identity, "format": 2}))
    monkeypatch.setattr(reading, "encode", None)  # no photo is encoded again
    again = Library(tmp_path / "library", pipe)
    assert [(f.id, f.path, f.caption, f.taken) for f in again.search("a square")] == found
    assert {f.taken_from for f in again.search("a square")} == {""}
    monkeypatch.undo()
    photo(photos / "IMG_20190304_050607.jpg", "red", 9)
    assert counts(again.index(photos)) == (1, 0, 0, 4)
    dated = Library(tmp_path / "library", pipe).search()
    assert {f.path.name: f.taken_from for f in dated}["IMG_20190304_050607.jpg"] == "name"
    assert {f.taken_from for f in dated} == {"name", "file"}, "those that were there before, too"
    assert {f.id: f.caption for f in dated}.items() >= {id: caption for id, _, caption, _ in found}.items()


def test_every_photo_gets_a_row_and_says_when_it_was_taken(pipe, library, tmp_path, capsys):
    folder = tmp_path / "album"
    folder.mkdir()
    made = Image.new("RGB", (64, 48), (200, 30, 30))
    wanted = {}
    for i, (name, tags, source) in enumerate(
        [
            ("tag.jpg", {0x0132: "2018:05:17 10:00:00"}, "EXIF"),
            ("IMG-20170304-WA0001.jpg", {0x0112: 40000}, "name"),
            ("takeout.jpg", {0x0132: "0000:00:00 00:00:00"}, "Takeout"),
            ("file.jpg", {0x0132: "9999:12:31 23:59:59"}, "file"),
        ]
    ):
        exif = Image.Exif()
        exif.update(tags)
        made.putpixel((0, 0), (i, 0, 0))
        content = io.BytesIO()
        if 0x0112 in tags:
            del exif[0x0112]
        made.save(content, "JPEG", exif=exif)
        if 0x0112 in tags:  # too large for a SHORT's sign
            head = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x40\x9c\0\0\0\0\0\0"
            plain = content.getvalue()
            content = io.BytesIO(plain[:2] + b"\xff\xe1" + (len(head) + 2).to_bytes(2) + head + plain[2:])
        (folder / name).write_bytes(content.getvalue())
        wanted[name] = source
    (folder / "takeout.jpg.json").write_text('{"photoTakenTime": {"timestamp": "1400000000"}}')
    os.utime(folder / "file.jpg", (4e9, 4e9))
    report = library.index(folder)
    assert counts(report) == (4, 0, 0, 0)
    found = library.search()
    assert {f.path.name: f.taken_from for f in found} == wanted
    assert [f.path.name for f in found] == ["file.jpg", "tag.jpg", "IMG-20170304-WA0001.jpg", "takeout.jpg"]
    library.export(tmp_path / "all.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert {Path(row["image"]).name: row["taken_from"] for row in rows} == wanted
    assert {(row["width"], row["height"]) for row in rows} == {(64, 48)}


@pytest.mark.parametrize("time", [2**80, -(2**80), 2**63, 0])
def test_a_files_time_may_be_any_number(pipe, photos, time):
    from mrnn.library.rows import file_row, read_file

    read = read_file(pipe, file_row(str(photos / "red.jpg"), 1, time), ())
    assert read.photo["taken_from"] in ("file", "")


def test_colours_of_thumbnails_and_served_copies_are_those_of_the_photo(library, photos):
    field = Path(__file__).resolve().parents[2] / "shared" / "field" / "08"
    if not field.is_dir():
        pytest.skip(f"no field cases at {field}")
    shutil.copy(field / "icc-adobergb.jpg", photos / "adobe.jpg")
    shutil.copy(field / "00-base.png", photos / "base.png")
    library.index(photos)
    adobe, base = (Image.open(io.BytesIO(library.thumbnail(photos / name))) for name in ("adobe.jpg", "base.png"))
    assert "icc_profile" not in adobe.info
    assert np.abs(np.asarray(adobe).astype(int) - np.asarray(base)).mean() < 2


def test_truncated_photos_are_taken_when_that_is_asked_for(library, photos):
    content = (photos / "red.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(content[: len(content) * 3 // 4])
    assert [error.reason for error in library.index(photos).errors] == ["is damaged (the file is truncated)"]
    library.pipeline.encoder.tolerant = True
    try:
        report = library.index(photos, retry=True)
    finally:
        library.pipeline.encoder.tolerant = False
    assert (counts(report), report.errors) == ((1, 0, 0, 4), [])
    assert Image.open(io.BytesIO(library.thumbnail(photos / "cut.jpg"))).size == (64, 48)


XMP = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"
 xmlns:darktable="http://darktable.sf.net/" darktable:history_end="3"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag><rdf:li>garden</rdf:li></rdf:Bag></dc:subject>%s
</rdf:Description></rdf:RDF></x:xmpmeta>"""


def test_xmp_sidecars_keep_what_others_wrote(library, photos, tmp_path):
    library.index(photos)
    mine = "<dc:description><rdf:Alt><rdf:li xml:lang='x-default'>my own words</rdf:li></rdf:Alt></dc:description>"
    (photos / "red.jpg.xmp").write_text(XMP % "")
    (photos / "blue.jpg.xmp").write_text(XMP % mine)
    before = (photos / "red.jpg").read_bytes()
    assert library.export_sidecars(photos, xmp=True) == (3, [photos / "blue.jpg.xmp"])
    assert (photos / "blue.jpg.xmp").read_text() == XMP % mine
    kept = (photos / "red.jpg.xmp").read_text()
    caption = next(f.caption for f in library.search("a square") if f.path.stem == "red")
    assert all(part in kept for part in ('xmp:Rating="4"', 'darktable:history_end="3"', "garden", caption, "generated"))
    assert library.export_sidecars(photos, xmp=True) == (3, [photos / "blue.jpg.xmp"]), "our own words are replaced"
    assert (photos / "red.jpg.xmp").read_text() == kept
    assert library.export_sidecars(photos, overwrite=True, xmp=True)[0] == 4
    assert "my own words" not in (photos / "blue.jpg.xmp").read_text()
    assert (photos / "red.jpg").read_bytes() == before
    (photos / "red.jpg.xmp").write_text("no XML")
    with pytest.raises(ValueError, match=r"red\.jpg\.xmp: is no XMP"):
        library.export_sidecars(photos, xmp=True)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_reads_the_sidecars(library, photos):
    library.index(photos)
    library.export_sidecars(photos, xmp=True)
    caption = next(f.caption for f in library.search("a square") if f.path.stem == "red")
    command = ["exiftool", "-json", "-XMP-dc:Description", "-XMP-iptcCore:AltTextAccessibility"]
    (told,) = json.loads(subprocess.run([*command, photos / "red.jpg.xmp"], capture_output=True, check=True).stdout)
    assert told["Description"] == told["AltTextAccessibility"] == caption


def test_a_query_says_what_it_cannot_mean(mrnn, photos, tmp_path):
    options = ["--library", tmp_path / "library", "--model", "flickr8k"]
    assert mrnn("index", photos, *options)[0] == 0
    code, _, err = mrnn("search", "typo.jpg", *options)
    assert (code, "no such photo" in err) == (1, True)
    assert "does not know '강아지'" in mrnn("search", "강아지", *options)[2]
    _, out, err = mrnn("search", "a dog runs in the snow", *options)
    assert "--all ranks the rest" in err or len(out.splitlines()) == 4
    assert len(mrnn("search", "a dog runs in the snow", "--all", *options)[1].splitlines()) == 4
    _, out, _ = mrnn("search", "--after", "1970-01-01", *options)
    dates = [line.split("\t")[1] for line in out.splitlines()]
    assert dates == sorted(dates, reverse=True)
    assert len(dates) == 4
    assert mrnn("duplicates", *options)[0] == 0
    assert "(2 files forgotten)" in mrnn("forget", photos / "deep", *options)[1]
    assert mrnn("forget", photos / "deep", *options)[0] == 1


def test_a_large_library_is_searched_through_an_index_that_grows_with_it(library, monkeypatch):
    monkeypatch.setattr("mrnn.library.tables.INDEXED", 1000)
    rng, tables = np.random.default_rng(0), library.tables
    kinds = rng.standard_normal((20, tables.width))

    def add(first: int, last: int) -> None:
        hashes = [f"{i:064x}" for i in range(first, last)]
        # Of twenty kinds, as photos are: partitions have nothing to find in vectors that are spread alike everywhere.
        noise = 0.3 * rng.standard_normal((len(hashes), tables.width))
        vectors = (kinds[np.arange(first, last) % len(kinds)] + noise).astype(np.float16)
        photo = {"width": 1, "height": 1, "thumbnail": b"", "captions": ["a"], "likelihoods": [0.0]}
        rows = [
            {"hash": hash, "image": vector, "taken": f"{2000 + i // 30}-01-01T00:00:00", **photo}
            for i, hash, vector in zip(range(first, last), hashes, vectors, strict=True)
        ]
        files = [{"path": h, "size": 0, "time": 0, "hash": h, "error": ""} for h in hashes]
        tables.commit("contents", tables.write("contents", rows))
        tables.commit("files", tables.write("files", files))

    add(0, 900)
    tables.tidy()
    assert not tables.indexed
    add(900, 2000)
    tables.tidy()
    assert tables.indexed
    add(2000, 2100)  # a twentieth, looked through beside the index
    query = kinds[0].astype(np.float32)
    found = tables.nearest(query, 100, "", ["hash", "image"])
    everything = tables.read("contents", ["hash", "image"])
    best = np.argsort(-(base_vectors(everything) @ query))[:10]
    assert set(everything["hash"].take(best).to_pylist()) <= set(found["hash"].to_pylist())
    assert base_vectors(found).shape == (100, tables.width)
    # The thirty of a year lie anywhere: all partitions are looked at for them.
    year = Filters(after=date(2030, 1, 1), before=date(2030, 12, 31))
    assert len(library.search("a square", top=30, filters=year)) == 30
    add(2100, 2400)
    tables.tidy()
    assert tables.latest("contents").index_statistics("image_idx")["num_unindexed_rows"] == 0
    assert len(library.search("a square", top=20)) == 20


def test_a_folder_of_many_photos_is_looked_for_among_what_is_found(library, photos, tmp_path, monkeypatch):
    library.index(photos)
    for i in range(40):
        photo(tmp_path / "more" / f"{i}.jpg", "red", 50 + i % 100)
    library.index(tmp_path / "more")
    few = Filters(folder=photos / "deep")
    asked = (("a square",), (None, photos / "red.jpg"), ())
    told = [names(library.search(*ask, top=3, filters=few)) for ask in asked]
    monkeypatch.setattr("mrnn.library.searching.NAMED", 1)
    assert told[:2] == [names(library.search(*ask, top=3, filters=few)) for ask in asked[:2]]
    for expected, ask in zip(told, asked, strict=True):
        assert sorted(names(library.search(*ask, top=3, filters=few))) == sorted(expected) == ["green", "yellow"]
