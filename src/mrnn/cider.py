"""CIDEr (Vedantam, Zitnick and Parikh 2015, arXiv 1411.5726) of token sequences, fast enough to be a reward.

A sentence is its n-grams, n = 1..4, weighed by tf-idf over the references of all images. This is the CIDEr-D that the
field's evaluation code computes: the cosine with the sentence's counts clipped to the reference's, times a Gaussian of
the difference in length, averaged over the references and over n, times 10.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

ORDERS = (1, 2, 3, 4)
SIGMA = 6.0

NGrams = Counter[tuple[Hashable, ...]]
_Vector = tuple[list[dict[tuple[Hashable, ...], float]], list[float], int]


def ngrams(tokens: Sequence[Hashable]) -> NGrams:
    """How often each n-gram of the four lengths occurs."""
    return Counter(tuple(tokens[i : i + n]) for n in ORDERS for i in range(len(tokens) - n + 1))


class CIDEr:
    """Scores sentences against the references of the images they describe.

    Args:
        references: For each image its sentences of tokens: words, or ids.

    Raises:
        ValueError: An image has no reference.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[Hashable]]]):
        if not references or not all(references):
            raise ValueError("CIDEr needs one reference or more of every image")
        grams = [[ngrams(sentence) for sentence in several] for several in references]
        frequency = Counter(gram for several in grams for gram in {gram for one in several for gram in one})
        self._rarest = math.log(len(references))
        self._idf = {gram: self._rarest - math.log(n) for gram, n in frequency.items()}
        self._references = [
            [self._vector(one, len(sentence)) for one, sentence in zip(some, several, strict=True)]
            for some, several in zip(grams, references, strict=True)
        ]

    def __call__(self, image: int, sentence: Sequence[Hashable]) -> float:
        """The score of a sentence for an image, 0 to 10."""
        return self._score(self._vector(ngrams(sentence), len(sentence)), self._references[image])

    def agreement(self, image: int) -> list[float]:
        """Each reference's score against the image's other references, 0 where there is no other."""
        several = self._references[image]
        if len(several) == 1:
            return [0.0]
        return [self._score(one, [*several[:i], *several[i + 1 :]]) for i, one in enumerate(several)]

    def _score(self, sentence: _Vector, references: Sequence[_Vector]) -> float:
        weights, norms, length = sentence
        total = 0.0
        for truths, truth_norms, truth_length in references:
            near = math.exp(-((length - truth_length) ** 2) / (2 * SIGMA**2))
            for mine, truth, norm, truth_norm in zip(weights, truths, norms, truth_norms, strict=True):
                if norm and truth_norm:
                    shared = sum(min(w, truth[gram]) * truth[gram] for gram, w in mine.items() if gram in truth)
                    total += near * shared / (norm * truth_norm)
        return 10 * total / (len(ORDERS) * len(references))

    def _vector(self, grams: NGrams, length: int) -> _Vector:
        """tf-idf weights by n-gram and their norm, for each n."""
        weights: list[dict[tuple[Hashable, ...], float]] = [{} for _ in ORDERS]
        for gram, count in grams.items():
            weights[len(gram) - 1][gram] = count * self._idf.get(gram, self._rarest)
        return weights, [math.sqrt(sum(w * w for w in some.values())) for some in weights], length
