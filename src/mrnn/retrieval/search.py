"""Which sentences fit an image, which images fit a sentence: shortlist by first order, re-rank exactly.

Shapes: N images, S sentences, R reference images, K shortlist, M multimodal width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mrnn.models import LanguageModel
from mrnn.precision import Precision
from mrnn.retrieval.exact import MEMORY, log_likelihood, pair_log_likelihood
from mrnn.retrieval.first_order import FirstOrder, first_order
from mrnn.retrieval.index import BRUTE_FORCE, VectorIndex
from mrnn.retrieval.prefixes import EncodedSentences, encode_sentences
from mrnn.retrieval.scores import DEFAULTS, Score, apply_score, fast_sentence_prior
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
        model: In evaluation mode.
        vocabulary: The model's.
        image: (N, M), what `model.encode_image` gave of the pool's images.
        sentences: S sentences of ids without signs.
        references: (R, M), image vectors of training images for the prior P(w); None if there are none.
        precision: Of the softmax's normaliser.
        memory: Bytes that may be held besides the results.
    """

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        image: Float[Tensor, "N M"],
        sentences: Sequence[Sequence[int]],
        references: Float[Tensor, "R M"] | None = None,
        precision: Precision = "auto",
        memory: int = MEMORY,
    ):
        self.model, self.vocabulary, self.image, self.ids = model, vocabulary, image, sentences
        self.references, self.precision, self.memory = references, precision, memory
        self.sentences: EncodedSentences = encode_sentences(model, vocabulary, sentences, image.device)
        self._first: FirstOrder | None = None
        self._prior: Tensor | None = None
        self._likelihoods: Tensor | None = None

    @property
    def first(self) -> FirstOrder:
        """First-order vectors of the sentences, at the mean reference image (of the pool's, without references)."""
        if self._first is None:
            centre = (self.image if self.references is None else self.references).mean(0)
            self._first = first_order(self.model, self.vocabulary, self.ids, centre, precision=self.precision)
        return self._first

    @property
    def prior(self) -> Float[Tensor, " S"] | None:
        """log P(w) of every sentence; None without references."""
        if self._prior is None and self.references is not None:
            self._prior = fast_sentence_prior(
                self.model, self.sentences, self.references, self.first, precision=self.precision
            )
        return self._prior

    def exact(self, score: Score) -> Float[Tensor, "N S"]:
        """Every pair's score, by brute force."""
        if self._likelihoods is None:
            arguments = (self.model, self.sentences, self.image, self.memory, self.precision)
            self._likelihoods = log_likelihood(*arguments)
        return self._apply(score, self._likelihoods)

    def ranked(self, query: Query, score: Score | None = None, shortlist: int | None = None) -> Float[Tensor, "N S"]:
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
        approximate = self._apply(score, self.first.scores(self.image.cpu()))
        dim = 1 if query == "image" else 0
        which = approximate.topk(shortlist, dim).indices
        rows = torch.arange(len(self.image))[:, None].expand_as(which) if query == "image" else which
        columns = which if query == "image" else torch.arange(len(self.ids)).expand_as(which)
        pairs = torch.stack([rows.flatten(), columns.flatten()], 1)
        likelihoods = pair_log_likelihood(self.model, self.sentences, self.image, pairs, self.precision)
        found = torch.full_like(approximate, -torch.inf)
        found[pairs[:, 0], pairs[:, 1]] = likelihoods
        if score == "posterior":  # over the pool: the first-order scores stand in for what was not scored
            pool = torch.where(found.isinf(), self.first.scores(self.image.cpu()), found)
            exact = found - pool.logsumexp(0)
        else:
            exact = self._apply(score, found)
        # Everything that was not scored comes after everything that was, in its own order.
        low = exact.masked_fill(exact.isinf(), torch.inf).amin(dim, keepdim=True)
        behind = low - 1 - (approximate.amax(dim, keepdim=True) - approximate)
        return torch.where(exact.isinf(), behind, exact)

    def matches(
        self, query: Query, top: int, score: Score | None = None, shortlist: int | None = None
    ) -> list[list[Match]]:
        """The best candidates of every query, best first.

        Args:
            query: As for `ranked`.
            top: Candidates to return; no more than the shortlist.
            score: As for `ranked`.
            shortlist: As for `ranked`. In a large pool a vector index finds it.

        Raises:
            ValueError: As for `ranked`, or the pool needs faiss and that is not installed.
        """
        score = score or DEFAULTS[query]
        top = top if shortlist is None else min(top, shortlist)
        candidates = len(self.ids) if query == "image" else len(self.image)
        if shortlist is None or candidates <= max(BRUTE_FORCE, shortlist) or score == "posterior":
            return best_matches(self.ranked(query, score, shortlist), query, top)
        index, vectors = self._index(query, score)
        which = torch.from_numpy(np.stack([index.search(vector, shortlist)[0] for vector in vectors.cpu().numpy()]))
        asked = torch.arange(len(which))[:, None].expand_as(which)
        pairs = torch.stack([asked, which] if query == "image" else [which, asked], -1).flatten(0, 1)
        scores = pair_log_likelihood(self.model, self.sentences, self.image, pairs, self.precision)
        columns = pairs[:, 1]
        prior = self.prior[columns] if score == "normalised" and self.prior is not None else None
        scores = apply_score(score, scores[None], self.sentences.tokens.cpu()[columns], prior)[0]
        return [
            [Match(int(which[q, m.index]), m.score) for m in several]
            for q, several in enumerate(best_matches(scores.view_as(which), "image", top))
        ]

    def _index(self, query: Query, score: Score) -> tuple[VectorIndex, Float[Tensor, "Q M"]]:
        """An index of the query's candidates by their first-order scores, and the queries' vectors."""
        if query == "sentence":  # what depends on the sentence alone does not change which image fits it
            return VectorIndex(self.image.cpu().numpy()), self.first.vectors
        constants, vectors = self.first.constant, self.first.vectors
        constants = self._apply(score, constants[None])[0]
        if score == "per-token":
            vectors = vectors / self.sentences.tokens.cpu()[:, None]
        return VectorIndex(vectors.numpy(), constants.numpy()), self.image

    def _apply(self, score: Score, likelihoods: Float[Tensor, "N S"]) -> Float[Tensor, "N S"]:
        prior = self.prior if score == "normalised" else None
        return apply_score(score, likelihoods, self.sentences.tokens.cpu(), prior)


def best_matches(scores: Float[Tensor, "N S"], query: Query, top: int) -> list[list[Match]]:
    """The `top` candidates of every query, best first; of equal scores the earlier candidate."""
    rows = scores if query == "image" else scores.t()
    ordered = rows.sort(dim=1, descending=True, stable=True)
    return [
        [Match(i, s) for i, s in zip(indices[:top], values[:top], strict=True)]
        for values, indices in zip(ordered.values.tolist(), ordered.indices.tolist(), strict=True)
    ]
