"""Benchmarks are run by hand, and must run when they are."""

import random
from pathlib import Path

import pytest
import torch

from mrnn.models.hand import TorchRuntime
from mrnn.tasks.likelihood import log_likelihood_of

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("epoch", ["plain_epoch", "fast_epoch"])
def test_both_loops_of_the_training_benchmark_learn(epoch, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import training
    from benchmarks.common import VOCABULARY, made_data, paper_model

    data, model = made_data(600), paper_model()

    def score() -> float:
        few = (data.sentences[:50], data.images[:50], data.features.numpy())
        return log_likelihood_of(TorchRuntime(model, "mrnn"), VOCABULARY, *few).mean()

    before = score()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    getattr(training, epoch)(model.train(), optimizer, data)
    assert score() > before + 1


def test_odd_clients_are_the_same_for_a_seed_and_their_answers_are_judged(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.campaign.clients import odd, wrong

    def some(seed):
        chance = random.Random(seed)
        return [odd(chance, 8000, b"a photo", ["0" * 64]) for _ in range(300)]

    assert some("a") == some("a") != some("b")
    assert {kind for kind, *_ in some("a")} >= {"framing", "host", "origin", "form", "json", "cut", "right"}
    line = b'{"detail": "no"}'
    assert not wrong(400, line, 0.1, {400}, True, False)
    for status, body, took in ((500, line, 0.1), (400, b"no", 0.1), (400, line, 11), (0, b"", 0.1), (200, line, 0.1)):
        assert wrong(status, body, took, {400}, True, False)
