"""First-order vectors: an image's score for a sentence as one dot product.

The image enters m-RNN once, as the vector b = V_I I. So for a sentence w and an image b near a centre b0

    log P(w | b)  ~  c + q . (b - b0),    c = log P(w | b0),   q = gradient of log P(w | b) at b0

One forward and one backward pass a sentence; then any vector index serves.

Shapes: S sentences, N images, M multimodal width, B batch, T time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrnn.likelihood import IGNORED, Batch, by_length, real_token_logits
from mrnn.models import LanguageModel
from mrnn.precision import Precision, autocast
from mrnn.text import Vocabulary


@dataclass(frozen=True)
class FirstOrder:
    """Plain float32 arrays that any vector index takes.

    Args:
        constant: (S,) c - q . b0, so that a score is constant + q . b.
        vectors: (S, M) q.
    """

    constant: Float[Tensor, " S"]
    vectors: Float[Tensor, "S M"]

    def scores(self, image: Float[Tensor, "N M"]) -> Float[Tensor, "N S"]:
        """Approximate log P(sentence | image) of every pair."""
        return torch.addmm(self.constant, image, self.vectors.t())


def first_order(
    model: LanguageModel,
    vocabulary: Vocabulary,
    sentences: Sequence[Sequence[int]],
    centre: Float[Tensor, " M"],
    batch: int = 128,
    precision: Precision = "float32",
) -> FirstOrder:
    """Expand every sentence's log-likelihood at one image vector.

    Args:
        model: In evaluation mode, differentiable in its image vector.
        vocabulary: The model's.
        sentences: S sentences of ids without signs.
        centre: b0, the mean of the training images' vectors.
        batch: Sentences a step.
        precision: Of the matrix products.
    """
    constant = torch.empty(len(sentences))
    vectors = torch.empty(len(sentences), len(centre))
    frozen = [p for p in model.parameters() if p.requires_grad]
    for parameter in frozen:  # gradients of weights are not wanted and would cost half of the time
        parameter.requires_grad_(False)
    try:
        for rows in by_length(sentences, batch):
            padded = Batch.of([sentences[i] for i in rows], rows, vocabulary).to(centre.device)
            image = centre.detach().clone().expand(len(rows), -1).contiguous().requires_grad_()
            with autocast(precision, centre.device), torch.enable_grad():
                logits, targets = real_token_logits(model, padded, image)
                token = -nn.functional.cross_entropy(logits.float(), targets, reduction="none")
                (q,) = torch.autograd.grad(token.sum(), image)
            owner = (padded.targets != IGNORED).nonzero()[:, 0]
            c = torch.zeros(len(rows), device=centre.device).index_add_(0, owner, token.detach())
            vectors[rows] = q.cpu()
            constant[rows] = (c - q @ centre).cpu()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return FirstOrder(constant, vectors)
