"""The encoder interface: a photo in, `ImageFeatures` out. What computes is the encoder's network, in whichever hand.

Shapes: N images, S side of the input, D feature width, H x W grid cells, K regions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from mrnn.images import ImageError, ImageSource, PreparedPhoto, Preprocessing
from mrnn.shapes import Float, UInt8
from mrnn.threads import cores, each

# (N, S, S, 3) bytes to pooled (N, ...), and the map (N, H, W, D) that it is the mean of, or None; a large N is cut as
# suits the network
Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


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

    pooled: Float[np.ndarray, "N ..."]
    grid: Float[np.ndarray, "N H W C"] | None = None
    boxes: Float[np.ndarray, "N regions 4"] | None = None


class Encoder:
    """A frozen network together with the exact input it expects.

    Args:
        name: What `networks.load_encoder` calls it.
        network: From the bytes of preprocessed photos to features.
        preprocessing: From photo to bytes.
        width: D.
        fingerprint: Encoders that agree in it give the same features.
        feature_shape: Of one photo's features; (D,) if None.
        classifier: (C, D) weights and (C,) bias of the network's classes over pooled features, if it has them.

    Attributes:
        tolerant: Of a truncated photo take what there is.
    """

    tolerant = False

    def __init__(
        self,
        name: str,
        network: Network,
        preprocessing: Preprocessing,
        width: int,
        fingerprint: str,
        feature_shape: tuple[int, ...] | None = None,
        classifier: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        self.name, self.network, self.preprocessing, self.width = name, network, preprocessing, width
        self.fingerprint, self.classifier = fingerprint, classifier
        self.feature_shape = feature_shape or (width,)

    def __call__(self, pixels: UInt8[np.ndarray, "N *regions S S 3"]) -> ImageFeatures:
        """Encode a batch of preprocessed photos."""
        return ImageFeatures(*self.network(pixels))

    def encode(
        self, sources: Iterable[ImageSource], batch: int = 32, threads: int | None = None, mirror: bool = False
    ) -> Iterator[tuple[list[int], ImageFeatures | None, list[ImageError]]]:
        """Encode photos as they are decoded by a pool of threads.

        Args:
            sources: Paths, bytes or PIL images.
            batch: Photos a step.
            threads: Decoding threads; as many as there are cores if None.
            mirror: Encode the photos' mirror images.

        Yields:
            For every batch: the positions in `sources` of the photos that were encoded, their features in
            that order (None if there are none), and the errors of the photos that cannot be used.
        """
        sources = list(sources)
        positions: list[int] = []
        pixels: list[np.ndarray] = []
        errors: list[ImageError] = []
        for position, photo in enumerate(each(sources, self._decode, threads or cores())):
            if isinstance(photo, ImageError):
                errors.append(photo)
            else:
                positions.append(position)
                pixels.append(photo[..., ::-1, :] if mirror else photo)
            if len(pixels) + len(errors) == batch or position == len(sources) - 1:
                yield positions, self(np.stack(pixels)) if pixels else None, errors
                positions, pixels, errors = [], [], []

    def pixels(self, source: ImageSource) -> UInt8[np.ndarray, "*regions S S 3"]:
        """What the network takes of one photo.

        Raises:
            ImageError: The photo cannot be used.
        """
        return self.preprocessing(source, self.tolerant)

    def _decode(self, source: ImageSource) -> np.ndarray | ImageError:
        if isinstance(source, PreparedPhoto):
            return source.pixels
        try:
            return self.pixels(source)
        except ImageError as error:
            return error

    def cell_shares(self, rows: int, columns: int) -> Float[np.ndarray, "regions cells"]:
        """The share of each of a photo's feature vectors that each grid cell is, where they are means of cells.

        Args:
            rows: H.
            columns: W.
        """
        return np.full((1, rows * columns), 1 / (rows * columns), np.float32)

    def boxes(self, photo: Image.Image) -> Float[np.ndarray, "regions 4"] | None:
        """The regions of a photo, of an encoder that looks for them."""
        return None

    def describe(self) -> dict:
        """The JSON form that a saved model holds."""
        return {
            "name": self.name,
            "width": self.width,
            "row": list(self.feature_shape),
            "fingerprint": self.fingerprint,
            "preprocessing": asdict(self.preprocessing),
        }


def pool_features(
    encoder: Encoder, sources: Sequence[ImageSource]
) -> tuple[Float[np.ndarray, "N ..."], list[int], list[ImageError]]:
    """Pooled features (N, D) of the photos that can be used, their positions in `sources`, and the errors."""
    parts, positions, errors = [np.empty((0, *encoder.feature_shape), np.float32)], [], []
    for done, features, bad in encoder.encode(sources):
        positions += done
        errors += bad
        if features is not None:
            parts.append(features.pooled)
    return np.concatenate(parts), positions, errors
