"""CNN and m-RNN trained together."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_encoders import huggingface_folder

from mrnn.encoders import load_encoder
from mrnn.encoders.split import tail
from mrnn.models import MRNN, MRNNConfig, TunedConfig, TunedMRNN
from mrnn.models.tuned import augment, window
from mrnn.pipeline import Pipeline, load
from mrnn.text import SIGNS, Vocabulary
from mrnn.training import CaptionData, TrainingConfig, train

VOCABULARY = Vocabulary([*SIGNS, *(f"w{i}" for i in range(20))])
SIZES = {"embedding": 6, "word": 8, "recurrent": 8, "multimodal": 10}


def photos(n, side):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8))


@pytest.mark.parametrize("block", [0, 10, 22])
def test_stem_and_tail_together_are_the_whole_network(block):
    whole, stem = load_encoder("efficientnet_lite0"), None
    blocks = len(whole.network.blocks())
    block = min(block, blocks - 1)
    stem = load_encoder(f"stem:{block}:efficientnet_lite0")
    pixels = photos(2, 224)
    model = TunedMRNN(TunedConfig(encoder="efficientnet_lite0", block=block, **SIZES), 23, 1280).eval()
    model.tail.load_state_dict(stem.tail.state_dict())
    features = stem(pixels).pooled
    assert tuple(features.shape[1:]) == stem.row
    with torch.inference_mode():
        torch.testing.assert_close(model.pool(features), whole(pixels).pooled, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "registers", "vit", "convnext"])
@pytest.mark.parametrize("block", [0, 1, 3])
def test_a_model_of_transformers_is_cut_too(name, block, tmp_path):
    spec = huggingface_folder(name, tmp_path)
    whole, stem = load_encoder(spec), load_encoder(f"stem:{block}:{spec}")
    model = TunedMRNN(TunedConfig(encoder=spec, block=block, **SIZES), 23, whole.width).eval()
    model.tail.load_state_dict(stem.tail.state_dict())
    pixels = photos(2, whole.preprocessing.side)
    features = stem(pixels).pooled
    assert tuple(features.shape[1:]) == stem.row
    torch.testing.assert_close(model.pool(features.clone()), whole(pixels).pooled.clone(), atol=1e-4, rtol=1e-4)
    model.train()
    model.pool(features.clone()).square().sum().backward()
    trained = [name for name, p in model.tail.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    # A class token alone is pooled, or a bias moves every key alike: a few parameters may have no say.
    assert len(trained) > 0.7 * len(list(model.tail.parameters()))


def test_a_network_that_is_more_than_its_blocks_is_not_cut(monkeypatch, tmp_path):
    spec = huggingface_folder("vit", tmp_path)
    from mrnn.encoders.huggingface import VisionTower

    blocks = VisionTower.blocks
    monkeypatch.setattr(VisionTower, "blocks", lambda self: blocks(self).append(torch.nn.ReLU()))
    with pytest.raises(ValueError, match=r"huggingface:.* is more than its blocks one after the other"):
        load_encoder(f"stem:1:{spec}")


def test_a_block_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="blocks of efficientnet_lite0 are 0 to"):
        tail("efficientnet_lite0", 99)
    with pytest.raises(ValueError, match="cannot be trained"):
        tail("huggingface:", 0)
    with pytest.raises(ValueError, match="huggingface:/nowhere cannot be loaded"):
        tail("huggingface:/nowhere", 0)
    with pytest.raises(ValueError, match="stem:BLOCK:ENCODER"):
        load_encoder("stem:efficientnet_lite0")


def made(checkpointing=False):
    torch.manual_seed(0)
    stem = load_encoder("stem:16:efficientnet_lite0")
    config = TunedConfig(encoder="efficientnet_lite0", block=16, checkpointing=checkpointing, **SIZES)
    model = TunedMRNN(config, len(VOCABULARY), 1280)
    model.tail.load_state_dict(stem.tail.state_dict())
    features = stem(photos(6, 224)).pooled.clone()
    data = CaptionData([[3 + i % 6, 9] for i in range(12)], [i % 6 for i in range(12)], features)
    return model, data


def test_the_cnn_is_trained_at_its_own_rate_and_goes_on_after_a_stop(tmp_path):
    config = TrainingConfig(epochs=2, batch=4, precision="float32", encoder_rate=0.01, together=True, optimizer="sgd")
    model, data = made()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, VOCABULARY, data, data, config, tmp_path / "a")
    moved = {name: (p - before[name]).norm() / before[name].norm() for name, p in model.named_parameters()}
    cnn = [m for name, m in moved.items() if name.startswith("tail")]
    assert min(cnn) > 0, "every layer of the tail is trained"
    assert max(cnn) < 0.2 * moved["V_I.weight"]
    again, _ = made()
    train(again, VOCABULARY, data, data, config, tmp_path / "a")
    torch.testing.assert_close(again.state_dict(), model.state_dict())
    steps = [json.loads(line)["steps"] for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert set(steps) == {6}, "two images of two captions a batch"


def test_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model, data = made(checkpointing)
        model.train()
        model.encode_image(data.features).square().sum().backward()
        gradients.append([p.grad for p in model.tail.parameters()])
    torch.testing.assert_close(*gradients)


def test_together_an_epoch_sees_each_image_in_one_batch_and_one_view():
    data = CaptionData([[3, 4]] * 20, [i // 5 for i in range(20)], torch.zeros(8, 7), 2, [2] * 20)
    batches = list(data.batches(VOCABULARY, 10, 0, 0, together=True))
    assert len(batches) == data.steps(10, together=True) == 2
    seen = [row for batch in batches for row in set(batch.images.tolist())]
    assert sorted(row // 2 for row in seen) == [0, 1, 2, 3]


def test_augmented_photos_keep_their_shape_and_differ():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 16)
    y = augment(x)
    assert y.shape == x.shape
    assert not torch.equal(augment(x), y)


def test_a_window_is_a_part_of_its_maps():
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(17.0), torch.arange(13.0), indexing="ij")
    maps = torch.stack([rows, columns]).expand(2, -1, -1, -1)
    seen = set()
    for _ in range(200):
        y = window(maps)
        top, left, (h, w) = int(y[0, 0, 0, 0]), int(y[0, 1, 0, 0]), y.shape[2:]
        torch.testing.assert_close(y, maps[:, :, top : top + h, left : left + w])
        seen.add((h, w))
    assert seen == {(h, w) for h in range(12, 18) for w in range(10, 14)}


def test_windows_are_for_training_alone():
    model, data = made()
    assert torch.equal(model.eval().pool(data.features), model.pool(data.features))
    model.train()
    assert len({model.last_map(data.features).shape[2:] for _ in range(20)}) > 1


def test_a_pipeline_encodes_a_photo_with_the_trained_tail(tmp_path):
    model, _ = made()
    stem = load_encoder("stem:16:efficientnet_lite0")
    with torch.no_grad():
        for parameter in model.tail.parameters():
            parameter.mul_(1.01)
    photo = Image.fromarray(photos(1, 300)[0].numpy())
    maps = stem(torch.tensor(stem.pixels(photo))[None]).pooled.clone()
    expected = model.eval().encode_image(maps)
    given = Pipeline(model, VOCABULARY, stem)
    given.save(tmp_path / "model")
    for pipeline in (given, load(tmp_path / "model")):
        features = pipeline.features([photo])
        assert features.shape == (1, *pipeline.row) == (1, 1280)
        torch.testing.assert_close(pipeline.model.encode_image(features), expected, atol=2e-3, rtol=2e-3)
        assert pipeline.encoder.fingerprint not in (stem.fingerprint, load_encoder("efficientnet_lite0").fingerprint)


def test_an_ensemble_of_a_tuned_and_a_plain_model_is_refused(tmp_path):
    model, _ = made()
    Pipeline(model, VOCABULARY, load_encoder("stem:16:efficientnet_lite0")).save(tmp_path / "tuned")
    plain = MRNN(MRNNConfig(**SIZES), len(VOCABULARY), 1280)
    Pipeline(plain, VOCABULARY, load_encoder("efficientnet_lite0")).save(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"need the same encoder, not efficientnet_lite0 and stem:16"):
        load(f"{tmp_path / 'plain'}+{tmp_path / 'tuned'}")


def test_a_map_that_is_flattened_next_stays_whole():
    model = TunedMRNN(TunedConfig(encoder="alexnet", block=14, **SIZES), len(VOCABULARY), 4096).train()
    assert model.pool(torch.randn(2, 256, 6, 6)).shape == (2, 4096)


def test_a_contradiction_is_refused():
    with pytest.raises(ValueError, match="block"):
        TunedConfig(block=-1)
    with pytest.raises(ValueError, match="encoder_rate"):
        replace(TrainingConfig(), encoder_rate=0.0)
