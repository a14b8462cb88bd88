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

from mrnn.encoders import FeatureCache, load_encoder, pool_features
from mrnn.encoders.proposals import Proposals, Proposer
from mrnn.encoders.regions import BOXES, BoxRegions
from mrnn.likelihood import token_log_probabilities
from mrnn.models import MRNNRegions, RegionsConfig
from mrnn.pipeline import Pipeline, load
from mrnn.text import SIGNS, Vocabulary

VOCABULARY = Vocabulary([*SIGNS, "a", "red", "square"])
SIZES = {"embedding": 6, "word": 8, "recurrent": 8, "multimodal": 10, "attention": 5}


@pytest.fixture(scope="module")
def sample() -> Image.Image:
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.chelsea())


def test_a_grids_regions_are_the_means_of_its_cells(sample):
    plain, grid = load_encoder("efficientnet_lite2"), load_encoder("grid:3:efficientnet_lite2")
    ((_, whole, _),) = plain.encode([sample])
    ((_, parts, _),) = grid.encode([sample])
    assert parts.pooled.shape == (1, 10, 1280)
    torch.testing.assert_close(parts.pooled[:, 0], whole.pooled)
    torch.testing.assert_close(parts.pooled[0, 5], whole.grid[0, 3:6, 3:6].mean((0, 1)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.boxes[0, 6], torch.tensor([2 / 3, 1 / 3, 1.0, 2 / 3]))
    assert grid.fingerprint != plain.fingerprint
    shares = grid.cell_shares(9, 9)
    torch.testing.assert_close(shares @ whole.grid[0].flatten(0, 1), parts.pooled[0], atol=1e-5, rtol=1e-5)
    ((_, mirrored, _),) = grid.encode([sample], mirror=True)
    assert (mirrored.pooled - parts.pooled).abs().max() > 0.1


def test_boxes_are_cropped_and_encoded(sample):
    plain = load_encoder("efficientnet_lite2")
    quarter = np.array([[0, 0, 0.5, 0.5]], np.float32)
    proposer = Proposer("made", "made", lambda photo: Proposals(quarter, np.ones(1, np.float32)))
    encoder = BoxRegions("boxes:made:efficientnet_lite2", plain, proposer)
    features, positions, errors = pool_features(encoder, [sample, b"no photo"])
    assert features.shape == (1, 1 + BOXES, 1280)
    assert positions == [0]
    assert len(errors) == 1
    width, height = sample.size
    crop = sample.crop((0, 0, -(-width // 2), -(-height // 2)))
    expected, _, _ = pool_features(plain, [sample, crop])
    torch.testing.assert_close(features[0, :2], expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(features[0, 2], expected[0], atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="regions with its network"):
        next(encoder.encode([sample], workers=1))


@pytest.mark.parametrize(
    "name", ["grid:x:efficientnet_lite2", "grid:3:", "boxes:efficientnet_lite2", "boxes:nothing:efficientnet_lite2"]
)
def test_a_strange_name_is_refused(name):
    with pytest.raises(ValueError, match=r"no (encoder|proposer)|proposer"):
        load_encoder(name)


def test_networks_without_grid_or_classifier_are_refused():
    from mrnn.encoders.base import Encoder, ImageFeatures
    from mrnn.encoders.regions import GridRegions
    from mrnn.images import Preprocessing

    class Blind(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), None

    blind = Encoder("blind", Blind(), Preprocessing(8, (0.0,) * 3, (1.0,) * 3), 3)
    with pytest.raises(ValueError, match="no grid"):
        GridRegions("grid:2:blind", blind, 2)(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="classifier"):
        BoxRegions("boxes:made:blind", blind, Proposer("made", "made", lambda photo: None))
    assert isinstance(blind(torch.zeros(1, 8, 8, 3, dtype=torch.uint8)), ImageFeatures)


def test_a_model_over_regions_is_saved_captions_and_shows_where_it_looked(tmp_path):
    torch.manual_seed(0)
    encoder = load_encoder("grid:2:efficientnet_lite2")
    red = photo(tmp_path / "red.jpg", "red")
    rows, _, _ = FeatureCache(encoder, tmp_path / "cache").features([red])
    assert rows.shape == (1, 5, 1280)
    features = torch.from_numpy(np.array(rows)).float()
    model = MRNNRegions(RegionsConfig(**SIZES), len(VOCABULARY), 1280).eval()
    model.fit_features(features + torch.randn(4, 5, 1280))
    with torch.inference_mode():
        references = model.encode_image(features + 0.1 * torch.randn(8, 5, 1280))
    Pipeline(model, VOCABULARY, encoder, references=references).save(tmp_path / "model")
    pipe = load(tmp_path / "model")
    assert pipe.image_width == references.shape[1]
    (captions,) = pipe.caption([red])
    (score,) = pipe.log_likelihood([red], [captions[0].text])
    assert score.item() == pytest.approx(captions[0].log_likelihood, abs=1e-3)
    found = pipe.explain(red, "a red square")
    assert found.boxes.shape == (4, 4)
    assert found.words[1].attention.sum() == pytest.approx(1, abs=1e-5)
    with torch.inference_mode():
        here, mean = model.encode_image(features), references.mean(0, keepdim=True)
        ids = VOCABULARY.encode(["a", "red", "square"])
        (a,), (b,) = (token_log_probabilities(model, VOCABULARY, [ids], image) for image in (here, mean))
    for word, own, unseen in zip(found.words, a, b, strict=True):
        assert word.heat.sum() == pytest.approx((own - unseen) / math.log(2), abs=2e-3)
    command = [sys.executable, "-m", "mrnn", "explain", str(red), "--model", str(tmp_path / "model")]
    command += ["--sentence", "a red square", "--out", str(tmp_path / "why.png"), "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(told["boxes"]) == len(told["words"][1]["attention"]) == 4
    assert Image.open(tmp_path / "why.png").width > 500
