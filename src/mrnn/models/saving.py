"""A trained model into its folder, with everything that is needed to use it without PyTorch; and back into PyTorch.

What the folder holds is told in `runtime/folder.py`.
"""

import copy
import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mrnn.encoders import Encoder
from mrnn.encoders.proposals import load_proposer
from mrnn.encoders.regions import BoxRegions, GridRegions
from mrnn.files import atomic_path, first_line, sha256, write_atomically, write_json
from mrnn.images import Preprocessing
from mrnn.model_card import model_card
from mrnn.models import LanguageModel, build_model
from mrnn.models.export import (
    Unexportable,
    encoder_graph,
    model_graphs,
    runtime_described,
    used_tensors,
    write_graph,
)
from mrnn.models.hand import TorchRuntime
from mrnn.networks import blank_network, load_encoder, module_of
from mrnn.networks.split import Joined, blocks_of
from mrnn.networks.torch_network import TorchNetwork
from mrnn.pipeline import Pipeline
from mrnn.runtime.folder import ENCODER_WEIGHTS, FORMAT, REFERENCES, WEIGHTS, ModelFolder, current, replacing, seal
from mrnn.tasks.familiarity import Familiarity
from mrnn.text import Vocabulary

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)


def save(pipeline: Pipeline, folder: Path, dtype: torch.dtype = torch.float32, name: str = "") -> list[str]:
    """Write the folder, the whole model or nothing.

    Args:
        pipeline: In PyTorch's hands.
        folder: Of the model.
        dtype: Of the weights.
        name: What its card tells people to load; the folder if empty.

    Returns:
        What cannot be used without PyTorch, and why; usually nothing.

    Raises:
        ValueError: The model is not in PyTorch's hands.
    """
    runtime = pipeline.model
    if not isinstance(runtime, TorchRuntime):
        raise ValueError(f"a model of the kind {runtime.name} is not saved: save what it is made of")
    # A relative path is what people may type; where a folder lies on this machine is nobody's business.
    name = name or (folder.name if folder.is_absolute() else str(folder))
    with replacing(folder) as made:
        return _write(pipeline, runtime, made, dtype, name)


def _write(pipeline: Pipeline, runtime: TorchRuntime, folder: Path, dtype: torch.dtype, name: str) -> list[str]:
    """What `save` does, into an empty folder."""
    notes = []
    model = copy.deepcopy(runtime.model).cpu().eval()
    pipeline.vocabulary.save(folder / "vocab.txt")
    weights = {key: _kept(tensor, dtype) for key, tensor in model.state_dict().items()}
    _write_tensors(folder / WEIGHTS, weights)
    files, use = ["vocab.txt", WEIGHTS], None
    places = {key: (WEIGHTS, key) for key in weights}
    if not model.trained_by_gradient:
        use = {"tables": True}
    else:
        try:
            known = f"{runtime.name} {model.describe()} {runtime.feature_shape}"
            for graph in model_graphs(model, runtime.feature_shape):
                write_graph(graph, folder, places, known)
                files.append(f"{graph.name}.onnx")
            use = runtime_described(TorchRuntime(model, runtime.name, runtime.feature_shape))
        except Unexportable as error:
            notes.append(f"{runtime.name} is used by PyTorch alone: {error}")
    encoder = dict(pipeline.encoder_description)
    if _is_hub(encoder["name"]):
        notes.append(f"the encoder {encoder['name']} stays outside the folder, and is used by PyTorch alone")
    else:
        try:
            files += _save_encoder(pipeline.encoder, folder, places, dtype)
            encoder["fingerprint_at_use"] = pipeline.encoder.fingerprint
        except Unexportable as error:
            notes.append(f"the encoder is used by PyTorch alone: {error}")
    encoder["name"] = without_folders(encoder["name"])
    if pipeline.references is not None:
        kept = _kept(torch.from_numpy(pipeline.references), dtype)
        distances = torch.from_numpy(Familiarity(kept.float().numpy()).distances)
        _write_tensors(folder / REFERENCES, {"image": kept, "distances": distances})
        files.append(REFERENCES)
    for path in folder.iterdir():  # of what turned out not to be exported
        if path.name not in files:
            path.unlink()
    hashes = {file: sha256(folder / file) for file in files}
    if ENCODER_WEIGHTS in hashes:
        encoder["sealed"] = seal(encoder["preprocessing"], hashes)
    config = {
        "format": FORMAT,
        "fingerprint": _digest(weights, pipeline.vocabulary),  # of the weights as they are kept
        "encoder": encoder,
        "model": {"name": runtime.name, **model.describe()},
        "generation": asdict(pipeline.generation),
        "confidence": None if pipeline.confidence is None else asdict(pipeline.confidence),
        "use": use,
        **pipeline.provenance,
        "files": hashes,
    }
    card = model_card(name, config)
    write_atomically(folder / "README.md", card.encode(errors="backslashreplace"))
    write_json(folder / "config.json", config)
    return notes


def convert(pipeline: Pipeline, folder: Path, half: bool = False) -> list[str]:
    """Save a model that was loaded from a folder into it again; weights that were kept as float16 stay so.

    Args:
        pipeline: In PyTorch's hands.
        folder: Of the model.
        half: Keep the weights as float16 whatever they were kept as.

    Returns:
        As for `save`.
    """
    kept = {tensor.dtype for tensor in load_file(current(folder) / WEIGHTS).values() if tensor.is_floating_point()}
    return save(pipeline, folder, torch.float16 if half or kept == {torch.float16} else torch.float32)


def _save_encoder(encoder: Encoder, folder: Path, places: dict[str, tuple[str, str]], dtype: torch.dtype) -> list[str]:
    """Weights that are not the model's own, and the graph; the files written."""
    inner = getattr(encoder, "inner", encoder)
    graph = encoder_graph(inner)
    module = {key.removeprefix("network."): tensor for key, tensor in module_of(inner).state_dict().items()}
    own = {key: tensor for key, tensor in module.items() if key not in places and not key.startswith("_fc.")}
    if isinstance(encoder, BoxRegions):
        assert encoder.classifier is not None
        weight, bias = map(torch.from_numpy, encoder.classifier)
        own |= {"classifier.weight": weight, "classifier.bias": bias}
    # The part that the model trained lies with the model's weights.
    _write_tensors(folder / ENCODER_WEIGHTS, {key: _kept(tensor, dtype) for key, tensor in own.items()})
    names = {f"network.{key}": places.get(key, (ENCODER_WEIGHTS, key)) for key in module}
    used = used_tensors(graph)
    write_graph(graph, folder, {key: place for key, place in names.items() if key in used}, inner.fingerprint)
    return [ENCODER_WEIGHTS, f"{graph.name}.onnx"]


def without_folders(name: str) -> str:
    """An encoder's name as others may read it: a file of weights is in the model's folder now, wherever it lay."""
    return re.sub(r"\b(alexnet|vgg16|vgg19):.+", r"\1", name)


def _is_hub(name: str) -> bool:
    return "huggingface:" in name


def _kept(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """On the CPU in one floating type; whole numbers, which n-gram tables hold, stay as they are."""
    return tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()


def _write_tensors(path: Path, named: dict[str, Tensor]) -> None:
    with atomic_path(path) as temporary:
        save_file(named, temporary)


def fingerprint_of(model: LanguageModel, vocabulary: Vocabulary) -> str:
    """SHA-256 over weights, as float32, and vocabulary."""
    return _digest(model.state_dict(), vocabulary)


def _digest(weights: dict[str, Tensor], vocabulary: Vocabulary) -> str:
    digest = hashlib.sha256("\n".join(vocabulary.tokens).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(_kept(tensor, torch.float32).numpy().tobytes())
    return digest.hexdigest()


def load_torch(found: ModelFolder, device: torch.device | str = "cpu") -> tuple[TorchRuntime, Callable[[], Encoder]]:
    """A saved model in PyTorch's hands, and what gives its encoder.

    Raises:
        ValueError: The weights are damaged or of another model.
    """
    description = dict(found.model)
    name = description.pop("name")
    try:
        with torch.device("meta"):  # sizes that are not those of the weights take no memory
            sketch = build_model(name, description)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{found.path}/config.json: {first_line(error)}") from None
    weights = _checked_weights(sketch, found.path / WEIGHTS)
    model = build_model(name, description)
    model.load_state_dict(weights)
    shape = found.use["feature_shape"] if found.use is not None and "tables" not in found.use else None
    if shape is None:
        described = found.encoder.get("row", [found.encoder["width"]])
        shape = [model.features] if len(described) == 3 else described
    runtime = TorchRuntime(model, found.model["name"], tuple(shape)).to(device)
    return runtime, lambda: _encoder(found, model, device)


def _encoder(found: ModelFolder, model: LanguageModel, device: torch.device | str) -> Encoder:
    """The encoder that the model was trained on; of a model that trained its last blocks, with these.

    Raises:
        ValueError: It cannot be had, or its weights or preprocessing are not those of the training.
    """
    encoder = _inside(found, model) if found.encoder_inside else model.join(outside(found))
    to_device(encoder, device)
    return encoder


def outside(found: ModelFolder) -> Encoder:
    """The encoder of a model that does not hold it: as named, and checked to be that of the training.

    Raises:
        ValueError: It cannot be had, or is another.
    """
    described = found.encoder
    encoder = load_encoder(described["name"])
    # The configuration that earlier versions took into a hub encoder's fingerprint changed with transformers.
    known = found.format == 1 and _is_hub(described["name"])
    if encoder.fingerprint != described["fingerprint"] and not known:
        raise ValueError(
            f"the model was trained on other weights of {encoder.name} than those installed; "
            "its captions would be wrong"
        )
    if Preprocessing.from_dict(described["preprocessing"]) != encoder.preprocessing:
        raise ValueError(f"the model was trained on photos that {encoder.name} was given otherwise")
    return encoder


def _inside(found: ModelFolder, model: LanguageModel) -> Encoder:
    """The encoder in a model's folder."""
    described = found.encoder
    name, mark = described["name"], found.encoder_mark
    preprocessing = Preprocessing.from_dict(described["preprocessing"])
    path = found.path / ENCODER_WEIGHTS
    try:
        weights = {key: _kept(t, torch.float32) for key, t in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged weights ({error})") from None
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise ValueError(f"{path}: holds numbers that are not finite")
    classifier = None
    if "classifier.weight" in weights:
        classifier = weights.pop("classifier.weight").numpy(), weights.pop("classifier.bias").numpy()
    kind, _, rest = name.partition(":")
    inner = rest.partition(":")[2] if kind in ("grid", "stem") else rest.rpartition(":")[2] if kind == "boxes" else name
    network: nn.Module = blank_network(inner)
    if kind == "stem":
        blocks = list(blocks_of(inner, network))
        block = int(rest.partition(":")[0])
        network = Joined(nn.Sequential(*blocks[:block]), nn.Sequential(*blocks[block:]))
        weights |= {key: t for key, t in model.state_dict().items() if key.startswith("tail.")}
    try:
        missing, unknown = network.load_state_dict(weights, strict=False)
    except RuntimeError:
        raise ValueError(f"{path}: not the weights of {inner}") from None
    if unknown or any(not key.startswith("_fc.") for key in missing):
        raise ValueError(f"{path}: not the weights of {inner}")
    whole = Encoder(
        name,
        TorchNetwork(network.eval(), preprocessing),
        preprocessing,
        described["width"],
        mark,
        classifier=classifier,
    )
    if kind == "grid":
        return GridRegions(name, whole, int(rest.partition(":")[0]), mark)
    if kind == "boxes":
        return BoxRegions(name, whole, load_proposer(rest.rpartition(":")[0]), mark)
    return whole


def to_device(encoder: Encoder, device: torch.device | str) -> Encoder:
    """Move a torch encoder."""
    if isinstance(encoder.network, TorchNetwork):
        encoder.network.to(device)
    return encoder


def _checked_weights(model: LanguageModel, path: Path) -> dict[str, Tensor]:
    """The weights of a file, if they are those of a model, which need not have any itself."""
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged weights ({error})") from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*expected, *weights]:
        if name not in expected or name not in weights:
            raise ValueError(
                f"{path}: the tensor {name} is {'missing' if name in expected else 'not one of the model'}"
            )
        if tuple(weights[name].shape) != expected[name]:
            raise ValueError(f"{path}: {name} has the shape {tuple(weights[name].shape)}, not {expected[name]}")
        if weights[name].dtype not in _DTYPES:
            raise ValueError(f"{path}: {name} holds {weights[name].dtype}, which no weight is")
        try:
            model.check(name, weights[name])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return {name: _kept(tensor, torch.float32) for name, tensor in weights.items()}
