import contextlib
import itertools
import json
import math
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from made import flickr, photo, pipeline

from mrnn.cli import main
from mrnn.cli.console import as_json, say
from mrnn.cli.models import by_photo
from mrnn.corpora import Photo
from mrnn.pipeline import load
from mrnn.recipes import RECIPES
from mrnn.tasks.generation import Caption

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="the tokeniser and METEOR need Java")


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def mrnn(capsys):
    """A verb, run in this process."""

    def run(*arguments) -> Result:
        code = main([str(a) for a in arguments])
        return Result(code, *capsys.readouterr())

    return run


def spawn(*arguments, start=("-m", "mrnn")) -> Result:
    """A verb in a process of its own."""
    command = [sys.executable, *start, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return Result(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipeline().save(folder)
    return folder


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "ranker"
    pipeline(references=12).save(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return flickr(tmp_path_factory.mktemp("flickr"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Features of the made photos, encoded once."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def shelf(made, tmp_path_factory):
    """A library of the made photos."""
    pytest.importorskip("lance", reason="pylance is not installed")
    folder = tmp_path_factory.mktemp("shelf") / "library"
    assert main(["index", str(made / "images"), "--library", str(folder), "--model", "flickr8k"]) == 0
    return folder


def one_line_error(result, code, *words):
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("mrnn: "), result.err
    for word in words:
        assert word in lines[0]


def test_caption_prints_a_line_a_photo(mrnn, model, tmp_path):
    photos = [photo(tmp_path / f"{c}.jpg", c) for c in ("red", "blue")]
    result = mrnn("caption", *photos, "--model", model)
    assert result.code == 0, result.err
    lines = [line.split("\t") for line in result.out.splitlines()]
    assert [name for name, *_ in lines] == [str(p) for p in photos]
    assert all(text and not share for _, text, share in lines), "this model keeps no confidence"
    assert result.err == ""


def test_truncated_photos_are_used_when_that_is_asked_for(mrnn, model, tmp_path):
    cut = photo(tmp_path / "cut.jpg", "red", size=(200, 150))
    cut.write_bytes(cut.read_bytes()[:-1000])
    (tmp_path / "sentences.txt").write_text("a red square\n")
    for verb in (("caption", cut), ("rank", cut, "--sentences", tmp_path / "sentences.txt", "--score", "raw")):
        refused = mrnn(*verb, "--model", model)
        assert (refused.code, refused.out) == (1, "")
        assert "is damaged (the file is truncated)" in refused.err
        taken = mrnn(*verb, "--model", model, "--tolerant")
        assert (taken.code, taken.out.startswith(str(cut))) == (0, True)


def test_captions_go_into_a_file_though_a_bar_is_on_the_terminal(model, tmp_path):
    photos = [photo(tmp_path / f"{c}.jpg", c) for c in ("red", "blue")]
    out, (terminal, end) = tmp_path / "out.txt", pty.openpty()
    command = [sys.executable, "-m", "mrnn", "caption", *map(str, photos), "--model", str(model)]
    with out.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=end) as process:
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while some := os.read(terminal, 4096):
                shown += some
    os.close(terminal)
    assert process.returncode == 0
    assert b"captioning" in shown and str(photos[0]).encode() not in shown
    assert [line.split("\t")[0] for line in out.read_text().splitlines()] == [str(p) for p in photos]


def test_a_photos_sample_does_not_depend_on_bad_photos_before_it(mrnn, model, tmp_path):
    photos = [photo(tmp_path / f"{i}.jpg", "red", i) for i in range(3)]
    expected = mrnn("caption", *photos, "--model", model, "--sample")
    bad = [tmp_path / f"missing{i}.jpg" for i in range(33)]
    result = mrnn("caption", photos[0], *bad, *photos[1:], "--model", model, "--sample")
    assert result.code == 1 and result.out == expected.out


def test_caption_json_holds_likelihoods_and_goes_on_after_bad_photos(mrnn, model, tmp_path):
    good = photo(tmp_path / "good.png", "red")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a photo")
    whole = photo(tmp_path / "whole.jpg", "blue").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    bad = [tmp_path / name for name in ("empty.jpg", "text.jpg", "cut.jpg", "gone.jpg")]
    photos = [bad[0], bad[1], good, bad[2], bad[3]]
    code, out, err = mrnn("caption", *photos, "--model", model, "--json", "--n", 2)
    assert code == 1
    records = {r["photo"]: r for r in map(json.loads, out.splitlines())}
    first, second = records[str(good)]["captions"]
    assert first["score"] >= second["score"]
    assert sum(t["log_probability"] for t in first["tokens"]) == pytest.approx(first["log_likelihood"])
    for path in bad:
        assert records[str(path)]["error"]
        assert str(path) in err
    assert len(err.splitlines()) == 4


def test_a_name_that_is_no_utf8_is_printed_byte_for_byte(model, tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff.jpg"
    Path(os.fsdecode(name)).write_bytes(photo(tmp_path / "p.jpg", "red").read_bytes())
    command = [sys.executable, "-m", "mrnn", "caption", name, "--model", str(model)]
    plain = subprocess.run(command, capture_output=True, check=False)
    assert (plain.returncode, plain.stdout.partition(b"\t")[0]) == (0, name), plain.stderr
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    assert os.fsencode(found["photo"]) == name


def test_a_bomb_is_refused_at_once(model, tmp_path):
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = b"IDAT" + zlib.compress(bytes(6251) * 50_000)
    png += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    (tmp_path / "bomb.png").write_bytes(png)
    one_line_error(
        spawn("caption", tmp_path / "bomb.png", "--model", model), 1, "bomb.png", "more pixels than the limit"
    )


@pytest.mark.parametrize("options", [["--sample", "--seed", "3", "--top-p", "0.9"], ["--beam", "2"], ["--n", "7"]])
def test_caption_takes_search_options(mrnn, model, tmp_path, options):
    path = photo(tmp_path / "p.jpg", "red")
    first = mrnn("caption", path, "--model", model, *options)
    assert first.code == 0
    assert mrnn("caption", path, "--model", model, *options) == first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], []),
        (["dance"], ["dance"]),
        (["caption"], ["photo"]),
        (["caption", "x.jpg", "--n", "many"], ["--n"]),
        (["caption", "x.jpg", "--wings"], ["--wings"]),
        (["caption", "x.jpg", "--sample", "--beam", "3"], ["--sample"]),
        (["caption", "x.jpg", "--n", "5", "--beam", "3"], ["beam"]),
        (["caption", "x.jpg", "--sample", "--temperature", "0"], ["temperature"]),
        (["caption", "x.jpg", "--sample", "--temperature", "nan"], ["temperature"]),
        (["caption", "x.jpg", "--top-p", "0.9"], ["--top-p", "--sample"]),
        (["evaluate"], ["--data"]),
        (["evaluate", "--data", ".", "--beam", "0"], ["--beam"]),
        (["evaluate", "--data", ".", "--beam", "3", "--consensus", "plain"], ["--beam"]),
        (["evaluate", "--data", ".", "--exact", "--shortlist", "9"], ["--shortlist"]),
        (["evaluate", "--data", ".", "--metrics", "likelihood", "--beam", "3"], ["--beam"]),
        (["evaluate", "--data", ".", "--metrics", "likelihood", "--exact"], ["--exact"]),
        (["evaluate", "--data", ".", "--metrics", "captions", "--plots", "p"], ["--plots"]),
        (["evaluate", "--data", ".", "--metrics", "retrieval", "--consensus", "plain"], ["--consensus"]),
        (["serve", "--port", "99999"], ["--port"]),
        (["export", "c.csv", "--overwrite"], ["--overwrite"]),
        (["reproduce", "flickr8k", "--data", ".", "--device", "foo"], ["--device foo"]),
        (["evaluate", "--data", ".", "--consensus", "plain", "--temperature", "5"], ["--temperature"]),
        (["evaluate", "--data", ".", "--consensus", "weighted", "--temperature", "0"], ["--temperature"]),
        (["train"], []),
        (["train", "cake"], ["cake"]),
        (["train", "agreement"], ["--data"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--model.word", "0"], ["model.word"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--training.optimizer", "sgd"], ["weight_decay"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--min-count", "0"], ["min_count"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--references", "0"], ["image_gain"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--device", "foo"], ["--device foo"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--device", "meta"], ["--device meta"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--encoder", "unknown"], ["no encoder 'unknown'"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--training.clip", "nan"], ["training.clip"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--training.learning-rate", "inf"], ["learning_rate"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--training.seed", str(2**40)], ["training.seed"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--training.objective.l2", "nan"], ["objective.l2"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--generation.length-exponent", "nan"], ["exponent"]),
        (["train", "agreement", "--data", ".", "--out", "o", "--generation.max-length", str(10**9)], ["length"]),
        (["caption", "x.jpg", "--beam", str(10**8)], ["beam"]),
        (["caption", "x.jpg", "--sample", "--seed", str(10**20)], ["seed"]),
    ],
)
def test_bad_usage_is_one_line_and_code_2(arguments, words, mrnn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = mrnn(*arguments)
    assert code == 2
    if words:
        assert len(err.splitlines()) == 1
    assert all(word in err for word in words)
    assert not list(tmp_path.iterdir())


def test_a_process_ends_with_the_code():
    one_line_error(spawn("dance"), 2, "dance")


def test_a_device_that_there_is_not_is_bad_usage(mrnn, made, shelf, tmp_path):
    path = photo(tmp_path / "p.jpg", "red")
    (tmp_path / "pairs.csv").write_text("image,caption\np.jpg,a red square\n")
    for arguments in (
        ["caption", path],
        ["explain", path],
        ["rank", path, "--sentence", "a red square"],
        ["score", "--pairs", tmp_path / "pairs.csv"],
        ["evaluate", "--data", made],
        ["evaluate", "--data", made, "--runtime", "torch"],
        ["index", tmp_path, "--library", tmp_path / "library"],
        ["search", "a red square", "--library", shelf],
        ["export", tmp_path / "captions.csv", "--library", shelf],
        ["serve"],
        ["train", "mrnn", "--data", made, "--out", tmp_path / "run"],
        ["reproduce", "flickr8k", "--data", made, "--out", tmp_path / "results"],
    ):
        one_line_error(mrnn(*arguments, "--device", "nonsense"), 2, "--device nonsense")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.jpg", "pairs.csv"]


def test_help_and_version_answer(mrnn):
    for arguments in (
        ["--help"],
        ["caption", "--help"],
        ["train", "--help"],
        ["train", "base", "--help"],
        ["--version"],
    ):
        code, out, _ = mrnn(*arguments)
        assert code == 0
        assert "mrnn" in out


SMALL = ["--training.epochs", "3", "--training.batch", "6", "--min-count", "1", "--model.multimodal", "32"]


@pytest.fixture
def short(monkeypatch):
    """`agreement` comes after two epochs of `mrnn`."""
    recipe = RECIPES["mrnn"]()
    monkeypatch.setitem(RECIPES, "mrnn", lambda: replace(recipe, training=replace(recipe.training, epochs=2)))


class Unmeasured:
    def compute_score(self, truths, results):
        return 0.0, []


@needs_java
def test_train_evaluate_and_caption_from_a_made_data_set(mrnn, made, cache, tmp_path, short, monkeypatch):
    out = tmp_path / "run"
    command = ["train", "agreement", "--data", made, "--out", out, "--cache", cache, *SMALL]
    result = mrnn(*command)
    assert result.code == 0, result.err
    assert "12 train, 6 dev, 6 test" in result.err
    assert "dev perplexity" in result.out
    for name in (
        "model.safetensors",
        "encoder.safetensors",
        "encoder.onnx",
        "config.json",
        "vocab.txt",
        "README.md",
        "references.safetensors",
        "log.jsonl",
        "curves.png",
    ):
        assert (out / name).is_file()
    again = mrnn(*command)
    assert again.code == 0 and again.out == result.out, "a finished run stays as it is"
    other = shutil.copytree(made, tmp_path / "other")
    photo(other / "images" / "100000_0123456789.jpg", "blue", 99)
    changed = mrnn(*(other if part is made else part for part in command))
    assert changed.code == 1 and "belongs to a run that differs in photos;" in changed.err

    figures = tmp_path / "figures.json"
    plots = tmp_path / "plots"
    result = mrnn("evaluate", out, "--data", made, "--cache", cache, "--json", figures, "--plots", plots)
    assert result.code == 0, result.err
    written = json.loads(figures.read_text())
    assert written["figures"]["photos"] == 6
    assert {"perplexity", "BLEU-4", "CIDEr", "METEOR", "precision-2", "distinct"} <= set(written["figures"])
    assert {"model_fingerprint", "data_fingerprint", "code", "command"} <= set(written)
    assert {"image-to-sentence R@1", "sentence-to-image median rank chance"} <= set(written["figures"])
    assert len(written["captions"]) == 6
    assert sorted(p.name for p in plots.iterdir()) == ["gallery.png", "recall.png"]
    monkeypatch.setattr("pycocoevalcap.meteor.meteor.Meteor", Unmeasured)  # once is enough: it takes seconds
    for kind in (["plain"], ["weighted", "--temperature", "5"]):
        result = mrnn("evaluate", out, "--data", made, "--cache", cache, "--metrics", "captions", "--consensus", *kind)
        assert result.code == 0 and "CIDEr" in result.out, result.err

    result = mrnn("caption", next((made / "images").iterdir()), "--model", out)
    assert result.code == 0 and result.out


def test_captions_of_photos_with_one_id_are_told_apart_by_their_paths(tmp_path):
    photos = [Photo(name, tmp_path / place / name, ("x",), "test", "") for place in "ab" for name in ("1.jpg", place)]
    captions = [Caption(f"caption {i}", (), (), 0.0) for i in range(4)]
    assert by_photo(photos, captions) == {
        str(tmp_path / "a" / "1.jpg"): "caption 0",
        "a": "caption 1",
        str(tmp_path / "b" / "1.jpg"): "caption 2",
        "b": "caption 3",
    }


def test_a_killed_training_goes_on(mrnn, made, cache, tmp_path):
    out = tmp_path / "run"
    command = ["train", "mrnn", "--data", made, "--out", out, "--cache", cache, *SMALL]
    command += ["--training.epochs", "20", "--training.patience", "20"]
    process = subprocess.Popen([sys.executable, "-m", "mrnn", *map(str, command)], stderr=subprocess.DEVNULL)
    while not (out / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "model.safetensors").exists()
    result = mrnn(*command)
    assert result.code == 0, result.err
    assert (out / "model.safetensors").exists()


def test_rank_sentences_for_photos(mrnn, ranker, tmp_path):
    photos = [photo(tmp_path / f"{c}.jpg", c) for c in ("red", "blue")]
    sentences = tmp_path / "s.txt"
    sentences.write_bytes(b"\xef\xbb\xbfa red square\n\n  a blue square \r\n...\na zebra xylophone\nzebra\n")
    code, out, err = mrnn("rank", *photos, "--sentences", sentences, "--model", ranker, "--top", 50)
    assert code == 1, "a line without a word was left out"
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == [str(photos[0])] * 4 + [str(photos[1])] * 4
    assert {row[2] for row in rows} == {"a red square", "a blue square", "a zebra xylophone", "zebra"}
    for start in (0, 4):
        scores = [float(row[1]) for row in rows[start : start + 4]]
        assert scores == sorted(scores, reverse=True)
    assert "line 4: it has no word" in err
    assert "line 6: none of its words is known" in err


def test_rank_photos_for_a_sentence(mrnn, ranker, tmp_path):
    photos = [photo(tmp_path / f"{c}.jpg", c) for c in ("red", "blue", "green")]
    (tmp_path / "bad.jpg").write_text("no photo")
    arguments = ["rank", "--sentence", "a red square", *photos, photos[0], tmp_path / "bad.jpg", "--model", ranker]
    code, out, err = mrnn(*arguments, "--json", "--top", "3")
    assert code == 1 and "bad.jpg" in err
    records = [json.loads(line) for line in out.splitlines()]
    assert len(records) == 3
    assert [r["score"] for r in records] == sorted((r["score"] for r in records), reverse=True)
    code, out, _ = mrnn(*arguments[:-3], "--model", ranker, "--top", "9")
    values = {}
    for line in out.splitlines():
        name, value, *_ = line.split("\t")
        values.setdefault(name, []).append(value)
    assert len(values[str(photos[0])]) == 2 and len(set(values[str(photos[0])])) == 1, "a photo given twice ties"


def test_a_pool_that_is_read_in_parts_ranks_the_same(mrnn, ranker, tmp_path, monkeypatch):
    path = photo(tmp_path / "p.jpg", "red")
    lines = [" ".join(words) for words in itertools.permutations(["a", "red", "blue", "large"], 3)]
    (tmp_path / "s.txt").write_text("\n".join(lines))
    arguments = ["rank", path, "--sentences", tmp_path / "s.txt", "--model", ranker, "--top", "6"]
    whole = mrnn(*arguments)
    monkeypatch.setattr("mrnn.cli.photos.SENTENCES_AT_ONCE", 7)
    assert mrnn(*arguments) == whole


@pytest.mark.parametrize("score", ["raw", "normalised", "per-token", "posterior"])
def test_every_score_ranks(mrnn, ranker, tmp_path, score):
    path = photo(tmp_path / "p.jpg", "red")
    (tmp_path / "s.txt").write_text("a red square\na blue square\n")
    code, out, err = mrnn("rank", path, "--sentences", tmp_path / "s.txt", "--model", ranker, "--score", score)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 2


def test_rank_refuses_what_it_cannot_do(mrnn, ranker, model, tmp_path):
    path = photo(tmp_path / "p.jpg", "red")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "s.txt").write_text("a red square\n")
    for arguments, code, word in [
        (["rank"], 2, "photo"),
        (["rank", path], 2, "--sentences"),
        (["rank", path, "--sentence", "x", "--sentences", tmp_path / "s.txt"], 2, "either"),
        (["rank", path, "--sentence", "x", "--top", "0"], 2, "--top"),
        (["rank", path, "--sentence", "", "--model", ranker], 1, "no word"),
        (["rank", path, "--sentences", tmp_path / "empty.txt", "--model", ranker], 1, "no sentence"),
        (["rank", path, "--sentences", tmp_path / "gone.txt", "--model", ranker], 1, "gone.txt"),
        (["rank", path, "--sentences", tmp_path / "s.txt", "--model", model], 1, "reference images"),
        (["score"], 2, "--pairs"),
        (["score", "--pairs", tmp_path / "s.txt", "--prior-weight", 3], 2, "--prior-weight"),
        (["rank", path, "--sentence", "a", "--score", "raw", "--prior-weight", 1], 2, "--prior-weight"),
        (["score", "--pairs", tmp_path / "s.txt"], 1, "not a CSV"),
    ]:
        got, out, err = mrnn(*arguments)
        assert got == code, (arguments, err)
        assert word in err and out == "" and len(err.splitlines()) == 1


def test_score_gives_every_pair_its_worth(mrnn, ranker, tmp_path):
    photo(tmp_path / "red.jpg", "red")
    table = tmp_path / "pairs.csv"
    table.write_text(
        'image,caption\nred.jpg,a red square\nred.jpg,...\ngone.jpg,a blue square\n,x\nred.jpg,a "blue" square\n'
    )
    code, out, err = mrnn("score", "--pairs", table, "--model", ranker)
    assert code == 1
    assert "gone.jpg: no such file" in err and "it has no word" in err and "line 5" in err
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert len(header) == len(rows[0]) == 7 and len(rows) == 2
    raw, normalised, bits, _ = map(float, rows[0][2:6])
    assert bits == pytest.approx(raw / math.log(2) / 4, abs=1e-3), "three words and the end sign"
    assert normalised != raw
    code, out, _ = mrnn("score", "--pairs", table, "--model", ranker, "--json")
    assert json.loads(out.splitlines()[0])["raw"] == pytest.approx(raw, abs=1e-3)


def test_score_tells_how_often_captions_beat_their_foils_and_agree_with_ratings(mrnn, ranker, tmp_path):
    photo(tmp_path / "red.jpg", "red")
    photo(tmp_path / "blue.jpg", "blue")
    (tmp_path / "pairs.csv").write_text(
        "image,caption,foil,kind,rating_1,rating 2\n"
        "red.jpg,a red square,a blue square,colour,4,3\n"
        "blue.jpg,a blue square,a red square,colour,3,\n"
        "blue.jpg,a red square,a blue picture,thing,1,2\n"
        "blue.jpg,a red square,a blue picture,thing,bad,2\n"
    )
    command = ("score", "--pairs", tmp_path / "pairs.csv", "--model", ranker)
    code, out, err = mrnn(*command, "--json")
    assert code == 1 and "line 5" in err
    figures, rows = json.loads(out), [json.loads(line) for line in _scores(mrnn, ranker, tmp_path)]
    raw, prior = (np.array([row[key] for row in rows]) for key in ("raw", "prior"))
    for name in ("0", "0.25", "0.5", "0.75", "1", "blind"):
        worth = prior if name == "blind" else raw - float(name) * prior
        above = (worth[:3] > worth[3:]) + 0.5 * (worth[:3] == worth[3:])
        assert figures["accuracy"]["all"][name] == pytest.approx(above.mean())
        assert figures["accuracy"]["colour"][name] == pytest.approx(above[:2].mean())
        given, repeated = np.array([4, 3, 3, 1, 2]), worth[[0, 0, 1, 2, 2]]
        pairs = np.triu_indices(5, 1)
        a, b = (np.sign(x[:, None] - x)[pairs] for x in (given, repeated))
        assert figures["ratings"]["tau-b"][name] == pytest.approx((a * b).sum() / (abs(a).sum() * abs(b).sum()) ** 0.5)
    assert figures["ratings"]["ratings"] == 5
    code, out, _ = mrnn(*command, "--prior-weight", 0.4)
    headings = [line.split() for line in out.splitlines() if "blind" in line and "0.4" in line]
    assert headings == [["foils", "pairs", "0.4", "blind"], ["0.4", "blind"]]


def _scores(mrnn, ranker, tmp_path):
    """Each caption and each foil of the pairs above by itself."""
    pairs = [("red", "a red square"), ("blue", "a blue square"), ("blue", "a red square")]
    pairs += [("red", "a blue square"), ("blue", "a red square"), ("blue", "a blue picture")]
    (tmp_path / "each.csv").write_text("image,caption\n" + "".join(f"{p}.jpg,{c}\n" for p, c in pairs))
    return mrnn("score", "--pairs", tmp_path / "each.csv", "--model", ranker, "--json")[1].splitlines()


@pytest.mark.parametrize("weight", [0, 0.5, 2])
def test_the_prior_has_the_weight_that_is_asked_for(mrnn, ranker, tmp_path, weight):
    path = photo(tmp_path / "red.jpg", "red")
    (tmp_path / "s.txt").write_text("a red square\na blue square in a picture\n")
    command = ("rank", path, "--sentences", tmp_path / "s.txt", "--model", ranker, "--json")

    def scores(*more):
        found = [json.loads(line) for line in mrnn(*command, *more)[1].splitlines()]
        return {f["sentence"]: f["score"] for f in found}

    raw, full, asked = scores("--score", "raw"), scores("--prior-weight", 1), scores("--prior-weight", weight)
    assert asked == pytest.approx({s: raw[s] - weight * (raw[s] - full[s]) for s in raw}, abs=1e-4)


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_what_is_no_data_set_is_one_line(verb, mrnn, tmp_path, model):
    start = ["train", "agreement", "--out", tmp_path / "o"] if verb == "train" else ["evaluate", model]
    for folder, words in ((tmp_path / "gone", "no such folder"), (tmp_path, "no data set is recognised")):
        one_line_error(mrnn(*start, "--data", folder), 1, words)


def test_evaluate_names_a_split_that_is_not_there(mrnn, made, model, cache):
    code, _, err = mrnn("evaluate", model, "--data", made, "--split", "gold", "--cache", cache)
    assert code == 1 and "'gold'" in err


def test_training_leaves_out_a_corrupt_photo_and_says_so(mrnn, tmp_path, short):
    made = flickr(tmp_path / "data", 16)
    victim = sorted((made / "images").iterdir())[2]
    victim.write_bytes(b"ruined")
    out, cache = tmp_path / "run", tmp_path / "cache"
    result = mrnn("train", "agreement", "--data", made, "--out", out, "--cache", cache, *SMALL)
    assert result.code == 1, "some inputs failed"
    assert result.err.count(f"left out {victim}") == 1
    assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("recipe", "encoder", "words"),
    [
        ("mrnn", "stem:15:efficientnet_lite2", "one vector a photo"),
        ("mrnn", "grid:2:efficientnet_lite2", "one vector a photo"),
        ("regions", "efficientnet_lite2", "regions"),
        ("classes", "grid:2:efficientnet_lite2", "one vector a photo"),
        ("tuned", "grid:2:efficientnet_lite2", "grid:2:efficientnet_lite2 cannot be cut"),
        ("tuned", "stem:16:efficientnet_lite2", "stem:16:efficientnet_lite2 cannot be cut"),
    ],
)
def test_an_encoder_that_does_not_fit_the_model_is_refused_before_photos_are_encoded(
    recipe, encoder, words, mrnn, made, tmp_path
):
    out, cache = tmp_path / "o", tmp_path / "cache"
    result = mrnn("train", recipe, "--data", made, "--out", out, "--cache", cache, "--encoder", encoder)
    assert result.code == 1
    assert words in result.err.splitlines()[-1]
    assert not cache.exists() and not out.exists()


def test_a_folder_of_something_else_is_left_as_it_is(mrnn, made, tmp_path):
    (tmp_path / "README.md").write_text("# My project")
    for recipe in ("mrnn", "agreement", "gt2"):
        code, _, err = mrnn("train", recipe, "--data", made, "--out", tmp_path)
        assert code == 1
        if recipe == "agreement":
            assert "or something else" in err
            (tmp_path / "README.md").unlink()
            (tmp_path / "config.json").write_text('{"mine": 1}')
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_the_unexpected_is_one_line_too(mrnn, tmp_path, monkeypatch):
    def broken(*_arguments, **_options):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("mrnn.pipeline.load", broken)
    path = photo(tmp_path / "p.jpg", "red")
    code, _, err = mrnn("caption", path)
    assert (code, err) == (1, "mrnn: error: RuntimeError: first (MRNN_TRACEBACK=1 shows where)\n")
    monkeypatch.setenv("MRNN_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        mrnn("caption", path)


def test_a_name_with_a_line_end_stays_on_its_line(mrnn, model, tmp_path):
    one_line_error(mrnn("caption", tmp_path / "a\nb.jpg", "--model", model), 1)


def test_json_and_lines_hold_nothing_that_moves_the_cursor(capsys):
    assert json.loads(as_json("a\x9b\x7f\u2028\x1b[2J")) == "a\x9b\x7f\u2028\x1b[2J"
    say("a\x9b2J\x1b]0;x")
    for text in (as_json("a\x9b\x7f\u2028\x1b[2J"), capsys.readouterr().err.rstrip("\n")):
        assert text.isprintable()


def test_a_full_disk_is_one_line(mrnn, made, model, cache):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("there is no /dev/full here")
    options = ["--data", made, "--metrics", "likelihood", "--cache", cache, "--json", "/dev/full/x.json"]
    result = mrnn("evaluate", model, *options)
    assert result.code == 1
    assert "Traceback" not in result.err
    assert result.err.splitlines()[-1].startswith("mrnn: error:")


def test_a_closed_pipe_is_no_error(model, tmp_path):
    path = photo(tmp_path / "p.jpg", "red")
    command = f"{sys.executable} -m mrnn caption {' '.join([str(path)] * 70)} --model {model} | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr and "BrokenPipe" not in result.stderr


def test_a_folder_of_an_earlier_version_is_converted(mrnn, ranker, tmp_path):
    folder, path = shutil.copytree(ranker, tmp_path / "old"), photo(tmp_path / "p.jpg", "red")
    expected = mrnn("caption", path, "--model", ranker)
    for file in [*folder.glob("*.onnx"), folder / "encoder.safetensors"]:
        file.unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 1, "files": None, "use": None}))
    one_line_error(mrnn("evaluate", folder, "--data", tmp_path, "--runtime", "onnx"), 1, f"mrnn convert {folder}")
    assert mrnn("convert", folder) == (0, f"{folder}: up to date\n", "")
    assert load(folder, "onnx").fingerprint == load(ranker).fingerprint
    assert mrnn("caption", path, "--model", folder) == expected
    assert mrnn("convert", folder, "--half").code == 0
    assert (folder / "encoder.safetensors").stat().st_size < 0.6 * (ranker / "encoder.safetensors").stat().st_size
    assert mrnn("caption", path, "--model", folder).code == 0


# What runs in a process of its own, where nothing but the verb can have imported PyTorch.
VERB = """
import sys
from mrnn.cli import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules, "PyTorch was imported"
raise SystemExit(code)
"""


@pytest.mark.parametrize("verb", ["caption", "explain", "rank", "score", "evaluate", "index", "search", "export"])
def test_what_uses_a_model_does_without_pytorch(verb, made, cache, tmp_path, request):
    path = photo(tmp_path / "p.jpg", "red")
    (tmp_path / "pairs.csv").write_text("image,caption\np.jpg,a red square\n")
    library = ["--library", request.getfixturevalue("shelf")] if verb in ("search", "export") else []
    arguments = {
        "caption": [path],
        "explain": [path, "--out", tmp_path / "why.png"],
        "rank": [path, "--sentence", "a red square"],
        "score": ["--pairs", tmp_path / "pairs.csv"],
        "evaluate": ["flickr8k", "--data", made, "--metrics", "likelihood", "--cache", cache],
        "index": [tmp_path, "--library", tmp_path / "library"],
        "search": ["a red square", *library],
        "export": [tmp_path / "captions.csv", *library],
    }[verb]
    model = [] if verb == "evaluate" else ["--model", "flickr8k"]
    result = spawn(verb, *arguments, *model, start=("-c", VERB))
    assert result.code == 0, result.err
    assert result.out
    assert verb != "explain" or (tmp_path / "why.png").is_file()
    assert verb != "export" or (tmp_path / "captions.csv").is_file()


SERVE = """
import os, sys
import uvicorn
from fastapi.testclient import TestClient
from mrnn.cli import main

def ask(server, sockets):
    with TestClient(server.config.app, base_url="http://localhost") as client:
        answer = client.post("/v1/caption", files={"image": open(os.environ["PHOTO"], "rb")})
    print(answer.status_code, len(answer.json()["captions"]))

uvicorn.Server.run = ask
code = main(sys.argv[1:])
assert "torch" not in sys.modules, "PyTorch was imported"
raise SystemExit(code)
"""


def test_serving_does_without_pytorch(tmp_path, monkeypatch):
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    monkeypatch.setenv("PHOTO", str(photo(tmp_path / "p.jpg", "red")))
    monkeypatch.setenv("MRNN_LIBRARY", str(tmp_path / "no library"))
    result = spawn("serve", "--model", "flickr8k", start=("-c", SERVE))
    assert (result.code, result.out) == (0, "200 3\n"), result.err
