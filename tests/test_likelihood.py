import math

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, make, photos

from mrnn.models import MODELS
from mrnn.models.hand import TorchRuntime
from mrnn.tasks import likelihood
from mrnn.tasks.likelihood import log_likelihood_of, perplexity, token_log_probabilities
from mrnn.training.batch import IGNORED, Batch

every_model = pytest.mark.parametrize("name", MODELS)
SENTENCES = [[3, 4, 5], [6], [7, 8, 9, 10, 11, 2], [], [3, 3]]


def naive(model, sentence, features):
    """One sentence, one image, one softmax a word, in float64."""
    tokens = torch.tensor([[VOCABULARY.start, *sentence]])
    logits = model(tokens, features[None])[0].double()
    targets = [*sentence, VOCABULARY.end]
    return [math.log(logits[t].softmax(-1)[word]) for t, word in enumerate(targets)]


@every_model
def test_log_likelihoods_equal_one_softmax_a_word(name, monkeypatch):
    model, features = make(name), photos(3, name)
    images = [0, 2, 1, 0, 2]
    with torch.no_grad():
        expected = [naive(model, s, features[i]) for s, i in zip(SENTENCES, images, strict=True)]
    runtime, features = TorchRuntime(model, name, tuple(features.shape[1:])), features.numpy()
    got = log_likelihood_of(runtime, VOCABULARY, SENTENCES, images, features)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, [sum(e) for e in expected], atol=1e-4, rtol=0)
    monkeypatch.setattr(likelihood, "BLOCK_ROWS", 2)
    tokens = token_log_probabilities(runtime, VOCABULARY, SENTENCES, runtime.encode_image(features)[images])
    for one, other in zip(tokens, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_no_sentences_have_no_log_likelihoods():
    runtime = TorchRuntime(make("mrnn"), "mrnn")
    assert log_likelihood_of(runtime, VOCABULARY, [], [], photos(2).numpy()).shape == (0,)


def test_a_batch_has_start_end_and_ignored_padding():
    batch = Batch.of([[5, 6], [7]], [1, 0], VOCABULARY)
    assert batch.inputs.tolist() == [[VOCABULARY.start, 5, 6], [VOCABULARY.start, 7, VOCABULARY.end]]
    assert batch.targets.tolist() == [[5, 6, VOCABULARY.end], [7, VOCABULARY.end, IGNORED]]


def test_perplexity_of_a_uniform_distribution_is_its_size():
    assert perplexity(10 * math.log(1 / 50), 10) == pytest.approx(50)
