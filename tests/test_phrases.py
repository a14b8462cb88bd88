"""Phrases by the equation, written out word by word."""

import numpy as np
import pytest
from made import pipeline

from mrnn.tasks import phrases
from mrnn.tasks.phrases import BEGINNINGS, Asked

ROUNDED = 5e-2  # nats that a rounded product may be off


@pytest.fixture(scope="module")
def pipe():
    return pipeline(references=40)


def behind(pipe, before, phrase, image) -> np.ndarray:
    """Log P(phrase | beginning, image) of every image."""
    state, words = pipe.model.begin(1), [pipe.vocabulary.start, *before, *phrase]
    total = np.zeros(len(image))
    for i in range(len(words) - 1):
        text, state = pipe.model.text(np.array([words[i]]), state)
        if i >= len(before):
            total += pipe.model.distribution(np.repeat(text, len(image), 0), image)[:, words[i + 1]]
    return total


@pytest.mark.parametrize("phrase", [[3], [5, 4], [3, 6, 5]])
def test_a_phrase_is_scored_behind_the_beginnings_where_it_is_likeliest(pipe, phrase):
    begun = pipe._beginnings
    assert () in begun.words and len(set(begun.words)) == len(begun.words)
    image = pipe.model.encode_image(np.random.default_rng(1).standard_normal((5, 1280), np.float32))
    asked = Asked(pipe.model, pipe.vocabulary, phrase, pipe.centre, lambda: begun)
    first = np.array([behind(pipe, before, phrase[:1], pipe.centre[None])[0] for before in begun.words])
    likely = [begun.words[i] for i in np.argsort(-first)[: phrases._LIKELY]]
    usual = np.array([behind(pipe, before, phrase, pipe.centre[None])[0] for before in likely])
    best = [likely[i] for i in np.argsort(-usual)[:BEGINNINGS]]
    expected = np.mean([behind(pipe, before, phrase, image) for before in best], 0)
    assert asked.exact(image) == pytest.approx(expected, abs=ROUNDED)
    each = np.mean([behind(pipe, before, phrase, pipe.references) for before in best], 0)
    assert asked.prior(pipe.references) == pytest.approx(np.log(np.exp(each).mean()), abs=0.1)
    near = asked.first.scores(pipe.centre[None])[0, 0]
    assert near == pytest.approx(usual[np.argsort(-usual)[:BEGINNINGS]].mean(), abs=ROUNDED)


def test_what_is_longer_is_a_sentence(pipe):
    ids = [3, 4, 5, 6]
    image = pipe.references[:3]
    asked = Asked(pipe.model, pipe.vocabulary, ids, pipe.centre, lambda: pipe._beginnings)
    whole = [*ids, pipe.vocabulary.end]
    assert asked.exact(image) == pytest.approx(behind(pipe, (), whole, image), abs=ROUNDED)
    short = Asked(pipe.model, pipe.vocabulary, ids[:2], pipe.centre, None)
    whole = [*ids[:2], pipe.vocabulary.end]
    assert short.exact(image) == pytest.approx(behind(pipe, (), whole, image), abs=ROUNDED)


def test_beginnings_do_not_change(pipe):
    said = pipe.say()
    assert said == pipe.say()
    again = pipeline(references=40)
    again.provenance["said"] = said
    assert again._beginnings.words == pipe._beginnings.words
    for nonsense in ([3], [], "a dog", None):
        again = pipeline(references=40)
        again.provenance["said"] = nonsense
        assert again._beginnings.words == pipe._beginnings.words, "said by the model itself"
