"""What training minimises: the paper's cost (arXiv 1410.1090, section 5), and the terms that may stand beside it.

    C = (1/N) sum_i L_i log2 PPL(w_i | I_i) + lambda ||theta||^2,   N words in the batch, L_i in sentence i

As log2 PPL is minus the mean log2 probability of a sentence's words, the first term is the bits a token.

Shapes: N images, B batch, T time, R real tokens, V vocabulary, M multimodal width, D feature width.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrnn.models import LanguageModel, NeuralLanguageModel
from mrnn.text import Vocabulary
from mrnn.training.agreement import agreement_weights
from mrnn.training.batch import IGNORED, Batch, real_tokens
from mrnn.training.contrastive import Contrastive
from mrnn.training.data import CaptionData
from mrnn.training.distributed import ALONE, World
from mrnn.training.self_critical import SelfCritical
from mrnn.training.softmax import Softmax, cross_entropy


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised. The defaults are the paper's cost.

    Args:
        likelihood: Weight of the bits a token.
        l2: Lambda of the paper's cost.
        agreement: How much more those captions count that agree with what else was said of their photo: the power p
            of `training/agreement.py`.
        label_smoothing: Share of each target's probability that is spread over the vocabulary.
        contrastive: Weight of the contrastive term on first-order vectors, which trains retrieval.
        self_critical: Weight of the expected CIDEr of the model's own captions, which trains captioning.
        samples: Captions an image that the self-critical term draws.
        softmax: `full` holds all logits of a step, `sampled` estimates the normaliser from some words, for
            vocabularies of 50,000 and more.
        negatives: Words that the sampled softmax draws a step.
    """

    likelihood: float = 1.0
    l2: float = 0.0
    agreement: float = 0.0
    label_smoothing: float = 0.0
    contrastive: float = 0.0
    self_critical: float = 0.0
    samples: int = 5
    softmax: Softmax = "full"
    negatives: int = 4096

    def __post_init__(self):
        for name in ("likelihood", "l2", "agreement", "contrastive", "self_critical"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"training.objective.{name} is {getattr(self, name)}, but must be 0 or more")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"training.objective.label_smoothing is {self.label_smoothing}, but must be 0 or more and below 1"
            )
        if self.likelihood == self.contrastive == self.self_critical == 0:
            raise ValueError("training.objective has no term: likelihood, contrastive or self_critical must be above 0")
        if self.samples < 2:
            raise ValueError(
                f"training.objective.samples is {self.samples}, but a caption is measured against another, so 2 or more"
            )
        if self.negatives < 1:
            raise ValueError(f"training.objective.negatives is {self.negatives}, but must be 1 or more")
        if self.agreement and not self.likelihood:
            raise ValueError("training.objective.agreement weighs the likelihood, whose weight is 0")
        if self.softmax != "full" and self.label_smoothing:
            raise ValueError(f"training.objective.label_smoothing needs the full softmax, not a {self.softmax} one")


@dataclass(frozen=True)
class Cost:
    """What a batch costs.

    Args:
        total: To be minimised: this rank's share, whose gradients add up over the ranks to those of the batch's cost.
        bits: Of all real tokens of this rank's sentences, each as much as its sentence counts.
        tokens: How many the batch has, over all ranks.
        terms: The other terms, as they are before their weights, of which the ranks' mean is the batch's.
    """

    total: Float[Tensor, ""]
    bits: Float[Tensor, ""]
    tokens: int
    terms: dict[str, Float[Tensor, ""]]


class Objective(nn.Module):
    """The weighted sum of the terms; its own parameters are trained with the model's.

    Args:
        config: The weights.
        vocabulary: The model's.
        data: What is trained on, whose captions are the references of the self-critical term.
        world: Who else computes a part of each batch.
    """

    def __init__(self, config: ObjectiveConfig, vocabulary: Vocabulary, data: CaptionData, world: World = ALONE):
        super().__init__()
        self.config, self.world = config, world
        # How much each sentence counts; None if all count the same.
        self.sentence_weights = agreement_weights(data, vocabulary, config.agreement) if config.agreement else None
        self.contrastive = Contrastive(data.views, world) if config.contrastive else None
        self.self_critical = SelfCritical(vocabulary, data, config.samples) if config.self_critical else None

    def forward(self, model: NeuralLanguageModel, batch: Batch, features: Float[Tensor, "N ..."]) -> Cost:
        """The cost of a batch.

        Args:
            model: In training mode.
            batch: Sentences of all ranks, with the rows of their images.
            features: Of all images.
        """
        c = self.config
        own, tokens = batch.rows(self.world.part(len(batch.images))), batch.tokens
        share = own.tokens / tokens
        rows, of = own.images.unique(return_inverse=True)
        features = features[rows]
        image = model.encode_image(features)[of]
        total = image.new_zeros(())
        own_bits = total
        if c.likelihood:
            own_bits, _ = bits(model, own, image, c)
            total = total + c.likelihood * own_bits / tokens
        terms = {}
        if self.contrastive is not None:  # of all ranks' sentences already
            terms["contrastive"] = self.contrastive(model, own, image, batch.images)
            total = total + c.contrastive * terms["contrastive"]
        if self.self_critical is not None:
            loss, terms["reward"] = self.self_critical(model, rows.tolist(), features)
            total = total + share * c.self_critical * loss
        if c.l2:
            total = total + share * c.l2 * squared_norm(model)
        return Cost(total, own_bits.detach(), tokens, {name: term.detach() for name, term in terms.items()})


def bits(
    model: NeuralLanguageModel, batch: Batch, image: Float[Tensor, "B M"], config: ObjectiveConfig | None = None
) -> tuple[Float[Tensor, ""], int]:
    """Bits of all real tokens together, each as much as its sentence counts, and their number.

    Args:
        model: In training mode.
        batch: B sentences.
        image: What `model.encode_image` gave of each sentence's image.
        config: How the softmax is computed.
    """
    config = config or ObjectiveConfig()
    text, image, targets = real_tokens(model, batch, image)
    weight, bias = model.softmax_layer()
    hidden = model.fuse(text, image)
    nats = cross_entropy(
        hidden,
        weight,
        bias,
        targets,
        config.softmax,
        label_smoothing=config.label_smoothing,
        negatives=config.negatives,
        weights=None if batch.weights is None else batch.weights[(batch.targets != IGNORED).nonzero()[:, 0]],
    )
    return nats / math.log(2), len(targets)


def squared_norm(model: LanguageModel) -> Float[Tensor, ""]:
    """||theta||^2 over every trained parameter."""
    return torch.stack([p.square().sum() for p in model.parameters() if p.requires_grad]).sum()
