"""Benchmarks are run by hand, and must run when they are."""

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
