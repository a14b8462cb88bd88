"""One contract for every registered model; a new model is tested by being registered."""

import numpy as np
import pytest
import torch
from tiny import D, V, make, photos, sentences

from mrnn.models import MODELS, MRNN, MRNNConfig, NeuralLanguageModel, build_model, map_state, model_name
from mrnn.models.dropout import ByteDropout

every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_a_later_token_changes_no_earlier_logit(name):
    model, tokens = make(name), sentences()
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % V
    torch.testing.assert_close(model(tokens, photos(name=name))[:, :4], model(changed, photos(name=name))[:, :4])


@every_model
def test_word_by_word_equals_the_whole_sentence(name):
    model, tokens = make(name), sentences()
    whole, last = model.encode_text(tokens)
    state, steps = None, []
    for word in tokens.unbind(1):
        text, state = model.encode_text(word[:, None], state)
        steps.append(text)
    torch.testing.assert_close(torch.cat(steps, 1), whole)
    if last is not None:
        torch.testing.assert_close(state, last)


@every_model
def test_a_batch_equals_one_at_a_time(name):
    model, tokens, features = make(name), sentences(), photos(name=name)
    singles = [model(tokens[i : i + 1], features[i : i + 1]) for i in range(len(tokens))]
    torch.testing.assert_close(torch.cat(singles), model(tokens, features))


@every_model
def test_padding_on_the_right_changes_nothing(name):
    model, tokens = make(name), sentences()
    padded = torch.cat([tokens, torch.zeros(len(tokens), 3, dtype=torch.long)], 1)
    torch.testing.assert_close(model(padded, photos(name=name))[:, :6], model(tokens, photos(name=name)))


@every_model
def test_logits_broadcast_over_pairs(name):
    model, tokens = make(name), sentences()
    text, _ = model.encode_text(tokens)
    image = model.encode_image(photos(3, name))
    pairs = model.logits(text[:, None], image[None, :, None])
    assert pairs.shape == (4, 3, 6, V)
    torch.testing.assert_close(pairs[2, 1], model.logits(text[2], image[1]))


@every_model
def test_states_can_be_selected(name):
    model, tokens = make(name), sentences()
    _, state = model.encode_text(tokens[:, :3])
    order = torch.tensor([2, 0])
    selected = map_state(lambda s: s[order], state)
    expected, _ = model.encode_text(tokens)
    after, _ = model.encode_text(tokens[order, 3:], selected)
    torch.testing.assert_close(after, expected[order, 3:])


@every_model
def test_a_description_rebuilds_the_model(name):
    model = make(name)
    again = build_model(name, model.describe())
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(sentences(), photos(name=name)), model(sentences(), photos(name=name)))
    assert model_name(model.config) == name


@every_model
def test_only_models_that_use_images_see_them(name):
    model = make(name)
    differs = not torch.equal(model(sentences(), photos(name=name)), model(sentences(), photos(name=name) + 1))
    assert differs == model.uses_image


@every_model
def test_standardised_training_features_have_mean_zero_and_deviation_one(name):
    model = make(name)
    if not isinstance(model, NeuralLanguageModel):
        pytest.skip("counts, and has no features")
    features = torch.randn(200, D) * 5 + 3
    features[:, 0] = 2.0
    model.fit_features(features)
    out = model.standardise(features)
    torch.testing.assert_close(out.mean(0), torch.zeros(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0)[1:], torch.ones(D - 1))
    assert out[:, 0].abs().max() < 1e-3


def numpy_mrnn(model: MRNN, tokens, features):
    """The paper's equations once more, one sentence and one word at a time, in float64."""
    p = {k: v.double().numpy() for k, v in model.state_dict().items()}
    image = p["V_I.weight"] @ ((features - p["feature_mean"]) / p["feature_std"])
    r, logits = np.zeros(p["U_r.weight"].shape[0]), []
    for token in tokens:
        w = p["W_2.weight"] @ p["W_1.weight"][token] + p["W_2.bias"]
        into = p["W_r.weight"] @ w if "W_r.weight" in p else w
        r = np.maximum(p["U_r.weight"] @ r + into, 0)
        m = 1.7159 * np.tanh(2 / 3 * (p["V_w.weight"] @ w + p["V_w.bias"] + p["V_r.weight"] @ r + image))
        if "P.weight" in p:
            logits.append(p["W_1.weight"] @ (p["P.weight"] @ m) + p["U_M_bias"])
        else:
            logits.append(p["U_M.weight"] @ m + p["U_M.bias"])
    return np.stack(logits)


@pytest.mark.parametrize("options", [{}, {"recurrent": 12}, {"shared": True}])
def test_mrnn_computes_the_papers_equations(options):
    model = make("mrnn", **options)
    tokens, features = sentences(), photos()
    logits = model(tokens, features).detach().numpy()
    for i in range(len(tokens)):
        expected = numpy_mrnn(model, tokens[i].tolist(), features[i].double().numpy())
        np.testing.assert_allclose(logits[i], expected, atol=1e-5)


def test_mrnn_has_the_papers_sizes():
    model = MRNN(MRNNConfig(), 2537, 4096)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["W_1.weight"] == (2537, 128)
    assert shapes["W_2.weight"] == (256, 128)
    assert shapes["U_r.weight"] == (256, 256)
    assert shapes["V_w.weight"] == shapes["V_r.weight"] == (512, 256)
    assert shapes["V_I.weight"] == (512, 4096)
    assert shapes["U_M.weight"] == (2537, 512)
    assert model.config.dropout_image == model.config.dropout_multimodal == model.config.dropout_word == 0


@pytest.mark.parametrize(
    "options", [{"word": 0}, {"dropout_image": 1.0}, {"dropout_image": 0.999}, {"dropout_word": -0.1}]
)
def test_mrnn_refuses_impossible_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MRNNConfig(**options)


@pytest.mark.parametrize("description", [{}, {"vocabulary": 5, "features": 3, "wings": 2}, {"vocabulary": 5}])
def test_build_model_refuses_a_strange_description(description):
    with pytest.raises(ValueError, match="mrnn"):
        build_model("mrnn", description)
    with pytest.raises(ValueError, match="no model"):
        build_model("nothing", description)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_byte_dropout_drops_its_share_and_keeps_the_mean(share):
    torch.manual_seed(0)
    dropout = ByteDropout(share).train()
    x = torch.ones(1001, 999)
    y = dropout(x)
    assert (y == 0).float().mean() == pytest.approx(share, abs=0.003)
    assert y.mean() == pytest.approx(1, abs=0.01)
    assert torch.equal(dropout.eval()(x), x)
    columns = (y == 0).float().mean(0)
    assert columns.std() < 0.05, "every place is dropped about as often"


@every_model
def test_the_pull_is_the_gradient_in_the_image_vector(name):
    model = make(name)
    image = model.encode_image(photos(name=name)).detach().requires_grad_()
    text = model.encode_text(sentences())[0][:, -1].detach()
    raised = torch.randn(len(text), V, generator=torch.Generator().manual_seed(3))
    raised = raised - raised.mean(1, keepdim=True)
    found = model.pull(text, image, raised)
    if not model.trained_by_gradient:
        assert not found.any()
        return
    (expected,) = torch.autograd.grad((raised * model.logits(text, image)).sum(), image)
    torch.testing.assert_close(found, expected)


@every_model
def test_a_sentence_begins_where_no_state_begins(name):
    model, tokens = make(name), sentences()
    torch.testing.assert_close(model.encode_text(tokens, model.begin(len(tokens)))[0], model.encode_text(tokens)[0])
