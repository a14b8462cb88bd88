"""Training on two processes, against one: this file is also what torchrun starts, once for all that is compared."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made import COLOURS, flickr
from safetensors.torch import load_file, save_file
from test_training import CONFIG, VOCABULARY, made_data

import mrnn
from mrnn.files import read_json, sha256
from mrnn.models import MRNN, MRNNConfig
from mrnn.training import ObjectiveConfig, train
from mrnn.training.distributed import World, join

SIZES = MRNNConfig(embedding=6, word=8, recurrent=8, multimodal=10, dropout_multimodal=0.0, dropout_image=0.0)
SMOOTH = replace(CONFIG, optimizer="sgd", learning_rate=0.1, average=0.5)  # AdamW makes much of a gradient's last bits
# What is the same on two processes and on one, with batches that have fewer sentences than there are processes.
SAME = {
    "paper": replace(SMOOTH, objective=ObjectiveConfig(l2=1e-3)),
    "agreement": replace(SMOOTH, accumulate=2, objective=ObjectiveConfig(agreement=2.0, label_smoothing=0.1)),
    "contrastive": replace(SMOOTH, objective=ObjectiveConfig(contrastive=0.5)),
    "contrastive-parts": replace(SMOOTH, accumulate=2, together=True, objective=ObjectiveConfig(contrastive=0.5)),
    "contrastive-alone": replace(SMOOTH, objective=ObjectiveConfig(likelihood=0.0, contrastive=1.0)),
}
DRAWN = replace(CONFIG, average=0.5, choose="cider", objective=ObjectiveConfig(self_critical=0.5, softmax="sampled"))
DRAWN = replace(DRAWN, objective=replace(DRAWN.objective, negatives=10), patience=9)


def data():
    some = made_data(49)
    return replace(some, images=[i // 3 for i in some.images])


def run(config, folder, world, dropout=0.0, **more):
    torch.manual_seed(config.seed)
    model = MRNN(replace(SIZES, dropout_multimodal=dropout, dropout_image=dropout), len(VOCABULARY), 7)
    records = []
    train(model, VOCABULARY, data(), made_data(16, 1), config, folder, None, records.append, world=world, **more)
    return model.state_dict(), records


class Stopped(Exception):
    pass


class Stopping(World):
    """Stops every process as the third epoch begins."""

    def draw_anew(self, seed, epoch):
        if epoch == 2:
            raise Stopped
        super().draw_anew(seed, epoch)


def check_sums(world: World) -> None:
    """What an optimiser leaves alone on one process, as it has no gradient, it leaves alone on two."""
    both, one, none = (torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    both.grad = torch.full((2, 2), 1.0 + world.rank)
    one.grad = torch.eye(2) if world.rank else None
    world.add_gradients([both, one, none])
    assert torch.equal(both.grad, torch.full((2, 2), 3.0)) and torch.equal(one.grad, torch.eye(2)) and none.grad is None
    assert world.add(1.0, world.rank) == [2.0, 1.0] and world.told(lambda: 0.1) == 0.1
    assert world.agree(-5, 7) and not world.agree(7, world.rank)


def work(folder: Path) -> None:
    """What each of two processes does; its weights and whether it was told anything are left in `folder`."""

    def keep(name, weights, records):
        save_file(weights, folder / f"{name}-{world.rank}.safetensors")
        assert bool(records) == world.leads

    with join("cpu") as world:
        check_sums(world)
        for name, config in SAME.items():
            keep(name, *run(config, folder / name, world))
        keep("whole", *run(DRAWN, folder / "whole", world, 0.3))
        try:
            run(DRAWN, folder / "stopped", Stopping(world.rank, world.size, joined=True), 0.3)
        except Stopped:
            if world.leads:
                (folder / "other").mkdir()
                half = (folder / "stopped" / "checkpoint.safetensors").read_bytes()
                (folder / "other" / "checkpoint.safetensors").write_bytes(half)
            keep("stopped", *run(DRAWN, folder / "stopped", world, 0.3))
        try:
            run(replace(CONFIG, seed=world.rank), folder / "refused", world)
        except ValueError as error:
            (folder / f"refused-{world.rank}").write_text(str(error))


def torchrun(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    torchrun(__file__, folder)
    return folder


def weights_of(ranks, name):
    lead, other = (ranks / f"{name}-{rank}.safetensors" for rank in (0, 1))
    assert sha256(lead) == sha256(other), "both processes end with the same bits"
    return load_file(lead)


@pytest.mark.parametrize("name", SAME)
def test_two_processes_learn_what_one_does(ranks, tmp_path, name):
    alone, records = run(SAME[name], tmp_path, World())
    torch.testing.assert_close(weights_of(ranks, name), dict(alone), rtol=1e-4, atol=1e-5)
    log = [line for line in (ranks / name / "log.jsonl").read_text().splitlines() if '"bits"' in line]
    told = [r for r in records if "bits" in r]
    for line, record in zip(log, told, strict=True):
        for key in {"bits", "contrastive"} & record.keys():
            assert f'"{key}": ' in line
            assert float(line.split(f'"{key}": ')[1].split(",")[0]) == pytest.approx(record[key], abs=2e-4)


def test_two_processes_learn_what_one_does_in_two_parts(ranks, tmp_path):
    alone, _ = run(replace(SAME["paper"], accumulate=2), tmp_path, World())
    torch.testing.assert_close(weights_of(ranks, "paper"), dict(alone), rtol=1e-4, atol=1e-5)


def test_two_processes_that_were_stopped_end_with_the_same_bits(ranks):
    weights_of(ranks, "whole"), weights_of(ranks, "stopped")
    whole, stopped = (ranks / name / "checkpoint.safetensors" for name in ("whole", "stopped"))
    assert sha256(whole) == sha256(stopped)


def test_a_run_goes_on_with_another_number_of_processes(ranks):
    _, records = run(DRAWN, ranks / "other", World(), 0.3)
    assert {record["epoch"] for record in records} == {3, 4}


def test_processes_that_see_other_things_are_refused(ranks):
    for rank in (0, 1):
        assert "do not see the same data" in (ranks / f"refused-{rank}").read_text()


def test_devices_that_processes_cannot_share_are_refused(monkeypatch):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match="on cpu or cuda, not on mps"), join("mps"):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="at most --nproc-per-node 0"), join("cuda"):
        pass


def test_a_run_by_torchrun_leaves_one_folder_that_loads(tmp_path, cache_folder):
    photos, out = flickr(tmp_path / "photos"), tmp_path / "run"
    flags = ["--data", photos, "--out", out, "--cache", cache_folder, "--min-count", 1, "--references", 5]
    for size in ("embedding", "word", "recurrent", "multimodal"):
        flags += [f"--model.{size}", 8]
    done = torchrun("-m", "mrnn", "train", "agreement", *flags, "--training.epochs", 2, "--device", "cpu")
    assert done.stdout.count("dev perplexity") == 1 and done.stderr.count("\nepoch 2: ") == 1
    records = (out / "log.jsonl").read_text().splitlines()
    assert len(records) == 4 and (out / "curves.png").exists() and (out / "start" / "config.json").exists()
    assert not list(tmp_path.rglob(".*"))
    assert read_json(out / "config.json")["training"]["best_epoch"]
    pipe = mrnn.load(out)
    assert pipe.caption(next((photos / "images").iterdir()))[0][0].text is not None
    assert set(COLOURS) <= set(pipe.vocabulary.tokens)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    work(Path(sys.argv[1]))
