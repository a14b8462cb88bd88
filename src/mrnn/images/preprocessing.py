"""How a photo becomes an encoder's input.

Shapes: S side of the square input.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from PIL import Image

from mrnn.images.kinds import ImageSource
from mrnn.images.opening import open_image

_LARGEST_SIDE, _LARGEST_SCALE = 4096, 16


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, Real) and math.isfinite(value) for value in values)


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes an encoder's input; saved with every model, so that it never drifts.

    Args:
        side: Side S of the square input.
        mean: Subtracted from the RGB values, on the scale 0..255.
        std: Divides them after that.
        resize: `squash` scales the whole photo to the square, so that nothing is cut off;
            `crop` scales the shorter side and takes the centre.
        interpolation: `bicubic` or `bilinear`.
        scale: For `crop`: the shorter side is scaled to side * scale first (ImageNet's 256 / 224).
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str = "squash"
    interpolation: str = "bicubic"
    scale: float = 1.0

    def __post_init__(self):
        if self.resize not in ("squash", "crop"):
            raise ValueError(f"resize is 'squash' or 'crop', not {self.resize!r}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation is 'bicubic' or 'bilinear', not {self.interpolation!r}")
        if not isinstance(self.side, Integral) or not 0 < self.side <= _LARGEST_SIDE:
            raise ValueError(f"the side of an encoder's input is 1 to {_LARGEST_SIDE:,} pixels")
        if not (_numbers(self.scale) and 0 < self.scale <= _LARGEST_SCALE):
            raise ValueError(f"the scale is above 0, and {_LARGEST_SCALE} at most")
        colours = (self.mean, self.std)
        if not all(isinstance(three, tuple) and len(three) == 3 and _numbers(*three) for three in colours):
            raise ValueError("mean and std are three numbers each")

    @property
    def least_side(self) -> int:
        """The shorter side that a photo must have when it is decoded, in pixels."""
        return round(self.side * self.scale)

    def __call__(self, source: ImageSource, tolerant: bool = False) -> np.ndarray:
        """Read one photo.

        Args:
            source: The photo.
            tolerant: Of a truncated one take what there is.

        Returns:
            (S, S, 3) unsigned bytes; the encoder subtracts mean and std itself, a batch at a time.

        Raises:
            ImageError: The photo cannot be used.
        """
        longer = self.least_side
        image = open_image(source, min_side=longer, tolerant=tolerant)
        filter = Image.Resampling[self.interpolation.upper()]
        if self.resize == "squash":
            return np.asarray(image.resize((self.side, self.side), filter))
        # Of a very long photo the middle is enough; scaled as a whole it would not fit into memory.
        image = _centre(image, *(min(x, 16 * min(image.size)) for x in image.size))
        width, height = (x * longer // min(image.size) for x in image.size)
        return np.asarray(_centre(image.resize((width, height), filter), self.side, self.side))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Preprocessing":
        """Rebuild from the JSON form that a saved model holds."""
        as_tuples: dict[str, Any] = {
            k: tuple(v) if isinstance(v, Sequence) and not isinstance(v, str) else v for k, v in fields.items()
        }
        return cls(**as_tuples)
