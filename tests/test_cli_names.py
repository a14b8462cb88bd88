"""Names of photos, folders and homes as people give them to the verbs, and systems that lack what Linux has."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from made import photo, pipeline

from mrnn.cli import main

HIDDEN = """
import sys
for name in ("fcntl", "pwd", "grp", "termios", "resource", "pty"):
    sys.modules[name] = None
from mrnn.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipeline(references=12).save(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in" / "below").mkdir(parents=True)
    for name in ("b.jpg", "a.jpg", "below/c.png", ".hidden.jpg"):
        photo(tmp_path / "in" / name, "red")
    (tmp_path / "in" / "notes.txt").write_text("no photo")
    return tmp_path / "in"


def run(*arguments, stdin=b"", start=("-m", "mrnn"), **environment):
    command = [sys.executable, *start, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, input=stdin, check=False, env={**os.environ, **environment})


def test_a_folder_is_walked_and_the_order_given_is_kept(model, photos, tmp_path, capsys):
    other = photo(tmp_path / "other.jpg", "blue")
    assert main(["caption", str(other), str(photos), "--model", str(model)]) == 0
    said = capsys.readouterr()
    names = [Path(line.split("\t")[0]).name for line in said.out.splitlines()]
    assert names == ["other.jpg", "a.jpg", "b.jpg", "c.png"]
    assert "passed over 1 hidden files" in said.err
    assert main(["rank", str(photos), "--sentence", "a red square", "--model", str(model)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    (tmp_path / "empty").mkdir()
    assert main(["caption", str(tmp_path / "empty"), "--model", str(model)]) == 1
    assert "holds no photo" in capsys.readouterr().err


def test_photos_are_named_by_a_file_or_by_standard_input(model, photos, tmp_path, capsys):
    names = [photos / "b.jpg", photos / "none.jpg", photos / "below"]
    (tmp_path / "list").write_bytes("\ufeff".encode() + "\r\n".join([*map(str, names), ""]).encode())
    assert main(["caption", "--files-from", str(tmp_path / "list"), "--model", str(model)]) == 1
    said = capsys.readouterr()
    assert [Path(line.split("\t")[0]).name for line in said.out.splitlines()] == ["b.jpg", "c.png"]
    assert "none.jpg: no such file" in said.err
    (tmp_path / "empty").mkdir()
    (tmp_path / "list").write_text(f"{tmp_path / 'empty'}\n \n{names[0]}", "utf-16")
    assert main(["caption", "--files-from", str(tmp_path / "list"), "--model", str(model)]) == 1
    said = capsys.readouterr()
    assert (said.out.count("b.jpg"), "empty: is a folder without a photo" in said.err) == (1, True)
    with_zeros = run("caption", "--files-from", "-", "-0", "--model", model, stdin=f"{names[0]}\0".encode())
    assert with_zeros.stdout.startswith(f"{names[0]}\t".encode()) and with_zeros.stdout.endswith(b"\0")


def test_auto_says_what_it_took_when_it_is_asked_for(model, photos, capsys):
    for asked, said in ((["--device", "auto"], True), ([], False), (["--device=cpu"], False)):
        assert main(["caption", str(photos / "a.jpg"), "--model", str(model), *asked]) == 0
        assert ("device: " in capsys.readouterr().err) == said
        assert main(["rank", str(photos / "a.jpg"), "--sentence", "a red square", f"--model={model}", *asked]) == 0
        assert ("device: " in capsys.readouterr().err) == said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_that_move_the_cursor_are_printed_as_escapes_and_whole_for_pipes(model, photos, capsys):
    name = photo(photos / "two\nlines\x1b[2J.jpg", "red")
    assert main(["caption", str(name), "--model", str(model)]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1 and r"two\nlines\x1b[2J.jpg" in out
    assert main(["caption", str(name), "-0", "--model", str(model)]) == 0
    assert capsys.readouterr().out.startswith(f"{name}\t")
    assert main(["caption", str(photos / "no\x1b[2Jsuch.jpg"), "--model", str(model)]) == 1
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_librarys_names_that_move_the_cursor_are_printed_as_escapes_too(model, tmp_path, capsys):
    pytest.importorskip("lance", reason="pylance is not installed")
    name, twin = photo(tmp_path / "in" / "two\nlines.jpg", "red"), tmp_path / "in" / "twin.jpg"
    twin.write_bytes(name.read_bytes())
    more = ["--library", str(tmp_path / "library"), "--model", str(model)]
    assert main(["index", str(tmp_path / "in"), *more]) == 0
    capsys.readouterr()
    assert main(["duplicates", *more]) == 0
    assert capsys.readouterr().out.splitlines() == [str(twin), str(tmp_path / "in" / r"two\nlines.jpg")]
    twin.unlink()
    assert main(["index", str(tmp_path / "in"), *more]) == 0
    for arguments, end in (["--paths"], "\n"), (["--paths", "-0"], "\0"), ([], "\n"):
        capsys.readouterr()
        assert main(["search", "--after", "1970-01-01", *arguments, *more]) == 0
        out = capsys.readouterr().out
        assert out.startswith(str(name) if "-0" in arguments else str(name).replace("\n", r"\n"))
        assert out.endswith(end)


def test_the_home_folder_is_found_wherever_a_path_is_given(model, photos, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(photos))
    monkeypatch.setenv("USERPROFILE", str(photos))
    (photos / "pairs.csv").write_text("image,caption\na.jpg,a red square\n")
    for arguments in (
        ["caption", "~/a.jpg"],
        ["rank", "~/a.jpg", "--sentence", "a red square"],
        ["score", "--pairs=~/pairs.csv"],
        ["explain", "~/a.jpg", "--out=~/why.png"],
    ):
        assert main([*arguments, f"--model={model}"]) == 0, capsys.readouterr().err
    assert (photos / "why.png").is_file()


def test_the_table_of_an_explanation_is_aligned_and_its_headings_differ(model, photos, capsys):
    assert main(["explain", str(photos / "a.jpg"), "--sentence", "a red square", "--model", str(model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "word" and "from word" in lines[0] and "from image" in lines[0]
    assert len({len(line) for line in lines}) == 1


def test_what_is_printed_is_utf8_whatever_the_locale(model, photos):
    name = photo(photos / "Straße 写真.jpg", "red")
    told = run("caption", name, "--model", model, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert told.stdout.startswith(str(name).encode())


@pytest.mark.parametrize(
    "arguments",
    [
        ["caption", "PHOTOS"],
        ["rank", "PHOTOS", "--sentence", "a red square"],
        ["explain", "PHOTOS/a.jpg"],
        ["index", "PHOTOS", "--library", "PHOTOS/../library"],
    ],
)
def test_no_verb_needs_what_only_unix_has(arguments, model, photos):
    if arguments[0] == "index":
        pytest.importorskip("lance", reason="pylance is not installed")
    told = run(*(a.replace("PHOTOS", str(photos)) for a in arguments), "--model", model, start=("-c", HIDDEN))
    assert told.returncode == 0, told.stderr


def test_serving_below_a_path_with_a_token_of_a_file(model, tmp_path):
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    (tmp_path / "token").write_text("secret\n")
    command = [sys.executable, "-m", "mrnn", "serve", "--model", model, "--port", "0", "--root-path", "/photos"]
    command += ["--library", tmp_path / "library", "--token-file", tmp_path / "token"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as server:
        try:
            address = server.stderr.readline().split()[0]
            assert address.startswith("http://127.0.0.1:") and address.endswith("/photos")
            place = address.removesuffix("photos")  # a proxy takes its path away
            page = urllib.request.urlopen(place).read().decode()
            assert 'src="app.js"' in page and 'src="/' not in page
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{place}v1/index")
            asked = urllib.request.Request(f"{place}v1/index", headers={"Authorization": "Bearer secret"})
            assert urllib.request.urlopen(asked).status == 200
        finally:
            server.terminate()


def test_a_port_that_is_taken_and_tokens_that_are_none_are_one_line(model, tmp_path, capsys):
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    (tmp_path / "empty").write_text("\n")
    assert main(["serve", "--model", str(model), "--token-file", str(tmp_path / "empty")]) == 1
    assert "holds no token" in capsys.readouterr().err
    assert main(["serve", "--token", "a", "--token-file", str(tmp_path / "empty")]) == 2
    assert main(["serve", "--root-path", "photos"]) == 2


def test_a_file_that_cannot_be_had_is_named_with_the_reason(model, photos, tmp_path, capsys):
    (tmp_path / "two").write_text("a token\nand another\n")
    (tmp_path / "none").write_text(" \n")
    for arguments, said in (
        (["serve", "--token-file", tmp_path / "absent"], "absent: no such file or directory"),
        (["serve", "--token-file", photos], "in: is a directory"),
        (["serve", "--token-file", tmp_path / "none"], "none: holds no token"),
        (["serve", "--token-file", tmp_path / "two"], "two: holds more than a token"),
        (["caption", "--files-from", tmp_path / "absent"], "absent: no such file or directory"),
        (["rank", photos / "a.jpg", "--sentences", tmp_path / "absent"], "absent: no such file or directory"),
    ):
        assert main([*map(str, arguments), "--model", str(model)]) == 1
        err = capsys.readouterr().err
        assert said in err and err.startswith("mrnn: error: ") and err.count("\n") == 1
