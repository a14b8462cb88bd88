import math

import pytest
import torch
from test_models import every_model, make, photos

from mrnn.likelihood import IGNORED, Batch, pair_log_likelihood, perplexity, token_log_probabilities
from mrnn.text import SIGNS, Vocabulary

VOCABULARY = Vocabulary([*SIGNS, *(f"w{i}" for i in range(20))])
SENTENCES = [[3, 4, 5], [6], [7, 8, 9, 10, 11, 2], [], [3, 3]]


def naive(model, sentence, features):
    """One sentence, one image, one softmax a word, in float64."""
    tokens = torch.tensor([[VOCABULARY.start, *sentence]])
    logits = model(tokens, features[None])[0].double()
    targets = [*sentence, VOCABULARY.end]
    return [math.log(logits[t].softmax(-1)[word]) for t, word in enumerate(targets)]


@every_model
def test_log_likelihoods_equal_one_softmax_a_word(name):
    model, features = make(name), photos(3, name)
    images = [0, 2, 1, 0, 2]
    with torch.no_grad():
        expected = [naive(model, s, features[i]) for s, i in zip(SENTENCES, images, strict=True)]
    got = pair_log_likelihood(model, VOCABULARY, SENTENCES, images, features)
    torch.testing.assert_close(got, torch.tensor([sum(e) for e in expected]), atol=1e-4, rtol=0)
    tokens = token_log_probabilities(model, VOCABULARY, SENTENCES, model.encode_image(features)[images], batch=2)
    for one, other in zip(tokens, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_a_batch_has_start_end_and_ignored_padding():
    batch = Batch.of([[5, 6], [7]], [1, 0], VOCABULARY)
    assert batch.inputs.tolist() == [[VOCABULARY.start, 5, 6], [VOCABULARY.start, 7, VOCABULARY.end]]
    assert batch.targets.tolist() == [[5, 6, VOCABULARY.end], [7, VOCABULARY.end, IGNORED]]


def test_perplexity_of_a_uniform_distribution_is_its_size():
    assert perplexity(10 * math.log(1 / 50), 10) == pytest.approx(50)
