"""Where the objects of a photo may be: boxes proposed by selective search or a detector, and the best of them.

Boxes are left, top, right, bottom as shares of the photo's width and height, so that they hold at every size.

Shapes: K boxes, top regions kept, H x W a detector's input, A anchors, C classes.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mrnn.files import first_line, sha256
from mrnn.workshop import workshop

PROPOSERS = ("selective-search", "onnx:FILE", "huggingface:MODEL")

WHOLE_PHOTO = np.array([[0, 0, 1, 1]], np.float32)
_CANDIDATES = 60  # crops a photo that are classified, 20 to 40 ms each with EfficientNet-Lite2
LEAST_SCORE = 0.05  # torchvision's detectors, too, report nothing below it
_LONGER_SIDE = 200  # selective search's time grows with the pixels; 200 still separate a cup from its saucer
_LEAST_SIDE = 20  # of those: an upscaled crop of fewer pixels says little
_GREATEST_ASPECT = 3
_DETECTOR_SIDE = 640  # the longer side where an ONNX file leaves its input's size open

_Reader = Callable[[dict[str, Any], np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Proposals:
    """What a proposer says of one photo, best first.

    Args:
        boxes: (K, 4) float32, left, top, right, bottom as shares of width and height.
        scores: (K,) float32, higher is better.
    """

    boxes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Proposer:
    """A way to find objects, called with an upright RGB photo.

    Args:
        name: What `load_proposer` calls it.
        fingerprint: Proposers that agree in it propose the same boxes.
        propose: From photo to proposals.
    """

    name: str
    fingerprint: str
    propose: Callable[[Image.Image], Proposals]

    def __call__(self, photo: Image.Image) -> Proposals:
        """The photo's proposals, of which there may be none."""
        return self.propose(photo)


def load_proposer(name: str) -> Proposer:
    """Load a proposer by name.

    Args:
        name: A name of `PROPOSERS`; FILE is a detector as ONNX, MODEL a hub name or folder.

    Raises:
        ValueError: No such proposer, or what it needs cannot be had; the message says what to do.
    """
    kind, _, source = name.partition(":")
    if name == "selective-search":
        return selective_search()
    if kind == "onnx" and source:
        return onnx_detector(source)
    if kind == "huggingface" and source:
        return workshop("networks.detector").transformers_detector(source)
    raise ValueError(f"no proposer {name!r}; there are {', '.join(PROPOSERS)}")


def selective_search() -> Proposer:
    """Selective search (Uijlings et al. 2013) in its fast mode on the reduced photo; 0.2 s a photo on one core.

    OpenCV orders the boxes by C's `rand()`, which no seed of its own governs. Only the set of boxes is
    repeatable, so they are ordered here, in the paper's way: the position in the hierarchy, largest first,
    times a random number of fixed seed, so that small boxes get a chance beside large ones. The scores fall
    evenly from 1 to 1/2: a prior, which a classifier's verdict outweighs.

    Raises:
        ValueError: OpenCV's extra modules are not installed.
    """
    try:
        import cv2

        segmentation = cv2.ximgproc.segmentation
    except (ImportError, AttributeError):  # plain opencv-python has no ximgproc
        raise ValueError("selective search needs an extra: pip install 'mrnn[regions]'") from None

    def propose(photo: Image.Image) -> Proposals:
        reduced = photo.copy()
        reduced.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
        search = segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.asarray(reduced)[:, :, ::-1].copy())  # OpenCV reads BGR
        search.switchToSelectiveSearchFast()
        rectangles = np.unique(np.reshape(search.process(), (-1, 4)), axis=0)
        corners, sides = rectangles[:, :2], rectangles[:, 2:]
        kept = (sides.min(1) >= _LEAST_SIDE) & (sides.max(1) <= _GREATEST_ASPECT * sides.min(1))
        boxes = np.hstack([corners, corners + sides])[kept] / (reduced.size * 2)
        boxes = boxes[np.argsort(-sides[kept].prod(1), kind="stable")]
        positions = np.arange(1, len(boxes) + 1) * np.random.default_rng(0).random(len(boxes))
        return ordered(boxes[np.argsort(positions)], np.linspace(1, 0.5, len(boxes)))

    settings = f"selective-search {cv2.__version__} {_LONGER_SIDE} {_LEAST_SIDE} {_GREATEST_ASPECT}"
    return Proposer("selective-search", hashlib.sha256(settings.encode()).hexdigest(), propose)


def onnx_detector(path: Path | str) -> Proposer:
    """A detector from an ONNX file, as the common exports write it.

    Its one input is (1, 3, H, W) or (1, H, W, 3): RGB in 0..1 if it takes floats, 0..255 if bytes. The photo
    is squashed to H x W; a side left open follows the photo's shape. Its outputs are one of

    * `detection_boxes` (1, K, 4) as top, left, bottom, right in shares, and `detection_scores` (TensorFlow, SSD);
    * boxes (K, 4) in pixels of the input and scores (K,), whatever their names and whatever is beside (torchvision);
    * one (1, 4 + C, A): centre, width and height in pixels, and a score a class (YOLOv8).

    Raises:
        ValueError: The file is missing, no ONNX, or another kind of network.
    """
    import onnxruntime

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for every way a file may be bad
        raise ValueError(f"{path}: no ONNX file that onnxruntime can load ({first_line(error)})") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    channels_first = _takes_photos(path, inputs)
    read = _reader(path, outputs)
    height, width = inputs[0].shape[2:] if channels_first else inputs[0].shape[1:3]

    def propose(photo: Image.Image) -> Proposals:
        size = [_input_side(*sides, max(photo.size)) for sides in zip((width, height), photo.size, strict=True)]
        pixels = np.asarray(photo.resize((size[0], size[1]), Image.Resampling.BILINEAR))[None]
        if inputs[0].type == "tensor(float)":
            pixels = pixels.astype(np.float32) / 255
        if channels_first:
            pixels = pixels.transpose(0, 3, 1, 2)
        try:
            values = session.run(None, {inputs[0].name: np.ascontiguousarray(pixels)})
        except Exception as error:
            raise ValueError(f"{path}: fails on a photo of {size[0]} x {size[1]} ({first_line(error)})") from None
        boxes, scores = read(dict(zip((o.name for o in outputs), values, strict=True)), np.array(size * 2))
        likely = scores >= LEAST_SCORE
        return ordered(boxes[likely], scores[likely])

    return Proposer(f"onnx:{path}", sha256(path), propose)


def _takes_photos(path: Path, inputs: Sequence) -> bool:
    """Whether the only input is channels first; anything but a photo is refused."""
    if len(inputs) == 1 and inputs[0].type in ("tensor(float)", "tensor(uint8)") and len(inputs[0].shape) == 4:
        batch, *sides = inputs[0].shape
        if (batch == 1 or not isinstance(batch, int)) and 3 in (sides[0], sides[2]):
            return sides[0] == 3
    raise ValueError(f"{path}: takes {_described(inputs)}, not one photo as (1, 3, H, W) or (1, H, W, 3)")


def _described(nodes: Sequence) -> str:
    return ", ".join(f"{node.name} {node.type} {node.shape}" for node in nodes)


def _input_side(fixed: Any, side: int, longer: int) -> int:
    """A side of the detector's input; where it is left open, a multiple of the strides that detectors have."""
    return fixed if isinstance(fixed, int) else max(32, round(_DETECTOR_SIDE * side / longer / 32) * 32)


def _reader(path: Path, outputs: Sequence) -> _Reader:
    """How the outputs, by name, become boxes and scores, given the input's (width, height, width, height)."""
    names = [output.name for output in outputs]
    if {"detection_boxes", "detection_scores"} <= set(names):
        return lambda values, size: (
            values["detection_boxes"].reshape(-1, 4)[:, [1, 0, 3, 2]],
            values["detection_scores"].reshape(-1),
        )
    floats = [output for output in outputs if output.type == "tensor(float)"]
    boxes = [o.name for o in floats if len(o.shape) == 2 and (o.shape[1] == 4 or o.name == "boxes")]
    scores = [o.name for o in floats if len(o.shape) == 1]
    if len(boxes) == len(scores) == 1:
        return lambda values, size: (values[boxes[0]] / size, values[scores[0]])
    if len(floats) == len(outputs) == 1 and _is_yolo(floats[0].shape):
        return lambda values, size: _read_yolo(values[names[0]][0], size)
    raise ValueError(
        f"{path}: gives {_described(outputs)}, which are no detector's boxes and scores as torchvision, "
        "TensorFlow (detection_boxes, detection_scores) or YOLOv8 (1, 4 + C, A) export them"
    )


def _is_yolo(shape: list) -> bool:
    if len(shape) != 3 or not isinstance(shape[1], int):
        return False
    # YOLOv5's (1, A, 5 + C) and the end-to-end (1, K, 6) have their longer side first
    anchors = shape[2] if isinstance(shape[2], int) else math.inf
    return 4 < shape[1] < anchors


def _read_yolo(values: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centres, halves = values[:2].T, values[2:4].T / 2
    return np.hstack([centres - halves, centres + halves]) / size, values[4:].max(0)


def ordered(boxes: np.ndarray, scores: np.ndarray) -> Proposals:
    """Proposals inside the photo, best first, without empty ones."""
    assert boxes.shape == (len(scores), 4)
    boxes, scores = boxes.clip(0, 1).astype(np.float32), scores.astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    order = order[(boxes[order, :2] < boxes[order, 2:]).all(1)]  # also drops what is not a number
    return Proposals(boxes[order], scores[order])


def non_maximum_suppression(boxes: np.ndarray, scores: np.ndarray, overlap: float, top: int) -> np.ndarray:
    """Of boxes that show the same thing, the best: greedily, none overlaps a better one by more than `overlap`.

    Args:
        boxes: (K, 4).
        scores: (K,); of equal ones the first is the better.
        overlap: Greatest intersection over union, 0..1.
        top: Boxes to keep at most.

    Returns:
        (at most top,) positions of the boxes that stay, best first.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(left) and len(kept) < top:
        best, left = left[0], left[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[left, :2]), np.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = (high - low).clip(0).prod(1)
        left = left[shared <= overlap * (areas[best] + areas[left] - shared)]
    return np.array(kept, np.int64)


def top_regions(
    photo: Image.Image,
    proposer: Proposer,
    classify: Callable[[list[Image.Image]], np.ndarray],
    top: int = 19,
) -> np.ndarray:
    """The whole photo and its best regions, as R-CNN finds them (Girshick et al. 2014; Karpathy and Fei-Fei 2015).

    Proposals that nearly repeat each other or the whole photo are dropped first, so that the crops classified
    show many things. A crop's score is the proposal's times the classifier's; of crops that share more than
    half of their area the best is kept.

    Args:
        photo: Upright RGB.
        proposer: Finds the boxes.
        classify: From K crops to (K,) scores, the higher the surer of an object.
        top: Regions beside the whole photo; Karpathy's 19.

    Returns:
        (1 + top, 4) float32 boxes, the whole photo first; it is repeated where too few regions are found.
    """
    proposals = proposer(photo)
    boxes = np.concatenate([WHOLE_PHOTO, proposals.boxes])
    scores = np.concatenate([[np.inf], proposals.scores])
    distinct = non_maximum_suppression(boxes, scores, 0.7, 1 + _CANDIDATES)[1:]
    boxes, scores = boxes[distinct], scores[distinct]
    if len(boxes):
        verdicts = np.asarray(classify([crop(photo, box) for box in boxes]))
        assert verdicts.shape == scores.shape
        boxes = boxes[non_maximum_suppression(boxes, scores * verdicts, 0.5, top)]
    return np.concatenate([WHOLE_PHOTO, boxes, np.repeat(WHOLE_PHOTO, top - len(boxes), 0)])


def crop(photo: Image.Image, box: np.ndarray) -> Image.Image:
    """The part of a photo in a box of shares of its width and height."""
    left, top, right, bottom = (box * np.array(photo.size * 2)).tolist()
    return photo.crop((math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)))
