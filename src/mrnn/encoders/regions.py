"""A photo and its regions as features, (1 + K, D) a photo, from any encoder with a grid or a classifier.

`grid:K:ENCODER` averages the encoder's own map over K x K equal parts: regions that cost nothing.
`boxes:PROPOSER:ENCODER` finds K = 19 regions as R-CNN does (see `proposals.py`) and encodes the crop of each.

Shapes: N images, K regions, D feature width, S side of the input, H x W grid cells.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from mrnn.encoders.base import Encoder, ImageFeatures
from mrnn.encoders.proposals import Proposer, crop, top_regions
from mrnn.images import ImageSource, open_image

BOXES = 19


class GridRegions(Encoder):
    """The whole photo, then K x K equal parts of it, row by row.

    Args:
        name: What `load_encoder` calls it.
        encoder: With a grid.
        parts: K.
    """

    def __init__(self, name: str, encoder: Encoder, parts: int):
        super().__init__(
            name, encoder.network, encoder.preprocessing, encoder.width, f"{encoder.fingerprint} grid {parts}"
        )
        self.parts = parts
        self.row = (1 + parts * parts, encoder.width)

    @torch.inference_mode()
    def forward(self, pixels: UInt8[Tensor, "N S S 3"]) -> ImageFeatures:
        """Encode a batch of preprocessed photos.

        Raises:
            ValueError: The network has no grid.
        """
        features = super().forward(pixels)
        if features.grid is None:
            raise ValueError(f"{self.name}: the network has no grid to take regions from")
        cells = features.grid.permute(0, 3, 1, 2)
        parts = nn.functional.adaptive_avg_pool2d(cells, self.parts).flatten(2).transpose(1, 2)
        edges = torch.arange(self.parts, device=pixels.device) / self.parts
        top, left = torch.meshgrid(edges, edges, indexing="ij")
        boxes = torch.stack([left, top, left + 1 / self.parts, top + 1 / self.parts], -1).flatten(0, 1)
        whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=pixels.device)
        boxes = torch.cat([whole, boxes]).expand(len(pixels), -1, -1)
        return ImageFeatures(torch.cat([features.pooled[:, None], parts], 1), features.grid, boxes)

    def cell_shares(self, rows: int, columns: int) -> Float[Tensor, "regions cells"]:
        """Of the whole photo the same of all, and of a part the same of those it covers."""
        one_hot = torch.eye(rows * columns).unflatten(1, (rows, columns))
        parts = nn.functional.adaptive_avg_pool2d(one_hot[None], self.parts)[0].flatten(1).t()
        return torch.cat([super().cell_shares(rows, columns), parts])


class BoxRegions(Encoder):
    """The whole photo, then the crops of the regions that a proposer finds.

    Args:
        name: What `load_encoder` calls it.
        encoder: Whose network classifies, for the crops are scored by their likeliest class.
        proposer: Finds the boxes.
    """

    decodes_alone = False

    def __init__(self, name: str, encoder: Encoder, proposer: Proposer):
        structure = f"{encoder.fingerprint} {proposer.fingerprint} {BOXES}"
        super().__init__(name, encoder.network, encoder.preprocessing, encoder.width, structure)
        if not hasattr(encoder.network, "classify"):
            raise ValueError(f"{name}: regions are scored by a classifier, which {encoder.name} does not have")
        self.proposer = proposer
        self.row = (1 + BOXES, encoder.width)

    def forward(self, pixels: UInt8[Tensor, "N K S S 3"]) -> ImageFeatures:
        """Encode the crops of a batch of photos."""
        crops = torch.cat([super(BoxRegions, self).forward(part).pooled for part in pixels.flatten(0, 1).split(8)])
        return ImageFeatures(crops.unflatten(0, pixels.shape[:2]))

    def boxes(self, photo: Image.Image) -> Float[np.ndarray, "K 4"]:
        """Left, top, right, bottom of the whole photo and its regions, as shares of width and height.

        Args:
            photo: Upright RGB.
        """
        return top_regions(photo, self.proposer, self._classify, BOXES)

    def _classify(self, crops: list[Image.Image]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack([self.preprocessing(crop) for crop in crops])).to(self.mean.device)
        with torch.inference_mode():
            pooled = torch.cat([super(BoxRegions, self).forward(part).pooled for part in pixels.split(8)])
            return self.network.classify(pooled).softmax(-1).amax(-1).cpu().numpy()  # ty: ignore[not-callable]

    def pixels(self, source: ImageSource) -> UInt8[np.ndarray, "K S S 3"]:
        """The crops of one photo.

        Raises:
            ImageError: The photo cannot be used.
        """
        photo = open_image(source)
        return np.stack([self.preprocessing(crop(photo, box)) for box in self.boxes(photo)])
