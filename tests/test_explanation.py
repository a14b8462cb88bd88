import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from made import photo, pipeline
from PIL import Image

from mrnn.models import MLBLB, MRNN, MLBLBConfig, MRNNConfig
from mrnn.models.hand import TorchRuntime
from mrnn.pipeline import load
from mrnn.tasks.confidence import GUESS
from mrnn.tasks.explanation import explain, said_of_nearest
from mrnn.tasks.familiarity import Familiarity
from mrnn.tasks.likelihood import token_log_probabilities
from mrnn.tasks.retrieval import Retriever
from mrnn.text import SIGNS, Vocabulary

VOCABULARY = Vocabulary([*SIGNS, "a", "dog", "runs", "fast", "red"])
SENTENCE = VOCABULARY.encode(["a", "red", "dog", "runs"])
V, D = len(VOCABULARY), 6


@pytest.fixture(params=["mrnn", "mlbl-b"])
def model(request):
    torch.manual_seed(1)
    if request.param == "mrnn":
        return TorchRuntime(MRNN(MRNNConfig(embedding=4, word=5, recurrent=5, multimodal=7), V, D), "mrnn")
    return TorchRuntime(MLBLB(MLBLBConfig(word=7, context=3), V, D), "mlbl-b")


@pytest.fixture
def parts(model):
    grid = np.random.default_rng(2).standard_normal((3, 4, D), np.float32)
    cells = model.encode_cells(grid.reshape(-1, D)).reshape(3, 4, -1)
    image = model.encode_image(grid.mean((0, 1))[None])[0]
    references = model.encode_image(np.random.default_rng(3).standard_normal((9, D), np.float32))
    return image, references, cells


def test_evidence_adds_up_to_the_normalised_score(model, parts):
    image, references, cells = parts
    words = explain(model, VOCABULARY, SENTENCE, image, references, cells)
    assert [w.token for w in words] == ["a", "red", "dog", "runs", "<end>"]
    retriever = Retriever(model, VOCABULARY, image[None], [SENTENCE], references, precision="float32")
    expected = retriever.exact("normalised").item() / math.log(2)
    assert sum(w.evidence for w in words) == pytest.approx(expected, abs=1e-4)
    log_p = token_log_probabilities(model, VOCABULARY, [SENTENCE], image[None])[0]
    assert [w.log_probability for w in words] == pytest.approx(log_p, abs=1e-5)


def test_branches_add_up_to_all_against_nothing(model, parts):
    image, references, _ = parts
    words = explain(model, VOCABULARY, SENTENCE, image, references)
    nothing = model.distribution(np.zeros((1, 7), np.float32), references.mean(0)[None])[0]
    for word, target in zip(words, [*SENTENCE, VOCABULARY.end], strict=True):
        expected = (word.log_probability - nothing[target].item()) / math.log(2)
        assert sum(word.branches.values()) == pytest.approx(expected, abs=1e-4)
        assert set(word.branches) == ({"word", "recurrent", "image"} if model.name == "mrnn" else {"text", "image"})
        assert word.heat is None


def test_heat_adds_up_to_what_the_image_says_beyond_the_mean_image(model, parts):
    image, references, cells = parts
    words = explain(model, VOCABULARY, SENTENCE, image, references, cells)
    here = token_log_probabilities(model, VOCABULARY, [SENTENCE], image[None])[0]
    mean = token_log_probabilities(model, VOCABULARY, [SENTENCE], references.mean(0)[None])[0]
    for word, a, b in zip(words, here, mean, strict=True):
        assert word.heat.shape == (3, 4)
        assert word.heat.sum() == pytest.approx((a - b) / math.log(2), abs=1e-4)


def test_familiarity_is_a_percentile_of_the_references_own_distances():
    rng = np.random.default_rng(0)
    references = rng.standard_normal((400, 8), np.float32)
    familiarity = Familiarity(references)
    like = rng.standard_normal((400, 8), np.float32)
    assert familiarity.percentile(like).mean() == pytest.approx(0.5, abs=0.06)
    assert (familiarity.percentile(like) > 0.99).mean() < 0.04
    assert familiarity.percentile(like + 50).min() == 1
    assert (familiarity.percentile(references) <= 0.99).mean() > 0.97
    assert familiarity.unfamiliar(like + 50) == [True] * 400
    assert familiarity.unfamiliar(like) == (familiarity.percentile(like) > 0.99).tolist()


def test_support_is_said_of_the_nearest_and_shares_words():
    training = np.array([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]], np.float32)
    captions = [("the cat sleeps", "a dog is here"), ("a car",), ("a red dog runs",)]
    support = said_of_nearest(np.array([1.0, 0.0], np.float32), training, captions, SENTENCE, VOCABULARY, 2)
    assert support == ("a dog is here", "a car")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    pipe = pipeline(references=12)
    pipe.references = pipe.references * 1e-3  # so close together that every photo is far
    pipe.save(folder)
    return folder


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_photo_is_explained(saved, tmp_path, runtime):
    red = photo(tmp_path / "red.jpg", "red")
    pipe = load(saved, runtime)
    found = pipe.explain(red)
    assert found.words[0].heat.shape == (9, 9)
    assert found.text.split() == [w.token for w in found.words[:-1]]
    given = pipe.explain(red, "a large red square")
    assert given.heat.shape == (9, 9)
    assert given.guess and given.note == GUESS
    for word, fields in zip(given.words, given.as_dict()["words"], strict=True):
        assert fields["token"] == word.token and fields["heat"] == word.heat.tolist()
    with pytest.raises(ValueError, match="no word"):
        pipe.explain(red, "...")
    with pytest.raises(ValueError, match="reference images"):
        pipeline().explain(red)


def test_the_verb_draws_and_tells(saved, tmp_path):
    red = photo(tmp_path / "red.jpg", "red")
    command = [sys.executable, "-m", "mrnn", "explain", str(red), "--model", str(saved)]
    command += ["--sentence", "a red square", "--out", str(tmp_path / "why.png")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[0] == "word    evidence  from word  from recurrent  from image"
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["a", "red", "square", "<end>"]
    assert GUESS in result.stderr
    assert Image.open(tmp_path / "why.png").width > 500
    told = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    fields = json.loads(told.stdout)
    assert fields["guess"] is True and fields["confidence"] is None
    assert len(fields["words"][0]["heat"]) == 9
    caption = [sys.executable, "-m", "mrnn", "caption", str(red), "--model", str(saved)]
    assert f"{red}: {GUESS}" in subprocess.run(caption, capture_output=True, text=True, check=True).stderr
