"""The convolutional networks and others that encoders are made of, with PyTorch, one a file."""

import re
from pathlib import Path

from torch import nn

from mrnn.encoders import Encoder
from mrnn.networks.torch_network import marked, module_of, torch_encoder

__all__ = ["ENCODERS", "blank_network", "load_encoder", "located", "module_of", "torch_encoder"]

ENCODERS = (
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_liteN@SIDE",
    "efficientnet_liteN+N",
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
        from mrnn.networks.efficientnet_lite import parse

        if not parse(spec):
            raise ValueError(f"no encoder {spec!r}; there are {', '.join(ENCODERS)}")


def located(spec: str) -> str:
    """An encoder's name with the file or folder that it names, if any, made absolute: it is found from anywhere."""
    match = re.fullmatch(r"(.*?\b(?:alexnet|vgg16|vgg19|huggingface)):(.+)", spec)
    return f"{match[1]}:{Path(match[2]).resolve()}" if match and Path(match[2]).exists() else spec


def load_encoder(spec: str) -> Encoder:
    """Load an encoder with its weights.

    Args:
        spec: A name of `ENCODERS`. `efficientnet_lite2@320` is given photos with a side of 320 pixels,
            `efficientnet_lite1+2@288` is two networks side by side. `alexnet` and
            `vgg*` take a checkpoint file after a colon (`alexnet:FILE`; the published one is fetched without),
            `huggingface` a hub name or folder. Of `grid` and `boxes` see `encoders/regions.py`, of `stem` `split.py`.

    Raises:
        ValueError: No such encoder, or its weights cannot be had; the message says what to do.
    """
    spec = located(spec)
    name, _, source = spec.partition(":")
    if name.startswith("efficientnet_lite"):
        from mrnn.networks import efficientnet_lite

        if known := efficientnet_lite.parse(spec):
            network = efficientnet_lite.load(*known)
            return torch_encoder(spec, network, network.preprocessing, 1280 * len(known[0]))
    if name == "alexnet":
        from mrnn.networks import alexnet

        network, width = alexnet.load(source or None)
        return torch_encoder(spec, network, alexnet.PREPROCESSING, width)
    if name in ("vgg16", "vgg19"):
        from mrnn.networks import vgg

        network, width = vgg.load(int(name[3:]), source or None)
        return torch_encoder(spec, network, vgg.PREPROCESSING, width)
    if name == "huggingface":
        from mrnn.networks import huggingface

        tower, width, preprocessing, structure = huggingface.load(source)
        return torch_encoder(spec, tower, preprocessing, width, structure)
    if name == "grid":
        from mrnn.encoders.regions import GridRegions

        parts, _, inner = source.partition(":")
        if not parts.isdigit() or int(parts) < 1 or not inner:
            raise ValueError(f"no encoder {spec!r}: a grid is grid:PARTS:ENCODER, such as grid:3:efficientnet_lite2")
        whole = load_encoder(inner)
        return GridRegions(spec, whole, int(parts), _derived(whole, f"{whole.fingerprint} grid {parts}"))
    if name == "stem":
        from mrnn.networks.split import stem_of

        block, _, inner = source.partition(":")
        if not block.isdigit() or not inner:
            raise ValueError(f"no encoder {spec!r}: a stem is stem:BLOCK:ENCODER, such as stem:21:efficientnet_lite2")
        return stem_of(spec, inner, load_encoder(inner), int(block))
    if name == "boxes":
        from mrnn.encoders.proposals import load_proposer
        from mrnn.encoders.regions import BOXES, BoxRegions

        chosen, _, inner = source.rpartition(":")
        if not chosen:
            raise ValueError(
                f"no encoder {spec!r}: boxes are boxes:PROPOSER:ENCODER, such as "
                "boxes:selective-search:efficientnet_lite2"
            )
        whole, proposer = load_encoder(inner), load_proposer(chosen)
        mark = _derived(whole, f"{whole.fingerprint} {proposer.fingerprint} {BOXES}")
        return BoxRegions(spec, whole, proposer, mark)
    raise ValueError(f"no encoder {spec!r}; there are {', '.join(ENCODERS)}")


def _derived(encoder: Encoder, structure: str) -> str:
    return marked(module_of(encoder), encoder.preprocessing, structure)


def blank_network(name: str) -> nn.Module:
    """A network as its encoder has it, batch norms folded, with weights of no meaning.

    Raises:
        ValueError: There is no such network, or it comes with a file or from a hub alone.
    """
    from mrnn.networks import efficientnet_lite
    from mrnn.networks.torch_network import fold_batch_norms

    kind, _, source = name.partition(":")
    if kind.startswith("efficientnet_lite") and (known := efficientnet_lite.parse(name)):
        network: nn.Module = efficientnet_lite.build(*known)
    elif kind == "alexnet":
        from mrnn.networks.alexnet import AlexNet

        network = AlexNet()
    elif kind in ("vgg16", "vgg19"):
        from mrnn.networks.vgg import VGG

        network = VGG(int(kind[3:]))
    elif kind == "huggingface" and source:
        from mrnn.networks.huggingface import without_weights

        network = without_weights(source)
    else:
        raise ValueError(
            f"no network {name!r}; there are efficientnet_lite0 to 2, alexnet, vgg16, vgg19 and huggingface:MODEL"
        )
    return fold_batch_norms(network.eval())
