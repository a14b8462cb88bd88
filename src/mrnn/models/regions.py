"""m-RNN over regions of the photo: soft attention, conditioned on the recurrent state, feeds the multimodal layer.

    s_k(t) = v . tanh(Q x(t) + K I_k)                      x(t) = V_w w(t) + V_r r(t), I_k the features of region k
    a(t) = softmax(s(t))                                   Xu et al. 2015, arXiv 1502.03044, equations 4 to 6
    m(t) = g(x(t) + V_I I + V_A sum_k a_k(t) U I_k)        I the whole photo, as in `mrnn.py`
    P(w_{t+1} | w_1..t, I) = softmax(U_M m(t))

A photo's features are the whole and its regions, (1 + K, D). What the waist calls an image vector is V_I I with, behind
it, the keys K I_k and the values V_A U I_k of all regions: so images are selected, averaged and compared as in
every other model, and the number of regions may differ from photo set to photo set.

Shapes: N images, K regions, V vocabulary, M multimodal width, A attention width, D feature width,
F = M + K * 2 A numbers of an image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrnn.models.base import check_sizes
from mrnn.models.dropout import ByteDropout
from mrnn.models.mrnn import MRNN, MRNNConfig, g
from mrnn.shapes import Float


@dataclass(frozen=True)
class RegionsConfig(MRNNConfig):
    """m-RNN's sizes and options, and the attention's.

    Args:
        attention: Units A of a key, and of a value before V_A.
    """

    attention: int = 128

    def __post_init__(self):
        super().__post_init__()
        check_sizes(self, "attention")


class MRNNRegions(MRNN):
    """m-RNN that looks at regions; see the equations at the top of this file."""

    Config = RegionsConfig
    uses_regions = True

    def __init__(self, config: RegionsConfig, vocabulary: int, features: int):
        super().__init__(config, vocabulary, features)
        width = config.attention
        self.Q = nn.Linear(config.multimodal, width)
        self.K = nn.Linear(features, width, bias=False)
        self.v = nn.Linear(width, 1, bias=False)
        self.U = nn.Linear(features, width, bias=False)
        self.V_A = nn.Linear(width, config.multimodal, bias=False)
        self.drop_region = ByteDropout(config.dropout_image)

    def encode_image(self, features: Float[Tensor, "N regions D"]) -> Float[Tensor, "N F"]:
        """V_I I of the whole photo, then the keys and the values of its regions."""
        x = self.standardise(features)
        whole, regions = self.drop_image(x[:, 0]), self.drop_region(x[:, 1:])
        return torch.cat([self.V_I(whole), torch.cat([self.K(regions), self.U(regions)], -1).flatten(1)], 1)

    def attention(self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"]) -> Float[Tensor, "... K"]:
        """a(t): for every region the share of the attention it gets."""
        keys, _ = self._keys_and_values(image)
        return self.v(torch.tanh(self.Q(text)[..., None, :] + keys))[..., 0].softmax(-1)

    def fuse(self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"]) -> Float[Tensor, "... H"]:
        """m(t)."""
        _, values = self._keys_and_values(image)
        attended = (self.attention(text, image)[..., None, :] @ values)[..., 0, :]
        whole = image[..., : self.config.multimodal]
        m = self.drop_multimodal(g(text + whole + self.V_A(attended)))
        return self.P(m) if self.config.shared else m

    def pull_hidden(
        self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"], raised: Float[Tensor, "... H"]
    ) -> Float[Tensor, "... F"]:
        """Through g to the whole photo, and through the softmax of the attention to keys and values."""
        keys, values = self._keys_and_values(image)
        matched = torch.tanh(self.Q(text)[..., None, :] + keys)
        a = self.v(matched)[..., 0].softmax(-1)
        attended = self.V_A((a[..., None, :] @ values)[..., 0, :])
        whole = super().pull_hidden(text + attended, image[..., : self.config.multimodal], raised)
        to_value = nn.functional.linear(whole, self.V_A.weight.t())[..., None, :]
        worth = (values * to_value).sum(-1)
        to_score = a * (worth - (a * worth).sum(-1, keepdim=True))
        to_key = to_score[..., None] * self.v.weight[0] * (1 - matched**2)
        regions = torch.cat([to_key, a[..., None] * to_value], -1)
        return torch.cat([whole, regions.flatten(-2)], -1)

    def _keys_and_values(self, image: Tensor) -> tuple[Float[Tensor, "... K A"], Float[Tensor, "... K A"]]:
        regions = image[..., self.config.multimodal :].unflatten(-1, (-1, 2 * self.config.attention))
        return regions[..., : self.config.attention], regions[..., self.config.attention :]
