"""m-RNN and the last blocks of its CNN, trained together: the first of the paper's future works (section 8).

    b = V_I mean(tail(stem(photo)))                        the rest as in `mrnn.py`

The stem is a frozen encoder (`networks/split.py`); its features go through the tail, which is this model's own. In
training the tail sees another window of its maps at every step, which crops the photos at no cost of encoding; from
block 0 on, where the whole CNN is trained, the photos themselves are cropped and coloured anew. Of a trained model
`Pipeline.encoder` is stem and tail together, and the model is given what has gone through both.

Shapes: N images, C channels, H x W cells, GH x GW cells of the last map, M multimodal width, D feature width.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mrnn.encoders import Encoder
from mrnn.models.mrnn import MRNN, MRNNConfig
from mrnn.networks.split import Stem, pooled, rejoin, tail
from mrnn.text import Vocabulary

CHUNK = 64
FITTED = 2000


@dataclass(frozen=True)
class TunedConfig(MRNNConfig):
    """m-RNN's sizes and options, and which blocks of which CNN are trained.

    Args:
        encoder: The CNN; building takes it from the stem.
        block: The first block that is trained; 0 trains all of it.
        checkpointing: Compute the blocks' maps again in the backward pass rather than hold them.
    """

    encoder: str = "efficientnet_lite2"
    block: int = 21
    checkpointing: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.block < 0:
            raise ValueError(f"model.block is {self.block}, but blocks are counted from 0")

    def for_encoder(self, encoder: str) -> str:
        """The stem of it that is left frozen."""
        return f"stem:{self.block}:{encoder}"


class TunedMRNN(MRNN):
    """m-RNN with the last blocks of its CNN."""

    Config = TunedConfig

    def __init__(self, config: TunedConfig, vocabulary: int, features: int):
        super().__init__(config, vocabulary, features)
        self.tail = tail(config.encoder, config.block)

    @classmethod
    def check_encoder(cls, encoder: Encoder) -> None:
        """Refuse what is no stem.

        Raises:
            ValueError: It is none.
        """
        if not isinstance(encoder, Stem):
            raise ValueError(f"a model that trains its CNN needs the stem of one, which {encoder.name} is not")

    @classmethod
    def build(cls, config: TunedConfig, vocabulary: Vocabulary, encoder: Encoder) -> "TunedMRNN":
        """With the blocks that the stem leaves out."""
        assert isinstance(encoder, Stem)
        model = cls(replace(config, encoder=encoder.whole), len(vocabulary), encoder.width)
        model.tail.load_state_dict(encoder.tail.state_dict())
        return model

    def join(self, encoder: Encoder) -> Encoder:
        """Stem and tail as one encoder; one that is not cut has the tail in it already."""
        return rejoin(encoder, self.tail) if isinstance(encoder, Stem) else encoder

    def parameter_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """The tail has the CNN's rate."""
        tail = list(self.tail.parameters())
        known = {id(p) for p in tail}
        return [("model", [p for p in self.parameters() if id(p) not in known]), ("encoder", tail)]

    def encode_image(self, features: Float[Tensor, "N ..."]) -> Float[Tensor, "N M"]:
        """V_I I of what the stem gave, or of features (N, D) that have gone through the tail already."""
        return super().encode_image(self.pool(features))

    def pool(self, features: Float[Tensor, "N ..."]) -> Float[Tensor, "N D"]:
        """The last map, averaged over its cells."""
        if features.ndim == 2:
            return features
        # Of many photos the widened maps would not fit into memory together; in training a step's are needed at once.
        parts = [features] if self.training else features.split(CHUNK)
        return torch.cat([pooled(self.last_map(part)) for part in parts])

    def last_map(self, features: Float[Tensor, "N ..."]) -> Float[Tensor, "N D *cells"]:
        """What the tail makes of the stem's features."""
        x = features.float()  # many photos may be held in half precision
        x = x if x.ndim != 4 else x.contiguous(memory_format=torch.channels_last)
        # Layers behind a flattened map want it whole.
        if self.training and x.ndim == 4 and not isinstance(self.tail[0], nn.Flatten):
            x = augment(x) if self.config.block == 0 else window(x)
        for block in self.tail:
            again = self.config.checkpointing and self.training and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return x

    @torch.no_grad()
    def fit_features(self, features: Float[Tensor, "N ..."]) -> None:
        """Take mean and deviation from a sample of the training images."""
        training = self.training
        self.eval()
        super().fit_features(self.pool(features[:: math.ceil(len(features) / FITTED)]))
        self.train(training)


def window(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C h w"]:
    """A window of seven tenths of the height and of the width or more, the same for all maps."""
    spans = []
    for side in x.shape[2:]:
        length = int(torch.randint(math.ceil(0.7 * side), side + 1, ()))
        start = int(torch.randint(side - length + 1, ()))
        spans.append(slice(start, start + length))
    return x[:, :, spans[0], spans[1]]


def augment(x: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
    """Crops of three quarters of the side or more, and brightness and contrast within a fifth.

    Mirror images are a view of their own in the data, for captions that say neither left nor right.
    """
    n = len(x)
    share = 1 - 0.25 * torch.rand(n, device=x.device)
    shift = (2 * torch.rand(n, 2, device=x.device) - 1) * (1 - share)[:, None]
    theta = torch.zeros(n, 2, 3, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = share
    theta[:, :, 2] = shift
    cropped = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    brightness, contrast = 0.2 * (2 * torch.rand(2, n, 1, 1, 1, device=x.device) - 1)
    return cropped * (1 + contrast) + brightness
