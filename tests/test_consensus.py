import math

import numpy as np
import pytest
from made import pipeline

from mrnn.tasks.consensus import Consensus, ConsensusConfig
from mrnn.tasks.generation import Caption, GenerationConfig
from mrnn.tasks.likelihood import token_log_probabilities

SAID = [
    [["a", "red", "dog", "runs"], ["the", "dog", "runs", "fast"]],
    [["a", "red", "cat", "sleeps"], ["a", "cat", "on", "a", "mat"]],
    [["two", "men", "walk"], ["men", "on", "a", "street"]],
]


def hypothesis(text: str, score: float = -1.0) -> Caption:
    return Caption(text, tuple(text.split()), (score,), score)


def plain_similarity(a, b) -> float:
    """CIDEr's similarity of two sentences, written out."""
    total = 0.0
    for n in (1, 2, 3, 4):
        grams = lambda s, n=n: [tuple(s[i : i + n]) for i in range(len(s) - n + 1)]  # noqa: E731
        df = lambda g, grams=grams: sum(any(g in grams(s) for s in several) for several in SAID)  # noqa: E731
        weigh = lambda s, grams=grams, df=df: {  # noqa: E731
            g: grams(s).count(g) * math.log(len(SAID) / max(1, df(g))) for g in grams(s)
        }
        x, y = weigh(a), weigh(b)
        norm = math.sqrt(sum(v * v for v in x.values()) * sum(v * v for v in y.values()))
        total += sum(v * y.get(g, 0) for g, v in x.items()) / norm if norm else 0.0
    return total / 4


def test_hypotheses_are_ordered_by_their_best_similarities_to_the_neighbours_captions():
    image = np.array([[1.0, 0.0, 0.2], [0.8, 0.3, 0.0], [-1.0, 0.1, 0.0]], np.float32)
    config = ConsensusConfig(neighbours=2, matches=3, likelihood=0.0)
    texts = ["two men walk", "a red dog sleeps", "a dog runs fast", "the cat flies"]
    query = np.array([[1.0, 0.1, 0.2]], np.float32)
    ordered = Consensus(image, SAID, config).rerank([[hypothesis(t) for t in texts]], query)[0]
    near = [*SAID[0], *SAID[1]]
    expected = {t: np.mean(sorted(plain_similarity(t.split(), s) for s in near)[-3:]) for t in texts}
    assert [c.text for c in ordered] == sorted(texts, key=lambda t: -expected[t])


def test_the_likelihood_counts_as_much_as_it_is_given():
    image, query = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[:1]
    captions = [[hypothesis("two men walk", -0.1), hypothesis("a red dog runs", -9.0)]]
    first = lambda weight: (  # noqa: E731
        Consensus(image, SAID, ConsensusConfig(1, 5, weight)).rerank(captions, query)[0][0].text
    )
    assert first(0.0) == "a red dog runs"
    assert first(10.0) == "two men walk"


def test_weighted_captions_count_by_how_much_likelier_the_image_makes_them():
    image = np.array([[1.0, 0.0, 0.2], [0.8, 0.3, 0.0], [-1.0, 0.1, 0.0]], np.float32)
    vectors = np.random.default_rng(1).standard_normal((6, 3), np.float32)
    config = ConsensusConfig(neighbours=2, likelihood=0.2, temperature=0.5)
    said = {"a red dog sleeps": -1.0, "a dog runs fast": -2.5, "men walk": -2.0}
    hypotheses = [hypothesis(text, log_probability) for text, log_probability in said.items()]
    query = np.array([[1.0, 0.1, 0.2]], np.float32)
    ordered = Consensus(image, SAID, config, vectors).rerank([hypotheses], query)[0]
    near = [*SAID[0], *SAID[1]]
    weights = [math.exp(float(vectors[i] @ (query[0] - image.mean(0))) / 0.5) for i in range(4)]

    def expected(caption):
        gaussian = [math.exp(-((len(caption.tokens) - len(s)) ** 2) / 72) for s in near]
        alike = [g * plain_similarity(caption.tokens, s) for g, s in zip(gaussian, near, strict=True)]
        agreement = sum(w * a for w, a in zip(weights, alike, strict=True)) / sum(weights)
        return agreement + 0.2 * sum(caption.log_probabilities) / len(caption.log_probabilities) ** 0.5

    assert ordered == sorted(hypotheses, key=expected, reverse=True)


def test_what_the_neighbours_captions_say_is_found_and_measured_by_the_model_alone():
    pipe = pipeline(sorted({word for several in SAID for tokens in several for word in tokens}))
    image = np.random.default_rng(2).standard_normal((3, 8), np.float32)
    vectors = np.zeros((6, 8), np.float32)
    found = {}
    for told in (0.0, 100.0):
        config = ConsensusConfig(neighbours=1, hypotheses=2, likelihood=0.0, temperature=1.0, told=told)
        consensus = Consensus(image, SAID, config, vectors)
        found[told] = consensus.caption(pipe.model, pipe.vocabulary, image, GenerationConfig())
    for i, (few, more) in enumerate(zip(found[0.0], found[100.0], strict=True)):
        assert (len(few), len(more)) == (2, 4)
        assert {c.text for c in few} <= {c.text for c in more}
        assert {c.tokens for c in more} & {tuple(tokens) for tokens in SAID[i]}
        ids = [pipe.vocabulary.encode(c.tokens) for c in more]
        own = token_log_probabilities(pipe.model, pipe.vocabulary, ids, np.tile(image[i], (4, 1)))
        assert [c.log_probabilities for c in more] == [pytest.approx(p, abs=1e-5) for p in own]


@pytest.mark.parametrize(
    "options",
    [
        {"neighbours": 0},
        {"matches": 0},
        {"likelihood": -1.0},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": 5.0, "told": -1.0},
        {"told": 1.0},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=r"consensus|likelihood|temperature|told"):
        ConsensusConfig(**options)
    with pytest.raises(ValueError, match="training images"):
        Consensus(np.empty((0, 3), np.float32), [])
