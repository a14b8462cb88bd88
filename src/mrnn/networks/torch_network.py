"""A torch network as an encoder's: bytes in, features out, as arrays.

Shapes: N images, S side of the input, D feature width, H x W grid cells.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mrnn.encoders import Encoder
from mrnn.images import Preprocessing


class Normalised(nn.Module):
    """A network with the normalisation of its input before it.

    Args:
        network: Maps normalised photos (N, 3, S, S) to pooled (N, D) and a map (N, D, H, W) or None; or to what a stem
            gives alone.
        mean: Of the normalisation.
        std: Of the normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pooled features, and the map they are the mean of, cells before channels; of (N, S, S, 3) bytes."""
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        x = (pixels.permute(0, 3, 1, 2).float() - mean) / std
        found = self.network(x)
        pooled, cells = found if isinstance(found, tuple) else (found, None)
        return pooled, None if cells is None else cells.permute(0, 2, 3, 1)


class TorchNetwork:
    """`Normalised`, called with arrays.

    Args:
        network: As for `Normalised`, in evaluation mode.
        preprocessing: Whose mean and std.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing):
        self.module = Normalised(network, preprocessing.mean, preprocessing.std).eval().requires_grad_(False)
        self.module.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]

    def to(self, device: torch.device | str) -> "TorchNetwork":
        """Move it."""
        self.module.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Of (N, S, S, 3) bytes."""
        device = self.module.mean.device
        given = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))  # Pillow's own bytes are read-only
        # The maps of a few photos stay in a processor's cache.
        parts = [self.module(some.to(device)) for some in given.split(8 if device.type == "cpu" else len(given))]
        pooled, cells = zip(*parts, strict=True)
        return torch.cat(pooled).float().cpu().numpy(), None if cells[0] is None else torch.cat(
            cells
        ).float().cpu().numpy()


def torch_encoder(
    name: str, network: nn.Module, preprocessing: Preprocessing, width: int, structure: str = ""
) -> Encoder:
    """An encoder of a torch network, whose batch norms are folded.

    Args:
        name: What `load_encoder` calls it.
        network: As for `Normalised`.
        preprocessing: From photo to bytes.
        width: D.
        structure: What the weights' names and shapes do not tell of the network, such as its number of heads.
    """
    mark = marked(network, preprocessing, structure)
    classifier = getattr(network, "_fc", None)
    classes = None
    if isinstance(classifier, nn.Linear):
        classes = classifier.weight.detach().numpy().copy(), classifier.bias.detach().numpy().copy()
    folded = TorchNetwork(fold_batch_norms(network.eval()), preprocessing)
    return Encoder(name, folded, preprocessing, width, mark, classifier=classes)


def module_of(encoder: Encoder) -> nn.Module:
    """The torch network of an encoder, without its normalisation.

    Raises:
        ValueError: Another hand has it.
    """
    if not isinstance(encoder.network, TorchNetwork):
        raise ValueError(f"{encoder.name} is not in PyTorch's hands; load it with runtime='torch'")
    return encoder.network.module.network


def marked(network: nn.Module, preprocessing: Preprocessing, structure: str = "") -> str:
    """Fingerprint of a network with its input, and what else is made of them."""
    return fingerprint(network, json.dumps(asdict(preprocessing), sort_keys=True) + structure)


def fingerprint(network: nn.Module, described: str) -> str:
    """SHA-256 over weights and what is described besides (input, structure): who agree in it give the same output."""
    digest = hashlib.sha256(described.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold every batch norm into the convolution registered just before it: the same function, twice as fast."""
    for module in network.modules():
        previous: tuple[str, nn.Conv2d] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and previous is not None:
                fused = fuse_conv_bn_eval(previous[1], child)
                fused.requires_grad_(previous[1].weight.requires_grad)  # PyTorch leaves the new bias without
                setattr(module, previous[0], fused)
                setattr(module, name, nn.Identity())
            previous = (name, child) if isinstance(child, nn.Conv2d) else None
    return network
