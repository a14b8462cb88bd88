"""Objective, data, loop and checkpoint of the one training loop."""

from mrnn.training.checkpoint import Progress
from mrnn.training.data import CaptionData
from mrnn.training.loop import TrainingConfig, train

__all__ = ["CaptionData", "Progress", "TrainingConfig", "train"]
