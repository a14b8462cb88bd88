"""Every command and snippet of the documents is run, in a folder with sample photos and a small table."""

import contextlib
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from datetime import date
from pathlib import Path

import pytest
from made import COLOURS, photo

from mrnn.cli import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "README.ko.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    """Name of the page and text of every block of a language, each text once."""
    found = {}
    for page in PAGES:
        for kind, block in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.S):
            if kind == language:
                found.setdefault(block, page.name)
    return [(page, block) for block, page in found.items()]


# `serve` does not end, and `reproduce` needs the real data: both have tests of their own.
SHELL = list(
    dict.fromkeys(
        line.split("   #")[0].strip()
        for _, block in blocks("sh")
        for line in block.splitlines()
        if line.startswith("mrnn ") and not line.startswith(("mrnn serve", "mrnn reproduce"))
    )
)
PYTHON = blocks("python")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("readme")
    for i, colour in enumerate(COLOURS):
        photo(place / f"{colour}.jpg", colour, i)
    shutil.copy(place / "red.jpg", place / "photo.jpg")
    photo(place / "Pictures" / "2024" / "blue.jpg", "blue")
    (place / "sentences.txt").write_text("a dog runs on grass\ntwo people on a street\na red square\n")
    (place / "pairs.csv").write_text("image,caption\nred.jpg,a red square\nblue.jpg,a dog runs\n")
    (place / "foils.csv").write_text("image,caption,foil\nred.jpg,a red square,a blue square\n")
    rows = []
    for i in range(40):
        colour = list(COLOURS)[i % 4]
        photo(place / "my-data" / f"{i}.jpg", colour, i)
        rows.append(f"{i}.jpg,a {colour} square of one colour")
    (place / "my-data" / "captions.csv").write_text("\n".join(["image,caption", *rows]))
    return place


@pytest.fixture
def at_home(folder, monkeypatch):
    """In the folder, with a cache and a library of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MRNN_CACHE", str(folder / "cache"))
    monkeypatch.setenv("MRNN_LIBRARY", str(folder / "library"))
    return folder


@pytest.mark.parametrize("command", SHELL)
def test_a_command_runs(at_home, command, capsys):
    words = [found for word in shlex.split(command)[1:] for found in sorted(map(str, Path().glob(word))) or [word]]
    code, told = main(words), capsys.readouterr()
    assert code == 0, told.err
    assert told.out or told.err  # where nothing fits, that is what is said


def test_a_command_runs_in_a_shell(at_home):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = "mrnn caption *.jpg --n 2 --json | head -1"
    result = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and json.loads(result.stdout)["captions"], result.stderr


@pytest.mark.parametrize(("page", "snippet"), PYTHON)
def test_a_snippet_runs(at_home, page, snippet, capsys):
    exec(snippet, {})
    assert capsys.readouterr().out


def test_the_readme_has_commands_and_its_links_lead_somewhere():
    assert len(SHELL) >= 20 and PYTHON
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_equation_leads_to_a_line_of_code():
    rows = re.findall(r"\| `(.+)` \| (\S+\.py) \|", (ROOT / "docs" / "how-it-works.md").read_text())
    assert len(rows) >= 15
    for code, file in rows:
        lines = [line.strip() for line in (ROOT / "src" / "mrnn" / file).read_text().splitlines()]
        assert code in lines, f"{file} has no line {code}"


def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "site" / "api" / "index.html").is_file()


def test_the_korean_readme_has_the_same_commands():
    assert _code(README) == _code(ROOT / "README.ko.md")


def _code(page: Path) -> list[str]:
    """Commands and snippets, without their comments."""
    found = re.findall(r"```(?:sh|python)\n(.*?)```", page.read_text(), re.S)
    return [re.split(r"  #", line)[0].strip() for block in found for line in block.splitlines()]


def test_the_tables_are_those_that_the_command_made():
    made = (ROOT / "docs" / "results" / "flickr8k" / "tables.md").read_text()
    assert made.strip() in (ROOT / "docs" / "reproduction.md").read_text()


def test_the_readmes_figures_are_those_of_the_models_and_tables():
    made = (ROOT / "docs" / "results" / "flickr8k" / "tables.md").read_text().replace("0.", ".")
    rows = [line for line in README.read_text().splitlines() if line.startswith("| ") and "ours" in line]
    assert len(rows) >= 4
    for row in rows:
        for number in re.findall(r"\d*\.\d+", row):
            assert number.replace("0.", ".") in made, f"{number} of {row}"
    for name in ("base", "flickr8k"):
        config = json.loads((ROOT / "src" / "mrnn" / "bundled" / name / "config.json").read_text())
        for result in config["results"]:
            if name == "flickr8k" and "coco" in result["data"].lower():
                continue
            f = result["figures"]
            shown = [f"{f['perplexity']:.2f}", f"{f['BLEU-4']:.3f}"[1:], f"{f['CIDEr']:.3f}"[1:]]
            for direction in ("image-to-sentence", "sentence-to-image"):
                shown.append(f"{f[f'{direction} R@1']:.1f} / {f[f'{direction} R@10']:.1f}")
            row = " | ".join(shown)
            assert any(f"`{name}`" in line and row in line for line in README.read_text().splitlines()), row


def test_every_measurement_is_a_whole_row():
    with (ROOT / "docs" / "experiments.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    columns = ["date", "commit", "command", "data", "split", "figure", "before", "after", "seeds", "machine", "verdict"]
    assert rows[0] == columns and len(rows) > 1000
    assert all(len(row) == len(columns) and date.fromisoformat(row[0]) for row in rows[1:])


def test_serve_serves(folder):
    assert "mrnn serve" in README.read_text()
    command = [sys.executable, "-m", "mrnn", "serve", "--library", str(folder / "nothing"), "--port", "8765"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline, answer = time.monotonic() + 60, b""
        while not answer and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                answer = urllib.request.urlopen("http://127.0.0.1:8765/v1/health", timeout=5).read()
            time.sleep(0.2)
        assert json.loads(answer)["status"] == "ok"
    finally:
        server.terminate()
        assert server.wait(30) in (0, -15)


def test_make_demo_captions_the_samples():
    result = subprocess.run([sys.executable, "-m", "mrnn.demo"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "camera.png" in result.stdout and "likeliest first" in result.stdout
