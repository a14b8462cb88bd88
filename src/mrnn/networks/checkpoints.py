"""Weights in torchvision's state-dict layout, from a user's file or the published one. Never unpickled."""

from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn

from mrnn.files import first_line
from mrnn.images import Preprocessing

# torchvision's ImageNet input, on the scale 0..255: shorter side 256, centre 224
IMAGENET_CROP = Preprocessing(
    side=224,
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    resize="crop",
    interpolation="bilinear",
    scale=256 / 224,
)


def load_checkpoint(network: nn.Module, name: str, source: str | None, url: str) -> None:
    """Fill a network from a `.pth` or `.safetensors` file, or from the published file when online.

    Raises:
        ValueError: The file is missing, holds more than tensors, or is another network's.
    """
    try:
        if source is None:
            state = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        elif Path(source).suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(source)
        else:
            state = torch.load(source, map_location="cpu", weights_only=True)
    except (URLError, TimeoutError):
        raise ValueError(
            f"the published weights of {name} cannot be fetched (offline?); "
            f"download {url} elsewhere and name the encoder {name}:FILE"
        ) from None
    except FileNotFoundError:
        raise ValueError(f"{source}: no such file") from None
    except Exception as error:  # a file that is no checkpoint makes both readers raise almost anything
        if type(error).__name__ == "UnpicklingError":  # whose message advises to open it all the same
            raise ValueError(f"{source or url}: holds more than tensors, or is damaged; it is not opened") from None
        raise ValueError(f"{source or url}: no safe state dict of {name} ({first_line(error)})") from None
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, AttributeError, TypeError):
        raise ValueError(f"{source or url}: holds other tensors than torchvision's {name}") from None
