"""m-RNN: one language model conditioned on an image that captions, ranks and explains photos."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["ImageError", "Pipeline", "load"]

if TYPE_CHECKING:
    from mrnn.images import ImageError
    from mrnn.pipeline import Pipeline, load


def __getattr__(name: str):
    """Import NumPy only when a public name is used, so that `mrnn --help` answers at once."""
    from importlib import import_module

    rooms = {"ImageError": "mrnn.images", "Pipeline": "mrnn.pipeline", "load": "mrnn.pipeline"}
    if name not in rooms:
        raise AttributeError(f"module 'mrnn' has no attribute {name!r}")
    return getattr(import_module(rooms[name]), name)
