import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models import every_model, make, photos

import mrnn
from mrnn import likelihood
from mrnn.corpora import read_corpus
from mrnn.evaluation.ranking import chance_figures, confidence, ranks, recall_figures, retrieval_figures
from mrnn.retrieval.exact import log_likelihood, pair_log_likelihood
from mrnn.retrieval.first_order import first_order
from mrnn.retrieval.index import VectorIndex
from mrnn.retrieval.prefixes import encode_sentences
from mrnn.retrieval.scores import SCORES, apply_score, fast_sentence_prior, sentence_prior
from mrnn.text import SIGNS, Vocabulary

VOCABULARY = Vocabulary([*SIGNS, *(f"w{i}" for i in range(20))])
UNKNOWN = VOCABULARY.unknown
SENTENCES = [[3, 4, 5], [3, 4], [3, 4, 5], [3, 9, 5, 6], [7], [UNKNOWN, UNKNOWN], list(range(3, 23)) * 3]
words = st.lists(st.integers(2, 22).filter(lambda i: i != VOCABULARY.start), min_size=1, max_size=6)


def naive(model, sentences, features):
    """Every pair on its own, through the plain scorer."""
    columns = [
        likelihood.pair_log_likelihood(model, VOCABULARY, [s] * len(features), range(len(features)), features)
        for s in sentences
    ]
    return torch.stack(columns, 1)


def image_of(model, features):
    with torch.inference_mode():
        return model.encode_image(features)


@every_model
@pytest.mark.parametrize("memory", [1 << 30, 2000, 1])
def test_exact_scores_equal_the_plain_ones(name, memory):
    model, features = make(name), photos(7, name)
    encoded = encode_sentences(model, VOCABULARY, SENTENCES)
    got = log_likelihood(model, encoded, image_of(model, features), memory)
    torch.testing.assert_close(got, naive(model, SENTENCES, features), atol=1e-4, rtol=0)


@every_model
def test_bfloat16_scores_are_close(name):
    model, features = make(name), photos(7, name)
    encoded = encode_sentences(model, VOCABULARY, SENTENCES)
    image = image_of(model, features)
    rounded = log_likelihood(model, encoded, image, precision="bfloat16")
    torch.testing.assert_close(rounded, log_likelihood(model, encoded, image), atol=0.3, rtol=0)


@given(sentences=st.lists(words, min_size=1, max_size=8), seed=st.integers(0, 5))
@settings(max_examples=25)
def test_prefix_sharing_changes_nothing(sentences, seed):
    model, features = make("mrnn"), photos(3)
    encoded = encode_sentences(model, VOCABULARY, sentences)
    prefixes = {tuple(s[:i]) for s in sentences for i in range(len(s) + 1)}
    assert len(encoded.text) == len(prefixes)
    image = image_of(model, features)
    whole = log_likelihood(model, encoded, image)
    torch.testing.assert_close(whole, naive(model, sentences, features), atol=1e-4, rtol=0)
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.stack([torch.randint(0, n, (11,), generator=generator) for n in (3, len(sentences))], 1)
    some = pair_log_likelihood(model, encoded, image, pairs)
    torch.testing.assert_close(some, whole[pairs[:, 0], pairs[:, 1]], atol=1e-5, rtol=0)


@given(n=st.integers(1, 40), k=st.integers(1, 50), constants=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_a_small_index_is_brute_force(n, k, constants, seed):
    rng = np.random.default_rng(seed)
    vectors, query = rng.normal(size=(n, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    added = rng.normal(size=n).astype(np.float32) if constants else None
    which, scores = VectorIndex(vectors, added).search(query, k)
    expected = vectors @ query + (added if constants else 0)
    order = np.argsort(-expected, kind="stable")[:k]
    np.testing.assert_allclose(scores, expected[order], atol=1e-5)
    np.testing.assert_allclose(expected[which], expected[order], atol=1e-5)


def test_a_large_index_finds_nearly_what_brute_force_finds():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(24, 48))
    vectors = (rng.normal(size=(60_000, 24)) @ basis).astype(np.float32)
    constants = rng.normal(size=60_000).astype(np.float32)
    index = VectorIndex(vectors, constants)
    found = 0
    for query in (rng.normal(size=(10, 24)) @ basis).astype(np.float32):
        exact = vectors @ query + constants
        which, scores = index.search(query, 10)
        np.testing.assert_allclose(scores, exact[which], rtol=1e-4)
        found += len(set(which) & set(np.argsort(-exact)[:10]))
    assert found >= 95


def test_nothing_to_score_gives_nothing():
    model = make("mrnn")
    none = encode_sentences(model, VOCABULARY, [])
    assert log_likelihood(model, none, image_of(model, photos(2))).shape == (2, 0)
    some = encode_sentences(model, VOCABULARY, SENTENCES)
    assert log_likelihood(model, some, torch.empty(0, 10)).shape == (0, len(SENTENCES))
    assert pair_log_likelihood(model, some, image_of(model, photos(2)), torch.empty(0, 2, dtype=torch.long)).shape == (
        0,
    )


def test_first_order_is_exact_at_its_centre_and_has_the_right_slope():
    model = make("mrnn")
    image = image_of(model, photos(5))
    centre = image.mean(0)
    vectors = first_order(model, VOCABULARY, SENTENCES, centre, batch=3)
    encoded = encode_sentences(model, VOCABULARY, SENTENCES)
    at_centre = log_likelihood(model, encoded, centre[None])
    torch.testing.assert_close(vectors.scores(centre[None]), at_centre, atol=1e-3, rtol=0)
    step = 1e-2 * (image[:1] - centre)
    change = log_likelihood(model, encoded, centre + step) - log_likelihood(model, encoded, centre - step)
    predicted = vectors.scores(centre + step) - vectors.scores(centre - step)
    torch.testing.assert_close(predicted, change, atol=2e-3, rtol=0.02)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_prior_is_the_mean_probability_over_the_references():
    model = make("mrnn")
    features = photos(40)
    encoded = encode_sentences(model, VOCABULARY, SENTENCES)
    image = image_of(model, features)
    expected = naive(model, SENTENCES, features).double().exp().mean(0).log()
    torch.testing.assert_close(sentence_prior(model, encoded, image).double(), expected, atol=1e-4, rtol=0)
    approximate = first_order(model, VOCABULARY, SENTENCES, image.mean(0))
    whole = fast_sentence_prior(model, encoded, image, approximate, shortlist=40)
    torch.testing.assert_close(whole.double(), expected, atol=1e-4, rtol=0)
    fast = fast_sentence_prior(model, encoded, image, approximate, shortlist=10)
    torch.testing.assert_close(fast.double(), expected, atol=0.2, rtol=0)


def test_scores_are_what_their_names_say():
    scores = torch.tensor([[-2.0, -6.0], [-4.0, -3.0]])
    tokens, prior = torch.tensor([2, 3]), torch.tensor([-3.0, -5.0])
    assert torch.equal(apply_score("raw", scores, tokens), scores)
    assert torch.equal(apply_score("normalised", scores, tokens, prior), scores - prior)
    assert torch.equal(apply_score("per-token", scores, tokens), scores / tokens)
    posterior = apply_score("posterior", scores, tokens)
    torch.testing.assert_close(posterior.exp().sum(0), torch.ones(2))
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


def test_the_bundled_model_on_real_photos(data):
    pipe = mrnn.load("flickr8k")
    photos = read_corpus(data / "flickr8k").split("dev")[:12]
    features = pipe.features([photo.path for photo in photos])
    sentences = [caption for photo in photos for caption in photo.captions]
    owner = [i for i, photo in enumerate(photos) for _ in photo.captions]
    retriever = pipe.retriever(features, sentences, precision="float32")
    exact = retriever.exact("raw")
    for i in (0, 7):
        plain = likelihood.pair_log_likelihood(pipe.model, pipe.vocabulary, retriever.ids, [i] * len(owner), features)
        torch.testing.assert_close(exact[i], plain, atol=1e-4, rtol=0)
    figures = retrieval_figures({"image": retriever.exact("normalised").numpy(), "sentence": exact.numpy()}, owner)
    assert figures["image-to-sentence R@5"] > 60 > figures["image-to-sentence R@5 chance"]
    assert figures["sentence-to-image R@5"] > 60 > figures["sentence-to-image R@5 chance"]
    true = [s["normalised_bits"] for s in pipe.score_pairs(features, owner, sentences)]
    false = [s["normalised_bits"] for s in pipe.score_pairs(features, [(i + 5) % 12 for i in owner], sentences)]
    assert sum(true) / len(true) > sum(false) / len(false) + 0.3
