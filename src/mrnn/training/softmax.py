"""The cost of the softmax layer, which is most of a step's work: all at once, or over some of the words.

Shapes: R real tokens, H hidden units, V vocabulary, K words drawn.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from mrnn.shapes import Float, Int

Softmax = Literal["full", "sampled"]


def cross_entropy(
    hidden: Float[Tensor, "R H"],
    weight: Float[Tensor, "V H"],
    bias: Float[Tensor, " V"],
    targets: Int[Tensor, " R"],
    softmax: Softmax = "full",
    label_smoothing: float = 0.0,
    negatives: int = 4096,
    weights: Float[Tensor, " R"] | None = None,
) -> Float[Tensor, ""]:
    """Nats of the targets under softmax(weight . hidden + bias), summed.

    Args:
        hidden: Units under the softmax layer.
        weight: Of the softmax layer.
        bias: Of the softmax layer.
        targets: The words that came.
        softmax: `full`, or `sampled` (an estimate).
        label_smoothing: Share of each target's probability that is spread over the vocabulary; of the full one alone.
        negatives: K of the sampled softmax.
        weights: How much each target counts; all the same if None.
    """
    if softmax == "sampled" and negatives < len(weight):
        return _sum(_sampled(hidden, weight, bias, targets, negatives), weights)
    logits = nn.functional.linear(hidden, weight, bias)
    reduction = "sum" if weights is None else "none"
    nats = nn.functional.cross_entropy(logits.float(), targets, reduction=reduction, label_smoothing=label_smoothing)
    return _sum(nats, weights)


def _sum(nats: Float[Tensor, " R"], weights: Float[Tensor, " R"] | None) -> Float[Tensor, ""]:
    return nats.sum() if weights is None else (nats * weights).sum()


def _sampled(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, negatives: int) -> Tensor:
    """Sampled softmax (Jean et al. 2015, arXiv 1412.2007): the normaliser from K words drawn for the whole step.

    Words are drawn by a flattened frequency, which the biases hold, and each drawn word stands for as many
    as its chance is small: its logit less log (K times its probability).
    """
    chance = (0.75 * bias.detach().float()).softmax(0)
    drawn = torch.multinomial(chance, negatives, replacement=True)
    expected = (negatives * chance[drawn]).log()
    others = nn.functional.linear(hidden, weight[drawn], bias[drawn]).float() - expected
    # A drawn word that is the target counts once, as the target.
    others = others.masked_fill(drawn == targets[:, None], -torch.inf)
    own = (hidden * weight[targets]).sum(-1).float() + bias[targets]
    return torch.cat([own[:, None], others], 1).logsumexp(1) - own
