"""A model that was told some sentences: their n-grams, with the model itself as the prior of their distribution.

    P_1(w | h, I) = P(w | h, I)                                                           the model's
    P_n(w | h, I) = (c(h_n w) + P_{n-1}(w | h, I)) / (c(h_n) + 1),    n = 2, 3            h_n: the last n - 1 words

c counts in the sentences, each by its weight: the hierarchical Dirichlet language model (MacKay and Peto 1995).

Shapes: as in `protocol.py`; M is the model's and, behind it, the last words; G n-grams.
"""

from collections.abc import Sequence

import numpy as np

from mrnn.runtime.protocol import Array, Runtime, State
from mrnn.shapes import Float, Int
from mrnn.text import Vocabulary

HISTORY = 2


class Told(Runtime):
    """A model and a few sentences, such as what was said of photos like the one to caption.

    Args:
        model: The prior.
        vocabulary: Its own.
        sentences: Ids without signs.
        weights: Of the sentences; their sum is how much they count against the model, whose weight is 1.
    """

    name = "told"

    def __init__(
        self, model: Runtime, vocabulary: Vocabulary, sentences: Sequence[Sequence[int]], weights: Sequence[float]
    ):
        self.model, self.start = model, vocabulary.start
        self.vocabulary, self.feature_shape, self.image_width = model.vocabulary, model.feature_shape, model.image_width
        self.uses_image, self.uses_regions = model.uses_image, model.uses_regions
        grams, weight = [], []
        for ids, w in zip(sentences, weights, strict=True):
            signed = [vocabulary.start] * HISTORY + [*ids, vocabulary.end]
            grams += [signed[i : i + HISTORY + 1] for i in range(len(ids) + 1)]
            weight += [w] * (len(ids) + 1)
        self._grams = np.array(grams, np.int64).reshape(-1, HISTORY + 1)
        self._weight = np.array(weight)

    def encode_image(self, features: Float[Array, "N ..."]) -> Float[Array, "N F"]:
        """The model's."""
        return self.model.encode_image(features)

    def begin(self, n: int) -> State:
        """The model's, and the word before the start sign, which is held to be another."""
        return self.model.begin(n), np.full((n, HISTORY - 1), self.start)

    def select(self, state: State, rows: Int[Array, " C"]) -> State:
        """Of both."""
        return self.model.select(state[0], rows), state[1][rows]

    def text(self, words: Int[Array, " B"], state: State) -> tuple[Float[Array, "B M"], State]:
        """The model's, and the last H words as numbers (exact up to 16 million words)."""
        inner, past = state
        text, inner = self.model.text(words, inner)
        history = np.concatenate([past, words[:, None]], 1)
        return np.concatenate([text, history.astype(np.float32)], 1), (inner, history[:, 1:])

    def distribution(self, text: Float[Array, "R M"], image: Float[Array, "R F"]) -> Float[Array, "R V"]:
        """Log P_3(w | h, I)."""
        p = np.exp(self.model.distribution(np.ascontiguousarray(text[:, :-HISTORY]), image).astype(np.float64))
        history = text[:, -HISTORY:].astype(np.int64)
        for n in range(1, HISTORY + 1):
            same = (self._grams[:, HISTORY - n : HISTORY] == history[:, None, -n:]).all(-1)
            row, gram = same.nonzero()
            np.add.at(p, (row, self._grams[gram, -1]), self._weight[gram])
            p /= (same @ self._weight)[:, None] + 1
        with np.errstate(divide="ignore"):  # a word that the model rules out and nobody said
            return np.log(p).astype(np.float32)

    def pull(
        self, text: Float[Array, "R M"], image: Float[Array, "R F"], raised: Float[Array, "R V"]
    ) -> Float[Array, "R F"]:
        """Not needed: what was told is searched with, and never scored."""
        raise NotImplementedError
