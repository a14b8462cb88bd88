"""Photo -> ImageFeatures. `load_encoder` knows every encoder by name."""

import re
from pathlib import Path

from mrnn.encoders.base import Encoder, ImageFeatures, pool_features
from mrnn.encoders.cache import FeatureCache

__all__ = ["ENCODERS", "Encoder", "FeatureCache", "ImageFeatures", "load_encoder", "located", "pool_features"]

ENCODERS = (
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_liteN@SIDE",
    "alexnet",
    "vgg16",
    "vgg19",
    "huggingface:MODEL",
    "grid:PARTS:ENCODER",
    "boxes:PROPOSER:ENCODER",
    "stem:BLOCK:ENCODER",
)


def check_name(spec: str) -> None:
    """Refuse a name that no encoder has, before photos are read.

    Raises:
        ValueError: There is none.
    """
    name, _, source = spec.partition(":")
    if name in ("stem", "grid"):
        check_name(source.partition(":")[2])
    elif name not in (known.partition(":")[0] for known in ENCODERS):
        from mrnn.encoders.efficientnet_lite import parse

        if not parse(spec):
            raise ValueError(f"no encoder {spec!r}; there are {', '.join(ENCODERS)}")


def located(spec: str) -> str:
    """An encoder's name with the file or folder that it names, if any, made absolute: it is found from anywhere."""
    match = re.fullmatch(r"(.*?\b(?:alexnet|vgg16|vgg19|huggingface)):(.+)", spec)
    return f"{match[1]}:{Path(match[2]).resolve()}" if match and Path(match[2]).exists() else spec


def load_encoder(spec: str) -> Encoder:
    """Load an encoder with its weights.

    Args:
        spec: A name of `ENCODERS`. `efficientnet_lite2@320` is given photos with a side of 320 pixels. `alexnet` and
            `vgg*` take a checkpoint file after a colon (`alexnet:FILE`; the published one is fetched without),
            `huggingface` a hub name or folder. Of `grid` and `boxes` see `regions.py`, of `stem` `split.py`.

    Raises:
        ValueError: No such encoder, or its weights cannot be had; the message says what to do.
    """
    spec = located(spec)
    name, _, source = spec.partition(":")
    if name.startswith("efficientnet_lite"):
        from mrnn.encoders import efficientnet_lite

        if known := efficientnet_lite.parse(spec):
            network, _ = efficientnet_lite.load(*known)
            return Encoder(spec, network, network.preprocessing, 1280)
    if name == "alexnet":
        from mrnn.encoders import alexnet

        network, width = alexnet.load(source or None)
        return Encoder(spec, network, alexnet.PREPROCESSING, width)
    if name in ("vgg16", "vgg19"):
        from mrnn.encoders import vgg

        network, width = vgg.load(int(name[3:]), source or None)
        return Encoder(spec, network, vgg.PREPROCESSING, width)
    if name == "huggingface":
        from mrnn.encoders import huggingface

        tower, width, preprocessing, structure = huggingface.load(source)
        return Encoder(spec, tower, preprocessing, width, structure)
    if name == "grid":
        from mrnn.encoders.regions import GridRegions

        parts, _, inner = source.partition(":")
        if not parts.isdigit() or int(parts) < 1 or not inner:
            raise ValueError(f"no encoder {spec!r}: a grid is grid:PARTS:ENCODER, such as grid:3:efficientnet_lite2")
        return GridRegions(spec, load_encoder(inner), int(parts))
    if name == "stem":
        from mrnn.encoders.split import Stem

        block, _, inner = source.partition(":")
        if not block.isdigit() or not inner:
            raise ValueError(f"no encoder {spec!r}: a stem is stem:BLOCK:ENCODER, such as stem:21:efficientnet_lite2")
        return Stem(spec, load_encoder(inner), int(block))
    if name == "boxes":
        from mrnn.encoders.proposals import load_proposer
        from mrnn.encoders.regions import BoxRegions

        proposer, _, inner = source.rpartition(":")
        if not proposer:
            raise ValueError(
                f"no encoder {spec!r}: boxes are boxes:PROPOSER:ENCODER, such as "
                "boxes:selective-search:efficientnet_lite2"
            )
        return BoxRegions(spec, load_encoder(inner), load_proposer(proposer))
    raise ValueError(f"no encoder {spec!r}; there are {', '.join(ENCODERS)}")
