import contextlib
import io
import json
import math
import shutil
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import VOCABULARY, make, photos

from mrnn.evaluation import caption_metrics, evaluate_captions, evaluate_likelihood
from mrnn.evaluation.captions import bleu, penn_treebank
from mrnn.models.hand import TorchRuntime
from mrnn.pipeline import Pipeline
from mrnn.tasks.generation import GenerationConfig

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="the tokeniser and METEOR need Java")


def no_photos():
    raise AssertionError("photos are encoded already")


def pipeline(model) -> Pipeline:
    return Pipeline(TorchRuntime(model, "mrnn"), VOCABULARY, no_photos)


@needs_java
def test_the_published_hypotheses_give_the_published_bleu(data):
    images = json.loads((data / "mrnn_cr" / "beam10.json").read_text())
    hypotheses = [" ".join(image["gen_beam_search_10"][0]) for image in images]
    references = [[" ".join(s) for s in image["sentences"]] for image in images]
    metrics = caption_metrics(hypotheses, references)
    ours = [metrics[f"BLEU-{n}"] for n in range(1, 5)]
    # .67546 .50261 .36687 .27160, equal to pycocoevalcap's own BLEU; those published leave the last digit open.
    assert ours == pytest.approx([0.675, 0.502, 0.367, 0.271], abs=7e-4)
    tokens = dict(enumerate(penn_treebank([[h] for h in hypotheses])))
    scorer = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu(4)
    with contextlib.redirect_stdout(io.StringIO()):
        assert ours == pytest.approx(scorer.compute_score(dict(enumerate(penn_treebank(references))), tokens)[0])
    assert 0.6 < metrics["CIDEr"] < 1
    assert metrics["distinct"] == len(set(hypotheses))


def naive_bleu(hypotheses, references, order):
    """Papineni et al. 2002, from the definition."""
    matches, totals, length, closest = [0] * order, [0] * order, 0, 0
    for hypothesis, several in zip(hypotheses, references, strict=True):
        h, refs = hypothesis.split(), [r.split() for r in several]
        length += len(h)
        closest += min((abs(len(r) - len(h)), len(r)) for r in refs)[1]
        for n in range(1, order + 1):
            grams = Counter(tuple(h[i : i + n]) for i in range(len(h) - n + 1))
            most = Counter()
            for r in refs:
                most |= Counter(tuple(r[i : i + n]) for i in range(len(r) - n + 1))
            matches[n - 1] += sum((grams & most).values())
            totals[n - 1] += sum(grams.values())
    precisions = [m / t if t else 0.0 for m, t in zip(matches, totals, strict=True)]
    if not all(precisions):
        return 0.0, precisions
    penalty = min(1.0, math.exp(1 - closest / length))
    return penalty * math.exp(sum(map(math.log, precisions)) / order), precisions


sentence = st.lists(st.sampled_from("abcde"), min_size=1, max_size=8).map(" ".join)


@given(st.lists(st.tuples(sentence, st.lists(sentence, min_size=1, max_size=4)), min_size=1, max_size=5))
@settings(max_examples=50)
def test_bleu_equals_its_definition(pairs):
    hypotheses, references = [h for h, _ in pairs], [r for _, r in pairs]
    metrics = bleu(hypotheses, references)
    for n in range(1, 5):
        expected, precisions = naive_bleu(hypotheses, references, n)
        assert metrics[f"precision-{n}"] == pytest.approx(precisions[n - 1], abs=1e-9)
        assert metrics[f"BLEU-{n}"] == pytest.approx(expected, abs=1e-9)


@needs_java
def test_a_perfect_caption_has_the_best_scores():
    references = [["A dog runs across the green grass.", "dogs"], ["Two men ride brown horses today", "Men!"]]
    metrics = caption_metrics(["a dog runs across the green grass", "two men ride brown horses today"], references)
    for name in ("BLEU-4", "ROUGE-L"):
        assert metrics[name] == pytest.approx(1)
    assert metrics["distinct"] == 2


@needs_java
@pytest.mark.parametrize(("hypotheses", "references"), [([], []), (["a"], []), (["a"], [[]])])
def test_nothing_to_compare_is_refused(hypotheses, references):
    with pytest.raises(ValueError, match="reference"):
        caption_metrics(hypotheses, references)


def test_an_untrained_model_is_as_perplexed_as_its_vocabulary_is_large():
    model = make("mrnn")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    captions = [("W1 w2.", "w3"), ("w4 never",)]
    figures = evaluate_likelihood(pipeline(model), captions, photos(2).numpy())
    assert figures["perplexity"] == pytest.approx(len(VOCABULARY))
    assert figures["bits"] == pytest.approx(math.log2(len(VOCABULARY)))
    assert figures["tokens"] == 8
    assert figures["unknown"] == pytest.approx(1 / 8)


@needs_java
def test_captions_of_a_model_are_measured():
    references = [("w1 w2 w3",), ("w4 w5",), ("w6",), ("w7 w8",)]
    pipe, features = pipeline(make("mrnn")), photos(4).numpy()
    metrics, captions = evaluate_captions(pipe, references, features, GenerationConfig(beam=2))
    assert len(captions) == 4
    assert [c.tokens for c in captions] == [several[0].tokens for several in pipe.caption_features(features, beam=2)]
    assert {"BLEU-4", "CIDEr", "METEOR", "ROUGE-L"} <= set(metrics)
    assert all(isinstance(value, float) for value in metrics.values())


def test_without_java_all_but_meteor_is_told_by_our_own_tokens(monkeypatch):
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")
    said = ["a dog runs on the grass", "two men play"]
    references = [["A dog runs on the grass .", "the dog is running"], ["Two men are playing football", "two men play"]]
    usual = caption_metrics(said, references) if shutil.which("java") else None
    monkeypatch.setattr(shutil, "which", lambda name: None)
    figures = caption_metrics(said, references)
    assert "METEOR" not in figures and figures["BLEU-1"] == pytest.approx(1)
    if usual is not None:
        assert {name: usual[name] for name in figures} == pytest.approx(figures)
