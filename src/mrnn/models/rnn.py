"""RNN-Base (arXiv 1410.1090, section 6): m-RNN without its image, the paper's baseline for what the image is worth.

    m(t) = g(V_w w(t) + V_r r(t))                          the rest as in `mrnn.py`

Shapes: N images, M multimodal width.
"""

from dataclasses import dataclass

from torch import Tensor

from mrnn.models.mrnn import MRNN, MRNNConfig
from mrnn.shapes import Float


@dataclass(frozen=True)
class RNNConfig(MRNNConfig):
    """m-RNN's sizes and options; there is no image, hence none to drop."""

    def __post_init__(self):
        super().__post_init__()
        if self.dropout_image:
            raise ValueError("model.dropout_image must be 0: RNN-Base has no image")


class RNN(MRNN):
    """m-RNN without its image."""

    Config = RNNConfig
    uses_image = False

    def encode_image(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N M"]:
        """Zeros, whatever the image."""
        return features.new_zeros(len(features), self.config.multimodal)
