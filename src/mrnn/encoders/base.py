"""The encoder interface: a photo in, `ImageFeatures` out.

Shapes: N images, S side of the input, D feature width, H x W grid cells.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mrnn.images import ImageError, ImageSource, Preprocessing
from mrnn.workers import each


@dataclass(frozen=True)
class ImageFeatures:
    """What an encoder says of N photos.

    Args:
        pooled: (N, D), one vector a photo; of an encoder of regions (N, 1 + K, D), the whole photo first;
            of the stem of a network (N, C, H, W).
        grid: (N, H, W, D), one vector a cell, top left first; None if the network has no grid.
        boxes: (N, 1 + K, 4) left, top, right, bottom of the regions, as shares of width and height; None if they
            are not the same for all photos, or there are none.
    """

    pooled: Float[Tensor, "N ..."]
    grid: Float[Tensor, "N H W C"] | None = None
    boxes: Float[Tensor, "N regions 4"] | None = None


class Encoder(nn.Module):
    """A frozen network together with the exact input it expects.

    Args:
        name: What `load_encoder` calls it.
        network: Maps normalised photos (N, 3, S, S) to pooled (N, D) and a map (N, D, H, W) or None.
        preprocessing: From photo to bytes, with the mean and std of the normalisation.
        width: D.
        structure: What the weights' names and shapes do not tell of the network, such as its number of heads.
    """

    mean: Tensor
    std: Tensor
    decodes_alone = True  # what `forward` takes of a photo is its preprocessing's work alone

    def __init__(self, name: str, network: nn.Module, preprocessing: Preprocessing, width: int, structure: str = ""):
        super().__init__()
        self.name, self.preprocessing, self.width = name, preprocessing, width
        self.row: tuple[int, ...] = (width,)  # the shape of one photo's features
        self.fingerprint = fingerprint(network, json.dumps(asdict(preprocessing), sort_keys=True) + structure)
        self.network: nn.Module = fold_batch_norms(network.eval())
        self.network.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
        self.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(preprocessing.mean), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std), persistent=False)

    @torch.inference_mode()
    def forward(self, pixels: UInt8[Tensor, "N *regions S S 3"]) -> ImageFeatures:
        """Encode a batch of preprocessed photos."""
        x = ((pixels - self.mean) / self.std).permute(0, 3, 1, 2)
        pooled, cells = self.network(x)
        return ImageFeatures(pooled, None if cells is None else cells.permute(0, 2, 3, 1))

    def encode(
        self,
        sources: Iterable[ImageSource],
        batch: int = 8,
        threads: int = 2,
        mirror: bool = False,
        workers: int = 0,
    ) -> Iterator[tuple[list[int], ImageFeatures | None, list[ImageError]]]:
        """Encode photos as they are decoded by a pool of threads or of worker processes.

        Args:
            sources: Paths, bytes or PIL images.
            batch: Photos a step; 8 keeps a small network's maps in a processor's cache.
            threads: Decoding threads.
            mirror: Encode the photos' mirror images.
            workers: Decoding processes in the place of threads.

        Yields:
            For every batch: the positions in `sources` of the photos that were encoded, their features in
            that order (None if there are none), and the errors of the photos that cannot be used.

        Raises:
            ValueError: Workers are asked for, but photos cannot be decoded without the network; or one died.
        """
        if workers and not self.decodes_alone:
            raise ValueError(f"{self.name} looks for regions with its network, so no worker process can decode for it")
        work = self.preprocessing.attempt if workers else self._decode
        device = self.mean.device
        sources = list(sources)
        positions: list[int] = []
        pixels: list[np.ndarray] = []
        errors: list[ImageError] = []
        for position, photo in enumerate(each(sources, work, threads, workers)):
            if isinstance(photo, ImageError):
                errors.append(photo)
            else:
                positions.append(position)
                pixels.append(photo[..., ::-1, :] if mirror else photo)
            if len(pixels) + len(errors) == batch or position == len(sources) - 1:
                features = self(torch.from_numpy(np.stack(pixels)).to(device)) if pixels else None
                yield positions, features, errors
                positions, pixels, errors = [], [], []

    def pixels(self, source: ImageSource) -> UInt8[np.ndarray, "*regions S S 3"]:
        """What `forward` takes of one photo.

        Raises:
            ImageError: The photo cannot be used.
        """
        return self.preprocessing(source)

    def _decode(self, source: ImageSource) -> np.ndarray | ImageError:
        try:
            return self.pixels(source)
        except ImageError as error:
            return error

    def cell_shares(self, rows: int, columns: int) -> Float[Tensor, "regions cells"]:
        """The share of each of a photo's feature vectors that each grid cell is, where they are means of cells.

        Args:
            rows: H.
            columns: W.
        """
        return torch.full((1, rows * columns), 1 / (rows * columns))

    def boxes(self, photo: Image.Image) -> Float[np.ndarray, "regions 4"]:
        """The regions of a photo, of an encoder that looks for them."""
        raise NotImplementedError

    def describe(self) -> dict:
        """The JSON form that a saved model holds."""
        return {
            "name": self.name,
            "width": self.width,
            "row": list(self.row),
            "fingerprint": self.fingerprint,
            "preprocessing": asdict(self.preprocessing),
        }


def pool_features(encoder: Encoder, sources: Sequence[ImageSource]) -> tuple[Tensor, list[int], list[ImageError]]:
    """Pooled features (N, D) of the photos that can be used, their positions in `sources`, and the errors."""
    parts, positions, errors = [torch.empty(0, *encoder.row)], [], []
    for done, features, bad in encoder.encode(sources):
        positions += done
        errors += bad
        if features is not None:
            parts.append(features.pooled.float().cpu())
    return torch.cat(parts), positions, errors


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
