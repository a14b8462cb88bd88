"""A split's photos with their features."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mrnn.corpora.base import Corpus, Photo
from mrnn.encoders import FeatureCache
from mrnn.images import ImageError
from mrnn.shapes import Float


@dataclass(frozen=True)
class Split:
    """A split's photos that could be encoded, with their features.

    Args:
        photos: N photos.
        features: (N, D) float32.
        errors: The photos left out.
    """

    photos: list[Photo]
    features: Float[np.ndarray, "N ..."]
    errors: list[ImageError]


def encode_split(
    corpus: Corpus,
    split: str,
    cache: FeatureCache,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Split:
    """Features of a split's photos, from the cache or encoded now.

    Raises:
        ValueError: The split is empty, or none of its photos can be used.
    """
    photos = corpus.split(split)
    features, usable, errors = cache.features([photo.path for photo in photos], progress)
    if not usable:
        raise ValueError(f"none of the {len(photos)} photos of the split {split!r} can be used ({errors[0]})")
    return Split([photos[i] for i in usable], features.astype(np.float32), errors)
