"""Which sentences fit an image, which images fit a sentence: shortlist by first order, re-rank exactly.

Shapes: N images, S sentences, R reference images, F width of an image vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from mrnn.runtime import Precision, Runtime
from mrnn.shapes import Float
from mrnn.tasks.retrieval.exact import MEMORY, log_likelihood, pair_log_likelihood
from mrnn.tasks.retrieval.first_order import FirstOrder, first_order
from mrnn.tasks.retrieval.prefixes import encode_sentences
from mrnn.tasks.retrieval.scores import DEFAULTS, PRIOR_WEIGHT, Score, apply_score, fast_sentence_prior, log_sum
from mrnn.text import Vocabulary

Query = Literal["image", "sentence"]


@dataclass(frozen=True)
class Match:
    """A candidate of a ranking.

    Args:
        index: Its place among the candidates.
        score: What it was ranked by, in nats.
    """

    index: int
    score: float


class Retriever:
    """Ranks a pool of images and sentences against each other.

    Args:
        model: Who scores.
        vocabulary: Its words.
        image: (N, F), what `model.encode_image` gave of the pool's images.
        sentences: S sentences of ids without signs.
        references: (R, F), image vectors of training images for the prior P(w); None if there are none.
        precision: Of the softmax's normaliser.
        memory: Bytes that may be held besides the results.
        prior_weight: Of the prior in the normalised score.

    Raises:
        ValueError: The prior's weight is not between 0 and 2.
    """

    def __init__(
        self,
        model: Runtime,
        vocabulary: Vocabulary,
        image: Float[np.ndarray, "N F"],
        sentences: Sequence[Sequence[int]],
        references: Float[np.ndarray, "R F"] | None = None,
        precision: Precision = "float32",
        memory: int = MEMORY,
        prior_weight: float = PRIOR_WEIGHT,
    ):
        if not 0 <= prior_weight <= 2:
            raise ValueError(f"the prior's weight is {prior_weight}, but must be between 0 and 2")
        self.model, self.vocabulary, self.image, self.ids = model, vocabulary, image, sentences
        self.references, self.precision, self.memory = references, precision, memory
        self.prior_weight = prior_weight
        self.sentences = encode_sentences(model, vocabulary, sentences)

    @cached_property
    def first(self) -> FirstOrder:
        """First-order vectors of the sentences, at the mean reference image (of the pool's, without references)."""
        centre = (self.image if self.references is None else self.references).mean(0)
        return first_order(self.model, self.vocabulary, self.ids, centre, self.precision, self.sentences)

    @cached_property
    def prior(self) -> Float[np.ndarray, " S"] | None:
        """log P(w) of every sentence; None without references."""
        if self.references is None:
            return None
        return fast_sentence_prior(self.model, self.sentences, self.references, self.first, precision=self.precision)

    @cached_property
    def _likelihoods(self) -> Float[np.ndarray, "N S"]:
        return log_likelihood(self.model, self.sentences, self.image, self.memory, self.precision)

    def exact(self, score: Score) -> Float[np.ndarray, "N S"]:
        """Every pair's score, by brute force."""
        return self._apply(score, self._likelihoods)

    def ranked(
        self, query: Query, score: Score | None = None, shortlist: int | None = None
    ) -> Float[np.ndarray, "N S"]:
        """Scores that rank each query's candidates.

        Args:
            query: `image` ranks sentences for every image, `sentence` ranks images for every sentence.
            score: By default `normalised` for an image's sentences, `raw` for a sentence's images.
            shortlist: Candidates a query that are scored exactly. All the others follow them in the order of
                their first-order scores. All are scored exactly if None, or if there are no more than that.

        Returns:
            (N, S).

        Raises:
            ValueError: The score needs the prior and there are no references, or the shortlist is no number above 0.
        """
        score = score or DEFAULTS[query]
        candidates = len(self.ids) if query == "image" else len(self.image)
        if shortlist is not None and shortlist < 1:
            raise ValueError(f"the shortlist holds {shortlist} candidates, but must hold 1 or more")
        if shortlist is None or shortlist >= candidates or not len(self.ids) or not len(self.image):
            return self.exact(score)
        approximate = self._apply(score, self.first.scores(self.image))
        axis = 1 if query == "image" else 0
        which = np.take(np.argpartition(-approximate, shortlist - 1, axis), np.arange(shortlist), axis)
        pool = np.arange(approximate.shape[1 - axis])
        asked = np.broadcast_to(pool[:, None] if query == "image" else pool, which.shape)
        rows, columns = (asked, which) if query == "image" else (which, asked)
        pairs = np.stack([rows.ravel(), columns.ravel()], 1)
        likelihoods = pair_log_likelihood(self.model, self.sentences, self.image, pairs, self.precision)
        found = np.full_like(approximate, -np.inf)
        found[pairs[:, 0], pairs[:, 1]] = likelihoods
        if score == "posterior":  # over the pool: the first-order scores stand in for what was not scored
            exact = found - log_sum(np.where(np.isinf(found), self.first.scores(self.image), found))
        else:
            exact = self._apply(score, found)
        # Everything that was not scored comes after everything that was, in its own order.
        low = np.where(np.isinf(exact), np.inf, exact).min(axis, keepdims=True)
        behind = low - 1 - (approximate.max(axis, keepdims=True) - approximate)
        return np.where(np.isinf(exact), behind, exact)

    def matches(
        self, query: Query, top: int, score: Score | None = None, shortlist: int | None = None
    ) -> list[list[Match]]:
        """The best candidates of every query, best first.

        Args:
            query: As for `ranked`.
            top: Candidates to return; no more than the shortlist.
            score: As for `ranked`.
            shortlist: As for `ranked`.

        Raises:
            ValueError: As for `ranked`.
        """
        top = top if shortlist is None else min(top, shortlist)
        return best_matches(self.ranked(query, score, shortlist), query, top)

    def _apply(self, score: Score, likelihoods: Float[np.ndarray, "N S"]) -> Float[np.ndarray, "N S"]:
        prior = self.prior if score == "normalised" else None
        return apply_score(score, likelihoods, self.sentences.tokens, prior, self.prior_weight)


def best_matches(scores: Float[np.ndarray, "N S"], query: Query, top: int) -> list[list[Match]]:
    """The `top` candidates of every query, best first; of equal scores the earlier candidate."""
    rows = scores if query == "image" else scores.T
    order = np.argsort(-rows, axis=1, kind="stable")[:, :top]
    values = np.take_along_axis(rows, order, 1)
    return [
        [Match(i, s) for i, s in zip(several, some, strict=True)]
        for several, some in zip(order.tolist(), values.tolist(), strict=True)
    ]
