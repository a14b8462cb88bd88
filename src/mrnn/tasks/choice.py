"""Which of a search's best sentences to say: the likeliest is often one that anyone would say of any photo.

    (log P(w | I) - a log P(w)) / T ** e  +  c mean_k cos(w, s_k)

a is the prior's weight and c that of the agreement: the likeness of the sentence to K others, s_k, which the model
would say of the photo too. These are drawn by arithmetic sampling (Vilnis et al. 2023, arXiv 2210.15458): codes spread
evenly between 0 and 1 are each decoded as if they were a compressed sentence, which is a draw from the model without
chance. cos is the cosine of n-gram counts, averaged over n = 1..4, in which a word weighs the more, the rarer it is.

Shapes: N images, K sentences drawn an image, R reference images, F width of an image vector.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mrnn.cider import ORDERS
from mrnn.runtime import Runtime
from mrnn.runtime.protocol import State
from mrnn.shapes import Float
from mrnn.tasks.confidence import usual_prior
from mrnn.tasks.generation import AllowedWords, Caption, GenerationConfig, word_by_word
from mrnn.text import Vocabulary

DRAWN = 20
_WORDS = 50  # the likeliest next words, among which a sentence is drawn

Vector = list[dict[tuple[int, ...], float]]


def choose(
    model: Runtime,
    vocabulary: Vocabulary,
    image: Float[np.ndarray, "N F"],
    captions: Sequence[Sequence[Caption]],
    config: GenerationConfig,
    references: Float[np.ndarray, "R F"],
) -> tuple[list[list[Caption]], list[list[float]]]:
    """Captions in the order above, which is their score now, and log P(w) of each.

    Args:
        model: Who speaks.
        vocabulary: Its words.
        image: What `model.encode_image` gave of N photos.
        captions: Of each, those that a search found.
        config: With the two weights.
        references: Image vectors of training photos.
    """
    ids = [[vocabulary.encode(caption.tokens) for caption in several] for several in captions]
    prior = iter(usual_prior(model, vocabulary, [one for several in ids for one in several], references).tolist())
    drawn = spread(model, vocabulary, image, DRAWN, config.max_length) if config.agreement else [[]] * len(image)
    chosen, priors = [], []
    for several, own, others in zip(captions, ids, drawn, strict=True):
        scored = []
        for caption, like in zip(several, agreement(own, others), strict=True):
            usual = next(prior)
            worth = caption.log_likelihood - config.prior_weight * usual
            score = worth / len(caption.log_probabilities) ** config.length_exponent + config.agreement * like
            scored.append((replace(caption, score=score), usual))
        scored.sort(key=lambda pair: -pair[0].score)
        chosen.append([caption for caption, _ in scored])
        priors.append([usual for _, usual in scored])
    return chosen, priors


def spread(
    model: Runtime, vocabulary: Vocabulary, image: Float[np.ndarray, "N F"], n: int, max_length: int
) -> list[list[list[int]]]:
    """Ids of n sentences an image, drawn without chance: the same whatever else is in the batch.

    Args:
        model: Who speaks.
        vocabulary: Its words.
        image: What `model.encode_image` gave.
        n: Sentences an image.
        max_length: Most words.
    """
    allowed = AllowedWords(vocabulary, 1, max_length)
    seen, codes = image.repeat(n, 0), np.tile((np.arange(n) + 0.5) / n, len(image))

    def step(words: np.ndarray, state: State, rows: np.ndarray, length: int) -> tuple[np.ndarray, State]:
        top, ids, state = model.step(words, state, seen[rows], _WORDS, allowed(length), "auto")
        p = np.exp((top - top[:, :1]).astype(np.float64))
        p /= p.sum(1, keepdims=True)
        ends, line = p.cumsum(1), np.arange(len(p))
        place = (ends <= codes[rows, None]).sum(1).clip(max=p.shape[1] - 1)
        share = p[line, place]
        # The place of the code within the word's own part of the line is the code of the rest.
        codes[rows] = ((codes[rows] - ends[line, place] + share) / share).clip(0, 1 - 1e-9)
        return ids[line, place], state

    found = word_by_word(model, vocabulary, len(seen), step, max_length)
    return [found[i : i + n] for i in range(0, len(found), n)]


def agreement(sentences: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> list[float]:
    """How like each sentence is to the others on average, 0 to 10, as CIDEr is; 0 without others."""
    if not others:
        return [0.0] * len(sentences)
    total: Vector = [{} for _ in ORDERS]
    for other in others:
        for sums, part in zip(total, _vector(other), strict=True):
            for gram, value in part.items():
                sums[gram] = sums.get(gram, 0.0) + value
    mean = 10 / (len(ORDERS) * len(others))
    return [mean * sum(map(_product, _vector(sentence), total)) for sentence in sentences]


def _product(one: dict[tuple[int, ...], float], other: dict[tuple[int, ...], float]) -> float:
    return math.fsum(value * other.get(gram, 0.0) for gram, value in one.items())


def _vector(ids: Sequence[int]) -> Vector:
    """Counts of the n-grams of each length, weighed by rarity and of length 1."""
    found = []
    for n in ORDERS:
        counts = Counter(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))
        # A vocabulary is sorted by frequency, so a word's place stands for how rare it is.
        weighed = {gram: count * sum(math.log(2 + i) for i in gram) / n for gram, count in counts.items()}
        length = math.sqrt(sum(value * value for value in weighed.values())) or 1.0
        found.append({gram: value / length for gram, value in weighed.items()})
    return found
