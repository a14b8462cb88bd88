import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from made import photo, pipeline
from PIL import Image

from mrnn.explanation import GUESS, Familiarity, cell_box, explain, occlusion, said_of_nearest
from mrnn.likelihood import token_log_probabilities
from mrnn.models import MLBLB, MRNN, MLBLBConfig, MRNNConfig
from mrnn.pipeline import load
from mrnn.retrieval import Retriever
from mrnn.text import SIGNS, Vocabulary

VOCABULARY = Vocabulary([*SIGNS, "a", "dog", "runs", "fast", "red"])
SENTENCE = VOCABULARY.encode(["a", "red", "dog", "runs"])
V, D = len(VOCABULARY), 6


@pytest.fixture(params=["mrnn", "mlbl-b"])
def model(request):
    torch.manual_seed(1)
    if request.param == "mrnn":
        return MRNN(MRNNConfig(embedding=4, word=5, recurrent=5, multimodal=7), V, D).eval()
    return MLBLB(MLBLBConfig(word=7, context=3), V, D).eval()


@pytest.fixture
def parts(model):
    with torch.inference_mode():
        grid = torch.randn(3, 4, D, generator=torch.Generator().manual_seed(2))
        cells = model.encode_image(grid.flatten(0, 1)).unflatten(0, (3, 4))
        image = model.encode_image(grid.mean((0, 1))[None])[0]
        references = model.encode_image(torch.randn(9, D, generator=torch.Generator().manual_seed(3)))
    return image.clone(), references.clone(), cells.clone()


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
    nothing = model.logits(torch.zeros(7), references.mean(0)).log_softmax(-1)
    for word, target in zip(words, [*SENTENCE, VOCABULARY.end], strict=True):
        expected = (word.log_probability - nothing[target].item()) / math.log(2)
        assert sum(word.branches.values()) == pytest.approx(expected, abs=1e-4)
        assert set(word.branches) == ({"word", "recurrent", "image"} if isinstance(model, MRNN) else {"text", "image"})
        assert word.heat is None


def test_heat_adds_up_to_what_the_image_says_beyond_the_mean_image(model, parts):
    image, references, cells = parts
    words = explain(model, VOCABULARY, SENTENCE, image, references, cells)
    here = token_log_probabilities(model, VOCABULARY, [SENTENCE], image[None])[0]
    mean = token_log_probabilities(model, VOCABULARY, [SENTENCE], references.mean(0)[None])[0]
    for word, a, b in zip(words, here, mean, strict=True):
        assert word.heat.shape == (3, 4)
        assert word.heat.sum() == pytest.approx((a - b) / math.log(2), abs=1e-4)


def test_occlusion_greys_out_one_cell_after_the_other():
    image = Image.fromarray(np.zeros((30, 40, 3), np.uint8))
    image.paste((250, 250, 250), cell_box(image.size, 3, 4, 1, 2))

    def score(photos):
        """One word, likelier the more of the white cell is left."""
        return torch.tensor([[float(np.asarray(p).max() > 200)] for p in photos])

    lost = occlusion(image, 3, 4, score)
    assert lost.shape == (1, 3, 4)
    assert lost[0, 1, 2] == pytest.approx(1 / math.log(2))
    assert lost.sum() == pytest.approx(1 / math.log(2))


def test_familiarity_is_a_percentile_of_the_references_own_distances():
    generator = torch.Generator().manual_seed(0)
    references = torch.randn(400, 8, generator=generator)
    familiarity = Familiarity(references)
    like = torch.randn(400, 8, generator=generator)
    assert familiarity.percentile(like).mean() == pytest.approx(0.5, abs=0.06)
    assert (familiarity.percentile(like) > 0.99).float().mean() < 0.04
    assert familiarity.percentile(like + 50).min() == 1
    assert (familiarity.percentile(references) <= 0.99).float().mean() > 0.97


def test_support_is_said_of_the_nearest_and_shares_words():
    training = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]])
    captions = [("the cat sleeps", "a dog is here"), ("a car",), ("a red dog runs",)]
    support = said_of_nearest(torch.tensor([1.0, 0.0]), training, captions, SENTENCE, VOCABULARY, 2)
    assert support == ("a dog is here", "a car")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    pipe = pipeline(references=12)
    pipe.references = pipe.references * 1e-3  # so close together that every photo is far
    pipe.save(folder)
    return folder


def test_a_photo_is_explained(saved, tmp_path):
    red = photo(tmp_path / "red.jpg", "red")
    found = load(saved).explain(red)
    assert found.words[0].heat.shape == (9, 9)
    assert found.text.split() == [w.token for w in found.words[:-1]]
    given = load(saved).explain(red, "a large red square")
    assert given.heat.shape == (9, 9)
    assert not given.familiar
    with pytest.raises(ValueError, match="no word"):
        load(saved).explain(red, "...")
    with pytest.raises(ValueError, match="reference images"):
        pipeline().explain(red)


def test_the_verb_draws_and_tells(saved, tmp_path):
    red = photo(tmp_path / "red.jpg", "red")
    command = [sys.executable, "-m", "mrnn", "explain", str(red), "--model", str(saved)]
    command += ["--sentence", "a red square", "--out", str(tmp_path / "why.png")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[0] == "word\tevidence\tword\trecurrent\timage"
    assert [line.split("\t")[0] for line in result.stdout.splitlines()[1:]] == ["a", "red", "square", "<end>"]
    assert GUESS in result.stderr
    assert Image.open(tmp_path / "why.png").width > 500
    told = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    fields = json.loads(told.stdout)
    assert fields["familiar"] is False
    assert len(fields["words"][0]["heat"]) == 9
    caption = [sys.executable, "-m", "mrnn", "caption", str(red), "--model", str(saved)]
    assert f"{red}: {GUESS}" in subprocess.run(caption, capture_output=True, text=True, check=True).stderr
