import json
import math
import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from made import flickr
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import make

from mrnn.corpora import read_corpus
from mrnn.draw import draw_training
from mrnn.files import read_json
from mrnn.models import MODELS, MRNN, MRNNConfig
from mrnn.networks import alexnet
from mrnn.recipes import RECIPES
from mrnn.recipes.training import Call, train_recipe
from mrnn.text import SIGNS, Vocabulary
from mrnn.training import CaptionData, ObjectiveConfig, TrainingConfig, train
from mrnn.training.batch import IGNORED
from mrnn.training.data import references
from mrnn.training.loop import learning_rate
from mrnn.training.objective import bits, squared_norm
from mrnn.training.tensorboard import with_tensorboard

VOCABULARY = Vocabulary([*SIGNS, *(f"w{i}" for i in range(20))])
CONFIG = TrainingConfig(epochs=4, batch=8, precision="float32", learning_rate=1e-2)


def made_data(n=64, seed=0):
    """Photos whose first feature decides the sentence's first word."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 7, generator=generator)
    lengths = torch.randint(1, 6, (n,), generator=generator).tolist()
    sentences = [[3 + int(features[i, 0] > 0)] + [5 + (i + t) % 18 for t in range(m)] for i, m in enumerate(lengths)]
    return CaptionData(sentences, list(range(n)), features)


def small_model(seed=0):
    torch.manual_seed(seed)
    sizes = MRNNConfig(embedding=6, word=8, recurrent=8, multimodal=10, dropout_multimodal=0.3, dropout_image=0.3)
    return MRNN(sizes, len(VOCABULARY), 7)


def test_the_cost_is_the_papers_formula():
    model = make("mrnn")
    data = made_data(5)
    (batch,) = data.batches(VOCABULARY, 5, 0, 0)
    cost, tokens = bits(model, batch, model.encode_image(data.features[batch.images]))
    expected = 0.0
    for row in range(5):
        logits = model(batch.inputs[row : row + 1], data.features[batch.images[row]][None])[0].double()
        words = [int(w) for w in batch.targets[row] if w != IGNORED]
        log2_p = [math.log2(logits.detach()[t].softmax(-1)[w]) for t, w in enumerate(words)]
        log2_perplexity = -sum(log2_p) / len(words)
        expected += len(words) * log2_perplexity
    assert float(cost.detach()) == pytest.approx(expected, rel=1e-5)
    assert tokens == data.tokens
    norm = sum(float((p.detach().double() ** 2).sum()) for p in model.parameters())
    assert squared_norm(model).item() == pytest.approx(norm, rel=1e-5)


def test_an_epoch_holds_every_sentence_once_in_batches_of_like_length():
    data = made_data(400)
    batches = list(data.batches(VOCABULARY, 8, seed=3, epoch=1))
    seen = sorted(i for batch in batches for i in batch.images.tolist())
    assert seen == list(range(400))
    padding = sum(int((batch.targets == IGNORED).sum()) for batch in batches)
    assert padding < 0.02 * data.tokens
    again = list(data.batches(VOCABULARY, 8, seed=3, epoch=1))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(batches, again, strict=True))
    other = list(data.batches(VOCABULARY, 8, seed=3, epoch=2))
    assert [b.images.tolist() for b in batches] != [b.images.tolist() for b in other]


def test_every_sentence_draws_one_of_the_views_it_may_see():
    data = made_data(300)
    views = CaptionData(data.sentences, data.images, data.features.repeat_interleave(2, 0), 2, [1, 2, 2] * 100)
    seen = {i: set() for i in range(300)}
    for epoch in range(12):
        for batch in views.batches(VOCABULARY, 16, 0, epoch):
            for row in batch.images.tolist():
                seen[row // 2].add(row % 2)
    assert all(seen[i] == {0} for i in range(0, 300, 3))
    assert sum(seen[i] == {0, 1} for i in range(300)) > 195


def test_captions_without_photos_are_spread_over_batches_that_hold_photos_together():
    photos = made_data(64)
    photos = replace(photos, images=[i // 4 for i in range(64)], features=photos.features[:16])
    alone = made_data(32, seed=1).sentences
    data = photos.with_text(alone)
    batches = list(data.batches(VOCABULARY, 12, 0, 0, together=True))
    assert len(batches) == data.steps(12, together=True)
    said = sorted(
        (image, tuple(w for w in targets if w not in (IGNORED, VOCABULARY.end)))
        for batch in batches
        for image, targets in zip(batch.images.tolist(), batch.targets.tolist(), strict=True)
    )
    assert said == sorted(zip(data.images, map(tuple, data.sentences), strict=True)), "every sentence once"
    assert max(len(batch.images) for batch in batches) <= 2 * 12
    without = [int((batch.images == 16).sum()) for batch in batches]
    assert sum(without) == 32 and max(without) < 32
    assert sum(n > 0 for n in without) > len(batches) / 2, "no batch holds them all, and most hold some"
    for image in range(16):
        assert sum(image in batch.images for batch in batches) == 1, "what was said of a photo stays together"
    order = [batch.images.tolist() for batch in batches]
    assert order != [b.images.tolist() for b in data.batches(VOCABULARY, 12, 0, 1, together=True)]
    several, place = references(data, VOCABULARY)
    assert (several, place) == references(photos, VOCABULARY)
    assert sorted(place) == list(range(16)) and sum(map(len, several)) == 64


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, optimizer="sgd", learning_rate=0.1, objective=ObjectiveConfig(l2=1e-5)),
        replace(CONFIG, weight_decay=0.1, schedule="constant"),
        replace(CONFIG, precision="bfloat16"),
    ],
    ids=["adamw", "sgd-l2", "constant", "bfloat16"],
)
def test_training_learns_from_text_and_image(tmp_path, config):
    data, dev = made_data(256), made_data(64, seed=1)
    records = []
    progress = train(small_model(), VOCABULARY, data, dev, replace(config, epochs=12), tmp_path, {}, records.append)
    scores = [r["dev_perplexity"] for r in records if "dev_perplexity" in r]
    assert progress.best_perplexity == pytest.approx(min(scores), abs=1e-3)
    assert min(scores) < 0.8 * scores[0]
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == records
    draw_training(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    def weights(seed, folder):
        model = small_model(seed)
        train(model, VOCABULARY, made_data(), made_data(16, 1), replace(CONFIG, seed=seed), tmp_path / folder)
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(weights(0, "a"), weights(0, "b"))
    assert not torch.equal(weights(0, "c"), weights(1, "d"))


def test_the_best_weights_are_kept_and_patience_ends_the_run(tmp_path):
    model = small_model()
    wild = replace(CONFIG, epochs=30, learning_rate=0.3, schedule="constant", patience=2)
    records = []
    progress = train(model, VOCABULARY, made_data(), made_data(16, 1), wild, tmp_path, {}, records.append)
    scores = [r["dev_perplexity"] for r in records if "dev_perplexity" in r]
    assert len(scores) == progress.best_epoch + 2 < 30
    best = {
        k.removeprefix("best."): v
        for k, v in load_file(tmp_path / "checkpoint.safetensors").items()
        if k[:5] == "best."
    }
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in best.items())


def test_a_loss_that_is_not_finite_stops_with_a_message_and_keeps_the_checkpoint(tmp_path):
    data = made_data()
    torch.manual_seed(0)
    train(small_model(), VOCABULARY, data, made_data(16, 1), replace(CONFIG, epochs=1), tmp_path / "good")
    broken = replace(data, features=data.features.clone())
    broken.features[3, 2] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        train(small_model(), VOCABULARY, broken, made_data(16, 1), CONFIG, tmp_path / "bad")
    assert not (tmp_path / "bad" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("rate", [1e3, 1e20, 1e38])
def test_a_training_that_diverges_stops_with_a_message_and_keeps_no_broken_weights(tmp_path, rate):
    config = replace(CONFIG, schedule="constant", learning_rate=rate, epochs=3)
    with pytest.raises(ValueError, match="not finite at step"):
        train(small_model(), VOCABULARY, made_data(), made_data(16, 1), config, tmp_path)
    if (tmp_path / "checkpoint.safetensors").exists():
        assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "checkpoint.safetensors").values())


@pytest.mark.parametrize("damage", ["not json", '{"a": 1}', '{"step": 1, "bits}'])
def test_a_damaged_log_stops_no_run(tmp_path, damage):
    config = replace(CONFIG, epochs=1)
    train(small_model(), VOCABULARY, made_data(), made_data(16, 1), config, tmp_path)
    log = tmp_path / "log.jsonl"
    kept = log.read_text()
    log.write_text(f"{kept}{damage}\n")
    train(small_model(), VOCABULARY, made_data(), made_data(16, 1), config, tmp_path)
    assert log.read_text() == kept
    log.unlink()
    train(small_model(), VOCABULARY, made_data(), made_data(16, 1), config, tmp_path)
    draw_training(log, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
    log.write_text('{"step": 1, "bits": 5000}\n{"step": 1, "dev_perplexity": 7}\n')
    draw_training(log, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("missing", ["model.model.V_I.weight", "optimizer.0.step", "random.cpu"])
def test_a_checkpoint_without_a_tensor_is_named(tmp_path, missing):
    train(small_model(), VOCABULARY, made_data(), made_data(16, 1), CONFIG, tmp_path)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(checkpoint)
    del tensors[missing]
    save_file(tensors, checkpoint, metadata)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: damaged checkpoint"):
        train(small_model(), VOCABULARY, made_data(), made_data(16, 1), CONFIG, tmp_path)


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    leftover = tmp_path / ".checkpoint.safetensors.writing-ab_1cd2e"
    leftover.mkdir()
    (leftover / "checkpoint.safetensors").write_bytes(b"half")
    (tmp_path / ".env.template").write_text("*")
    train(small_model(), VOCABULARY, made_data(), made_data(16, 1), replace(CONFIG, epochs=1), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".env.template", "checkpoint.safetensors", "log.jsonl"]


def test_a_folder_of_another_run_is_refused(tmp_path):
    train(small_model(), VOCABULARY, made_data(), made_data(16, 1), CONFIG, tmp_path, {"data": "one"})
    with pytest.raises(ValueError, match="differs in data; give another --out, with --start"):
        train(small_model(), VOCABULARY, made_data(), made_data(16, 1), CONFIG, tmp_path, {"data": "two"})


def test_a_run_that_has_ended_goes_on_when_more_epochs_are_asked_for(tmp_path):
    first = train(small_model(), VOCABULARY, made_data(), made_data(16, 1), replace(CONFIG, epochs=1), tmp_path)
    more = train(small_model(), VOCABULARY, made_data(), made_data(16, 1), replace(CONFIG, epochs=3), tmp_path)
    assert (first.epoch, more.epoch, more.step) == (1, 3, 3 * first.step)
    fewer = train(small_model(), VOCABULARY, made_data(), made_data(16, 1), replace(CONFIG, epochs=2), tmp_path)
    assert fewer.epoch == 3, "what was trained is not undone"


def test_a_refusal_names_the_options_that_differ(tmp_path):
    train(small_model(), VOCABULARY, made_data(), made_data(16, 1), CONFIG, tmp_path)
    other = replace(CONFIG, learning_rate=0.5, objective=ObjectiveConfig(contrastive=0.1))
    with pytest.raises(ValueError, match=r"differs in training\.learning_rate, training\.objective\.contrastive; "):
        train(small_model(), VOCABULARY, made_data(), made_data(16, 1), other, tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="damaged checkpoint"):
        train(small_model(), VOCABULARY, made_data(), made_data(16, 1), CONFIG, tmp_path)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_training import *
train(small_model(), VOCABULARY, made_data(2000), made_data(64, 1), replace(CONFIG, epochs=6), Path(sys.argv[1]))
"""


def finish(folder: Path) -> dict[str, torch.Tensor]:
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, env=environment)
    return load_file(folder / "checkpoint.safetensors")


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    expected = finish(tmp_path / "whole")
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = tmp_path / "killed" / "log.jsonl"
    for kills, lines in enumerate((3, 25, 45)):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "killed")], env=environment)
        while process.poll() is None and (not log.exists() or log.read_text().count("\n") < lines):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, f"kill {kills} came too late"
    got = finish(tmp_path / "killed")
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, got[name]), name

    def numbers(folder):
        records = [json.loads(line) for line in (tmp_path / folder / "log.jsonl").read_text().splitlines()]
        return [{k: v for k, v in record.items() if k != "tokens_per_second"} for record in records]

    assert numbers("whole") == numbers("killed")


def test_the_schedule_rises_to_its_peak_and_falls_to_nothing():
    config = TrainingConfig(learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert max(rates) == rates[9] == 1.0
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.001
    assert learning_rate(replace(config, schedule="constant"), 70, 100) == 1.0


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"average": 1.0}, {"warmup": 2}, {"optimizer": "sgd", "weight_decay": 0.1}]
)
def test_contradicting_options_are_refused(options):
    with pytest.raises(ValueError, match="training"):
        TrainingConfig(**options)


DROPOUTS = [
    pytest.param(model.Config, field.name, id=f"{name}-{field.name}")
    for name, model in MODELS.items()
    for field in fields(model.Config)
    if field.name.startswith("dropout") and (name, field.name) != ("rnn", "dropout_image")  # which has no image
]


@pytest.mark.parametrize(("config", "option"), DROPOUTS)
def test_a_dropout_that_leaves_next_to_nothing_is_refused(config, option):
    with pytest.raises(ValueError) as refused:
        config(**{option: 0.999})
    assert str(refused.value) == f"model.{option} is 0.999, but must be between 0 and 0.99"
    config(**{option: 0.99})


@pytest.mark.parametrize(
    "options",
    [
        {"l2": -1.0},
        {"label_smoothing": 1.0},
        {"likelihood": 0.0},
        {"samples": 1},
        {"negatives": 0},
        {"softmax": "sampled", "label_smoothing": 0.1},
        {"agreement": -1.0},
        {"agreement": 1.0, "likelihood": 0.0, "self_critical": 1.0},
    ],
)
def test_objectives_without_sense_are_refused(options):
    with pytest.raises(ValueError, match=r"training\.objective"):
        ObjectiveConfig(**options)


def test_the_log_goes_to_tensorboard_if_it_is_installed(tmp_path, monkeypatch):
    seen = []

    class SummaryWriter:
        def __init__(self, folder):
            seen.append(folder)

        def add_scalar(self, name, value, step):
            seen.append((name, value, step))

        def flush(self):
            seen.append("flush")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    passed_on = []
    on_step = with_tensorboard(tmp_path, passed_on.append)
    on_step({"step": 3, "steps": 9, "bits": 4.0})
    on_step({"step": 5, "steps": 9, "dev_perplexity": 20.0})
    assert seen == [str(tmp_path / "tensorboard"), ("bits", 4.0, 3), ("dev_perplexity", 20.0, 5), "flush"]
    assert len(passed_on) == 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory, cache_folder) -> tuple[Path, list[Path]]:
    """Runs of a recipe whose encoder is a file, and of one that starts from that run, each named by its whole path."""
    place = tmp_path_factory.mktemp("place")
    corpus = read_corpus(flickr(place / "photos"))
    network, width = alexnet.AlexNet, 16
    with pytest.MonkeyPatch.context() as patch:  # AlexNet with few units in its wide layers
        patch.setattr(alexnet, "AlexNet", lambda: network(classes=2, width=width))
        whole = alexnet.load
        patch.setattr(alexnet, "load", lambda source: (whole(source)[0], width))
        torch.manual_seed(0)
        save_file(alexnet.AlexNet().state_dict(), place / "weights.safetensors")
        encoder = f"alexnet:{place / 'weights.safetensors'}"
        runs = []
        for name in ("mrnn", "agreement"):
            recipe = RECIPES[name]()
            recipe = replace(
                recipe,
                encoder=encoder,
                min_count=1,
                references=5,
                start=str(runs[-1]) if runs else "",
                model=replace(recipe.model, embedding=4, word=6, recurrent=6, multimodal=8),
                training=replace(recipe.training, epochs=1),
            )
            out = place / "runs" / name
            command = f"mrnn train {name} --encoder {encoder} --data {place / 'photos'} --out {out}"
            train_recipe(name, recipe, corpus, out, Call(command, cache_folder))
            runs.append(out)
    return place, runs


def strings(value) -> list[str]:
    """Every string of a JSON value, keys among them."""
    if isinstance(value, dict):
        return [*value, *(s for v in value.values() for s in strings(v))]
    if isinstance(value, list):
        return [s for v in value for s in strings(v)]
    return [value] if isinstance(value, str) else []


def test_a_saved_model_does_not_tell_where_its_parts_lay(folders):
    place, runs = folders
    told = [read_json(run / "config.json") for run in runs]
    assert [facts["training"]["recipe_name"] for facts in told] == ["mrnn", "agreement"]
    assert told[1]["training"]["recipe"]["start"] == "mrnn", "the run was started from, by its whole path"
    for run, facts in zip(runs, told, strict=True):
        typed = facts["training"].pop("command")
        assert str(place) in typed
        assert facts["encoder"]["name"] == facts["training"]["recipe"]["encoder"] == "alexnet"
        for string in strings(facts):
            assert not string.startswith("/") and str(place) not in string, string
        assert str(place) not in (run / "README.md").read_text().replace(typed, "")
