"""A contrastive term on first-order vectors, so that retrieval is trained and not only implied.

To first order a sentence's score for an image is q . (b - b0) (see `tasks/retrieval/first_order.py`). Within a batch
each sentence should score its own image above the others', and each image its own sentence above the others:

    C = cross-entropy of softmax_j(s_ij) + cross-entropy of softmax_i(s_ij),   s_ij = e^tau q_i . (b_j - b0)

b0 is the batch's mean image, and tau is learned. Sentences of one image are not told apart.

Shapes: B batch, P of its sentences that are this rank's, R real tokens, V vocabulary, M multimodal width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mrnn.models import NeuralLanguageModel
from mrnn.training.batch import Batch, real_tokens
from mrnn.training.distributed import ALONE, World


class Contrastive(nn.Module):
    """The term above, with its temperature.

    Args:
        views: Rows of features an image.
        world: Who else has a part of each batch; every sentence is told from those of all ranks.
    """

    def __init__(self, views: int = 1, world: World = ALONE):
        super().__init__()
        self.views, self.world = views, world
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(
        self, model: NeuralLanguageModel, batch: Batch, image: Float[Tensor, "P M"], images: Int[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """Mean of the two cross-entropies, in nats, over all ranks; the gradient is this rank's share.

        Args:
            model: In training mode.
            batch: This rank's P sentences.
            image: What `model.encode_image` gave of each sentence's image.
            images: Which image each of all ranks' B sentences belongs to.
        """
        every_image = self.world.gather(image, len(images))
        centre = every_image.mean(0)
        # A leaf, as the gradient is taken there; where it lies moves slowly enough to be held still.
        at = centre.detach().expand(len(image), -1).contiguous().requires_grad_()
        text, spread, targets = real_tokens(model, batch, at)
        weight, bias = model.softmax_layer()
        hidden = model.fuse(text, spread)
        p = nn.functional.linear(hidden, weight, bias).float().softmax(-1)
        # The gradient of the log-likelihood in the hidden units, written out: half the passes over (R, V).
        raise_hidden = weight[targets] - nn.functional.linear(p, weight.t())
        (q,) = torch.autograd.grad(hidden, at, raise_hidden.to(hidden), create_graph=True)
        every_q = self.world.gather(q.float(), len(images))
        # All ranks compute the same scores of it, so one alone tells how it should change.
        scale = self.log_scale.exp() if self.world.leads else self.log_scale.exp().detach()
        scores = scale * (every_q @ (every_image - centre).float().t())
        photos = images // self.views
        same = photos[:, None] == photos
        same.fill_diagonal_(False)
        scores = scores.masked_fill(same, -torch.inf)
        own = torch.arange(len(scores), device=scores.device)
        both = nn.functional.cross_entropy(scores, own) + nn.functional.cross_entropy(scores.t(), own)
        return both / 2
