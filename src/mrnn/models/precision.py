"""Where bfloat16 is used: wherever the device multiplies it in hardware, and never in what is reported.

A library's photos are encoded in it too, as the library ranks.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, test, lambda: False)() for test in tests)


def matrix_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """In which numbers matrices are multiplied; `auto` is bfloat16 where it is fast."""
    use = precision == "bfloat16" or (precision == "auto" and fast_bfloat16(device))
    return torch.bfloat16 if use else torch.float32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """The context in which matrices are multiplied in the wanted precision."""
    reduced = matrix_dtype(precision, device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16) if reduced else nullcontext()
