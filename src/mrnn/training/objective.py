"""What training minimises: the paper's cost (arXiv 1410.1090, section 5).

    C = (1/N) sum_i L_i log2 PPL(w_i | I_i) + lambda ||theta||^2,   N words in the batch, L_i in sentence i

As log2 PPL is minus the mean log2 probability of a sentence's words, the first term is the bits a token.

Shapes: B batch, T time, R real tokens, V vocabulary, D feature width.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrnn.likelihood import Batch, real_token_logits
from mrnn.models import LanguageModel


def bits(model: LanguageModel, batch: Batch, features: Float[Tensor, "B ..."]) -> tuple[Float[Tensor, ""], int]:
    """Bits of all real tokens together, and their number."""
    logits, targets = real_token_logits(model, batch, model.encode_image(features))
    nats = nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
    return nats / math.log(2), len(targets)


def squared_norm(model: LanguageModel) -> Float[Tensor, ""]:
    """||theta||^2 over every trained parameter."""
    return torch.stack([p.square().sum() for p in model.parameters() if p.requires_grad]).sum()
