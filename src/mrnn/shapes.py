"""Shapes in annotations, `Float[np.ndarray, "N M"]`: checked in the tests, by jaxtyping, and names alone at use.

A process to a first answer should not wait for the import of what only the tests ask.
"""

import sys
from typing import TYPE_CHECKING, Any

__all__ = ["Float", "Int", "UInt8"]

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float, Int, UInt8
else:

    class Float:
        """An array of a type and shape."""

        def __class_getitem__(cls, asked: tuple[Any, str]) -> Any:
            return asked[0]

    Int = UInt8 = Float
