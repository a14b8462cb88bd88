"""The papers' tables, made again: train what is not trained, measure it, and set it beside what was reported."""

from mrnn.reproduce.plan import TABLES, Step, steps
from mrnn.reproduce.run import Reproduction

__all__ = ["TABLES", "Reproduction", "Step", "steps"]
