"""A model that was told some sentences: their n-grams, with the model itself as the prior of their distribution.

    P_1(w | h, I) = P(w | h, I)                                                           the model's
    P_n(w | h, I) = (c(h_n w) + P_{n-1}(w | h, I)) / (c(h_n) + 1),    n = 2, 3            h_n: the last n - 1 words

c counts in the sentences, each by its weight: the hierarchical Dirichlet language model (MacKay and Peto 1995).

Shapes: B batch, T time, N images, V vocabulary, H words of history, W the model's text width + H, F its image width,
G n-grams.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mrnn.models.base import LanguageModel, State
from mrnn.text import Vocabulary

HISTORY = 2


@dataclass(frozen=True)
class ToldConfig:
    """What was told is no size or option."""


class Told(LanguageModel):
    """A model and a few sentences, such as what was said of photos like the one to caption.

    Args:
        model: The prior.
        vocabulary: Its own.
        sentences: Ids without signs.
        weights: Of the sentences; their sum is how much they count against the model, whose weight is 1.
    """

    Config = ToldConfig
    grams: Tensor
    weight: Tensor

    def __init__(
        self, model: LanguageModel, vocabulary: Vocabulary, sentences: Sequence[Sequence[int]], weights: Sequence[float]
    ):
        super().__init__(ToldConfig(), model.vocabulary, model.features)
        self.model, self.start = model, vocabulary.start
        self.uses_image = model.uses_image  # ty: ignore[invalid-attribute-access]
        self.uses_regions = model.uses_regions  # ty: ignore[invalid-attribute-access]
        grams, weight = [], []
        for ids, w in zip(sentences, weights, strict=True):
            signed = [vocabulary.start] * HISTORY + [*ids, vocabulary.end]
            grams += [signed[i : i + HISTORY + 1] for i in range(len(ids) + 1)]
            weight += [w] * (len(ids) + 1)
        self.register_buffer("grams", torch.tensor(grams, dtype=torch.long).view(-1, HISTORY + 1))
        self.register_buffer("weight", torch.tensor(weight))

    def encode_text(self, tokens: Int[Tensor, "B T"], state: State = None) -> tuple[Float[Tensor, "B T W"], State]:
        """The model's, and the last H words at every position as numbers (exact up to 16 million words)."""
        past = tokens.new_full((len(tokens), HISTORY - 1), self.start)
        inner, past = (None, past) if state is None else state
        text, inner = self.model.encode_text(tokens, inner)
        words = torch.cat([past, tokens], 1)
        return torch.cat([text, words.unfold(1, HISTORY, 1)], -1), (inner, words[:, 1 - HISTORY :])

    def encode_image(self, features: Float[Tensor, "N ..."]) -> Float[Tensor, "N F"]:
        """The model's."""
        return self.model.encode_image(features)

    def logits(self, text: Float[Tensor, "... W"], image: Float[Tensor, "... F"]) -> Float[Tensor, "... V"]:
        """Log P_3(w | h, I)."""
        p = self.model.logits(text[..., :-HISTORY], image).float().softmax(-1)
        history = text[..., -HISTORY:].long()
        for n in range(1, HISTORY + 1):
            same = (self.grams[:, HISTORY - n : HISTORY] == history[..., None, -n:]).all(-1)
            count = self.weight * same
            p = p.index_add(-1, self.grams[:, -1], count) / (count.sum(-1, keepdim=True) + 1)
        return p.log()
