"""A network cut in two, so that its last blocks can be trained with the language model: a frozen stem, and a tail.

`stem:BLOCK:ENCODER` encodes photos up to a block; its features are what that block takes, (C, H, W) a photo, (P, C) of
a network of patches, or the normalised photo itself for block 0. `tail` builds the rest, and `rejoin` makes one encoder
of a stem and the tail that was trained on it. Batch norms are folded into their convolutions before the cut, so that
their statistics are frozen.

Shapes: N images, S side of the input, C channels, H x W cells, P patches, D feature width.
"""

import copy

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mrnn.encoders import efficientnet_lite
from mrnn.encoders.base import Encoder, ImageFeatures, fold_batch_norms


def blocks_of(name: str, network: nn.Module) -> nn.Sequential:
    """The blocks whose composition maps normalised photos to what is pooled.

    Raises:
        ValueError: The network does not tell its blocks.
    """
    if not hasattr(network, "blocks"):
        raise ValueError(f"{name} does not tell its blocks, so it cannot be trained from one of them on")
    return network.blocks()  # ty: ignore[not-callable]


class Stem(Encoder):
    """The frozen blocks before a cut.

    Args:
        name: What `load_encoder` calls it.
        encoder: The whole.
        block: The first block that is left out, counted from 0.
    """

    def __init__(self, name: str, encoder: Encoder, block: int):
        super().__init__(
            name, encoder.network, encoder.preprocessing, encoder.width, f"{encoder.fingerprint} stem {block}"
        )
        blocks = blocks_of(encoder.name, encoder.network)
        if block >= len(blocks):
            raise ValueError(f"no encoder {name!r}: the last block of {encoder.name} is {len(blocks) - 1}")
        self.stem, self.tail = nn.Sequential(*list(blocks)[:block]), nn.Sequential(*list(blocks)[block:])
        side = encoder.preprocessing.side
        photo = torch.randint(256, (1, side, side, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        features = self(photo).pooled
        self.row = tuple(features.shape[1:])
        if not torch.allclose(pooled(self.tail(features)), encoder(photo).pooled, atol=1e-3, rtol=1e-3):
            raise ValueError(f"{encoder.name} is more than its blocks one after the other, so it cannot be cut")

    @torch.inference_mode()
    def forward(self, pixels: UInt8[Tensor, "N S S 3"]) -> ImageFeatures:
        """What the block at the cut takes, of a batch of preprocessed photos."""
        return ImageFeatures(self.stem(((pixels - self.mean) / self.std).permute(0, 3, 1, 2)))


class _Joined(nn.Module):
    """A stem and a tail, as an encoder's network."""

    def __init__(self, stem: nn.Sequential, tail: nn.Sequential):
        super().__init__()
        self.stem, self.tail = stem, tail

    def forward(self, x: Float[Tensor, "N 3 S S"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D H W"] | None]:
        last = self.tail(self.stem(x))
        return pooled(last), last if last.ndim == 4 else None


def rejoin(stem: Stem, tail: nn.Sequential) -> Encoder:
    """The whole network again, with a trained tail; the tail itself is left as it is."""
    return Encoder(stem.name, _Joined(stem.stem, copy.deepcopy(tail)), stem.preprocessing, stem.width)


def pooled(x: Float[Tensor, "N D *cells"]) -> Float[Tensor, "N D"]:
    """What a network's last block gave, averaged over its cells if it has any."""
    return x if x.ndim == 2 else x.mean((2, 3))


def tail(name: str, block: int) -> nn.Sequential:
    """The blocks after the cut, with weights of no meaning.

    Args:
        name: Of the encoder that is cut.
        block: Its first block that is kept.

    Raises:
        ValueError: There is no such encoder, or it cannot be cut there.
    """
    kind, _, source = name.partition(":")
    if kind.startswith("efficientnet_lite") and (known := efficientnet_lite.parse(name)):
        network: nn.Module = efficientnet_lite.EfficientNetLite(known[0], side=known[1])
    elif kind == "alexnet":
        from mrnn.encoders.alexnet import AlexNet

        network = AlexNet()
    elif kind in ("vgg16", "vgg19"):
        from mrnn.encoders.vgg import VGG

        network = VGG(int(kind[3:]))
    elif kind == "huggingface" and source:
        from mrnn.encoders.huggingface import without_weights

        network = without_weights(source)
    else:
        raise ValueError(
            f"{name} cannot be trained from a block on; efficientnet_lite0 to 2, alexnet, vgg16, vgg19 and "
            "huggingface:MODEL can"
        )
    blocks = blocks_of(name, fold_batch_norms(network.eval()))
    if not 0 <= block < len(blocks):
        raise ValueError(f"the blocks of {name} are 0 to {len(blocks) - 1}, so it cannot be trained from {block} on")
    return nn.Sequential(*list(blocks)[block:])
