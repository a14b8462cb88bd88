import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import VOCABULARY, make, photos

from mrnn.models import MODELS, MRNN, MRNNConfig
from mrnn.models.hand import TorchRuntime
from mrnn.tasks import generation
from mrnn.tasks.generation import GenerationConfig, generate
from mrnn.tasks.likelihood import token_log_probabilities
from mrnn.text import SIGNS, Vocabulary

TINY = Vocabulary([*SIGNS, "a", "b", "c"])
every_model = pytest.mark.parametrize("name", MODELS)


def hand(name):
    return TorchRuntime(make(name), name, tuple(photos(1, name).shape[1:]))


def sharp(name, factor=6.0):
    """A model whose next words differ much in probability."""
    runtime = hand(name)
    with torch.no_grad():
        for parameter in runtime.model.parameters():
            parameter.mul_(factor if parameter.ndim > 1 else 1)
    return runtime


def image_of(model, n=4):
    return model.encode_image(photos(n, model.name).numpy())


def next_words(model, ids, image):
    """Logits after the start sign and each of some words, by the model's own calls."""
    with torch.no_grad():
        text, _ = model.model.encode_text(torch.tensor([[VOCABULARY.start, *ids]]))
        return model.model.logits(text[0], torch.from_numpy(image)[None])


@every_model
@pytest.mark.parametrize("options", [{}, {"method": "greedy"}, {"method": "sample", "n": 3}, {"n": 4, "beam": 4}])
def test_reported_probabilities_are_the_scorers(name, options):
    model = sharp(name)
    image = image_of(model)
    for i, captions in enumerate(generate(model, VOCABULARY, image, GenerationConfig(**options))):
        for caption in captions:
            ids = VOCABULARY.encode(caption.tokens)
            expected = token_log_probabilities(model, VOCABULARY, [ids], image[i : i + 1])[0]
            # The relative part is float32's rounding: sharp models give words down to e^-1000; of mlbl-f, which
            # multiplies its weights, logits are beyond 10,000, so that a digit of theirs is more than the usual 1e-4.
            digit = 2 * float(np.spacing(next_words(model, ids, image[i]).abs().max().numpy()))
            assert caption.log_probabilities == pytest.approx(expected, abs=max(1e-4, digit), rel=1e-5)
            assert caption.log_likelihood == pytest.approx(sum(expected), abs=max(1e-3, digit * len(expected)))
            assert max(caption.log_probabilities) <= 0
            assert not set(caption.tokens) & set(SIGNS)
            assert 1 <= len(caption.tokens) <= 25


@every_model
@pytest.mark.parametrize("method", ["beam", "greedy"])
def test_a_batch_gives_what_single_images_give(name, method, monkeypatch):
    model = sharp(name)
    image = image_of(model, 9)
    config = GenerationConfig(method=method)
    monkeypatch.setattr(generation, "BATCH", 4)
    together = generate(model, VOCABULARY, image, config)
    alone = [generate(model, VOCABULARY, image[i : i + 1], config)[0] for i in range(9)]
    assert [c[0].tokens for c in together] == [c[0].tokens for c in alone]


def tiny_model(seed):
    torch.manual_seed(seed)
    model = MRNN(MRNNConfig(embedding=4, word=5, recurrent=5, multimodal=6), len(TINY), 7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    return TorchRuntime(model, "mrnn")


@given(seed=st.integers(0, 200), exponent=st.sampled_from([0.0, 0.7, 1.0]), shortest=st.integers(0, 2))
@settings(max_examples=15)
def test_a_wide_beam_finds_what_exhaustive_search_finds(seed, exponent, shortest):
    model = tiny_model(seed)
    image = image_of(model, 1)
    words = [3, 4, 5]
    every = [list(s) for n in range(shortest, 4) for s in itertools.product(words, repeat=n)]
    log_p = token_log_probabilities(model, TINY, every, image.repeat(len(every), 0))
    scored = sorted(((sum(p) / len(p) ** exponent, s) for p, s in zip(log_p, every, strict=True)), reverse=True)
    config = GenerationConfig(beam=81, n=3, length_exponent=exponent, min_length=shortest, max_length=3)
    found = generate(model, TINY, image, config, precision="float32")[0]
    assert [c.score for c in found] == pytest.approx([score for score, _ in scored[:3]], abs=1e-4)


def test_an_image_gain_searches_for_a_stressed_image_and_reports_the_photo():
    model = sharp("mrnn", 3)
    image = image_of(model)
    centre = image.mean(0)
    gained = generate(model, VOCABULARY, image, GenerationConfig(image_gain=1.5, n=2), centre)
    expected = generate(model, VOCABULARY, centre + np.float32(1.5) * (image - centre), GenerationConfig(n=2))
    for i, (some, others) in enumerate(zip(gained, expected, strict=True)):
        assert [c.tokens for c in some] == [c.tokens for c in others]
        assert [c.score for c in some] == pytest.approx([c.score for c in others], abs=0.05)
        own = token_log_probabilities(model, VOCABULARY, [VOCABULARY.encode(some[0].tokens)], image[i : i + 1])[0]
        assert some[0].log_probabilities == pytest.approx(own, abs=1e-4)
    with pytest.raises(ValueError, match="no reference images"):
        generate(model, VOCABULARY, image, GenerationConfig(image_gain=1.5))


def test_greedy_takes_the_likeliest_word_each_time():
    model = sharp("mrnn")
    image = image_of(model, 1)
    caption = generate(model, VOCABULARY, image, GenerationConfig(method="greedy"))[0][0]
    ids = []
    for word in caption.tokens:
        logits = next_words(model, ids, image[0])[-1]
        logits[[VOCABULARY.start, VOCABULARY.unknown]] = -torch.inf
        if not ids:
            logits[VOCABULARY.end] = -torch.inf
        assert VOCABULARY.tokens[int(logits.argmax())] == word
        ids.append(int(logits.argmax()))


def test_samples_follow_the_models_distribution():
    model = tiny_model(3)
    image = image_of(model, 1)
    config = GenerationConfig(method="sample", n=4000, max_length=1)
    first = [c.tokens[0] for c in generate(model, TINY, image, config)[0]]
    p = next_words(model, [], image[0])[0, 3:].softmax(-1)
    for token, share in zip("abc", p.tolist(), strict=True):
        assert first.count(token) / 4000 == pytest.approx(share, abs=0.03)


def test_top_k_and_top_p_of_almost_nothing_are_greedy():
    model = sharp("mrnn")
    image = image_of(model)
    greedy = generate(model, VOCABULARY, image, GenerationConfig(method="greedy"))
    for options in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        drawn = generate(model, VOCABULARY, image, GenerationConfig(method="sample", **options))
        assert [c[0].tokens for c in drawn] == [c[0].tokens for c in greedy]


def test_the_seed_decides_the_samples():
    model = hand("mrnn")
    image = image_of(model)

    def draw(seed):
        config = GenerationConfig(method="sample", n=2, seed=seed)
        return [c.tokens for several in generate(model, VOCABULARY, image, config) for c in several]

    assert draw(1) == draw(1) != draw(2)


def test_a_sample_does_not_depend_on_the_other_images(monkeypatch):
    model = hand("mrnn")
    image = image_of(model, 5)
    monkeypatch.setattr(generation, "BATCH", 2)
    together = generate(model, VOCABULARY, image, GenerationConfig(method="sample", n=3, seed=7))
    for i in range(5):
        alone = generate(model, VOCABULARY, image[i : i + 1], GenerationConfig(method="sample", n=2, seed=7 + i))[0]
        assert [c.tokens for c in alone] == [c.tokens for c in together[i][:2]]


@pytest.mark.parametrize("method", ["beam", "greedy", "sample"])
@pytest.mark.parametrize(("shortest", "longest"), [(4, 4), (2, 3), (0, 1)])
def test_lengths_are_kept(method, shortest, longest):
    model = hand("mrnn")
    config = GenerationConfig(method=method, min_length=shortest, max_length=longest)
    for captions in generate(model, VOCABULARY, image_of(model), config):
        assert shortest <= len(captions[0].tokens) <= longest


@every_model
@pytest.mark.parametrize("options", [{}, {"method": "greedy"}, {"method": "sample", "n": 3}])
def test_no_images_give_no_captions(name, options):
    model = hand(name)
    assert generate(model, VOCABULARY, image_of(model, 0), GenerationConfig(**options)) == []


def test_samples_are_drawn_without_the_image_gain():
    model = sharp("mrnn", 3)
    image = image_of(model)
    config = GenerationConfig(method="sample", n=3, image_gain=3.0)
    gained, plain = (
        generate(model, VOCABULARY, image, config, image.mean(0)),
        generate(model, VOCABULARY, image, GenerationConfig(method="sample", n=3)),
    )
    assert [[c.tokens for c in several] for several in gained] == [[c.tokens for c in several] for several in plain]


@pytest.mark.parametrize("options", [{}, {"method": "greedy"}, {"method": "sample"}])
@pytest.mark.parametrize("weights", ["U_r", "V_I"])
def test_numbers_that_are_not_finite_are_refused(options, weights):
    model = hand("mrnn")
    with torch.no_grad():
        model.model.get_submodule(weights).weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        generate(model, VOCABULARY, image_of(model), GenerationConfig(**options))


def test_n_best_are_distinct_and_in_order():
    model = sharp("mrnn", 3)
    for captions in generate(model, VOCABULARY, image_of(model), GenerationConfig(beam=6, n=6)):
        scores = [c.score for c in captions]
        assert scores == sorted(scores, reverse=True)
        assert len({c.tokens for c in captions}) == len(captions)


@pytest.mark.parametrize(
    "options",
    [
        {"beam": 0},
        {"n": 6, "beam": 5},
        {"method": "greedy", "n": 2},
        {"min_length": 5, "max_length": 4},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"image_gain": 0.0},
        {"top_p": 0.0},
        {"top_k": -1},
    ],
)
def test_contradicting_options_are_refused(options):
    with pytest.raises(ValueError, match=r"\w"):
        GenerationConfig(**options)
