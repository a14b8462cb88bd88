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
from dataclasses import dataclass, replace

import numpy as np

from mrnn.cider import ORDERS
from mrnn.runtime import Runtime
from mrnn.shapes import Float
from mrnn.tasks.generation import AllowedWords, Caption, GenerationConfig
from mrnn.tasks.retrieval import encode_sentences, fast_sentence_prior, first_order
from mrnn.text import Vocabulary

AMONG = 4  # the likeliest sentences of a wider search, which a choice weighs: more gain nothing
DRAWN = 20
_REFERENCES = 3  # scored exactly for the prior: thirty tell good from bad no better
_WORDS = 50  # the likeliest next words, among which a sentence is drawn

Vector = list[dict[tuple[int, ...], float]]


@dataclass(frozen=True)
class Known:
    """What a choice finds out of a sentence.

    Args:
        prior: log P(w).
        agreement: With what else the model would say, 0 to 10.
    """

    prior: float
    agreement: float


def weigh(
    model: Runtime,
    vocabulary: Vocabulary,
    image: Float[np.ndarray, "N F"],
    sentences: Sequence[Sequence[Sequence[int]]],
    references: Float[np.ndarray, "R F"],
) -> list[list[Known]]:
    """What a choice and a confidence rest on, beside the likelihood.

    Args:
        model: Who speaks.
        vocabulary: Its words.
        image: What `model.encode_image` gave of N photos.
        sentences: Of each, sentences of ids without signs.
        references: Image vectors of training photos.
    """
    flat = [one for several in sentences for one in several]
    if not flat:
        return [[] for _ in sentences]
    encoded = encode_sentences(model, vocabulary, flat)
    first = first_order(model, vocabulary, flat, references.mean(0), encoded=encoded)
    prior = iter(fast_sentence_prior(model, encoded, references, first, _REFERENCES, "auto").tolist())
    drawn = spread(model, vocabulary, image, DRAWN)
    return [
        [Known(next(prior), like) for like in agreement(several, others)]
        for several, others in zip(sentences, drawn, strict=True)
    ]


def choose(
    captions: Sequence[Sequence[Caption]], known: Sequence[Sequence[Known]], config: GenerationConfig
) -> tuple[list[list[Caption]], list[list[Known]]]:
    """The `n` best captions in the order above, which is their score now; and what is known of them.

    Args:
        captions: Of N photos, those that a search found.
        known: Of each.
        config: With the two weights.
    """
    chosen, theirs = [], []
    for several, facts in zip(captions, known, strict=True):
        scored = []
        for caption, fact in zip(several, facts, strict=True):
            worth = caption.log_likelihood - config.prior_weight * fact.prior
            score = worth / len(caption.log_probabilities) ** config.length_exponent
            scored.append((replace(caption, score=score + config.agreement * fact.agreement), fact))
        best = sorted(scored, key=lambda pair: -pair[0].score)[: config.n]
        chosen.append([caption for caption, _ in best])
        theirs.append([fact for _, fact in best])
    return chosen, theirs


def spread(
    model: Runtime, vocabulary: Vocabulary, image: Float[np.ndarray, "N F"], n: int, max_length: int = 25
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
    codes = np.tile((np.arange(n) + 0.5) / n, len(image))
    drawn = np.full((len(codes), max_length + 1), vocabulary.end, np.int64)
    going = np.arange(len(codes))  # sentences that have not ended
    # Codes that agree so far go the same way: the model is asked once a beginning.
    begun = np.arange(len(image)).repeat(n)
    owner, words, state = np.arange(len(image)), np.full(len(image), vocabulary.start), model.begin(len(image))
    for length in range(max_length):
        top, ids, state = model.step(words, state, image[owner], _WORDS, allowed(length), "auto")
        p = np.exp((top - top[:, :1]).astype(np.float64))
        p /= p.sum(1, keepdims=True)
        ends = p.cumsum(1)
        place = (ends[begun] <= codes[going, None]).sum(1).clip(max=p.shape[1] - 1)
        share = p[begun, place]
        # The place of the code within the word's own part of the line is the code of the rest.
        codes[going] = ((codes[going] - ends[begun, place] + share) / share).clip(0, 1 - 1e-9)
        said = ids[begun, place]
        drawn[going, length] = said
        on = (said != vocabulary.end).nonzero()[0]
        if not len(on):
            break
        going, said = going[on], said[on]
        beginnings, begun = np.unique(begun[on] * len(vocabulary) + said, return_inverse=True)
        before, words = np.divmod(beginnings, len(vocabulary))
        owner, state = owner[before], model.select(state, before)
    sentences = [sentence[: sentence.index(vocabulary.end)] for sentence in drawn.tolist()]
    return [sentences[i : i + n] for i in range(0, len(sentences), n)]


def agreement(sentences: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> list[float]:
    """How like each sentence is to the others on average, 0 to 10, as CIDEr is; 0 without others."""
    if not others:
        return [0.0] * len(sentences)
    total: Vector = [{} for _ in ORDERS]
    for other, times in Counter(map(tuple, others)).items():
        for sums, part in zip(total, _vector(other), strict=True):
            for gram, value in part.items():
                sums[gram] = sums.get(gram, 0.0) + times * value
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
