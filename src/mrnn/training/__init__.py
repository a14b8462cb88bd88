"""Objective, data, loop and checkpoint of the one training loop."""

from mrnn.training.checkpoint import Progress
from mrnn.training.data import CaptionData
from mrnn.training.loop import TrainingConfig, train
from mrnn.training.objective import ObjectiveConfig

__all__ = ["CaptionData", "ObjectiveConfig", "Progress", "TrainingConfig", "train"]
