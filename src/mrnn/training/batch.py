"""Sentences padded to one length, and the parts of them that training computes.

Shapes: B batch, T time, V vocabulary, M multimodal width, F width of an image vector, R real tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mrnn.models import LanguageModel
from mrnn.text import Vocabulary

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Sentences padded on the right to one length.

    Args:
        inputs: (B, T) ids, the start sign and the words.
        targets: (B, T) ids, the words and the end sign; `IGNORED` where there is no token.
        images: (B,) which image each sentence belongs to.
        weights: (B,) how much each sentence counts in training; all the same if None.
    """

    inputs: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    images: Int[Tensor, " B"]
    weights: Float[Tensor, " B"] | None = None

    @classmethod
    def of(
        cls,
        sentences: Sequence[Sequence[int]],
        images: Sequence[int],
        vocabulary: Vocabulary,
        weights: Float[Tensor, " B"] | None = None,
    ) -> "Batch":
        """Pad sentences of ids (without signs) and add start and end."""
        longest = max(map(len, sentences)) + 1
        inputs = torch.full((len(sentences), longest), vocabulary.end)
        targets = torch.full((len(sentences), longest), IGNORED)
        for row, ids in enumerate(sentences):
            n = len(ids)
            words = torch.tensor(ids, dtype=torch.long)
            inputs[row, 0] = vocabulary.start
            inputs[row, 1 : n + 1] = words
            targets[row, :n] = words
            targets[row, n] = vocabulary.end
        return cls(inputs, targets, torch.tensor(images, dtype=torch.long), weights)

    @property
    def tokens(self) -> int:
        """Real tokens of all sentences, end signs included."""
        return int((self.targets != IGNORED).sum())

    def rows(self, part: slice) -> "Batch":
        """Some of its sentences."""
        weights = None if self.weights is None else self.weights[part]
        return Batch(self.inputs[part], self.targets[part], self.images[part], weights)

    def split(self, size: int) -> Iterator["Batch"]:
        """The batch in parts of at most `size` sentences."""
        for start in range(0, len(self.images), size):
            yield self.rows(slice(start, start + size))

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        weights = None if self.weights is None else self.weights.to(device)
        return Batch(self.inputs.to(device), self.targets.to(device), self.images.to(device), weights)


def real_tokens(
    model: LanguageModel, batch: Batch, image: Float[Tensor, "B F"]
) -> tuple[Float[Tensor, "R M"], Float[Tensor, "R F"], Int[Tensor, " R"]]:
    """Text side, image and target of the real tokens alone, in the batch's order."""
    text, _ = model.encode_text(batch.inputs)
    real = (batch.targets != IGNORED).flatten().nonzero()[:, 0]
    sentence = real // batch.targets.shape[1]
    return text.flatten(0, 1).index_select(0, real), image.index_select(0, sentence), batch.targets.flatten()[real]


def real_token_logits(
    model: LanguageModel, batch: Batch, image: Float[Tensor, "B F"]
) -> tuple[Float[Tensor, "R V"], Int[Tensor, " R"]]:
    """Logits and targets of the real tokens alone: no softmax is spent on padding."""
    text, image, targets = real_tokens(model, batch, image)
    return model.logits(text, image), targets
