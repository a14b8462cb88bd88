"""Choosing among a beam's captions, by equations written out anew."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import pipeline

from mrnn.tasks.choice import agreement, spread, weigh
from mrnn.tasks.generation import GenerationConfig, generate

sentences = st.lists(st.lists(st.integers(3, 12), min_size=1, max_size=9), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def pipe():
    return pipeline(references=40)


@pytest.fixture(scope="module")
def image(pipe):
    return pipe.model.encode_image(np.random.default_rng(0).standard_normal((6, 1280), np.float32))


def cosine(one, other, n):
    """Of the n-grams of two sentences, each weighed by the mean of log(2 + id)."""
    a, b = (Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1)) for s in (one, other))
    grams = sorted({*a, *b})
    weights = np.array([np.mean(np.log(2 + np.array(gram))) for gram in grams])
    x, y = (np.array([counts[gram] for gram in grams]) * weights for counts in (a, b))
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y))) if a and b else 0.0


@given(sentences, sentences)
def test_agreement_is_the_mean_cosine_with_the_others(own, others):
    expected = [10 * np.mean([[cosine(one, other, n) for n in range(1, 5)] for other in others]) for one in own]
    assert agreement(own, others) == pytest.approx(expected)
    assert agreement(own, []) == [0] * len(own)


def test_what_is_drawn_is_the_models_own_distribution_without_chance(pipe, image):
    drawn = spread(pipe.model, pipe.vocabulary, image[:2], 400)
    assert drawn == spread(pipe.model, pipe.vocabulary, image[:2], 400)
    assert drawn[1:] == spread(pipe.model, pipe.vocabulary, image[1:2], 400), "whatever else is in the batch"
    text, _ = pipe.model.text(np.full(1, pipe.vocabulary.start), pipe.model.begin(1))
    log_p = pipe.model.distribution(text, image[:1])[0]
    log_p[[pipe.vocabulary.start, pipe.vocabulary.unknown, pipe.vocabulary.end]] = -np.inf
    p = np.exp(log_p) / np.exp(log_p).sum()
    share = np.bincount([sentence[0] for sentence in drawn[0]], minlength=len(p)) / 400
    assert np.abs(share - p).max() <= 1 / 400 + 2e-2, "evenly spread, so no further off than one code and rounding"


@pytest.mark.parametrize(("a", "c"), [(0.4, 0.0), (0.0, 0.3), (0.4, 0.3)])
def test_the_captions_chosen_are_those_of_the_equation(pipe, image, a, c):
    config = GenerationConfig(beam=6, n=2, prior_weight=a, agreement=c, length_exponent=0.8)
    written = pipe.write(image, config)
    found = generate(pipe.model, pipe.vocabulary, image, replace(config, n=4), pipe.centre)  # the likeliest of six
    for i, several in enumerate(found):
        ids = [pipe.vocabulary.encode(caption.tokens) for caption in several]
        (known,) = weigh(pipe.model, pipe.vocabulary, image[i : i + 1], [ids], pipe.references)
        drawn = spread(pipe.model, pipe.vocabulary, image[i : i + 1], 20)[0]
        worth = {
            caption.text: (caption.log_likelihood - a * fact.prior) / len(caption.log_probabilities) ** 0.8 + c * like
            for caption, fact, like in zip(several, known, agreement(ids, drawn), strict=True)
        }
        best = sorted(worth, key=lambda text: -worth[text])[:2]
        assert [caption.text for caption in written[i]] == best
        assert [caption.score for caption in written[i]] == pytest.approx([worth[text] for text in best], abs=1e-3)


def test_a_choice_needs_references_and_weights_in_range(image):
    with pytest.raises(ValueError, match="reference images"):
        pipeline().write(image, GenerationConfig(prior_weight=0.3))
    for bad in ({"prior_weight": 3.0}, {"agreement": -1.0}, {"agreement": math.nan}):
        with pytest.raises(ValueError, match="weights of prior and agreement"):
            GenerationConfig(**bad)
    assert not GenerationConfig(method="sample", prior_weight=0.3).chooses
