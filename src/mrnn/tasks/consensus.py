"""Consensus re-ranking of n-best captions by what was said of like photos (arXiv 1412.6632, section 8).

The nearest training images, in the model's own image space V_I I, are looked up; a hypothesis is scored by the mean
of its best similarities to their captions, or, weighted, by the mean over all of them, each with a weight by how much
likelier the image to caption makes it:

    exp(q . (b - b0) / temperature),    q . (b - b0)  ~  log P(w | b) / P(w | b0)    (`retrieval/first_order.py`)

Weighted, those captions are also told to the model (`runtime/told.py`), whose search then finds more hypotheses.

The similarity of two sentences is CIDEr's (Vedantam et al. 2015): the cosine of their n-grams' tf-idf vectors,
averaged over n = 1..4; weighted, times CIDEr-D's Gaussian of the difference in length.

Shapes: Q images to caption, N training images, S captions of theirs, R captions of an image's neighbours,
M multimodal width.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mrnn.cider import ORDERS, SIGMA, NGrams, ngrams
from mrnn.runtime import Runtime
from mrnn.runtime.protocol import log_softmax, top_k
from mrnn.runtime.told import Told
from mrnn.shapes import Float, Int
from mrnn.tasks.generation import Caption, GenerationConfig, generate
from mrnn.tasks.likelihood import token_log_probabilities
from mrnn.text import Vocabulary

LENGTH_EXPONENT = 0.5


@dataclass(frozen=True)
class ConsensusConfig:
    """How much of the neighbourhood speaks. The second paper has 60 neighbours and 125 matches; ours are chosen on dev.

    Args:
        neighbours: Training images looked up, by the cosine of image vectors about the training images' mean.
        matches: Captions of theirs, those most like the hypothesis, over which the similarity is averaged.
        likelihood: Weight, beside the mean similarity, of the score that the search gave the hypothesis; of its
            log-likelihood / tokens ** 0.5 if captions are weighted.
        hypotheses: Captions that a beam of as many gives to choose from.
        image_gain: Of that search; more than a search that has the last word can bear.
        temperature: Weigh the neighbours' captions, in nats, instead of looking for matches; not if None.
        told: How much the weighted captions count against the model in a search for as many hypotheses more; there
            is no such search if 0.
    """

    neighbours: int = 60
    matches: int = 200
    likelihood: float = 0.08
    hypotheses: int = 10
    image_gain: float = 1.3
    temperature: float | None = None
    told: float = 0.0

    def __post_init__(self):
        if self.neighbours < 1 or self.matches < 1 or self.hypotheses < 1:
            raise ValueError("consensus needs 1 neighbour, match and hypothesis or more")
        if self.likelihood < 0:
            raise ValueError(f"the weight of the likelihood is {self.likelihood}, but must be 0 or more")
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"the temperature is {self.temperature}, but must be above 0 (or None)")
        if self.told < 0 or (self.told and self.temperature is None):
            raise ValueError("told must be 0 or more, and needs the captions to be weighted by a temperature")


PLAIN = ConsensusConfig()
WEIGHTED = ConsensusConfig(likelihood=0.04, temperature=7.0, told=3.0)


def _directions(vectors: Float[np.ndarray, "N M"]) -> Float[np.ndarray, "N M"]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


class Consensus:
    """What was said of the training images.

    Args:
        image: (N, M), what `model.encode_image` gave of the training images.
        captions: For each of them its captions, tokenised.
        config: How to re-rank.
        vectors: (S, M) first-order vectors of all captions in their order, if the configuration has a temperature.

    Raises:
        ValueError: scipy is not installed, or there is no training image.
    """

    def __init__(
        self,
        image: Float[np.ndarray, "N M"],
        captions: Sequence[Sequence[Sequence[str]]],
        config: ConsensusConfig = PLAIN,
        vectors: Float[np.ndarray, "S M"] | None = None,
    ):
        if not len(captions):
            raise ValueError("consensus needs training images")
        assert config.temperature is None or vectors is not None
        self.config, self._first_order, self._captions = config, vectors, [c for several in captions for c in several]
        self.centre = image.mean(0)
        self._directions = _directions(image - self.centre)
        said = [[ngrams(caption) for caption in several] for several in captions]
        frequency = Counter(gram for several in said for gram in {gram for grams in several for gram in grams})
        self._rarest = math.log(len(captions))
        self._column = {gram: i for i, gram in enumerate(frequency)}
        self._idf = np.array([math.log(len(captions) / n) for n in frequency.values()])
        self._first = np.cumsum([0, *map(len, said)])
        self._said = self._vectors([grams for several in said for grams in several])
        self._length = np.array([len(caption) for several in captions for caption in several])

    def caption(
        self, model: Runtime, vocabulary: Vocabulary, image: Float[np.ndarray, "Q M"], config: GenerationConfig
    ) -> list[list[Caption]]:
        """Search for hypotheses and re-rank them.

        Args:
            model: Who writes.
            vocabulary: Its words.
            image: What `model.encode_image` gave of Q images.
            config: How to search, but for the beam, the number of captions and the image gain, which are ours.
        """
        n = self.config.hypotheses
        config = replace(config, method="beam", n=n, beam=n, image_gain=self.config.image_gain)
        found = generate(model, vocabulary, image, config, self.centre, precision="float32")
        if self.config.told:
            for several, rows, one in zip(found, self._neighbours(image), image, strict=True):
                several += self._told(model, vocabulary, rows, one, config)
        return self.rerank(found, image)

    def rerank(self, captions: Sequence[Sequence[Caption]], image: Float[np.ndarray, "Q M"]) -> list[list[Caption]]:
        """Order every image's captions by consensus, best first; of equals the earlier.

        Args:
            captions: For each of Q images the hypotheses of a search.
            image: What `model.encode_image` gave of them.
        """
        ordered = []
        for several, rows, one in zip(captions, self._neighbours(image), image, strict=True):
            hypotheses = self._vectors([ngrams(caption.tokens) for caption in several])
            similarity = (hypotheses @ self._said[rows].T).toarray()
            if self.config.temperature is None:
                agreement = np.sort(similarity, 1)[:, -self.config.matches :].mean(1)
                likelihood = [caption.score for caption in several]
            else:
                longer = np.array([[len(caption.tokens)] for caption in several]) - self._length[rows]
                similarity *= np.exp(-(longer**2) / (2 * SIGMA**2))
                agreement = similarity @ self._weights(rows, one)
                likelihood = [c.log_likelihood / len(c.log_probabilities) ** LENGTH_EXPONENT for c in several]
            score = agreement + self.config.likelihood * np.array(likelihood)
            ordered.append([several[i] for i in np.argsort(-score, kind="stable")])
        return ordered

    def _told(
        self,
        model: Runtime,
        vocabulary: Vocabulary,
        rows: Int[np.ndarray, " R"],
        image: Float[np.ndarray, " M"],
        config: GenerationConfig,
    ) -> list[Caption]:
        """What a search finds once the model was told the neighbours' captions; probabilities are the model's own."""
        sentences = [vocabulary.encode(self._captions[row]) for row in rows]
        weights = self.config.told * self._weights(rows, image)
        told = Told(model, vocabulary, sentences, weights.tolist())
        found = generate(told, vocabulary, image[None], config, self.centre)[0]
        ids = [vocabulary.encode(caption.tokens) for caption in found]
        own = token_log_probabilities(model, vocabulary, ids, np.tile(image, (len(ids), 1)))
        return [replace(c, log_probabilities=tuple(p)) for c, p in zip(found, own, strict=True)]

    def _neighbours(self, image: Float[np.ndarray, "Q M"]) -> list[Int[np.ndarray, " R"]]:
        """For every image which captions, of all, its neighbours have."""
        near = top_k(_directions(image - self.centre) @ self._directions.T, self.config.neighbours)[1]
        return [np.concatenate([np.arange(self._first[i], self._first[i + 1]) for i in row]) for row in near.tolist()]

    def _weights(self, rows: Int[np.ndarray, " R"], image: Float[np.ndarray, " M"]) -> Float[np.ndarray, " R"]:
        """Of captions, by how much likelier the image makes them."""
        assert self.config.temperature is not None and self._first_order is not None
        likelier = self._first_order[rows] @ (image - self.centre)
        return np.exp(log_softmax(likelier[None] / self.config.temperature)[0])

    def _vectors(self, sentences: Sequence[NGrams]):
        """Sparse rows whose dot product is the mean over n of the cosines."""
        try:
            from scipy.sparse import csr_array
        except ImportError:
            raise ValueError("consensus re-ranking needs an extra: pip install 'mrnn[eval]'") from None
        data, columns, ends = [], [], [0]
        for grams in sentences:
            squares = dict.fromkeys(ORDERS, 0.0)
            weights = []
            for gram, count in grams.items():
                column = self._column.get(gram)
                weight = count * (self._rarest if column is None else self._idf[column])
                squares[len(gram)] += weight**2
                if column is not None:
                    columns.append(column)
                    weights.append((len(gram), weight))
            data += [w / math.sqrt(len(ORDERS) * squares[n]) if squares[n] else 0.0 for n, w in weights]
            ends.append(len(columns))
        return csr_array((np.array(data, np.float32), columns, ends), shape=(len(sentences), len(self._idf)))
