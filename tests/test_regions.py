"""Encoders of regions, and a model that attends to them, from photo to picture of its explanation."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from made import photo
from PIL import Image

from mrnn.encoders import FeatureCache, ImageFeatures, pool_features
from mrnn.encoders.proposals import Proposals, Proposer
from mrnn.encoders.regions import BOXES, BoxRegions, GridRegions, SideBySide
from mrnn.images import Preprocessing
from mrnn.models import MRNNRegions, RegionsConfig
from mrnn.models.hand import TorchRuntime
from mrnn.networks import load_encoder, torch_encoder
from mrnn.pipeline import Pipeline, load
from mrnn.tasks.likelihood import token_log_probabilities
from mrnn.text import SIGNS, Vocabulary

VOCABULARY = Vocabulary([*SIGNS, "a", "red", "square"])
SIZES = {"embedding": 6, "word": 8, "recurrent": 8, "multimodal": 10, "attention": 5}


@pytest.fixture(scope="module")
def sample() -> Image.Image:
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.chelsea())


@pytest.fixture(scope="module")
def plain():
    return load_encoder("efficientnet_lite2")


def close(actual, expected, atol=1e-5, rtol=1.3e-6):
    assert actual.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol, atol, strict=True)


def test_a_grids_regions_are_the_means_of_its_cells(sample, plain):
    grid = load_encoder("grid:3:efficientnet_lite2")
    ((_, whole, _),) = plain.encode([sample])
    ((_, parts, _),) = grid.encode([sample])
    assert parts.pooled.shape == (1, 10, 1280)
    assert grid.feature_shape == (10, 1280)
    close(parts.pooled[:, 0], whole.pooled)
    close(parts.pooled[0, 5], whole.grid[0, 3:6, 3:6].mean((0, 1)), atol=1e-5, rtol=1e-5)
    close(parts.boxes[0, 6], np.array([2 / 3, 1 / 3, 1.0, 2 / 3], np.float32))
    assert grid.fingerprint != plain.fingerprint
    shares = grid.cell_shares(9, 9)
    close(shares @ whole.grid[0].reshape(81, 1280), parts.pooled[0], atol=1e-5, rtol=1e-5)
    ((_, mirrored, _),) = grid.encode([sample], mirror=True)
    assert np.abs(mirrored.pooled - parts.pooled).max() > 0.1


@pytest.mark.parametrize(("rows", "columns", "parts"), [(9, 9, 3), (10, 10, 3), (7, 7, 2), (8, 5, 3), (4, 4, 4)])
def test_a_cell_that_two_parts_share_counts_in_both(rows, columns, parts):
    inner = torch_encoder("plain", torch.nn.Identity(), Preprocessing(8, (0.0,) * 3, (1.0,) * 3), 3)
    shares = GridRegions("grid", inner, parts, "made").cell_shares(rows, columns)
    one_hot = torch.eye(rows * columns).unflatten(1, (rows, columns))
    pooled = torch.nn.functional.adaptive_avg_pool2d(one_hot[None], parts)[0].flatten(1).t()
    close(shares[1:], pooled.numpy())
    close(shares[0], np.full(rows * columns, 1 / (rows * columns), np.float32))


def test_boxes_are_cropped_and_encoded(sample, plain):
    quarter = np.array([[0, 0, 0.5, 0.5]], np.float32)
    proposer = Proposer("made", "made", lambda photo: Proposals(quarter, np.ones(1, np.float32)))
    encoder = BoxRegions("boxes:made:efficientnet_lite2", plain, proposer, "made")
    features, positions, errors = pool_features(encoder, [sample, b"no photo"])
    assert features.shape == (1, 1 + BOXES, 1280)
    assert positions == [0]
    assert len(errors) == 1
    width, height = sample.size
    crop = sample.crop((0, 0, -(-width // 2), -(-height // 2)))
    expected, _, _ = pool_features(plain, [sample, crop])
    close(features[0, :2], expected, atol=1e-3, rtol=1e-3)
    close(features[0, 2], expected[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "name", ["grid:x:efficientnet_lite2", "grid:3:", "boxes:efficientnet_lite2", "boxes:nothing:efficientnet_lite2"]
)
def test_a_strange_name_is_refused(name):
    with pytest.raises(ValueError, match=r"no (encoder|proposer)|proposer"):
        load_encoder(name)


class Blind(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), None


def seeing(name="blind", mean=0.0, side=8):
    return torch_encoder(name, Blind(), Preprocessing(side, (mean,) * 3, (1.0,) * 3), 3, structure=name)


def test_encoders_of_the_same_photos_stand_side_by_side(sample):
    one, two = seeing(), torch_encoder("two", torch.nn.Sequential(torch.nn.Tanh(), Blind()), seeing().preprocessing, 3)
    both = SideBySide([one, two])
    assert (both.name, both.width, both.feature_shape) == ("blind+two", 6, (6,))
    photos = [sample, sample.rotate(90)]
    (features, *_), (left, *_), (right, *_) = (pool_features(encoder, photos) for encoder in (both, one, two))
    assert np.abs(left - right).max() > 0.1
    close(features, np.concatenate([left, right], 1))
    assert len({both.fingerprint, one.fingerprint, two.fingerprint, SideBySide([two, one]).fingerprint}) == 4
    for other in (seeing(mean=1.0), seeing(side=9)):
        with pytest.raises(ValueError, match="same size and kind"):
            SideBySide([one, other])


def test_networks_without_grid_or_classifier_are_refused():
    blind = seeing()
    with pytest.raises(ValueError, match="no grid"):
        GridRegions("grid:2:blind", blind, 2, "made")(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="classifier"):
        BoxRegions("boxes:made:blind", blind, Proposer("made", "made", lambda photo: None), "made")
    assert isinstance(blind(np.zeros((1, 8, 8, 3), np.uint8)), ImageFeatures)


def test_a_model_over_regions_is_saved_captions_and_shows_where_it_looked(tmp_path):
    torch.manual_seed(0)
    encoder = load_encoder("grid:2:efficientnet_lite2")
    red = photo(tmp_path / "red.jpg", "red")
    rows, _, _ = FeatureCache(encoder, tmp_path / "cache").features([red])
    assert rows.shape == (1, 5, 1280)
    features = rows.astype(np.float32)
    model = MRNNRegions(RegionsConfig(**SIZES), len(VOCABULARY), 1280)
    model.fit_features(torch.from_numpy(features) + torch.randn(4, 5, 1280))
    runtime = TorchRuntime(model, "mrnn-regions", encoder.feature_shape)
    references = runtime.encode_image(features + 0.1 * torch.randn(8, 5, 1280).numpy())
    assert Pipeline(runtime, VOCABULARY, encoder, references=references).save(tmp_path / "model") == []
    here, mean = runtime.encode_image(features), references.mean(0, keepdims=True)
    ids = VOCABULARY.encode(["a", "red", "square"])
    (a,), (b,) = (token_log_probabilities(runtime, VOCABULARY, [ids], image) for image in (here, mean))
    for hand in ("onnx", "torch"):
        pipe = load(tmp_path / "model", hand, "cpu")
        assert pipe.model.image_width == references.shape[1]
        assert pipe.model.feature_shape == (5, 1280)
        (captions,) = pipe.caption([red])
        (score,) = pipe.log_likelihood([red], [captions[0].text])
        assert score.item() == pytest.approx(captions[0].log_likelihood, abs=1e-3)
        found = pipe.explain(red, "a red square")
        assert found.boxes.shape == (4, 4)
        assert found.words[1].attention.sum() == pytest.approx(1, abs=1e-5)
        for word, own, unseen in zip(found.words, a, b, strict=True):
            assert word.heat.sum() == pytest.approx((own - unseen) / math.log(2), abs=2e-3)
    command = [sys.executable, "-m", "mrnn", "explain", str(red), "--model", str(tmp_path / "model")]
    command += ["--sentence", "a red square", "--out", str(tmp_path / "why.png"), "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(told["boxes"]) == len(told["words"][1]["attention"]) == 4
    assert Image.open(tmp_path / "why.png").width > 500
