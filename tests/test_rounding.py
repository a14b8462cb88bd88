"""The encoder in 8-bit numbers against the one in float32."""

import shutil

import numpy as np
import pytest

from mrnn.demo import sample_photos
from mrnn.pipeline import load
from mrnn.runtime import onnx
from mrnn.runtime.folder import BUNDLED, read_folder
from mrnn.runtime.onnx import ENCODER, ROUNDED, Graphs, OnnxNetwork

pytest.importorskip("skimage", reason="scikit-image, whose photos these are, is not installed")


@pytest.fixture(scope="module")
def pixels():
    encoder = load("base").encoder
    return np.stack([encoder.pixels(photo) for photo in sample_photos()])


def network(folder, name) -> OnnxNetwork:
    graphs = Graphs(folder, "cpu")
    made = OnnxNetwork(graphs)
    made.rounded = name == ROUNDED
    return made


def closeness(one, other) -> np.ndarray:
    """Cosines of features about their mean."""
    a, b = one - other.mean(0), other - other.mean(0)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_rounded_features_are_close_to_the_encoders_own(pixels):
    plain, grid = network(BUNDLED / "base", ENCODER)(pixels)
    rounded, rounded_grid = network(BUNDLED / "base", ROUNDED)(pixels)
    assert closeness(rounded, plain).min() > 0.97
    assert rounded_grid.shape == grid.shape


def test_a_photos_rounded_features_do_not_depend_on_what_is_beside_it(pixels):
    encode = load("base").encoder.network
    together, _ = encode(pixels)
    alone = np.concatenate([encode(one[None])[0] for one in pixels])
    assert np.array_equal(together, alone)


def test_a_processor_whose_sums_overflow_takes_float32(pixels, monkeypatch):
    plain, _ = network(BUNDLED / "base", ENCODER)(pixels[:3])
    monkeypatch.setattr(onnx, "SUM", 101)  # what the sum is where pairs of products are cut off at 16 bits
    encode = network(BUNDLED / "base", ROUNDED)
    found, _ = encode(pixels[:3])
    assert np.array_equal(found, plain)
    assert not encode.rounded


def test_caches_keep_rounded_features_apart():
    assert load("base").encoder.fingerprint.startswith("rounded-")
    assert not load("flickr8k").encoder.fingerprint.startswith("rounded-"), "it makes the paper's table again"


def test_a_saved_model_gets_a_rounded_encoder(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    from mrnn.models.rounding import round_encoder

    folder = tmp_path / "model"
    shutil.copytree(BUNDLED / "flickr8k", folder)
    encoder = load(folder).encoder
    photos = [encoder.pixels(photo) for photo in sample_photos()[:4]]
    round_encoder(folder, iter(photos))
    assert f"{ROUNDED}.onnx" in [path.name for path in folder.iterdir()]
    read_folder(folder)  # whose list of files names it
    rounded = load(folder).encoder(np.stack(photos)).pooled
    assert closeness(rounded, encoder(np.stack(photos)).pooled).min() > 0.95
