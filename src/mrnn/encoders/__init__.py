"""Photo -> ImageFeatures, on arrays: encoders, regions of photos, and features on disk."""

from mrnn.encoders.base import Encoder, ImageFeatures, Network, pool_features
from mrnn.encoders.cache import FeatureCache

__all__ = ["Encoder", "FeatureCache", "ImageFeatures", "Network", "pool_features"]
