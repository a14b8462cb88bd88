import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from mrnn.encoders.proposals import (
    WHOLE_PHOTO,
    Proposals,
    Proposer,
    load_proposer,
    non_maximum_suppression,
    selective_search,
    top_regions,
)

# Where the samples of scikit-image show what, in pixels, drawn by hand
OBJECTS = {
    "astronaut": [(175, 70, 275, 200), (10, 60, 460, 512)],  # face, woman
    "coffee": [(173, 17, 412, 308), (77, 18, 480, 385)],  # cup, cup with saucer
    "chelsea": [(30, 0, 365, 290)],  # the cat's face
}


def intersection_over_union(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - shared
    return shared / union if union else 0


def sample(name):
    return Image.fromarray(getattr(pytest.importorskip("skimage.data"), name)())


def well_formed(proposals):
    boxes, scores = proposals.boxes, proposals.scores
    assert (boxes.dtype, scores.dtype) == (np.float32, np.float32)
    assert boxes.shape == (len(scores), 4)
    assert (boxes >= 0).all() and (boxes <= 1).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (np.diff(scores) <= 0).all()


@pytest.fixture(scope="module")
def search():
    pytest.importorskip("cv2")
    return selective_search()


@pytest.mark.parametrize("name", OBJECTS)
def test_selective_search_finds_what_the_samples_show(search, name):
    photo = sample(name)
    proposals = search(photo)
    well_formed(proposals)
    pixels = proposals.boxes * (photo.size * 2)
    for shown in OBJECTS[name]:
        assert max(intersection_over_union(box, shown) for box in pixels) > 0.7


def test_selective_search_repeats_itself(search):
    photo = sample("coffee")
    one, two = search(photo), selective_search()(photo)
    np.testing.assert_array_equal(one.boxes, two.boxes)
    np.testing.assert_array_equal(one.scores, two.scores)
    assert search.fingerprint == selective_search().fingerprint


def test_selective_search_drops_the_small_and_the_thin(search):
    photo = sample("astronaut")
    sides = search(photo).boxes * (photo.size * 2)
    sides = sides[:, 2:] - sides[:, :2]
    assert sides.min() >= 20 / 200 * 512 - 0.01
    assert (sides.max(1) <= 3.001 * sides.min(1)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3, 2), (300, 200)])
def test_a_photo_that_shows_nothing_gives_well_formed_proposals(search, size):
    photo = Image.new("RGB", size, "grey")
    well_formed(search(photo))
    regions = top_regions(photo, search, lambda crops: np.ones(len(crops)))
    assert regions.shape == (20, 4)


def detector_file(path, outputs, shape=(1, 3, 64, 96), kind="FLOAT"):
    """An ONNX file that gives constants, the scores among them times the greatest value of the red channel."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["photo"], ["floats"], to=types.FLOAT),
        helper.make_node("Gather", ["floats", "first"], ["red"], axis=3 if shape[3] == 3 else 1),
        helper.make_node("ReduceMax", ["red"], ["greatest"], keepdims=0),
    ]
    constants = [onnx.numpy_helper.from_array(np.array(0), "first")]
    described = []
    for name, (values, declared) in outputs.items():
        constants.append(onnx.numpy_helper.from_array(values, f"constant {name}"))
        scored = "scores" in name or "output" in name
        operation, factor = ("Mul", ["greatest"]) if scored else ("Identity", [])
        nodes.append(helper.make_node(operation, [f"constant {name}", *factor], [f"product {name}"]))
        if values.ndim > 1 and isinstance(declared[-1], str):  # onnxruntime works sizes out where it can: here not
            constants.append(onnx.numpy_helper.from_array(np.ones(values.shape[-1], bool), f"all {name}"))
            nodes.append(helper.make_node("Compress", [f"product {name}", f"all {name}"], [name], axis=-1))
        else:
            nodes.append(helper.make_node("Identity", [f"product {name}"], [name]))
        described.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values.dtype), declared))
    photo = helper.make_tensor_value_info("photo", getattr(types, kind), shape)
    graph = helper.make_graph(nodes, "detector", [photo], described, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def floats(values):
    return np.array(values, np.float32)


SCORES = floats([0.3, 0.9, 0.01])
SHARES = floats([[0.25, 0.5, 0.75, 1.0], [0.0, 0.25, 0.5, 0.5], [0.1, 0.1, 0.2, 0.2]])
PIXELS = SHARES * floats([96, 64, 96, 64])
CENTRES = np.hstack([(PIXELS[:, :2] + PIXELS[:, 2:]) / 2, PIXELS[:, 2:] - PIXELS[:, :2]])
YOLO = np.pad(np.hstack([CENTRES, SCORES[:, None] / 2, SCORES[:, None]]).T, [(0, 0), (0, 9)])[None]
LABELS = np.array([1, 2, 3])
STYLES = {
    "torchvision": {"boxes": (PIXELS, ["K", 4]), "labels": (LABELS, ["K"]), "scores": (SCORES, ["K"])},
    "unnamed": {"17": (PIXELS, ["K", 4]), "scores 18": (SCORES, ["K"]), "19": (LABELS, ["K"])},
    "tensorflow": {
        "detection_boxes": (SHARES[None, :, [1, 0, 3, 2]], [1, 3, 4]),
        "detection_scores": (SCORES[None], [1, 3]),
        "num_detections": (floats([3]), [1]),
    },
    "yolo": {"output0": (YOLO, [1, 6, 12])},
    "open yolo": {"output0": (YOLO, [1, 6, "anchors"])},
    "open torchvision": {"boxes": (PIXELS, ["K", "sides"]), "scores": (SCORES, ["K"])},
}
RED = Image.new("RGB", (50, 40), "red")


@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (1, 64, 96, 3)])
@pytest.mark.parametrize("style", STYLES)
def test_every_common_export_is_read(tmp_path, style, shape):
    detector = load_proposer(f"onnx:{detector_file(tmp_path / 'detector.onnx', STYLES[style], shape)}")
    found = detector(RED)
    well_formed(found)
    np.testing.assert_allclose(found.scores, [0.9, 0.3], atol=1e-6)
    np.testing.assert_allclose(found.boxes, SHARES[[1, 0]], atol=1e-6)
    assert len(detector(Image.new("RGB", (50, 40), "blue")).boxes) == 0
    assert detector.name == f"onnx:{tmp_path / 'detector.onnx'}"


def test_bytes_come_as_they_are(tmp_path):
    boxes, scores = STYLES["tensorflow"]["detection_boxes"], (SCORES[None] / 255, [1, 3])
    outputs = {"detection_boxes": boxes, "detection_scores": scores}
    path = detector_file(tmp_path / "bytes.onnx", outputs, (1, None, None, 3), "UINT8")
    np.testing.assert_allclose(load_proposer(f"onnx:{path}")(RED).scores, [0.9, 0.3], atol=1e-6)


def test_an_input_of_open_size_follows_the_photo(tmp_path):
    path = detector_file(tmp_path / "open.onnx", STYLES["torchvision"], (None, 3, "H", "W"))
    found = load_proposer(f"onnx:{path}")(RED)
    np.testing.assert_allclose(found.boxes[1], PIXELS[0] / [640, 512, 640, 512], atol=1e-6)


def test_the_fingerprint_follows_the_file(tmp_path):
    one, two = (detector_file(tmp_path / f"{style}.onnx", STYLES[style]) for style in ("torchvision", "yolo"))
    again = tmp_path / "again.onnx"
    again.write_bytes(one.read_bytes())
    prints = [load_proposer(f"onnx:{path}").fingerprint for path in (one, two, again)]
    assert prints[0] == prints[2] != prints[1]


@pytest.mark.parametrize(
    "outputs",
    [
        {"output": (floats(np.zeros((1, 1000))), [1, 1000])},
        {"output": (floats(np.zeros((1, 12, 6))), [1, 12, 6])},
        {"boxes": STYLES["torchvision"]["boxes"]},
        {"detection_boxes": STYLES["tensorflow"]["detection_boxes"]},
    ],
)
def test_another_network_is_refused_with_its_outputs(tmp_path, outputs):
    path = detector_file(tmp_path / "other.onnx", outputs)
    message = rf"other.onnx: gives {next(iter(outputs))} tensor\(float\) \[.*YOLOv8"
    with pytest.raises(ValueError, match=message) as raised:
        load_proposer(f"onnx:{path}")
    assert "\n" not in str(raised.value)


OTHER_INPUTS = [((1, 4, 64, 64), "FLOAT"), ((2, 3, 64, 64), "FLOAT"), ((1, 3, 64, 64), "INT64")]


@pytest.mark.parametrize("shape, kind", OTHER_INPUTS)
def test_another_input_is_refused(tmp_path, shape, kind):
    path = detector_file(tmp_path / "other.onnx", STYLES["torchvision"], shape, kind)
    with pytest.raises(ValueError, match=r"other.onnx: takes photo tensor.*not one photo as \(1, 3, H, W\)"):
        load_proposer(f"onnx:{path}")


@pytest.mark.parametrize("content", [b"", b"no network", bytes(range(256))])
def test_a_file_that_is_no_onnx_is_named(tmp_path, content):
    pytest.importorskip("onnxruntime")
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad.onnx: no ONNX file that onnxruntime can load"):
        load_proposer(f"onnx:{tmp_path / 'bad.onnx'}")
    with pytest.raises(ValueError, match=r"absent.onnx: no such file"):
        load_proposer(f"onnx:{tmp_path / 'absent.onnx'}")


def tiny_yolos(transformers):
    config = transformers.YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[32, 48],
        patch_size=8,
        num_detection_tokens=7,
        num_labels=3,
    )
    return transformers.YolosForObjectDetection(config), transformers.YolosImageProcessorPil


def tiny_detr(transformers):
    config = transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], out_features=["stage2"]
        ),
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=7,
        num_labels=3,
    )
    return transformers.DetrForObjectDetection(config), transformers.DetrImageProcessorPil


@pytest.mark.parametrize("make", [tiny_yolos, tiny_detr])
def test_a_transformers_detector_needs_no_torchvision(tmp_path, make):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, processor = make(transformers)
    model.save_pretrained(tmp_path)
    processor(size={"shortest_edge": 32, "longest_edge": 48}).save_pretrained(tmp_path)
    detector = load_proposer(f"huggingface:{tmp_path}")
    photo = sample("coffee")
    found = detector(photo)
    well_formed(found)
    assert 0 < len(found.boxes) <= 7
    np.testing.assert_array_equal(found.boxes, detector(photo).boxes)
    assert detector.fingerprint == load_proposer(f"huggingface:{tmp_path}").fingerprint
    assert "torchvision" not in sys.modules


def test_a_transformers_detector_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=rf"huggingface:{tmp_path} cannot be loaded"):
        load_proposer(f"huggingface:{tmp_path}")


@pytest.mark.parametrize("name", ["", "edge-boxes", "onnx", "onnx:", "huggingface:", "selective-search:fast"])
def test_an_unknown_proposer_says_which_there_are(name):
    with pytest.raises(ValueError, match=r"no proposer '.*there are selective-search, onnx:FILE, huggingface:MODEL"):
        load_proposer(name)


MISSING = [
    ("selective-search", "cv2", "regions"),
    ("huggingface:a", "transformers", "hf"),
    ("huggingface:a", "torch", "train"),
]


@pytest.mark.parametrize("name, module, extra", MISSING)
def test_a_missing_package_names_the_extra(monkeypatch, name, module, extra):
    monkeypatch.delitem(sys.modules, "mrnn.networks.detector", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"pip install 'mrnn\[{extra}\]'"):
        load_proposer(name)


def suppression_oracle(boxes, scores, overlap, top):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(intersection_over_union(boxes[i], boxes[k]) <= overlap for k in kept):
            kept.append(i)
    return kept[:top]


@st.composite
def scored_boxes(draw):
    # Coarse numbers, so that equal scores, equal boxes and an overlap of exactly the bar come up; exact in float32
    k = draw(st.integers(0, 12))
    corners = draw(arrays(np.float32, (k, 2), elements=st.sampled_from([0, 0.125, 0.25, 0.5])))
    sides = draw(arrays(np.float32, (k, 2), elements=st.sampled_from([0, 0.125, 0.25, 0.5])))
    return np.hstack([corners, corners + sides]), draw(arrays(np.float32, k, elements=st.sampled_from([0, 0.5, 1])))


@given(scored_boxes(), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 14))
def test_suppression_equals_its_oracle(made, overlap, top):
    boxes, scores = made
    kept = non_maximum_suppression(boxes, scores, overlap, top)
    assert kept.dtype == np.int64
    assert kept.tolist() == suppression_oracle(boxes.tolist(), scores.tolist(), overlap, top)


def proposing(boxes, scores):
    return Proposer("made", "made", lambda photo: Proposals(floats(boxes).reshape(-1, 4), floats(scores)))


def test_without_proposals_the_whole_photo_is_repeated():
    def classify(crops):
        raise AssertionError("nothing to classify")

    regions = top_regions(RED, proposing([], []), classify, top=4)
    np.testing.assert_array_equal(regions, np.repeat(WHOLE_PHOTO, 5, 0))


def test_the_best_regions_follow_the_whole_photo():
    boxes = [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.5, 0.55, 1, 1], [0, 0.01, 1, 1], [0.1, 0, 0.5, 0.25]]
    seen = []

    def classify(crops):
        seen.extend(crop.size for crop in crops)
        return np.array([0.2, 0.9, 0.4])

    regions = top_regions(RED, proposing(boxes, [0.9, 0.8, 0.7, 0.6, 0.5]), classify, top=3)
    # The third box repeats the second and the fourth the whole photo; the fifth overlaps the first by little
    assert seen == [(25, 20), (25, 20), (20, 10)]
    np.testing.assert_array_equal(regions, floats([WHOLE_PHOTO[0], boxes[1], boxes[4], boxes[0]]))
    assert regions.dtype == np.float32


def test_of_overlapping_regions_the_classifier_picks():
    boxes = [[0, 0, 0.5, 0.6], [0, 0, 0.5, 1]]  # overlap .6: both are classified, one is kept
    regions = top_regions(RED, proposing(boxes, [1, 0.9]), lambda crops: np.array([0.1, 0.8]), top=2)
    np.testing.assert_array_equal(regions, floats([WHOLE_PHOTO[0], boxes[1], WHOLE_PHOTO[0]]))


def test_no_more_than_sixty_crops_are_classified(search):
    counts = []

    def classify(crops):
        counts.append(len(crops))
        assert all(min(crop.size) >= 1 for crop in crops)
        return np.linspace(0, 1, len(crops))

    assert top_regions(sample("astronaut"), search, classify).shape == (20, 4)
    assert counts == [60]
