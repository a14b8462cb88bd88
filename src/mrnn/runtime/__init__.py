"""How a model is used: one protocol on NumPy arrays, and what fills it."""

from mrnn.runtime.protocol import Precision, Runtime, State

__all__ = ["Precision", "Runtime", "State"]
