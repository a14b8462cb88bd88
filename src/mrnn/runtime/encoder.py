"""The encoder in a model's folder, in ONNX Runtime's hands."""

import numpy as np

from mrnn.encoders import Encoder
from mrnn.encoders.proposals import load_proposer
from mrnn.encoders.regions import BoxRegions, GridRegions
from mrnn.images import Preprocessing
from mrnn.runtime.folder import ENCODER_WEIGHTS, ModelFolder, tensors
from mrnn.runtime.onnx import ROUNDED, Graphs, OnnxNetwork


def encoder_inside(found: ModelFolder, graphs: Graphs) -> Encoder:
    """The encoder that a model was saved with.

    Args:
        found: The model's folder.
        graphs: Of the folder.

    Raises:
        ValueError: Its regions need a proposer that cannot be had.
    """
    described = found.encoder
    name = described["name"]
    # Features of the rounded encoder are others, if not by much: a cache keeps them apart.
    mark = f"rounded-{found.encoder_mark}" if graphs.encoder == ROUNDED else found.encoder_mark
    preprocessing, network = Preprocessing.from_dict(described["preprocessing"]), OnnxNetwork(graphs)
    kind, _, rest = name.partition(":")
    if kind == "boxes":
        saved = tensors(found.path / ENCODER_WEIGHTS)
        classifier = tuple(saved[f"classifier.{part}"].astype(np.float32) for part in ("weight", "bias"))
        whole = Encoder(
            name, network, preprocessing, described["width"], mark, classifier=(classifier[0], classifier[1])
        )
        return BoxRegions(name, whole, load_proposer(rest.rpartition(":")[0]), mark)
    whole = Encoder(name, network, preprocessing, described["width"], mark)
    return GridRegions(name, whole, int(rest.partition(":")[0]), mark) if kind == "grid" else whole
