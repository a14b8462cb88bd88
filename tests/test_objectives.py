"""Terms beside the likelihood, and what they are measured by: each against a plain oracle."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import CONFIG, VOCABULARY, made_data, small_model
from tiny import make

from mrnn.cider import CIDEr
from mrnn.models import MRNN, MRNNClasses, MRNNConfig, class_words
from mrnn.models.classes import ClassesConfig
from mrnn.models.hand import TorchRuntime
from mrnn.tasks.generation import draw
from mrnn.tasks.likelihood import log_likelihood_of, token_log_probabilities
from mrnn.text import SIGNS, Vocabulary
from mrnn.training import CaptionData, ObjectiveConfig, train
from mrnn.training.agreement import agreement_weights
from mrnn.training.batch import Batch
from mrnn.training.contrastive import Contrastive
from mrnn.training.objective import Objective, bits
from mrnn.training.self_critical import SelfCritical
from mrnn.training.softmax import cross_entropy
from mrnn.training.warm_start import warm_start


def test_cider_is_the_fields():
    from pycocoevalcap.cider.cider import Cider

    generator = np.random.default_rng(0)
    words = [f"w{i}" for i in range(12)]
    truths = [[generator.choice(words, generator.integers(3, 9)).tolist() for _ in range(3)] for _ in range(20)]
    said = [generator.choice(words, generator.integers(2, 9)).tolist() for _ in range(20)]
    _, expected = Cider().compute_score(
        {i: [" ".join(s) for s in several] for i, several in enumerate(truths)},
        {i: [" ".join(s)] for i, s in enumerate(said)},
    )
    cider = CIDEr(truths)
    assert [cider(i, s) for i, s in enumerate(said)] == pytest.approx(list(expected))
    with pytest.raises(ValueError, match="one reference or more"):
        CIDEr([[["a"]], []])


def test_agreement_is_the_cider_of_a_reference_against_the_others():
    generator = np.random.default_rng(0)
    words = [f"w{i}" for i in range(12)]
    truths = [[generator.choice(words, generator.integers(3, 9)).tolist() for _ in range(3)] for _ in range(20)]
    cider = CIDEr([*truths, [["alone"]]])
    for image, several in enumerate(truths):
        # Against all three, itself among them, with which it agrees wholly in every order that it has.
        itself = [10 * min(len(sentence), 4) / 4 for sentence in several]
        others = [(3 * cider(image, s) - own) / 2 for s, own in zip(several, itself, strict=True)]
        assert cider.agreement(image) == pytest.approx(others, abs=1e-9)
    assert cider.agreement(20) == [0.0]


def test_captions_count_by_their_agreement():
    # Two photos of three captions and one of one, in any order, and two sentences of none.
    said = [(0, [3, 4, 5]), (2, [9]), (1, [6, 7]), (0, [3, 4, 6]), (1, [8, 3]), (0, [10, 11]), (1, [6, 7, 12])]
    data = CaptionData([s for _, s in said], [i for i, _ in said], torch.randn(3, 7)).with_text([[5, 6], [3]])
    assert agreement_weights(data, VOCABULARY, 0.0).tolist() == [1.0] * 9
    weights = agreement_weights(data, VOCABULARY, 2.0)
    cider = CIDEr([[[*s, VOCABULARY.end] for i, s in said if i == image] for image in range(3)])
    for image in range(3):
        mine = [row for row, (i, _) in enumerate(said) if i == image]
        e = [math.exp(2 * score) for score in cider.agreement(image)]
        assert weights[mine].tolist() == pytest.approx([len(e) * x / sum(e) for x in e])
    assert weights[[0, 3]].min() > weights[5], "two captions that agree count more than the third"
    assert weights[7:].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("softmax", ["full", "sampled"])
def test_a_sentence_that_counts_twice_costs_as_much_as_two(softmax):
    model, data = make("mrnn"), made_data(3)
    config = ObjectiveConfig(softmax=softmax, negatives=10)
    once = Batch.of(data.sentences, [0, 1, 2], VOCABULARY, torch.tensor([2.0, 1.0, 0.0]))
    twice = Batch.of([data.sentences[i] for i in (0, 0, 1)], [0, 0, 1], VOCABULARY)
    costs = []
    for batch in (once, twice):
        torch.manual_seed(0)
        costs.append(bits(model, batch, model.encode_image(data.features[batch.images]), config)[0])
    torch.testing.assert_close(*costs)


def test_drawn_sentences_follow_the_models_distribution():
    torch.manual_seed(0)
    model = make("mrnn")
    vocabulary = Vocabulary([*SIGNS, *(f"w{i}" for i in range(20))])
    image = model.encode_image(torch.randn(1, 7))
    with torch.no_grad():
        text, _ = model.encode_text(torch.tensor([[vocabulary.start]]))
        p = model.logits(text[0], image)[0].double().softmax(-1)
    p[[vocabulary.start, vocabulary.unknown]] = 0
    p = p / p.sum()
    runtime, uniform = TorchRuntime(model, "mrnn"), np.random.default_rng(0).random
    (drawn,) = draw(runtime, vocabulary, image.detach().numpy(), 20000, uniform, max_length=3)
    firsts = [s[0] if s else vocabulary.end for s in drawn]
    counts = torch.bincount(torch.tensor(firsts), minlength=23).double() / len(firsts)
    assert (counts - p).abs().max() < 5 * (0.25 / 20000) ** 0.5
    assert max(map(len, drawn)) <= 3


def test_a_sampled_softmax_estimates_the_whole():
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(50, 16), 0.3 * torch.randn(3000, 16), torch.randn(3000)
    targets = torch.randint(0, 3000, (50,))
    whole = cross_entropy(hidden, weight, bias, targets)
    estimates = [cross_entropy(hidden, weight, bias, targets, "sampled", negatives=500) for _ in range(40)]
    assert torch.stack(estimates).mean() == pytest.approx(whole.item(), rel=0.01)
    assert cross_entropy(hidden, weight, bias, targets, "sampled", negatives=5000) == pytest.approx(whole.item())


def test_contrastive_scores_are_first_order_scores():
    model, data = make("mrnn"), made_data(6)
    term = Contrastive()
    with torch.no_grad():
        term.log_scale.fill_(0.7)
    (batch,) = data.batches(VOCABULARY, 6, 0, 0)
    image = model.encode_image(data.features[batch.images]).detach()
    centre, step = image.mean(0), 1e-2
    sentences = [data.sentences[i] for i in batch.images.tolist()]  # one sentence an image, in their order
    scores, runtime = torch.empty(6, 6), TorchRuntime(model, "mrnn")
    for j in range(6):
        there = centre + step * (image[j] - centre)
        back = centre - step * (image[j] - centre)
        a, b = (
            torch.tensor([sum(t) for t in token_log_probabilities(runtime, VOCABULARY, sentences, at)])
            for at in (there.repeat(6, 1).numpy(), back.repeat(6, 1).numpy())
        )
        scores[:, j] = math.exp(0.7) * (a - b) / (2 * step)
    own = torch.arange(6)
    expected = torch.nn.functional.cross_entropy(scores, own) + torch.nn.functional.cross_entropy(scores.t(), own)
    assert term(model, batch, image, batch.images).item() == pytest.approx(expected.item() / 2, rel=1e-2)


def test_sentences_of_one_image_are_not_told_apart():
    model, data = make("mrnn"), made_data(4)
    batch = Batch.of([[5, 6], [7]], [0, 0], VOCABULARY)
    image = model.encode_image(data.features[batch.images])
    assert Contrastive()(model, batch, image, batch.images).item() == pytest.approx(0, abs=1e-6)
    views = Batch.of([[5, 6], [7]], [2, 3], VOCABULARY)
    image = model.encode_image(data.features[views.images])
    assert Contrastive(views=2)(model, views, image, views.images).item() == pytest.approx(0, abs=1e-6)
    assert Contrastive()(model, views, image, views.images).item() > 1e-3


def test_the_self_critical_gradient_raises_the_likely_reward():
    torch.manual_seed(0)
    model, data = small_model(), made_data(32)
    term = SelfCritical(VOCABULARY, data, 8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    rewards = []
    for _ in range(60):
        loss, reward = term(model, list(range(32)), data.features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rewards.append(reward.item())
    assert np.mean(rewards[-10:]) > 2 * np.mean(rewards[:10])


def test_the_self_critical_term_ignores_the_mean_image():
    model = make("mrnn")
    photos = made_data(6)
    data = photos.with_text([[5, 6], [7]])
    assert SelfCritical(VOCABULARY, data, 3).row == {i: i for i in range(6)}, "no reference is of the mean image"

    def measured(of, rows):
        torch.manual_seed(0)
        loss, reward = SelfCritical(VOCABULARY, of, 3)(model, rows, data.features[rows])
        model.zero_grad()
        loss.backward()
        return loss.detach(), reward, [torch.zeros(()) if p.grad is None else p.grad for p in model.parameters()]

    torch.testing.assert_close(measured(data, [0, 6, 3]), measured(photos, [0, 3]))
    loss, reward, gradients = measured(data, [6])
    assert loss == reward == 0 and not any(gradient.any() for gradient in gradients)


def test_self_criticism_alone_learns_nothing_from_a_batch_without_photos(tmp_path):
    objective = ObjectiveConfig(likelihood=0.0, self_critical=1.0)
    config = replace(CONFIG, epochs=1, batch=2, together=True, objective=objective)
    data = made_data(4).with_text(made_data(8, seed=1).sentences)
    records = []
    model = small_model()
    train(model, VOCABULARY, data, made_data(4, seed=2), config, tmp_path, None, records.append)
    assert all(p.isfinite().all() for p in model.parameters())
    assert "dev_perplexity" in records[-1]


OBJECTIVES = {
    "smooth": ObjectiveConfig(label_smoothing=0.1),
    "contrastive": ObjectiveConfig(contrastive=0.3),
    "self-critical": ObjectiveConfig(likelihood=0.5, self_critical=1.0),
    "sampled": ObjectiveConfig(softmax="sampled", negatives=10),
    "agreement": ObjectiveConfig(agreement=2.0),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_term_trains_and_goes_on_as_if_never_stopped(tmp_path, name):
    config = replace(CONFIG, epochs=3, objective=OBJECTIVES[name], average=0.5, accumulate=2)
    config = replace(config, choose="cider" if name == "self-critical" else "perplexity", schedule="constant")
    data, dev = made_data(48), made_data(16, seed=1)
    data = replace(data, images=[i // 3 for i in data.images])
    records = []
    whole = small_model()
    train(whole, VOCABULARY, data, dev, config, tmp_path / "whole", None, records.append)
    assert {"contrastive": "contrastive", "self-critical": "reward"}.get(name, "bits") in records[0]

    class Killed(Exception):
        pass

    def kill(record):
        if record["epoch"] == 2 and "dev_perplexity" not in record:
            raise Killed

    with pytest.raises(Killed):
        train(small_model(), VOCABULARY, data, dev, config, tmp_path / "killed", None, kill)
    again = small_model(seed=5)
    train(again, VOCABULARY, data, dev, config, tmp_path / "killed")
    torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_accumulated_gradients_are_the_batchs():
    data = made_data(24)
    weights = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        model = MRNN(MRNNConfig(embedding=6, word=8, recurrent=8, multimodal=10), len(VOCABULARY), 7)
        (batch,) = data.batches(VOCABULARY, 24, 0, 0, weights=torch.linspace(0, 2, 24))
        objective = Objective(ObjectiveConfig(), VOCABULARY, data)
        total = sum(c.tokens for c in [objective(model, batch, data.features)])
        for part in batch.split(24 // accumulate):
            cost = objective(model, part, data.features)
            (cost.total * cost.tokens / total).backward()
        weights.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*weights)


def test_a_warm_start_keeps_the_vectors_of_shared_words():
    old = Vocabulary([*SIGNS, "a", "dog", "runs"])
    new = Vocabulary([*SIGNS, "runs", "cat", "a", "sits"])
    sizes = MRNNConfig(embedding=6, word=8, recurrent=8, multimodal=10)
    start, model = MRNN(sizes, 6, 7), MRNN(sizes, 7, 7)
    fresh = model.W_1.weight[4].clone()
    assert warm_start(model, new, start, old) == []
    assert torch.equal(model.W_1.weight[3], start.W_1.weight[5])
    assert torch.equal(model.U_M.weight[5], start.U_M.weight[3])
    assert torch.equal(model.W_1.weight[4], fresh)
    assert torch.equal(model.U_r.weight, start.U_r.weight)
    wider = MRNN(replace(sizes, multimodal=12), 7, 7)
    assert "V_I.weight" in warm_start(wider, new, start, old)


def test_a_sentence_without_an_image_has_that_of_none():
    data = made_data(10)
    both = replace(data, features=data.features).with_text([[5, 6], [7]])
    assert len(both.sentences) == 12
    assert both.images[-2:] == [10, 10]
    torch.testing.assert_close(both.features[10], data.features.mean(0))


def test_class_words_speak_for_what_the_classifier_sees():
    vocabulary = Vocabulary([*SIGNS, "a", "cat", "coffee", "sits"])
    words, ids = class_words(vocabulary)
    assert (words, ids) == (("cat", "coffee"), (4, 5))
    torch.manual_seed(0)
    sizes = ClassesConfig(embedding=6, word=8, recurrent=8, multimodal=10, words=words, ids=ids)
    model = MRNNClasses(sizes, len(vocabulary), 7).eval()
    with torch.no_grad():
        model.classifier_weight[281:286, 0] = 9.0  # the first feature is all about cats
    model.fit_features(torch.randn(50, 7) * 0.01)
    nothing, cat = model.feature_mean[None], model.feature_mean[None] + torch.eye(7)[:1]
    assert not model.evidence(nothing).any()
    assert model.evidence(cat)[0, 0] > 3 > model.evidence(cat)[0, 1] == 0
    cells = model.feature_mean + 0.1 * torch.eye(7)
    several, whole = model.encode_cells(cells), model.encode_image(cells.mean(0, keepdim=True))
    torch.testing.assert_close(several.mean(0, keepdim=True), whole)
    assert several[:, -2].argmax() == 0 and whole[0, -2] > 0, "the evidence for a cat is where the cat is"
    sentence = [[3, 4]]

    def score(model, features):
        runtime = TorchRuntime(model, "mrnn-classes")
        return log_likelihood_of(runtime, vocabulary, sentence, [0], features.numpy())

    seen, unseen = score(model, cat), score(model, nothing)
    without = MRNNClasses(sizes, len(vocabulary), 7).eval()
    without.load_state_dict({**model.state_dict(), "a": torch.zeros(())})
    assert seen > score(without, cat)
    np.testing.assert_allclose(score(without, nothing), unseen, rtol=1.3e-6, atol=1e-5)
