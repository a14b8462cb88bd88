"""CNN and m-RNN trained together."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_encoders import huggingface_folder

from mrnn.models import MRNN, MRNNConfig, TunedConfig, TunedMRNN
from mrnn.models.hand import TorchRuntime
from mrnn.models.tuned import augment, window
from mrnn.networks import load_encoder, module_of
from mrnn.networks.split import Stem, stem_of, tail
from mrnn.pipeline import Pipeline, load
from mrnn.runtime.folder import seal
from mrnn.text import SIGNS, Vocabulary
from mrnn.training import CaptionData, TrainingConfig, train

VOCABULARY = Vocabulary([*SIGNS, *(f"w{i}" for i in range(20))])
SIZES = {"embedding": 6, "word": 8, "recurrent": 8, "multimodal": 10}


def photos(n, side):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def whole():
    return load_encoder("efficientnet_lite0")


@pytest.fixture(scope="module")
def stem():
    return load_encoder("stem:16:efficientnet_lite0")


@pytest.mark.parametrize("block", [0, 10, 22])
def test_stem_and_tail_together_are_the_whole_network(whole, block):
    block = min(block, len(module_of(whole).blocks()) - 1)
    stem = stem_of(f"stem:{block}:efficientnet_lite0", whole.name, whole, block)
    pixels = photos(2, 224)
    config = TunedConfig(block=block, **SIZES)
    assert config.for_encoder("efficientnet_lite0") == stem.name
    TunedMRNN.check_encoder(stem)
    model = TunedMRNN.build(config, VOCABULARY, stem).eval()
    assert model.config.encoder == "efficientnet_lite0"
    features = stem(pixels).pooled
    assert features.shape[1:] == stem.feature_shape
    with torch.inference_mode():
        pooled = model.pool(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(pooled, whole(pixels).pooled, atol=1e-4, rtol=1e-4)


def test_a_stem_is_loaded_by_name(whole, stem):
    assert isinstance(stem, Stem)
    assert stem.name == "stem:16:efficientnet_lite0"
    assert stem.fingerprint == stem_of(stem.name, whole.name, whole, 16).fingerprint
    assert stem.fingerprint not in (whole.fingerprint, stem_of(stem.name, whole.name, whole, 15).fingerprint)
    with pytest.raises(ValueError, match="needs the stem of one, which efficientnet_lite0 is not"):
        TunedMRNN.check_encoder(whole)


@pytest.fixture(scope="module")
def made_of_transformers(tmp_path_factory):
    """Encoders of small random models by name, each made once."""
    loaded = {}

    def encoder(name):
        if name not in loaded:
            loaded[name] = load_encoder(huggingface_folder(name, tmp_path_factory.mktemp(name)))
        return loaded[name]

    return encoder


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "registers", "vit", "convnext"])
@pytest.mark.parametrize("block", [0, 1, 3])
def test_a_model_of_transformers_is_cut_too(made_of_transformers, name, block):
    whole = made_of_transformers(name)
    stem = load_encoder(f"stem:{block}:{whole.name}")
    model = TunedMRNN(TunedConfig(encoder=whole.name, block=block, **SIZES), 23, whole.width).eval()
    model.tail.load_state_dict(stem.tail.state_dict())
    pixels = photos(2, whole.preprocessing.side)
    features = stem(pixels).pooled
    assert features.shape[1:] == stem.feature_shape
    given = torch.from_numpy(features)
    torch.testing.assert_close(model.pool(given), torch.from_numpy(whole(pixels).pooled), atol=1e-4, rtol=1e-4)
    model.train()
    model.pool(given).square().sum().backward()
    trained = [name for name, p in model.tail.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    # A class token alone is pooled, or a bias moves every key alike: a few parameters may have no say.
    assert len(trained) > 0.7 * len(list(model.tail.parameters()))


def test_a_network_that_is_more_than_its_blocks_is_not_cut(monkeypatch, tmp_path):
    spec = huggingface_folder("vit", tmp_path)
    from mrnn.networks.huggingface import VisionTower

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


def made(stem, checkpointing=False):
    torch.manual_seed(0)
    model = TunedMRNN.build(TunedConfig(block=16, checkpointing=checkpointing, **SIZES), VOCABULARY, stem)
    features = torch.from_numpy(stem(photos(6, 224)).pooled)
    data = CaptionData([[3 + i % 6, 9] for i in range(12)], [i % 6 for i in range(12)], features)
    return model, data


def test_the_cnn_is_trained_at_its_own_rate_and_goes_on_after_a_stop(stem, tmp_path):
    config = TrainingConfig(epochs=2, batch=4, precision="float32", encoder_rate=0.01, together=True, optimizer="sgd")
    model, data = made(stem)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, VOCABULARY, data, data, config, tmp_path / "a")
    moved = {name: (p - before[name]).norm() / before[name].norm() for name, p in model.named_parameters()}
    cnn = [m for name, m in moved.items() if name.startswith("tail")]
    assert min(cnn) > 0, "every layer of the tail is trained"
    assert max(cnn) < 0.2 * moved["V_I.weight"]
    again, _ = made(stem)
    train(again, VOCABULARY, data, data, config, tmp_path / "a")
    torch.testing.assert_close(again.state_dict(), model.state_dict())
    steps = [json.loads(line)["steps"] for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert set(steps) == {6}, "two images of two captions a batch"


def test_checkpointing_gives_the_same_gradients(stem):
    gradients = []
    for checkpointing in (False, True):
        model, data = made(stem, checkpointing)
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


def test_windows_are_for_training_alone(stem):
    model, data = made(stem)
    assert torch.equal(model.eval().pool(data.features), model.pool(data.features))
    model.train()
    assert len({model.last_map(data.features).shape[2:] for _ in range(20)}) > 1


def at_use(model, stem):
    """As it is made of a trained model: with stem and tail as its encoder."""
    joined = model.join(stem)
    runtime = TorchRuntime(model, "mrnn-tuned", joined.feature_shape)
    return Pipeline(runtime, VOCABULARY, joined, described=stem.describe())


def trained(stem):
    """Stands for a model whose CNN's tail was trained."""
    model, _ = made(stem)
    with torch.no_grad():
        for parameter in model.tail.parameters():
            parameter.mul_(1.01)
    return model.eval()


@pytest.fixture(scope="module")
def saved(whole, stem, tmp_path_factory):
    """The folders of a plain and of a tuned model of the same words."""
    folder = tmp_path_factory.mktemp("saved")
    plain = MRNN(MRNNConfig(**SIZES), len(VOCABULARY), 1280)
    assert Pipeline(TorchRuntime(plain, "mrnn"), VOCABULARY, whole).save(folder / "plain") == []
    assert at_use(trained(stem), stem).save(folder / "tuned") == []
    return folder / "plain", folder / "tuned"


def test_a_pipeline_encodes_a_photo_with_the_trained_tail(whole, stem, saved):
    model = trained(stem)
    photo = Image.fromarray(photos(1, 300)[0])
    maps = torch.from_numpy(stem(stem.pixels(photo)[None]).pooled)
    with torch.inference_mode():
        expected = model.encode_image(maps).numpy()
    given = at_use(model, stem)
    for pipeline in (given, *(load(saved[1], hand, "cpu") for hand in ("onnx", "torch"))):
        features = pipeline.features([photo])
        assert features.shape == (1, *pipeline.model.feature_shape) == (1, 1280)
        np.testing.assert_allclose(pipeline.model.encode_image(features), expected, atol=2e-3, rtol=2e-3)
        assert pipeline.encoder.fingerprint == given.encoder.fingerprint
        assert pipeline.encoder.fingerprint not in (stem.fingerprint, whole.fingerprint)
        assert pipeline.encoder_description["fingerprint"] == stem.fingerprint


def test_of_an_ensemble_a_tuned_model_sees_a_photo_by_its_own_encoder(saved):
    members, both = [load(folder) for folder in saved], load("+".join(map(str, saved)))
    photo = Image.fromarray(photos(1, 300)[0])
    seen = [member.features([photo]) for member in members]
    assert np.abs(seen[0] - seen[1]).max() > 1e-3
    features = both.features([photo])
    np.testing.assert_array_equal(features, np.concatenate(seen, 1))
    images = [member.model.encode_image(f) for member, f in zip(members, seen, strict=True)]
    np.testing.assert_array_equal(both.model.encode_image(features), np.concatenate(images, 1))


def test_an_ensemble_whose_encoders_want_photos_of_other_sizes_is_refused(saved, tmp_path):
    larger = tmp_path / "larger"
    shutil.copytree(saved[0], larger)
    config = json.loads((larger / "config.json").read_text())
    config["encoder"]["preprocessing"]["side"] += 32
    config["encoder"]["sealed"] = seal(config["encoder"]["preprocessing"], config["files"])
    (larger / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="side by side need photos of the same size and kind"):
        load(f"{larger}+{saved[1]}")


def test_a_map_that_is_flattened_next_stays_whole():
    model = TunedMRNN(TunedConfig(encoder="alexnet", block=14, **SIZES), len(VOCABULARY), 4096).train()
    assert model.pool(torch.randn(2, 256, 6, 6)).shape == (2, 4096)


def test_a_contradiction_is_refused():
    with pytest.raises(ValueError, match="block"):
        TunedConfig(block=-1)
    with pytest.raises(ValueError, match="encoder_rate"):
        replace(TrainingConfig(), encoder_rate=-0.1)
