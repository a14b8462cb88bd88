import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import VOCABULARY, make, photos

import mrnn
from mrnn.corpora import read_corpus
from mrnn.evaluation.ranking import chance_figures, confidence, ranks, recall_figures, retrieval_figures
from mrnn.models import MODELS
from mrnn.models.hand import TorchRuntime
from mrnn.tasks.retrieval import Retriever, first_order
from mrnn.tasks.retrieval.exact import log_likelihood, pair_log_likelihood
from mrnn.tasks.retrieval.prefixes import encode_sentences
from mrnn.tasks.retrieval.scores import SCORES, apply_score, fast_sentence_prior, sentence_prior

every_model = pytest.mark.parametrize("name", MODELS)
UNKNOWN = VOCABULARY.unknown
SENTENCES = [[3, 4, 5], [3, 4], [3, 4, 5], [3, 9, 5, 6], [7], [UNKNOWN, UNKNOWN], list(range(3, 23)) * 3]
words = st.lists(st.integers(2, 22).filter(lambda i: i != VOCABULARY.start), min_size=1, max_size=6)


def hand(name="mrnn"):
    return TorchRuntime(make(name), name, tuple(photos(1, name).shape[1:]))


@torch.no_grad()
def naive(runtime, sentences, features, vocabulary=VOCABULARY):
    """Every sentence on its own, with each image: one softmax a word."""
    scores, n = np.empty((len(features), len(sentences)), np.float32), len(features)
    for i, sentence in enumerate(sentences):
        logits = runtime.model(torch.tensor([[vocabulary.start, *sentence]] * n), torch.from_numpy(features))
        targets = torch.tensor([[*sentence, vocabulary.end]] * n)
        scores[:, i] = logits.double().log_softmax(-1).gather(2, targets[..., None]).sum((1, 2))
    return scores


def close(a, b, atol=1e-4, rtol=0.0):
    np.testing.assert_allclose(a, b, atol=atol, rtol=rtol)


@every_model
@pytest.mark.parametrize("memory", [1 << 30, 2000, 1])
def test_exact_scores_equal_the_plain_ones(name, memory):
    model, features = hand(name), photos(7, name).numpy()
    encoded = encode_sentences(model, VOCABULARY, SENTENCES)
    got = log_likelihood(model, encoded, model.encode_image(features), memory)
    close(got, naive(model, SENTENCES, features))


@every_model
def test_bfloat16_scores_are_close(name, monkeypatch):
    monkeypatch.setattr("mrnn.models.precision.fast_bfloat16", lambda device: True)
    model, features = hand(name), photos(7, name).numpy()
    encoded = encode_sentences(model, VOCABULARY, SENTENCES)
    image = model.encode_image(features)
    rounded, plain = (log_likelihood(model, encoded, image, precision=p) for p in ("auto", "float32"))
    close(rounded, plain, 0.3)
    assert np.array_equal(rounded, plain) == (name == "ngram")
    pairs = np.array([[0, 1], [6, 0], [6, 5]])
    close(pair_log_likelihood(model, encoded, image, pairs, "auto"), plain[pairs[:, 0], pairs[:, 1]], 0.3)


def test_bfloat16_first_order_scores_are_close(monkeypatch):
    monkeypatch.setattr("mrnn.models.precision.fast_bfloat16", lambda device: True)
    model = hand()
    image = model.encode_image(photos(7).numpy())
    first, exact = (first_order(model, VOCABULARY, SENTENCES, image.mean(0), p) for p in ("auto", "float32"))
    close(first.scores(image), exact.scores(image), 0.3)


@given(sentences=st.lists(words, min_size=1, max_size=8), seed=st.integers(0, 5))
@settings(max_examples=25)
def test_prefix_sharing_changes_nothing(sentences, seed):
    model, features = hand(), photos(3).numpy()
    encoded = encode_sentences(model, VOCABULARY, sentences)
    prefixes = {tuple(s[:i]) for s in sentences for i in range(len(s) + 1)}
    assert len(encoded.text) == len(prefixes)
    image = model.encode_image(features)
    whole = log_likelihood(model, encoded, image)
    close(whole, naive(model, sentences, features))
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.integers(0, n, 11) for n in (3, len(sentences))], 1)
    close(pair_log_likelihood(model, encoded, image, pairs), whole[pairs[:, 0], pairs[:, 1]], 1e-5)


def test_nothing_to_score_gives_nothing():
    model = hand()
    image = model.encode_image(photos(2).numpy())
    none = encode_sentences(model, VOCABULARY, [])
    assert log_likelihood(model, none, image).shape == (2, 0)
    some = encode_sentences(model, VOCABULARY, SENTENCES)
    assert log_likelihood(model, some, np.empty((0, 10), np.float32)).shape == (0, len(SENTENCES))
    assert pair_log_likelihood(model, some, image, np.empty((0, 2), np.int64)).shape == (0,)
    nothing = first_order(model, VOCABULARY, [], image.mean(0))
    assert nothing.scores(image).shape == (2, 0)
    assert fast_sentence_prior(model, none, image, nothing).shape == (0,)


def test_first_order_is_exact_at_its_centre_and_has_the_right_slope(monkeypatch):
    model = hand()
    image = model.encode_image(photos(5).numpy())
    centre = image.mean(0)
    monkeypatch.setattr(sys.modules[first_order.__module__], "BLOCK_ROWS", 3)
    vectors = first_order(model, VOCABULARY, SENTENCES, centre)
    encoded = encode_sentences(model, VOCABULARY, SENTENCES)
    at_centre = log_likelihood(model, encoded, centre[None])
    close(vectors.scores(centre[None]), at_centre, 1e-3)
    step = np.float32(1e-2) * (image[:1] - centre)
    change = log_likelihood(model, encoded, centre + step) - log_likelihood(model, encoded, centre - step)
    predicted = vectors.scores(centre + step) - vectors.scores(centre - step)
    close(predicted, change, 2e-3, 0.02)
    assert all(parameter.requires_grad for parameter in model.model.parameters())


def test_the_prior_is_the_mean_probability_over_the_references():
    model = hand()
    features = photos(40).numpy()
    encoded = encode_sentences(model, VOCABULARY, SENTENCES)
    image = model.encode_image(features)
    expected = np.log(np.exp(naive(model, SENTENCES, features).astype(np.float64)).mean(0))
    close(sentence_prior(model, encoded, image), expected)
    approximate = first_order(model, VOCABULARY, SENTENCES, image.mean(0))
    close(fast_sentence_prior(model, encoded, image, approximate, shortlist=40), expected)
    close(fast_sentence_prior(model, encoded, image, approximate, shortlist=10), expected, 0.2)


def test_scores_are_what_their_names_say():
    scores = np.array([[-2.0, -6.0], [-4.0, -3.0]], np.float32)
    tokens, prior = np.array([2, 3]), np.array([-3.0, -5.0], np.float32)
    assert np.array_equal(apply_score("raw", scores, tokens), scores)
    assert np.array_equal(apply_score("normalised", scores, tokens, prior), scores - prior)
    assert np.array_equal(apply_score("per-token", scores, tokens), scores / tokens.astype(np.float32))
    posterior = apply_score("posterior", scores, tokens)
    close(np.exp(posterior).sum(0), np.ones(2), 1e-5, 1.3e-6)
    with pytest.raises(ValueError, match="prior"):
        apply_score("normalised", scores, tokens)
    with pytest.raises(ValueError, match="no score"):
        apply_score("best", scores, tokens)
    assert len(SCORES) == 4


def test_ranks_of_a_hand_made_matrix_with_ties():
    owner = np.array([0, 0, 1, 2])
    scores = np.array([[3.0, 1.0, 2.0, 0.0], [5.0, 5.0, 5.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert ranks(scores, owner, "image").tolist() == [1, 3, 4], "an equal score counts as ahead"
    assert ranks(scores, owner, "sentence").tolist() == [2, 2, 1, 3]


def naive_rank(scores, owner, query, i):
    column = scores[i] if query == "image" else scores[:, i]
    true = [j for j in range(len(column)) if (owner[j] == i if query == "image" else owner[i] == j)]
    best = max(column[j] for j in true)
    return 1 + sum(1 for j in range(len(column)) if j not in true and column[j] >= best)


@given(st.data())
@settings(max_examples=60)
def test_ranks_equal_counting(data):
    n, s = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    owner = np.array([i % n for i in range(max(s, n))])
    values = data.draw(st.lists(st.integers(0, 4), min_size=n * len(owner), max_size=n * len(owner)))
    scores = np.array(values, float).reshape(n, len(owner))
    for query, count in (("image", n), ("sentence", len(owner))):
        assert ranks(scores, owner, query).tolist() == [naive_rank(scores, owner, query, i) for i in range(count)]


def test_recall_chance_and_intervals():
    rank = np.array([1, 1, 4, 8, 20])
    figures = recall_figures(rank)
    assert figures == {"R@1": 40, "R@5": 60, "R@10": 80, "median rank": 4, "mean rank": 6.8}
    chance = chance_figures(1000, 1)
    assert chance["R@10"] == pytest.approx(1.0)
    assert chance["median rank"] == pytest.approx(500, abs=30)
    assert chance_figures(5000, 5)["R@1"] == pytest.approx(0.1)
    low, high = confidence(rank, np.arange(5))["R@1"]
    assert 0 <= low < 40 < high <= 100
    perfect = np.eye(4)
    out = retrieval_figures({"image": perfect, "sentence": perfect}, range(4))
    assert out["image-to-sentence R@1"] == out["sentence-to-image R@1"] == 100
    assert out["sentence-to-image median rank"] == 1
    assert math.isclose(out["image-to-sentence R@1 chance"], 25)


@pytest.mark.parametrize("query", ["image", "sentence"])
@pytest.mark.parametrize("shortlist", [1, 4, None])
def test_a_shortlist_by_posterior_is_near_the_exact_ranking(query, shortlist):
    model = hand()
    image = model.encode_image(photos(9).numpy())
    retriever = Retriever(model, VOCABULARY, image, SENTENCES[:6], precision="float32")
    exact = retriever.exact("posterior")
    close(np.exp(exact).sum(0), np.ones(6), 1e-4)
    matches = retriever.matches(query, 3, "posterior", shortlist)
    for i, several in enumerate(matches):
        assert len(several) == min(3, shortlist or 3)
        for match in several:
            assert match.score == pytest.approx(
                exact[(i, match.index) if query == "image" else (match.index, i)], abs=0.3
            )


def test_the_bundled_model_on_real_photos(data):
    pipe, plain = mrnn.load("flickr8k"), mrnn.load("flickr8k", "torch")
    photos = read_corpus(data / "flickr8k").split("dev")[:12]
    features = pipe.features([photo.path for photo in photos])
    sentences = [caption for photo in photos for caption in photo.captions]
    owner = [i for i, photo in enumerate(photos) for _ in photo.captions]
    retriever = pipe.retriever(features, sentences, precision="float32")
    exact = retriever.exact("raw")
    for i in (0, 7):
        close(exact[i], naive(plain.model, retriever.ids, features[i : i + 1], pipe.vocabulary)[0])
    figures = retrieval_figures({"image": retriever.exact("normalised"), "sentence": exact}, owner)
    assert figures["image-to-sentence R@5"] > 60 > figures["image-to-sentence R@5 chance"]
    assert figures["sentence-to-image R@5"] > 60 > figures["sentence-to-image R@5 chance"]
    true = [s["normalised_bits"] for s in pipe.score_pairs(features, owner, sentences)]
    false = [s["normalised_bits"] for s in pipe.score_pairs(features, [(i + 5) % 12 for i in owner], sentences)]
    assert sum(true) / len(true) > sum(false) / len(false) + 0.3
