"""The campaign's inputs are those of their seed, and the first of them do not get through."""

import random

import pytest

from benchmarks.campaign import parts, photos
from benchmarks.campaign.hard import HARD
from benchmarks.campaign.kills import _one, _Save


@pytest.mark.parametrize(("part", "n"), [("photos", 60), ("tables", 60), ("folders", 8)])
def test_the_first_inputs_do_not_get_through(tmp_path, monkeypatch, part, n):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if part == "tables":
        pytest.importorskip("lance", reason="pylance is not installed")
    module = __import__(f"benchmarks.campaign.{part}", fromlist=["make"])
    for number in range(n):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert module.check(module.make(3, number, folder)) == ""


def test_an_input_can_be_had_again(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (photos.make(1, 17, tmp_path / name) for name in ("one", "two"))
    assert (one.name, one.read_bytes()) == (two.name, two.read_bytes())
    assert len(HARD) > 50 and {"photos", "tables", "folders", "kills"} <= set(parts())


def test_a_kill_is_looked_into(tmp_path):
    pytest.importorskip("lance", reason="pylance is not installed")
    assert _one(_Save(tmp_path), random.Random(0)) == ""
