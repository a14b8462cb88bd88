"""Every command and snippet of the README is run, in a folder with sample photos and a small table."""

import os
import re
import shutil
import subprocess
import sys
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
    if line.startswith("mrnn ")
]
PYTHON = [block for language, block in BLOCKS if language == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("readme")
    for i, colour in enumerate(COLOURS):
        photo(place / f"{colour}.jpg", colour, i)
    shutil.copy(place / "red.jpg", place / "photo.jpg")
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


def test_make_demo_captions_the_samples():
    result = subprocess.run([sys.executable, "-m", "mrnn.demo"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "camera.png" in result.stdout and "likeliest first" in result.stdout
