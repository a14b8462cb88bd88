"""The one door from use to the workshop, where models are made with PyTorch: it is opened only when asked for."""

from importlib import import_module
from types import ModuleType


def workshop(room: str) -> ModuleType:
    """A room of the workshop, such as `models.export`.

    Raises:
        ValueError: PyTorch is not installed.
    """
    try:
        return import_module(f"mrnn.{room}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise ValueError("this needs PyTorch, which is an extra: pip install 'mrnn[train]'") from None
