"""An encoder in 8-bit numbers: half the time of float32 where a processor adds up 8-bit products by itself.

Weights are rounded by channel, what flows between layers by the range that it has over some photos (Jacob et al. 2018,
arXiv 1712.05877). Processors without such an instruction add pairs of products in 16 bits, which overflow; so the
graph also gives a sum that would, `sums`, and `OnnxNetwork` goes back to float32 where it is wrong.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mrnn.files import atomic_path, read_json, sha256, write_json
from mrnn.runtime.onnx import ENCODER, ROUNDED, SUM
from mrnn.shapes import UInt8

_LAYERS = ["Conv", "Add", "Clip"]


def round_encoder(folder: Path, pixels: Iterable[UInt8[np.ndarray, "S S 3"]]) -> None:
    """Add the rounded graph to a saved model.

    Args:
        folder: Of the model.
        pixels: Of some training photos, as the encoder takes them.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Photos(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(pixels)

        def get_next(self) -> Any:
            photo = next(self.left, None)
            return None if photo is None else {"pixels": photo[None]}

    with tempfile.TemporaryDirectory() as place:
        plain, rounded = Path(place) / "plain.onnx", Path(place) / "rounded.onnx"
        quant_pre_process(folder / f"{ENCODER}.onnx", plain, skip_symbolic_shape=True)
        quantize_static(
            plain,
            rounded,
            Photos(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=_LAYERS,
        )
        with atomic_path(folder / f"{ROUNDED}.onnx") as temporary:
            temporary.write_bytes(_with_sums(rounded.read_bytes()))
    config = read_json(folder / "config.json")
    config["files"][f"{ROUNDED}.onnx"] = sha256(folder / f"{ROUNDED}.onnx")
    write_json(folder / "config.json", config)


def _with_sums(graph: bytes) -> bytes:
    """The graph with one more output: the largest products there are, added up by the same instruction."""
    from onnx import ModelProto, TensorProto, helper, numpy_helper

    model, width = ModelProto.FromString(graph), 64
    given = {
        "sums x": np.full((1, width, 1, 1), 255, np.uint8),
        "sums w": np.full((16, width, 1, 1), 127, np.int8),
        "sums x scale": np.float32(1),
        "sums w scale": np.float32(1),
        "sums scale": np.float32(255 * 127 * width / SUM),
        "sums none": np.uint8(0),
        "sums no": np.int8(0),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in given.items())
    names = ("x", "x scale", "none", "w", "w scale", "no", "scale", "none")
    model.graph.node.append(helper.make_node("QLinearConv", [f"sums {name}" for name in names], ["sums"]))
    model.graph.output.append(helper.make_tensor_value_info("sums", TensorProto.UINT8, [1, 16, 1, 1]))
    return model.SerializeToString()
