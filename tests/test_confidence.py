"""How far captions can be trusted: the fit, its meaning, and that every face gives the same number."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import WORDS, photo, pipeline

from mrnn.evaluation.confidence import confidence_figures
from mrnn.pipeline import load
from mrnn.tasks.confidence import GUESS, Confidence, fit_confidence, good_captions
from mrnn.tasks.generation import Caption


@pytest.fixture(scope="module")
def pipe():
    made = pipeline(references=40)
    features = np.random.default_rng(0).standard_normal((120, 1280), np.float32)
    best = made.caption_features(features)
    # People say what the model says of every other photo, and of the rest something else.
    said = [[b[0].text, b[0].text] if i % 2 else [WORDS[i % 5], WORDS[(i + 1) % 5]] for i, b in enumerate(best)]
    made.calibrate(features, said)
    assert made.confidence is not None
    return made


def numbers(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Log-likelihoods, priors, agreements, tokens."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 20, n)
    return -tokens * rng.gamma(4, 0.25, n), -tokens * rng.gamma(9, 0.25, n), rng.gamma(4, 0.5, n), tokens


def test_the_weights_are_those_of_a_logistic_regression():
    regression = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    likely, prior, agreed, tokens = given = numbers(3000)
    x = np.stack([likely / tokens, prior / tokens, agreed], 1)
    chance = 1 / (1 + np.exp(-(-1.5 + x @ [3.0, -1.0, 0.7])))
    good = np.random.default_rng(1).random(3000) < chance
    found = fit_confidence(*given, good.tolist())
    other = regression.LogisticRegression(C=1e3, tol=1e-8).fit(x, good)
    assert found is not None
    sure = found(*given)
    np.testing.assert_allclose(sure, other.predict_proba(x)[:, 1], atol=2e-3)
    for low in (0.1, 0.3, 0.5, 0.7):  # of captions with .3, three in ten are good
        some = (sure >= low) & (sure < low + 0.2)
        assert good[some].mean() == pytest.approx(sure[some].mean(), abs=0.06)


@given(st.lists(st.booleans(), min_size=0, max_size=130))
def test_few_captions_or_all_alike_give_no_confidence(good):
    found = fit_confidence(*numbers(len(good)), good)
    if len(good) < 100 or len(set(good)) < 2:
        assert found is None
    else:
        assert found is not None
        sure = found(*numbers(50, 1))
        assert ((sure > 0) & (sure < 1)).all()


def test_good_is_as_near_to_people_as_half_of_them_are_to_each_other():
    people = [[["a", "red", "square"], ["a", "red", "square"]], [["a", "dog", "runs"], ["a", "cat", "sleeps"]]]
    assert good_captions([["a", "red", "square"], ["the", "sky"]], people) == [True, False]
    assert good_captions([["a"]], [[["a", "dog"]]]) is None, "one sentence agrees with no other"


def test_every_face_gives_the_same_number(pipe, tmp_path):
    path = photo(tmp_path / "red.jpg", "red")
    (caption,) = pipe.caption(path)[0]
    described = next(pipe.describe([path]))
    assert 0 < caption.confidence < 1
    assert described.confidence == pytest.approx(caption.confidence, rel=1e-3)
    assert described.guess == (caption.confidence < 0.2) and described.note == (GUESS if described.guess else "")
    assert described.as_dict()["captions"][0]["confidence"] == described.as_dict()["confidence"]
    (scored,) = pipe.score_pairs(pipe.features([path]), [0], [caption.text])
    assert scored["confidence"] == pytest.approx(caption.confidence, rel=1e-3)
    assert pipe.explain(path, caption.text).confidence == pytest.approx(caption.confidence, rel=1e-3)
    pipe.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.confidence == pipe.confidence
    for verb in (["caption", path], ["rank", path, "--sentence", caption.text], ["explain", path]):
        command = [sys.executable, "-m", "mrnn", *verb, "--model", tmp_path / "model", "--json"]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert found["confidence"] == pytest.approx(caption.confidence, rel=2e-2), verb


def test_a_model_without_it_says_none_and_damaged_weights_are_refused(pipe, tmp_path):
    path, plain = photo(tmp_path / "red.jpg", "red"), pipeline(references=5)
    assert plain.caption(path)[0][0].confidence is None
    plain.calibrate(np.zeros((5, 1280), np.float32), [["a"]] * 5)
    assert plain.confidence is None
    pipe.save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for bad in ({"constant": 1.0}, {**config["confidence"], "prior": "much"}, [1, 2]):
        (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "confidence": bad}))
        with pytest.raises(ValueError, match="model"):
            load(tmp_path / "model")


def test_the_surest_captions_are_measured_by_themselves():
    right = [Caption("a red square", ("a", "red", "square"), (-0.1,) * 4, 0.0, sure) for sure in (0.9, 0.8)]
    wrong = [Caption("the sky", ("the", "sky"), (-1.0,) * 3, 0.0, sure) for sure in (0.2, 0.1)]
    references = [[f"a {colour} square"] for colour in ("red", "red", "blue", "green")]
    figures = confidence_figures([*right, *wrong], references)
    assert figures["confidence correlation"] > 0.8
    assert figures["CIDEr of the surest 50 %"] > figures["CIDEr of the surest 75 %"] > 0
    assert confidence_figures([Caption("a", ("a",), (-1.0, -1.0), 0.0)] * 4, references) == {}
    by_likelihood = Confidence(0.0, 1.0, 0.0, 0.0)
    assert by_likelihood(*np.array([[-4.0], [0.0], [0.0]]), np.array([4])) == pytest.approx(1 / (1 + np.e), abs=1e-4)
