"""Every picture that the project draws, each a function of plain data."""

from mrnn.draw.charts import (
    draw_gallery,
    draw_recall,
    draw_recall_bars,
    draw_training,
    draw_trainings,
    draw_worth,
)
from mrnn.draw.photos import draw_captions, draw_explanation, draw_sheet

__all__ = [
    "draw_captions",
    "draw_explanation",
    "draw_gallery",
    "draw_recall",
    "draw_recall_bars",
    "draw_sheet",
    "draw_training",
    "draw_trainings",
    "draw_worth",
]
