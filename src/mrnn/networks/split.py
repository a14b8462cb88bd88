"""A network cut in two, so that its last blocks can be trained with the language model: a frozen stem, and a tail.

`stem:BLOCK:ENCODER` encodes photos up to a block; its features are what that block takes, (C, H, W) a photo, (P, C) of
a network of patches, or the normalised photo itself for block 0. `tail` builds the rest, and `rejoin` makes one encoder
of a stem and the tail that was trained on it. Batch norms are folded into their convolutions before the cut, so that
their statistics are frozen.

Shapes: N images, S side of the input, C channels, H x W cells, P patches, D feature width.
"""

import copy

import torch
from torch import Tensor, nn

from mrnn.encoders import Encoder
from mrnn.networks import blank_network, module_of
from mrnn.networks.torch_network import TorchNetwork, marked
from mrnn.shapes import Float


def blocks_of(name: str, network: nn.Module) -> nn.Sequential:
    """The blocks whose composition maps normalised photos to what is pooled.

    Raises:
        ValueError: The network does not tell its blocks.
    """
    if not hasattr(network, "blocks"):
        raise ValueError(f"{name} does not tell its blocks, so it cannot be trained from one of them on")
    return network.blocks()  # ty: ignore[not-callable]


class Stem(Encoder):
    """The frozen blocks before a cut, whose features are what the block at the cut takes.

    Attributes:
        whole: Name of the encoder that is cut.
        stem: The blocks before the cut.
        tail: The blocks from the cut on, as they were before any training.
    """

    whole: str
    stem: nn.Sequential
    tail: nn.Sequential


def stem_of(name: str, whole: str, encoder: Encoder, block: int) -> Stem:
    """Cut an encoder.

    Args:
        name: What `load_encoder` calls the stem.
        whole: What it calls the encoder.
        encoder: The whole.
        block: The first block that is left out, counted from 0.

    Raises:
        ValueError: It cannot be cut there.
    """
    if encoder.feature_shape != (encoder.width,):
        raise ValueError(f"{whole} cannot be cut: it gives more than one vector a photo")
    network = module_of(encoder)
    blocks = list(blocks_of(encoder.name, network))
    if block >= len(blocks):
        raise ValueError(f"no encoder {name!r}: the last block of {encoder.name} is {len(blocks) - 1}")
    before, after = nn.Sequential(*blocks[:block]), nn.Sequential(*blocks[block:])
    side = encoder.preprocessing.side
    photo = torch.randint(256, (1, side, side, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8).numpy()
    cut = TorchNetwork(before, encoder.preprocessing)
    features, _ = cut(photo)
    if "huggingface:" in whole:  # of our own networks the tests have shown it
        again = pooled(after(torch.from_numpy(features)))
        if not torch.allclose(again, torch.from_numpy(encoder(photo).pooled), atol=1e-3, rtol=1e-3):
            raise ValueError(f"{encoder.name} is more than its blocks one after the other, so it cannot be cut")
    stem = Stem(
        name,
        cut,
        encoder.preprocessing,
        encoder.width,
        marked(network, encoder.preprocessing, f"{encoder.fingerprint} stem {block}"),
        features.shape[1:],
    )
    stem.whole, stem.stem, stem.tail = whole, before, after
    return stem


class Joined(nn.Module):
    """A stem and a tail, as an encoder's network."""

    def __init__(self, stem: nn.Sequential, tail: nn.Sequential):
        super().__init__()
        self.stem, self.tail = stem, tail

    def forward(self, x: Float[Tensor, "N 3 S S"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D H W"] | None]:
        """Pooled features and last map of normalised photos."""
        last = self.tail(self.stem(x))
        return pooled(last), last if last.ndim == 4 else None


def rejoin(stem: Stem, tail: nn.Sequential) -> Encoder:
    """The whole network again, with a trained tail; the tail itself is left as it is."""
    joined = Joined(stem.stem, copy.deepcopy(tail))
    network = TorchNetwork(joined, stem.preprocessing)
    return Encoder(stem.name, network, stem.preprocessing, stem.width, marked(joined, stem.preprocessing))


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
    try:
        network = blank_network(name)
    except ValueError as error:
        raise ValueError(f"{name} cannot be trained from a block on ({error})") from None
    blocks = blocks_of(name, network)
    if not 0 <= block < len(blocks):
        raise ValueError(f"the blocks of {name} are 0 to {len(blocks) - 1}, so it cannot be trained from {block} on")
    return nn.Sequential(*list(blocks)[block:])
