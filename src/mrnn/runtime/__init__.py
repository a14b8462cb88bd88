"""How a model is used: one protocol on NumPy arrays, and what fills it."""

from mrnn.runtime.protocol import DeviceError, Precision, Runtime, State

__all__ = ["DeviceError", "Precision", "Runtime", "State"]
