"""How likely given sentences are for given images: the measure that training lowers and every task ranks by.

Log-likelihoods are natural logarithms, summed over the tokens, the end sign included.

Shapes: B batch, T time, N images, S sentences, V vocabulary, M multimodal width, F width of an image
vector, R real tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

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

    def split(self, size: int) -> Iterator["Batch"]:
        """The batch in parts of at most `size` sentences."""
        for start in range(0, len(self.images), size):
            part = slice(start, start + size)
            weights = None if self.weights is None else self.weights[part]
            yield Batch(self.inputs[part], self.targets[part], self.images[part], weights)

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


def by_length(sentences: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Positions of the sentences in batches of like length."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


@torch.inference_mode()
def token_log_probabilities(
    model: LanguageModel,
    vocabulary: Vocabulary,
    sentences: Sequence[Sequence[int]],
    image: Float[Tensor, "S F"],
    batch: int = 128,
) -> list[list[float]]:
    """Log P(word | words before it, image) of every word, then of the end sign.

    Args:
        model: In evaluation mode.
        vocabulary: The model's.
        sentences: S sentences of ids without signs.
        image: (S, F), for each sentence what `model.encode_image` gave of its image.
        batch: Sentences a step.

    Returns:
        A list a sentence, one longer than the sentence, of natural logarithms.
    """
    result: list[list[float]] = [[] for _ in sentences]
    for rows in by_length(sentences, batch):
        padded = Batch.of([sentences[i] for i in rows], rows, vocabulary).to(image.device)
        logits, targets = real_token_logits(model, padded, image[padded.images])
        tokens = (-nn.functional.cross_entropy(logits.float(), targets, reduction="none")).tolist()
        start = 0
        for i in rows:
            result[i] = tokens[start : start + len(sentences[i]) + 1]
            start += len(sentences[i]) + 1
    return result


def pair_log_likelihood(
    model: LanguageModel,
    vocabulary: Vocabulary,
    sentences: Sequence[Sequence[int]],
    images: Sequence[int],
    features: Float[Tensor, "N ..."],
) -> Float[Tensor, " S"]:
    """Log P(sentence | its image), one image a sentence.

    Args:
        model: In evaluation mode.
        vocabulary: The model's.
        sentences: S sentences of ids without signs.
        images: For each sentence the row of its image in `features`.
        features: What the model's `encode_image` takes.

    Returns:
        (S,) natural logarithms, summed over the tokens.
    """
    with torch.inference_mode():
        image = torch.cat([model.encode_image(part) for part in features.split(512)])
    tokens = token_log_probabilities(model, vocabulary, sentences, image[torch.as_tensor(images)])
    return torch.tensor([math.fsum(log_p) for log_p in tokens])


def perplexity(log_likelihood: float, tokens: int) -> float:
    """2 to the bits a token, or e to the nats a token: the same number; infinite where it is beyond a float."""
    try:
        return math.exp(-log_likelihood / tokens)
    except OverflowError:
        return math.inf
