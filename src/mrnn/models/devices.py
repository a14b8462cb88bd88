"""What PyTorch computes on: devices by name, and memory."""

import contextlib
import ctypes

import torch

from mrnn.runtime import DeviceError


def torch_device(name: str) -> str:
    """The device of a name, `auto` resolved.

    Raises:
        DeviceError: It is not to be had here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):  # an unknown name, or a device that is not there
        raise DeviceError(f"the device {name} is not to be had here; there are auto, cpu, cuda and mps") from None
    return name


def keep_memory() -> None:
    """Let glibc keep freed memory: large tensors come and go every step, and fresh pages cost a fifth of it."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)
