"""A photo and its regions as features, (1 + K, D) a photo, from any encoder with a grid or a classifier.

`grid:K:ENCODER` averages the encoder's own map over K x K equal parts: regions that cost nothing.
`boxes:PROPOSER:ENCODER` finds K = 19 regions as R-CNN does (see `proposals.py`) and encodes the crop of each.
Several encoders of one input may also stand side by side as one.

Shapes: N images, K regions, D feature width, S side of the input, H x W grid cells.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mrnn.encoders.base import Encoder, ImageFeatures
from mrnn.encoders.proposals import Proposer, crop, top_regions
from mrnn.images import ImageSource, open_image
from mrnn.shapes import Float, UInt8

BOXES = 19


class GridRegions(Encoder):
    """The whole photo, then K x K equal parts of it, row by row.

    Args:
        name: What `networks.load_encoder` calls it.
        encoder: With a grid.
        parts: K.
        fingerprint: Of the whole.
    """

    def __init__(self, name: str, encoder: Encoder, parts: int, fingerprint: str):
        super().__init__(
            name,
            encoder.network,
            encoder.preprocessing,
            encoder.width,
            fingerprint,
            (1 + parts * parts, encoder.width),
            encoder.classifier,
        )
        self.inner, self.parts = encoder, parts

    def __call__(self, pixels: UInt8[np.ndarray, "N S S 3"]) -> ImageFeatures:
        """Encode a batch of preprocessed photos.

        Raises:
            ValueError: The network has no grid.
        """
        pooled, grid = self.network(pixels)
        if grid is None:
            raise ValueError(f"{self.name}: the network has no grid to take regions from")
        shares = self.cell_shares(*grid.shape[1:3])[1:]
        parts = shares @ grid.reshape(len(grid), -1, grid.shape[3])
        left, top = np.meshgrid(*[np.arange(self.parts, dtype=np.float32) / self.parts] * 2)
        boxes = np.stack([left, top, left + 1 / self.parts, top + 1 / self.parts], -1).reshape(-1, 4)
        boxes = np.concatenate([np.array([[0, 0, 1, 1]], np.float32), boxes.astype(np.float32)])
        return ImageFeatures(
            np.concatenate([pooled[:, None], parts], 1), grid, np.broadcast_to(boxes, (len(grid), *boxes.shape))
        )

    def cell_shares(self, rows: int, columns: int) -> Float[np.ndarray, "regions cells"]:
        """Of the whole photo the same of all, and of a part the same of those it covers, wholly or not."""

        def covered(cells: int) -> np.ndarray:
            cell = np.arange(cells)
            first = [part * cells // self.parts for part in range(self.parts)]
            last = [math.ceil((part + 1) * cells / self.parts) for part in range(self.parts)]
            inside = np.stack([(a <= cell) & (cell < b) for a, b in zip(first, last, strict=True)])
            return inside / inside.sum(1, keepdims=True)

        parts = np.einsum("ay,bx->abyx", covered(rows), covered(columns)).reshape(self.parts**2, -1)
        return np.concatenate([super().cell_shares(rows, columns), parts.astype(np.float32)])


class BoxRegions(Encoder):
    """The whole photo, then the crops of the regions that a proposer finds.

    Args:
        name: What `networks.load_encoder` calls it.
        encoder: With a classifier, for the crops are scored by their likeliest class.
        proposer: Finds the boxes.
        fingerprint: Of the whole.

    Raises:
        ValueError: The encoder has no classifier.
    """

    def __init__(self, name: str, encoder: Encoder, proposer: Proposer, fingerprint: str):
        if encoder.classifier is None:
            raise ValueError(f"{name}: regions are scored by a classifier, which {encoder.name} does not have")
        super().__init__(
            name,
            encoder.network,
            encoder.preprocessing,
            encoder.width,
            fingerprint,
            (1 + BOXES, encoder.width),
            encoder.classifier,
        )
        self.inner, self.proposer = encoder, proposer

    def __call__(self, pixels: UInt8[np.ndarray, "N K S S 3"]) -> ImageFeatures:
        """Encode the crops of a batch of photos."""
        crops, _ = self.network(pixels.reshape(-1, *pixels.shape[2:]))
        return ImageFeatures(crops.reshape(*pixels.shape[:2], -1))

    def boxes(self, photo: Image.Image) -> Float[np.ndarray, "K 4"]:
        """Left, top, right, bottom of the whole photo and its regions, as shares of width and height.

        Args:
            photo: Upright RGB.
        """
        return top_regions(photo, self.proposer, self._classify, BOXES)

    def _classify(self, crops: list[Image.Image]) -> np.ndarray:
        """Probability of each crop's likeliest class."""
        assert self.classifier is not None
        weight, bias = self.classifier
        pooled, _ = self.network(np.stack([self.preprocessing(crop) for crop in crops]))
        logits = pooled @ weight.T + bias
        return 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)

    def pixels(self, source: ImageSource) -> UInt8[np.ndarray, "K S S 3"]:
        """The crops of one photo.

        Raises:
            ImageError: The photo cannot be used.
        """
        photo = open_image(source, tolerant=self.tolerant)
        return np.stack([self.preprocessing(crop(photo, box)) for box in self.boxes(photo)])


class SideBySide(Encoder):
    """The pooled features of several encoders, one after the other.

    Args:
        encoders: With one vector a photo each.

    Raises:
        ValueError: They do not take the same input.
    """

    def __init__(self, encoders: Sequence[Encoder]):
        first = encoders[0]
        if any(encoder.preprocessing != first.preprocessing for encoder in encoders):
            raise ValueError("encoders that stand side by side need photos of the same size and kind")
        super().__init__(
            "+".join(encoder.name for encoder in encoders),
            lambda pixels: (np.concatenate([e.network(pixels)[0] for e in encoders], 1), None),
            first.preprocessing,
            sum(encoder.width for encoder in encoders),
            hashlib.sha256(" ".join(encoder.fingerprint for encoder in encoders).encode()).hexdigest(),
        )
