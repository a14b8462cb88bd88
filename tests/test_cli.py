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
from pathlib import Path

import pytest
from made import flickr, photo, pipeline

from mrnn.cli import main
from mrnn.cli.models import by_photo
from mrnn.corpora import Photo
from mrnn.generation import Caption

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="the tokeniser and METEOR need Java")


def mrnn(*arguments, **options):
    command = [sys.executable, "-m", "mrnn", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipeline().save(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return flickr(tmp_path_factory.mktemp("flickr"))


def one_line_error(result, code, *words):
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("mrnn: "), result.stderr
    for word in words:
        assert word in lines[0]


def test_caption_prints_a_line_a_photo(model, tmp_path):
    photos = [photo(tmp_path / f"{c}.jpg", c) for c in ("red", "blue")]
    result = mrnn("caption", *photos, "--model", model)
    assert result.returncode == 0, result.stderr
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [name for name, _ in lines] == [str(p) for p in photos]
    assert all(text for _, text in lines)
    assert result.stderr == ""


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


def test_a_photos_sample_does_not_depend_on_bad_photos_before_it(model, tmp_path):
    photos = [photo(tmp_path / f"{i}.jpg", "red", i) for i in range(3)]
    expected = mrnn("caption", *photos, "--model", model, "--sample")
    bad = [tmp_path / f"missing{i}.jpg" for i in range(33)]
    result = mrnn("caption", photos[0], *bad, *photos[1:], "--model", model, "--sample")
    assert result.returncode == 1 and result.stdout == expected.stdout


def test_caption_json_holds_likelihoods_and_goes_on_after_bad_photos(model, tmp_path, capsys):
    good = photo(tmp_path / "good.png", "red")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a photo")
    whole = photo(tmp_path / "whole.jpg", "blue").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    bad = [tmp_path / name for name in ("empty.jpg", "text.jpg", "cut.jpg", "gone.jpg")]
    code = main(
        ["caption", *map(str, [bad[0], bad[1], good, bad[2], bad[3]]), "--model", str(model), "--json", "--n", "2"]
    )
    out, err = capsys.readouterr()
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
    result = mrnn("caption", tmp_path / "bomb.png", "--model", model)
    one_line_error(result, 1, "bomb.png", "more pixels than the limit")


@pytest.mark.parametrize("options", [["--sample", "--seed", "3", "--top-p", "0.9"], ["--beam", "2"], ["--n", "7"]])
def test_caption_takes_search_options(model, tmp_path, capsys, options):
    path = str(photo(tmp_path / "p.jpg", "red"))
    assert main(["caption", path, "--model", str(model), *options]) == 0
    first = capsys.readouterr().out
    assert main(["caption", path, "--model", str(model), *options]) == 0
    assert capsys.readouterr().out == first


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
        (["train", "flickr8k"], ["--data"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--model.word", "0"], ["model.word"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--training.optimizer", "sgd"], ["weight_decay"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--min-count", "0"], ["min_count"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--references", "0"], ["image_gain"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--workers", "-1"], ["--workers"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--device", "foo"], ["--device foo"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--device", "meta"], ["--device meta"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--encoder", "unknown"], ["no encoder 'unknown'"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--training.clip", "nan"], ["training.clip"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--training.learning-rate", "inf"], ["learning_rate"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--training.seed", str(2**40)], ["training.seed"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--training.objective.l2", "nan"], ["objective.l2"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--generation.length-exponent", "nan"], ["exponent"]),
        (["train", "flickr8k", "--data", ".", "--out", "o", "--generation.max-length", str(10**9)], ["length"]),
        (["caption", "x.jpg", "--beam", str(10**8)], ["beam"]),
        (["caption", "x.jpg", "--sample", "--seed", str(10**20)], ["seed"]),
    ],
)
def test_bad_usage_is_one_line_and_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    if words:
        assert len(err.splitlines()) == 1
    assert all(word in err for word in words)
    assert not list(tmp_path.iterdir())


def test_help_and_version_answer(capsys):
    for arguments in (
        ["--help"],
        ["caption", "--help"],
        ["train", "--help"],
        ["train", "base", "--help"],
        ["--version"],
    ):
        assert main(arguments) == 0
        assert "mrnn" in capsys.readouterr().out


SMALL = ["--training.epochs", "3", "--training.batch", "6", "--min-count", "1", "--model.multimodal", "32"]


@needs_java
def test_train_evaluate_and_caption_from_a_made_data_set(made, tmp_path):
    out, cache = tmp_path / "run", tmp_path / "cache"
    command = ["train", "flickr8k", "--data", made, "--out", out, "--cache", cache, "--workers", "2", *SMALL]
    result = mrnn(*command)
    assert result.returncode == 0, result.stderr
    assert "12 train, 6 dev, 6 test" in result.stderr
    assert "dev perplexity" in result.stdout
    for name in (
        "model.safetensors",
        "config.json",
        "vocab.txt",
        "README.md",
        "references.safetensors",
        "log.jsonl",
        "curves.png",
    ):
        assert (out / name).is_file()
    again = mrnn(*command)
    assert again.returncode == 0 and again.stdout == result.stdout, "a finished run stays as it is"
    other = shutil.copytree(made, tmp_path / "other")
    photo(other / "images" / "100000_0123456789.jpg", "blue", 99)
    changed = mrnn(*(other if part is made else part for part in command))
    assert changed.returncode == 1 and "belongs to a run with another recipe, data or encoder" in changed.stderr

    figures = tmp_path / "figures.json"
    plots = tmp_path / "plots"
    result = mrnn("evaluate", out, "--data", made, "--cache", cache, "--json", figures, "--plots", plots)
    assert result.returncode == 0, result.stderr
    written = json.loads(figures.read_text())
    assert written["figures"]["photos"] == 6
    assert {"perplexity", "BLEU-4", "CIDEr", "METEOR", "precision-2", "distinct"} <= set(written["figures"])
    assert {"model_fingerprint", "data_fingerprint", "code", "command"} <= set(written)
    assert {"image-to-sentence R@1", "sentence-to-image median rank chance"} <= set(written["figures"])
    assert len(written["captions"]) == 6
    assert sorted(p.name for p in plots.iterdir()) == ["gallery.png", "recall.png"]
    for kind in (["plain"], ["weighted", "--temperature", "5"]):
        result = mrnn("evaluate", out, "--data", made, "--cache", cache, "--metrics", "captions", "--consensus", *kind)
        assert result.returncode == 0 and "CIDEr" in result.stdout, result.stderr

    result = mrnn("caption", next((made / "images").iterdir()), "--model", out)
    assert result.returncode == 0 and result.stdout


def test_captions_of_photos_with_one_id_are_told_apart_by_their_paths(tmp_path):
    photos = [Photo(name, tmp_path / place / name, ("x",), "test", "") for place in "ab" for name in ("1.jpg", place)]
    captions = [Caption(f"caption {i}", (), (), 0.0) for i in range(4)]
    assert by_photo(photos, captions) == {
        str(tmp_path / "a" / "1.jpg"): "caption 0",
        "a": "caption 1",
        str(tmp_path / "b" / "1.jpg"): "caption 2",
        "b": "caption 3",
    }


def test_a_killed_training_goes_on(made, tmp_path):
    out, cache = tmp_path / "run", tmp_path / "cache"
    command = ["train", "flickr8k-likelihood", "--data", made, "--out", out, "--cache", cache, *SMALL]
    command += ["--training.epochs", "60", "--training.patience", "60"]
    process = subprocess.Popen([sys.executable, "-m", "mrnn", *map(str, command)], stderr=subprocess.DEVNULL)
    while not (out / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "model.safetensors").exists()
    result = mrnn(*command)
    assert result.returncode == 0, result.stderr
    assert (out / "model.safetensors").exists()


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "ranker"
    pipeline(references=12).save(folder)
    return folder


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_rank_sentences_for_photos(ranker, tmp_path, capsys):
    photos = [photo(tmp_path / f"{c}.jpg", c) for c in ("red", "blue")]
    sentences = tmp_path / "s.txt"
    sentences.write_bytes(b"\xef\xbb\xbfa red square\n\n  a blue square \r\n...\na zebra xylophone\nzebra\n")
    code, out, err = run(capsys, "rank", *photos, "--sentences", sentences, "--model", ranker, "--top", 50)
    assert code == 1, "a line without a word was left out"
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == [str(photos[0])] * 4 + [str(photos[1])] * 4
    assert {row[2] for row in rows} == {"a red square", "a blue square", "a zebra xylophone", "zebra"}
    for start in (0, 4):
        scores = [float(row[1]) for row in rows[start : start + 4]]
        assert scores == sorted(scores, reverse=True)
    assert "line 4: it has no word" in err
    assert "line 6: none of its words is known" in err


def test_rank_photos_for_a_sentence(ranker, tmp_path, capsys):
    photos = [photo(tmp_path / f"{c}.jpg", c) for c in ("red", "blue", "green")]
    (tmp_path / "bad.jpg").write_text("no photo")
    arguments = ["rank", "--sentence", "a red square", *photos, photos[0], tmp_path / "bad.jpg", "--model", ranker]
    code, out, err = run(capsys, *arguments, "--json", "--top", "3")
    assert code == 1 and "bad.jpg" in err
    records = [json.loads(line) for line in out.splitlines()]
    assert len(records) == 3
    assert [r["score"] for r in records] == sorted((r["score"] for r in records), reverse=True)
    code, out, _ = run(capsys, *arguments[:-3], "--model", ranker, "--top", "9")
    values = {}
    for line in out.splitlines():
        name, value, _ = line.split("\t")
        values.setdefault(name, []).append(value)
    assert len(values[str(photos[0])]) == 2 and len(set(values[str(photos[0])])) == 1, "a photo given twice ties"


def test_a_pool_that_is_read_in_parts_ranks_the_same(ranker, tmp_path, capsys, monkeypatch):
    path = photo(tmp_path / "p.jpg", "red")
    lines = [" ".join(words) for words in itertools.permutations(["a", "red", "blue", "large"], 3)]
    (tmp_path / "s.txt").write_text("\n".join(lines))
    arguments = ["rank", path, "--sentences", tmp_path / "s.txt", "--model", ranker, "--top", "6"]
    whole = run(capsys, *arguments)
    monkeypatch.setattr("mrnn.cli.photos.SENTENCES_AT_ONCE", 7)
    assert run(capsys, *arguments) == whole


@pytest.mark.parametrize("score", ["raw", "normalised", "per-token", "posterior"])
def test_every_score_ranks(ranker, tmp_path, capsys, score):
    path = photo(tmp_path / "p.jpg", "red")
    (tmp_path / "s.txt").write_text("a red square\na blue square\n")
    code, out, err = run(capsys, "rank", path, "--sentences", tmp_path / "s.txt", "--model", ranker, "--score", score)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 2


def test_rank_refuses_what_it_cannot_do(ranker, model, tmp_path, capsys):
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
        (["score", "--pairs", tmp_path / "s.txt"], 1, "not a CSV"),
    ]:
        got, out, err = run(capsys, *arguments)
        assert got == code, (arguments, err)
        assert word in err and out == "" and len(err.splitlines()) == 1


def test_score_gives_every_pair_its_worth(ranker, tmp_path, capsys):
    photo(tmp_path / "red.jpg", "red")
    table = tmp_path / "pairs.csv"
    table.write_text(
        'image,caption\nred.jpg,a red square\nred.jpg,...\ngone.jpg,a blue square\n,x\nred.jpg,a "blue" square\n'
    )
    code, out, err = run(capsys, "score", "--pairs", table, "--model", ranker)
    assert code == 1
    assert "gone.jpg: no such file" in err and "it has no word" in err and "line 5" in err
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert len(header) == 6 and len(rows) == 2
    raw, normalised, bits, _ = map(float, rows[0][2:])
    assert bits == pytest.approx(raw / math.log(2) / 4, abs=1e-3), "three words and the end sign"
    assert normalised != raw
    code, out, _ = run(capsys, "score", "--pairs", table, "--model", ranker, "--json")
    assert json.loads(out.splitlines()[0])["raw"] == pytest.approx(raw, abs=1e-3)


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_what_is_no_data_set_is_one_line(verb, tmp_path, model):
    start = ["train", "flickr8k", "--out", tmp_path / "o"] if verb == "train" else ["evaluate", model]
    for folder, words in ((tmp_path / "gone", "no such folder"), (tmp_path, "no data set is recognised")):
        one_line_error(mrnn(*start, "--data", folder), 1, words)


def test_evaluate_names_a_split_that_is_not_there(made, model, tmp_path, capsys):
    assert main(["evaluate", str(model), "--data", str(made), "--split", "gold", "--cache", str(tmp_path)]) == 1
    assert "'gold'" in capsys.readouterr().err


def test_training_leaves_out_a_corrupt_photo_and_says_so(tmp_path):
    made = flickr(tmp_path / "data", 16)
    victim = sorted((made / "images").iterdir())[2]
    victim.write_bytes(b"ruined")
    result = mrnn("train", "flickr8k", "--data", made, "--out", tmp_path / "run", "--cache", tmp_path / "cache", *SMALL)
    assert result.returncode == 1, "some inputs failed"
    assert result.stderr.count(f"left out {victim}") == 1
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("recipe", "encoder", "words"),
    [
        ("flickr8k-likelihood", "stem:15:efficientnet_lite2", "one vector a photo"),
        ("flickr8k-likelihood", "grid:2:efficientnet_lite2", "one vector a photo"),
        ("flickr8k-regions", "efficientnet_lite2", "regions"),
        ("flickr8k-classes", "grid:2:efficientnet_lite2", "one vector a photo"),
        ("flickr8k-tuned", "efficientnet_lite2", "stem:16:efficientnet_lite2"),
    ],
)
def test_an_encoder_that_does_not_fit_the_model_is_refused_before_photos_are_encoded(
    recipe, encoder, words, made, tmp_path, capsys
):
    out, cache = tmp_path / "o", tmp_path / "cache"
    options = ["--data", made, "--out", out, "--cache", cache, "--encoder", encoder]
    assert main(["train", recipe, *map(str, options)]) == 1
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not cache.exists() and not out.exists()


def test_a_folder_of_something_else_is_left_as_it_is(made, tmp_path, capsys):
    (tmp_path / "README.md").write_text("# My project")
    for recipe in ("flickr8k-likelihood", "flickr8k", "flickr8k-gt2"):
        assert main(["train", recipe, "--data", str(made), "--out", str(tmp_path)]) == 1
        if recipe == "flickr8k":
            assert "or something else" in capsys.readouterr().err
            (tmp_path / "README.md").unlink()
            (tmp_path / "config.json").write_text('{"mine": 1}')
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_the_unexpected_is_one_line_too(model, tmp_path, capsys, monkeypatch):
    def broken(*_arguments, **_options):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("mrnn.pipeline.load", broken)
    path = str(photo(tmp_path / "p.jpg", "red"))
    assert main(["caption", path]) == 1
    assert capsys.readouterr().err == "mrnn: error: RuntimeError: first (MRNN_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("MRNN_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        main(["caption", path])


def test_a_name_with_a_line_end_stays_on_its_line(model, tmp_path, capsys):
    assert main(["caption", str(tmp_path / "a\nb.jpg"), "--model", str(model)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_full_disk_is_one_line(made, model, tmp_path):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("there is no /dev/full here")
    result = mrnn(
        "evaluate", model, "--data", made, "--metrics", "likelihood", "--cache", tmp_path, "--json", "/dev/full/x.json"
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("mrnn: error:")


def test_a_closed_pipe_is_no_error(model, tmp_path):
    path = photo(tmp_path / "p.jpg", "red")
    command = f"{sys.executable} -m mrnn caption {' '.join([str(path)] * 70)} --model {model} | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr and "BrokenPipe" not in result.stderr
