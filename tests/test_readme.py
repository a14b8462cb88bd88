"""Every command and snippet of the README is run, in a folder with sample photos and a small table."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from made import COLOURS, photo

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README.read_text(), re.S)
SHELL = [
    line.split("   #")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    if line.startswith("mrnn ") and not line.startswith("mrnn serve")
]
PYTHON = [block for language, block in BLOCKS if language == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("readme")
    for i, colour in enumerate(COLOURS):
        photo(place / f"{colour}.jpg", colour, i)
    shutil.copy(place / "red.jpg", place / "photo.jpg")
    photo(place / "Pictures" / "2024" / "blue.jpg", "blue")
    (place / "sentences.txt").write_text("a dog runs on grass\ntwo people on a street\na red square\n")
    (place / "pairs.csv").write_text("image,caption\nred.jpg,a red square\nblue.jpg,a dog runs\n")
    rows = []
    for i in range(40):
        colour = list(COLOURS)[i % 4]
        photo(place / "my-data" / f"{i}.jpg", colour, i)
        rows.append(f"{i}.jpg,a {colour} square of one colour")
    (place / "my-data" / "captions.csv").write_text("\n".join(["image,caption", *rows]))
    return place


@pytest.mark.parametrize("command", SHELL)
def test_a_command_of_the_readme_runs(folder, command):
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "MRNN_CACHE": str(folder / "cache"),
        "MRNN_LIBRARY": str(folder / "library"),
    }
    result = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize("snippet", PYTHON)
def test_a_snippet_of_the_readme_runs(folder, snippet):
    result = subprocess.run([sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_the_readme_has_commands_and_its_links_lead_somewhere():
    assert len(SHELL) >= 8 and PYTHON
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert target.startswith("http") or (README.parent / target).exists(), target


def test_the_tables_are_those_that_the_command_made():
    made = (README.parent / "docs" / "results" / "flickr8k" / "tables.md").read_text()
    shown = re.search(r"<!-- flickr8k -->\n(.*?)\n<!-- end of flickr8k -->", README.read_text(), re.S)
    assert shown is not None
    assert made.startswith(shown[1])
    assert made.strip() in (README.parent / "docs" / "reproduction.md").read_text()


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
