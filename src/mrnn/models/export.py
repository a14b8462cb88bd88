"""A model's calls as ONNX graphs of a few kilobytes, whose weights are the tensors of the saved safetensors files.

A safetensors file is plain little-endian arrays behind a header, and an ONNX initialiser may lie in another file at an
offset: so weights are on disk once. Those kept in float16 are cast when the session loads.

Shapes: as in `runtime/protocol.py`; N images, S side of the input.
"""

import contextlib
import copy
import io
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrnn.encoders import Encoder
from mrnn.files import atomic_path, first_line
from mrnn.models.base import LanguageModel, NeuralLanguageModel, State, map_state
from mrnn.models.hand import TorchRuntime
from mrnn.networks.torch_network import TorchNetwork

OPSET = 18
_NAMES = {"F16": "FLOAT16", "F32": "FLOAT", "F64": "DOUBLE", "BF16": "BFLOAT16", "I64": "INT64", "I32": "INT32"}


class Unexportable(ValueError):
    """A network that ONNX cannot hold."""


@dataclass(frozen=True)
class Graph:
    """One call to be exported.

    Args:
        name: Of the file, without its ending.
        module: Whose forward is the call.
        inputs: Names and examples.
        outputs: Names.
        dynamic: For each input and output its axes that vary.
        rounded: Whether the softmax layer's product is taken in whole numbers.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: Sequence[str]
    dynamic: dict[str, dict[int, str]]
    rounded: bool = False


class _Call(nn.Module):
    """A function of a model as a module, whose parameters are the model's."""

    def __init__(self, model: nn.Module, call: Any):
        super().__init__()
        self.model, self._call = model, call

    def forward(self, *inputs: Tensor) -> Any:
        return self._call(*inputs)


def model_graphs(model: LanguageModel, feature_shape: tuple[int, ...]) -> Iterator[Graph]:
    """The calls of `Runtime`, of a model.

    Args:
        model: In evaluation mode, on the CPU.
        feature_shape: Of one photo's features at use.
    """
    rows = 2  # an axis of one element might be taken for one that never varies
    features = torch.zeros(rows, *feature_shape)
    image = model.encode_image(features)
    begun = model.begin(rows)
    words = torch.zeros(rows, dtype=torch.long)
    text, after = model.encode_text(words[:, None], begun)
    text = text[:, 0]
    flat, axes = _flat(after), _growing(_flat(begun), _flat(after))
    before = {f"state_{i}": s for i, s in enumerate(flat)}
    later = [f"next_{i}" for i in range(len(flat))]
    state_axes = {f"{kind}_{i}": {0: "B", **a} for kind in ("state", "next") for i, a in enumerate(axes)}

    def read(words: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        said, end = model.encode_text(words[:, None], _like(begun, state))
        return said[:, 0], *_flat(end)

    def distribution(text: Tensor, image: Tensor) -> Tensor:
        return model.logits(text, image).float().log_softmax(-1)

    def step(words: Tensor, image: Tensor, allowed: Tensor, k: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        said, *end = read(words, *state)
        top, ids = torch.topk(distribution(said, image) + allowed, k, -1)  # ty: ignore[invalid-argument-type]
        return top, ids, *end

    def log_p(text: Tensor, image: Tensor, row: Tensor, target: Tensor) -> Tensor:
        found = distribution(text, image)
        return found.flatten()[row * found.shape[1] + target]

    def rounded_log_p(text: Tensor, image: Tensor, row: Tensor, target: Tensor) -> Tensor:
        assert isinstance(model, NeuralLanguageModel)
        hidden, (weight, bias) = model.fuse(text, image), model.softmax_layer()
        own = (hidden[row] * weight[target]).sum(-1) + bias[target]
        logits = nn.functional.linear(hidden, weight, bias)
        # The normaliser is read off the first column: a fused pass is quicker than a sum of exponentials by itself.
        return own - (logits[:, 0] - logits.log_softmax(-1)[:, 0])[row]

    def gradient(text: Tensor, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        found = distribution(text, image)
        own = found.gather(1, target[:, None])
        raised = (torch.arange(found.shape[1]) == target[:, None]).float() - found.exp()
        return own[:, 0], model.pull(text, image, raised)

    pair, rowwise = {"text": text, "image": image}, {"text": {0: "R"}, "image": {0: "R"}}
    asked = {"row": words, "target": words}
    if model.uses_image:
        yield Graph(
            "image", _Call(model, model.encode_image), {"features": features}, ["image"], _rows("features", "image")
        )
    yield Graph(
        "text",
        _Call(model, read),
        {"words": words, **before},
        ["text", *later],
        {**_rows("words", "text"), **state_axes},
    )
    yield Graph("distribution", _Call(model, distribution), pair, ["log_p"], {**rowwise, "log_p": {0: "R"}})
    for name in ("step", "search"):
        yield Graph(
            name,
            _Call(model, step),
            {"words": words, "image": image, "allowed": torch.zeros(model.vocabulary), "k": torch.tensor(2), **before},
            ["top", "ids", *later],
            {**_rows("words", "image"), "top": {0: "B", 1: "K"}, "ids": {0: "B", 1: "K"}, **state_axes},
            rounded=name == "search",
        )
    chosen = {**rowwise, **_rows("row", "target", "log_p")}
    yield Graph("log_p", _Call(model, log_p), {**pair, **asked}, ["log_p"], chosen)
    if isinstance(model, NeuralLanguageModel):
        yield Graph("score", _Call(model, rounded_log_p), {**pair, **asked}, ["log_p"], chosen, rounded=True)
    yield Graph(
        "pull",
        _Call(model, model.pull),
        {**pair, "raised": torch.zeros(rows, model.vocabulary)},
        ["q"],
        {**rowwise, **_rows("raised", "q")},
    )
    yield Graph(
        "gradient",
        _Call(model, gradient),
        {**pair, "target": words},
        ["log_p", "q"],
        {**rowwise, **_rows("target", "log_p", "q")},
    )
    if type(model).encode_cells is not LanguageModel.encode_cells:
        yield Graph(
            "cells", _Call(model, model.encode_cells), {"features": features}, ["image"], _rows("features", "image")
        )
    if model.branch(words) is not None:
        yield Graph("branch", _Call(model, model.branch), {"words": words}, ["text"], _rows("words", "text"))
    if model.attention(text, image) is not None:
        yield Graph("attention", _Call(model, model.attention), pair, ["share"], {**rowwise, "share": {0: "R"}})


def state_described(model: LanguageModel) -> list[dict[str, Any]]:
    """Shape, number and type of each tensor of the state before a sentence, for `config.json`."""
    return [
        {"shape": list(s.shape[1:]), "fill": s.flatten()[0].item() if s.numel() else 0, "type": str(s.dtype)[6:]}
        for s in _flat(model.begin(1))
    ]


def encoder_graph(encoder: Encoder) -> Graph:
    """A torch encoder's network.

    Raises:
        Unexportable: Another hand has it.
    """
    network = encoder.network
    if not isinstance(network, TorchNetwork):
        raise Unexportable(f"{encoder.name} is not in PyTorch's hands")
    module = network.module
    if module.mean.device.type != "cpu":  # as after a training on a graphics card
        module = copy.deepcopy(module).cpu()
    side = encoder.preprocessing.side
    photos = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    with torch.no_grad():
        has_grid = module(photos)[1] is not None
    outputs = ["pooled", "grid"] if has_grid else ["pooled"]
    call = _Call(module, module if has_grid else lambda pixels: module(pixels)[0])
    return Graph("encoder", call, {"pixels": photos}, outputs, _rows("pixels", *outputs, axis="N"))


def write_graph(graph: Graph, folder: Path, names: dict[str, tuple[str, str]], known: str) -> None:
    """Export a call into `NAME.onnx`.

    Args:
        graph: The call.
        folder: With the safetensors files.
        names: For parameters of the module, as it names them, the file and the tensor that holds their numbers.
        known: What tells the call from others of its name: it is traced once a process.

    Raises:
        Unexportable: ONNX has no such operation.
    """
    import onnx

    if (graph.name, known) not in _TRACED:
        _TRACED[graph.name, known] = _traced(graph)
    model = onnx.ModelProto()
    model.CopyFrom(_TRACED[graph.name, known])
    layouts = {file: _layout(folder / file) for file in {file for file, _ in names.values()}}
    weights = {name.removeprefix("model."): t for name, t in _weights(graph.module).items()}
    taken, casts = [], []
    for given in model.graph.input:
        key = given.name.removeprefix("model.")
        if key not in weights:
            taken.append(given)
        elif key not in names:  # a table that the model makes for itself
            model.graph.initializer.append(onnx.numpy_helper.from_array(weights[key].numpy(), given.name))
        else:
            stored = _stored(given, names[key][0], *layouts[names[key][0]][names[key][1]])
            model.graph.initializer.append(stored)
            if stored.name != given.name:
                kind = given.type.tensor_type.elem_type
                casts.append(onnx.helper.make_node("Cast", [stored.name], [given.name], to=kind))
    del model.graph.input[:]
    model.graph.input.extend(taken)
    nodes = [*casts, *(_round_softmax(model) if graph.rounded else _join_pads(model))]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for node in model.graph.node:
        node.doc_string = ""
    with atomic_path(folder / f"{graph.name}.onnx") as temporary:
        temporary.write_bytes(model.SerializeToString())


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _stored(given: Any, file: str, dtype: str, begin: int, length: int) -> Any:
    """An initialiser in a safetensors file, under a name of its own if it is kept in another type."""
    import onnx

    stored = onnx.TensorProto()
    stored.name, stored.data_type = given.name, getattr(onnx.TensorProto, _NAMES[dtype])
    stored.dims.extend(dim.dim_value for dim in given.type.tensor_type.shape.dim)
    stored.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", begin), ("length", length)):
        stored.external_data.add(key=key, value=str(value))
    if stored.data_type != given.type.tensor_type.elem_type:
        stored.name += " stored"
    return stored


def _join_pads(model: Any) -> list[Any]:
    """The nodes of a graph with every pad that stands before a convolution within it: no copy of the map is made.

    PyTorch's convolution pads both sides alike and ONNX's need not; no other pads are taken for zeros.
    """
    from onnx import helper

    nodes = list(model.graph.node)
    made = {name: node for node in nodes for name in node.output}
    taken = Counter(name for node in nodes for name in node.input)
    for conv in (node for node in nodes if node.op_type == "Conv"):
        pad = made.get(conv.input[0])
        if pad is None or pad.op_type != "Pad" or taken[pad.output[0]] > 1:
            continue
        *_, top, left, _, _, bottom, right = _constant(pad.input[1], made)
        (own,) = (attribute for attribute in conv.attribute if attribute.name == "pads")
        pads = [int(a + b) for a, b in zip(own.ints, (top, left, bottom, right), strict=True)]
        own.CopyFrom(helper.make_attribute("pads", pads))
        conv.input[0] = pad.input[0]
    needed = {output.name for output in model.graph.output}
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
    return [node for node in nodes if needed.intersection(node.output)]


def _constant(name: str, made: dict[str, Any]) -> np.ndarray:
    """What some nodes that take nothing give."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    needed: dict[str, Any] = {}

    def add(name: str) -> None:
        if name and name not in needed:
            for before in made[name].input:
                add(before)
            needed.update(dict.fromkeys(made[name].output, made[name]))

    add(name)
    asked = helper.make_tensor_value_info(name, 7, None)
    graph = helper.make_graph(list({id(node): node for node in needed.values()}.values()), "constant", [], [asked])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    found: Any = ReferenceEvaluator(model).run(None, {})
    return found[0]


def _round_softmax(model: Any) -> list[Any]:
    """The nodes of a graph with the product under its softmax in 8-bit numbers, those of the weights made at loading.

    Weights have 7 bits, each word its own scale: sums of two products of 8 and 7 bits fit into the 16 that processors
    without better instructions have for them. Hidden units have 8, each row its own scale, so that no row depends on
    what else is computed with it.
    """
    from onnx import helper, numpy_helper

    nodes = list(model.graph.node)
    made = {name: node for node in nodes for name in node.output}
    product = made[next(node for node in nodes if node.op_type == "LogSoftmax").input[0]]
    while product.op_type == "Cast":
        product = made[product.input[0]]
    assert product.op_type == "Gemm" and any(a.name == "transB" and a.i for a in product.attribute)
    hidden, weight, bias = product.input
    constants: dict[str, np.ndarray] = {"last": np.array([1]), "middle": np.array(128, np.uint8)}
    values = {"most": 63.0, "largest": 127.0, "least": 1e-9, "half": 128.0}
    constants |= {name: np.array([value], np.float32) for name, value in values.items()}
    model.graph.initializer.extend(numpy_helper.from_array(value, f"round_{key}") for key, value in constants.items())

    def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, outputs, **attributes)

    quantised = [
        node("Abs", [weight], ["round_abs"]),
        node("ReduceMax", ["round_abs", "round_last"], ["round_top"], keepdims=1),
        node("Max", ["round_top", "round_least"], ["round_range"]),
        node("Div", ["round_range", "round_most"], ["round_scale"]),
        node("Div", [weight, "round_scale"], ["round_scaled"]),
        node("Round", ["round_scaled"], ["round_whole"]),
        node("Cast", ["round_whole"], ["round_bytes"], to=3),
        node("Transpose", ["round_bytes"], ["round_weight"], perm=[1, 0]),
        node("Transpose", ["round_scale"], ["round_word_scale"], perm=[1, 0]),
        node("Abs", [hidden], ["round_hidden_abs"]),
        node("ReduceMax", ["round_hidden_abs", "round_last"], ["round_hidden_top"], keepdims=1),
        node("Max", ["round_hidden_top", "round_least"], ["round_hidden_range"]),
        node("Div", ["round_hidden_range", "round_largest"], ["round_hidden_scale"]),
        node("Div", [hidden, "round_hidden_scale"], ["round_hidden_scaled"]),
        node("Round", ["round_hidden_scaled"], ["round_hidden_whole"]),
        node("Add", ["round_hidden_whole", "round_half"], ["round_hidden_moved"]),
        node("Cast", ["round_hidden_moved"], ["round_hidden"], to=2),
        node("MatMulInteger", ["round_hidden", "round_weight", "round_middle"], ["round_product"]),
        node("Cast", ["round_product"], ["round_float"], to=1),
        # One after the other: the product of both is what ONNX Runtime takes for the sign of a scale for all rows.
        node("Mul", ["round_float", "round_word_scale"], ["round_rows"]),
        node("Mul", ["round_rows", "round_hidden_scale"], ["round_unbiased"]),
        node("Add", ["round_unbiased", bias], list(product.output)),
    ]
    place = nodes.index(product)
    return [*nodes[:place], *quantised, *nodes[place + 1 :]]


_TRACED: dict[tuple[str, str], Any] = {}


def _traced(graph: Graph) -> Any:
    """A call as PyTorch's exporter writes it, its weights as inputs."""
    import onnx

    buffer = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # what is taken for constant is so; the hands are held equal by tests
            torch.onnx.export(
                graph.module.eval(),
                tuple(graph.inputs.values()),
                buffer,  # ty: ignore[invalid-argument-type]
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_axes=graph.dynamic,
                opset_version=OPSET,
                export_params=False,
                do_constant_folding=False,
                dynamo=False,
            )
    except Exception as error:  # the exporter raises almost anything
        raise Unexportable(f"{graph.name} cannot be exported to ONNX ({first_line(error)})") from None
    return onnx.load_model_from_string(buffer.getvalue())


def used_tensors(graph: Graph) -> set[str]:
    """Names, as the module has them, of what a graph's module holds."""
    return {name.removeprefix("model.") for name in graph.module.state_dict()}


def runtime_described(runtime: TorchRuntime) -> dict[str, Any]:
    """What ONNX Runtime's hand needs to know of a model besides its graphs."""
    return {
        "opset": OPSET,
        "feature_shape": list(runtime.feature_shape),
        "image_width": runtime.image_width,
        "uses_image": runtime.uses_image,
        "uses_regions": runtime.uses_regions,
        "state": state_described(runtime.model),
    }


def _rows(*names: str, axis: str = "B") -> dict[str, dict[int, str]]:
    return {name: {0: axis} for name in names}


def _flat(state: State) -> list[Tensor]:
    found: list[Tensor] = []
    map_state(lambda s: found.append(s) or s, state)
    return found


def _like(state: State, tensors: Sequence[Tensor]) -> State:
    rest = iter(tensors)
    return map_state(lambda s: next(rest), state)


def _growing(before: Sequence[Tensor], after: Sequence[Tensor]) -> list[dict[int, str]]:
    """The axes along which a state grows with the sentence."""
    return [
        {axis: "P" for axis, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)) if a != b}
        for one, other in zip(before, after, strict=True)
    ]


def _layout(path: Path) -> dict[str, tuple[str, int, int]]:
    """Of every tensor of a safetensors file: type, first byte, bytes."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    begin = 8 + size
    return {
        name: (entry["dtype"], begin + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }
