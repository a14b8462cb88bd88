import copy
import itertools
import json
import multiprocessing
import os
import pickle
import time
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from mrnn.encoders import FeatureCache, ImageFeatures, pool_features
from mrnn.encoders.proposals import load_proposer
from mrnn.images import ImageError, Preprocessing
from mrnn.networks import alexnet, blank_network, efficientnet_lite, load_encoder, located, module_of, torch_encoder
from mrnn.networks.vgg import VGG

LITE = [*(f"efficientnet_lite{n}" for n in range(3)), "efficientnet_lite2@320"]
PAIR = "efficientnet_lite1+0@224"
CHECKPOINT_NETWORKS = {"alexnet": alexnet.AlexNet, "vgg16": lambda: VGG(16)}
HUGGINGFACE = ["clip", "siglip", "dinov2", "registers", "vit", "convnext"]


def noise(seed=0, size=(90, 60)):
    values = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def small_state(network):
    # Every row is another window into one short random buffer: rows differ, the file stays small
    buffer = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    state = {}
    for name, tensor in network.state_dict().items():
        rows, columns = len(tensor), tensor[0].numel()
        scale = (2 / columns) ** 0.5 if tensor.ndim > 1 else 0.01
        windows = (buffer * scale).as_strided((rows, columns), ((len(buffer) - columns) // rows, 1))
        state[name] = windows.unflatten(1, tensor.shape[1:]) if tensor.ndim > 1 else windows[:, 0]
    return state


def huggingface_folder(name, folder):
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**small, "image_size": 32, "patch_size": 8}
    text = {**small, "vocab_size": 50, "max_position_embeddings": 8}
    torch.manual_seed(0)
    if name == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        model = transformers.CLIPModel(config)
        processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    elif name == "siglip":
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
        processor = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    elif name == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**{**vision, "image_size": 28, "patch_size": 7}))
        processor = transformers.BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28})
    elif name == "registers":
        config = transformers.Dinov2WithRegistersConfig(**vision, num_register_tokens=4)
        model = transformers.Dinov2WithRegistersModel(config)
        processor = transformers.BitImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    elif name == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**vision))
        processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    else:
        config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
        model = transformers.ConvNextModel(config)
        processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return f"huggingface:{folder}"


@pytest.fixture(scope="module")
def spec_of(tmp_path_factory):
    made = {}

    def spec(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            if name in CHECKPOINT_NETWORKS:
                with torch.device("meta"):
                    network = CHECKPOINT_NETWORKS[name]()
                torch.save(small_state(network), folder / "weights.pth")
                made[name] = f"{name}:{folder / 'weights.pth'}"
            else:
                made[name] = name if name in (*LITE, PAIR) else huggingface_folder(name, folder)
        return made[name]

    return spec


@pytest.fixture(scope="module")
def encoder_of(spec_of):
    """Encoders by name, each loaded once; those of large checkpoints are not held."""
    loaded = {}

    def encoder(name):
        if name in CHECKPOINT_NETWORKS:
            return load_encoder(spec_of(name))
        if name not in loaded:
            loaded[name] = load_encoder(spec_of(name))
        return loaded[name]

    return encoder


GRIDS = {
    "efficientnet_lite0": (7, 7, 1280),
    "efficientnet_lite1": (8, 8, 1280),
    "efficientnet_lite2": (9, 9, 1280),
    "efficientnet_lite2@320": (10, 10, 1280),
    PAIR: (7, 7, 2560),
    "alexnet": None,
    "vgg16": None,
    "clip": (4, 4, 32),
    "siglip": (4, 4, 32),
    "dinov2": (4, 4, 32),
    "registers": (4, 4, 32),
    "vit": (4, 4, 32),
    "convnext": (2, 2, 32),
}
WIDTHS = {
    **dict.fromkeys(LITE, 1280),
    PAIR: 2560,
    "alexnet": 4096,
    "vgg16": 4096,
    "clip": 24,
    **dict.fromkeys(HUGGINGFACE[1:], 32),
}


@pytest.mark.parametrize("name", GRIDS)
def test_every_encoder_keeps_the_contract(spec_of, encoder_of, name):
    spec, encoder = spec_of(name), encoder_of(name)
    assert encoder.width == WIDTHS[name]
    assert encoder.feature_shape == (encoder.width,)
    photos = [noise(0), noise(1, (60, 90)), noise(2, (64, 64))]
    pixels = np.stack([encoder.preprocessing(photo) for photo in photos])
    together = encoder(pixels)
    assert isinstance(together, ImageFeatures)
    assert together.pooled.shape == (3, encoder.width)
    assert together.pooled.dtype == np.float32
    assert np.isfinite(together.pooled).all()
    assert np.abs(together.pooled[0] - together.pooled[1]).max() > 1e-4
    if GRIDS[name] is None:
        assert together.grid is None
    else:
        assert together.grid.shape == (3, *GRIDS[name])
        assert np.isfinite(together.grid).all()
    for i in range(3):
        alone = encoder(pixels[i : i + 1])
        assert np.abs(alone.pooled[0] - together.pooled[i]).max() <= 1e-4
        if together.grid is not None:
            assert np.abs(alone.grid[0] - together.grid[i]).max() <= 1e-4
    described = encoder.describe()
    assert json.loads(json.dumps(described))["name"] == spec
    assert (described["width"], described["fingerprint"]) == (encoder.width, encoder.fingerprint)
    assert Preprocessing.from_dict(json.loads(json.dumps(described["preprocessing"]))) == encoder.preprocessing
    assert not any(parameter.requires_grad for parameter in module_of(encoder).parameters())
    assert not any(module.training for module in module_of(encoder).modules())
    assert load_encoder(spec).fingerprint == encoder.fingerprint


@pytest.mark.parametrize("name", LITE)
def test_pooled_features_of_a_lite_network_are_the_mean_of_its_grid(encoder_of, name):
    encoder = encoder_of(name)
    features = encoder(encoder.preprocessing(noise())[None])
    assert np.abs(features.grid.mean((1, 2)) - features.pooled).max() <= 1e-5


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_huggingface_features_are_those_of_the_model_and_its_own_processor(spec_of, encoder_of, name):
    transformers = pytest.importorskip("transformers")
    folder = spec_of(name).partition(":")[2]
    encoder = encoder_of(name)
    normalised = encoder.network.module
    model, processor = (
        transformers.AutoModel.from_pretrained(folder),
        transformers.AutoImageProcessor.from_pretrained(folder),
    )
    for size in ((90, 60), (60, 91), (101, 67)):
        photo = noise(3, size)
        pixels = processor(photo, return_tensors="pt")["pixel_values"]
        ours = torch.tensor(encoder.preprocessing(photo)).float()
        ours = ((ours - normalised.mean) / normalised.std).permute(2, 0, 1)
        assert ours.shape == pixels.shape[1:]
        assert (ours - pixels[0]).abs().max() <= 0.02
    with torch.inference_mode():
        if name in ("clip", "siglip"):
            output = model.get_image_features(pixel_values=ours[None])
            pooled = getattr(output, "pooler_output", output)
        else:
            pooled = model(pixel_values=ours[None]).pooler_output.flatten(1)
    assert (normalised.network(ours[None])[0] - pooled).abs().max() <= 1e-4
    assert np.abs(encoder(encoder.preprocessing(photo)[None]).pooled - pooled.numpy()).max() <= 1e-4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, {"side": 384, "resize": "squash", "scale": 1.0}),
        ({"size": {"shortest_edge": 64}, "crop_pct": 0.5}, {"side": 64, "resize": "crop", "scale": 2.0}),
        ({"size": 64}, {"side": 64, "resize": "crop"}),
    ],
)
def test_convnext_crops_below_384_and_squashes_from_there(spec_of, tmp_path, changes, expected):
    folder = Path(spec_of("convnext").partition(":")[2])
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config | changes))
    preprocessing = load_encoder(f"huggingface:{tmp_path}").preprocessing
    assert {key: getattr(preprocessing, key) for key in expected} == expected


def test_a_file_or_folder_named_from_where_one_is_is_found_from_anywhere(spec_of, tmp_path, monkeypatch):
    folder = Path(spec_of("vit").partition(":")[2])
    monkeypatch.chdir(folder.parent)
    encoder = load_encoder(f"huggingface:{folder.name}")
    monkeypatch.chdir(tmp_path)
    assert load_encoder(encoder.describe()["name"]).fingerprint == encoder.fingerprint
    assert located("stem:9:vgg16:nothing.pth") == "stem:9:vgg16:nothing.pth"
    (tmp_path / "weights.pth").touch()
    (tmp_path / "efficientnet_lite2").touch()
    assert located("stem:9:vgg16:weights.pth") == f"stem:9:vgg16:{tmp_path / 'weights.pth'}"
    assert located("stem:9:efficientnet_lite2") == "stem:9:efficientnet_lite2"


def test_a_checkpoint_without_a_pooler_gives_its_class_token_and_never_random_weights(spec_of, tmp_path):
    transformers = pytest.importorskip("transformers")
    whole = Path(spec_of("vit").partition(":")[2])
    torch.manual_seed(0)
    classifier = transformers.ViTForImageClassification(transformers.ViTConfig.from_pretrained(whole))
    classifier.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((whole / "preprocessor_config.json").read_bytes())
    encoder, again = load_encoder(f"huggingface:{tmp_path}"), load_encoder(f"huggingface:{tmp_path}")
    assert encoder.fingerprint == again.fingerprint
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = classifier.eval().vit(pixel_values=pixels).last_hidden_state[:, 0]
    assert (module_of(encoder)(pixels)[0] - expected).abs().max() <= 1e-5
    with pytest.raises(ValueError, match="has no pooler"):
        load_encoder(f"stem:1:huggingface:{tmp_path}")
    weights = load_file(tmp_path / "model.safetensors")
    missing = next(name for name in weights if "layer.1" in name or "layers.1" in name)
    save_file({name: weight for name, weight in weights.items() if name != missing}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="lacks 1 tensors"):
        load_encoder(f"huggingface:{tmp_path}")


@pytest.mark.parametrize("variant", range(3))
@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_lite_networks_know_imagenet(encoder_of, name, variant):
    photo = getattr(pytest.importorskip("skimage.data"), name)()
    encoder = encoder_of(f"efficientnet_lite{variant}")
    features = encoder(encoder.preprocessing(Image.fromarray(photo))[None])
    weight, bias = encoder.classifier
    assert (features.pooled @ weight.T + bias).argmax() == {"chelsea": 285, "coffee": 967}[name]


def test_networks_side_by_side_say_what_each_says_alone(encoder_of):
    photo = noise()
    both, alone = encoder_of(PAIR), ["efficientnet_lite1@224", "efficientnet_lite0"]
    pixels = both.preprocessing(photo)[None]
    apart = [load_encoder(name)(pixels) for name in alone]
    found = both(pixels)
    assert np.allclose(found.pooled, np.concatenate([f.pooled for f in apart], 1), atol=1e-5)
    assert np.allclose(found.grid, np.concatenate([f.grid for f in apart], -1), atol=1e-4)


@pytest.mark.parametrize("variant", range(3))
def test_folding_batch_norms_changes_nothing(variant):
    plain = efficientnet_lite.load([variant])
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pooled, grid = plain(x)
        folded = module_of(torch_encoder("folded", copy.deepcopy(plain), plain.preprocessing, 1280))
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        again = folded(x)
    assert (again[0] - pooled).abs().max() <= 1e-4
    assert (again[1] - grid).abs().max() <= 1e-4 * grid.abs().max()


@pytest.mark.parametrize(
    ("depth", "convolutions"),
    [
        (16, [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]),
        (19, [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]),
    ],
)
def test_vgg_has_the_published_layout(depth, convolutions):
    with torch.device("meta"):
        network = VGG(depth)
        pooled, grid = network.eval()(torch.empty(2, 3, 224, 224))
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    names = [*(f"features.{i}" for i in convolutions), *(f"classifier.{i}" for i in (0, 3, 6))]
    assert set(shapes) == {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    assert shapes["features.0.weight"] == (64, 3, 3, 3)
    assert shapes[f"features.{convolutions[-1]}.weight"] == (512, 512, 3, 3)
    assert shapes["classifier.0.weight"] == (4096, 25088)
    assert shapes["classifier.3.weight"] == (4096, 4096)
    assert shapes["classifier.6.weight"] == (1000, 4096)
    assert pooled.shape == (2, 4096)
    assert grid is None


def test_alexnet_has_the_published_layout():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in alexnet.AlexNet().state_dict().items()}
    assert {name: shape for name, shape in shapes.items() if name.endswith("weight")} == {
        "features.0.weight": (64, 3, 11, 11),
        "features.3.weight": (192, 64, 5, 5),
        "features.6.weight": (384, 192, 3, 3),
        "features.8.weight": (256, 384, 3, 3),
        "features.10.weight": (256, 256, 3, 3),
        "classifier.1.weight": (4096, 9216),
        "classifier.4.weight": (4096, 4096),
        "classifier.6.weight": (1000, 4096),
    }


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("nonsense", "no encoder 'nonsense'; there are efficientnet_lite0,"),
        ("", "no encoder ''"),
        ("efficientnet_lite4", "no encoder"),
        ("efficientnet_lite2:file.pth", "no encoder"),
        ("efficientnet_lite2@", "no encoder"),
        ("efficientnet_lite2@16", "no encoder"),
        ("efficientnet_lite2@20000", "no encoder"),
        ("efficientnet_lite2+", "no encoder"),
        ("efficientnet_lite2+3", "no encoder"),
        ("vgg11", "no encoder"),
        ("AlexNet", "no encoder"),
        ("huggingface", "name the model too"),
        ("huggingface:", "name the model too"),
    ],
)
def test_an_unknown_encoder_is_refused(spec, reason):
    with pytest.raises(ValueError, match=reason):
        load_encoder(spec)


@pytest.mark.parametrize("content", [None, "", "{", "{}", '{"model_type": "bert"}'])
def test_a_folder_without_a_vision_model_is_refused(tmp_path, content):
    pytest.importorskip("transformers")
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        load_encoder(f"huggingface:{tmp_path}")
    assert len(str(caught.value).splitlines()) == 1


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (os.fspath(self.path),)


@pytest.fixture
def small_alexnet(monkeypatch):
    network = alexnet.AlexNet
    monkeypatch.setattr(alexnet, "AlexNet", lambda: network(classes=2, width=4))
    return network(classes=2, width=4)


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: Path(path).write_bytes(pickle.dumps(value, protocol=2))]
)
def test_a_checkpoint_that_holds_an_object_is_refused_and_never_run(small_alexnet, tmp_path, save):
    path, trap = tmp_path / "alexnet.pth", tmp_path / "sprung"
    save({**small_alexnet.state_dict(), "trap": Trap(trap)}, path)
    with pytest.raises(ValueError, match=r"alexnet\.pth: holds more than tensors") as caught:
        load_encoder(f"alexnet:{path}")
    assert len(str(caught.value).splitlines()) == 1
    assert not trap.exists()


CHECKPOINTS = {
    "empty.pth": b"",
    "text.pth": b"<!DOCTYPE html>\n<html>",
    "numbers.pth": bytes(range(256)),
    "pickle.pth": pickle.dumps([1, 2], protocol=2),
    "truncated.pth": b"PK\x03\x04" + bytes(100),
    "empty.safetensors": b"",
    "text.safetensors": b"<!DOCTYPE html>\n<html>",
}


@pytest.mark.parametrize("name", [*CHECKPOINTS, "absent.pth", "absent.safetensors", "folder.pth", "folder.safetensors"])
def test_an_unreadable_checkpoint_is_refused_by_name(small_alexnet, tmp_path, name):
    if name in CHECKPOINTS:
        (tmp_path / name).write_bytes(CHECKPOINTS[name])
    elif name.startswith("folder"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=name) as caught:
        load_encoder(f"alexnet:{tmp_path / name}")
    assert len(str(caught.value).splitlines()) == 1
    assert ("no such file" in str(caught.value)) == name.startswith("absent")


@pytest.mark.parametrize(
    "state",
    [{}, {"a": torch.zeros(1)}, [torch.zeros(1)], torch.zeros(1), {1: torch.zeros(1)}, {"features.0.weight": 3}, None],
    ids=repr,
)
def test_a_checkpoint_of_another_network_is_refused(small_alexnet, tmp_path, state):
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: holds other tensors"):
        load_encoder(f"alexnet:{tmp_path / 'other.pth'}")


def test_a_checkpoint_with_one_wrong_shape_is_refused(small_alexnet, tmp_path):
    state = small_alexnet.state_dict()
    torch.save({**state, "classifier.6.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: holds other tensors"):
        load_encoder(f"alexnet:{tmp_path / 'other.pth'}")


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "vgg19"])
def test_published_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch, name):
    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with torch.device("meta"), pytest.raises(ValueError, match=rf"offline.*https://.*name the encoder {name}:FILE"):
        load_encoder(name)


def test_a_checkpoint_loads_from_pth_and_safetensors_alike(small_alexnet, tmp_path):
    state = small_alexnet.state_dict()
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    one, two = (load_encoder(f"alexnet:{tmp_path / name}") for name in ("a.pth", "a.safetensors"))
    assert one.fingerprint == two.fingerprint
    assert torch.equal(module_of(one).features[0].weight, small_alexnet.features[0].weight)


class Network(nn.Module):
    def __init__(self, width=6, constant=None):
        super().__init__()
        self.convolution = nn.Conv2d(3, width, 3, stride=2)
        self.constant = constant
        self.photos = 0
        with torch.no_grad():
            values = torch.arange(self.convolution.weight.numel(), dtype=torch.float32)
            self.convolution.weight.copy_(torch.sin(values).view_as(self.convolution.weight))
            self.convolution.bias.copy_(torch.cos(values[:width]))

    def forward(self, x):
        self.photos += len(x)
        cells = self.convolution(x)
        pooled = cells.mean((2, 3))
        if self.constant is not None:
            dark = x.mean((1, 2, 3)) < -0.9
            pooled = torch.where(dark[:, None], torch.full_like(pooled, self.constant), pooled)
        return pooled, cells


SMALL = Preprocessing(8, (127.0,) * 3, (128.0,) * 3)


def tiny(**options):
    return torch_encoder("tiny", Network(**options), SMALL, 6)


def oracle(path):
    x = (torch.tensor(SMALL(path)[None]).float() - 127) / 128
    return Network()(x.permute(0, 3, 1, 2))[0][0].detach().half().numpy()


def photo_files(folder, n, start=0):
    paths = [folder / f"{i}.png" for i in range(start, start + n)]
    for i, path in enumerate(paths, start):
        noise(i, (12, 10)).save(path)
    return paths


def test_mirror_images_have_features_and_a_cache_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[:, ::-1]).save(tmp_path / "b.png")
    encoder = tiny()
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    rows, *_ = FeatureCache(encoder, tmp_path / "cache").features([a, b])
    mirrored, *_ = FeatureCache(encoder, tmp_path / "cache", mirror=True).features([b, a])
    np.testing.assert_array_equal(rows, mirrored)
    assert not np.array_equal(rows[0], rows[1])


def test_the_fingerprint_follows_weights_and_preprocessing():
    changed = Network()
    with torch.no_grad():
        changed.convolution.bias[0] += 1e-3
    renamed = replace(SMALL, interpolation="bilinear")
    assert tiny().fingerprint == tiny().fingerprint
    others = [
        torch_encoder("tiny", changed, SMALL, 6),
        torch_encoder("tiny", Network(), renamed, 6),
        torch_encoder("tiny", Network(), SMALL, 6, "of another structure"),
    ]
    assert len({tiny().fingerprint, *(encoder.fingerprint for encoder in others)}) == 4


@pytest.mark.parametrize(("batch", "threads"), [(1, None), (3, None), (3, 1), (3, 5), (8, None), (100, None)])
def test_encode_gives_positions_and_errors(tmp_path, batch, threads):
    paths = photo_files(tmp_path, 7)
    (tmp_path / "empty.jpg").write_bytes(b"")
    sources = [paths[0], tmp_path / "absent.jpg", *paths[1:], tmp_path / "empty.jpg", b"nonsense"]
    encoder = tiny()
    positions, errors, pooled = [], [], []
    for done, features, bad in encoder.encode(sources, batch=batch, threads=threads):
        assert 0 < len(done) + len(bad) <= batch
        assert (features is None) == (not done)
        positions += done
        errors += bad
        pooled += [] if features is None else features.pooled.astype(np.float16).tolist()
    assert positions == [0, 2, 3, 4, 5, 6, 7]
    assert [error.name for error in errors] == [str(sources[1]), str(sources[8]), "<8 bytes>"]
    assert np.allclose(pooled, [oracle(path) for path in paths], atol=2e-3)


def test_pool_features_collects_every_batch(tmp_path):
    paths = photo_files(tmp_path, 10)
    pooled, positions, errors = pool_features(tiny(), [*paths[:4], b"", *paths[4:]])
    assert pooled.shape == (10, 6)
    assert positions == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert [error.reason for error in errors] == ["is empty"]


@pytest.mark.parametrize("sources", [[], [b""]])
def test_pool_features_without_a_usable_photo(sources):
    pooled, positions, errors = pool_features(tiny(), sources)
    assert (pooled.shape, positions, len(errors)) == ((0, 6), [], len(sources))


def test_encode_may_be_closed_early(tmp_path):
    encoder = tiny()
    batches = encoder.encode(photo_files(tmp_path, 3) * 50, batch=2)
    list(itertools.islice(batches, 2))
    batches.close()
    assert module_of(encoder).photos == 4


def test_the_cache_encodes_every_photo_once(tmp_path, cache_folder):
    paths = photo_files(tmp_path, 11)
    encoder = tiny()
    cache = FeatureCache(encoder, cache_folder)
    steps = []
    rows, positions, errors = cache.features(paths, progress=lambda done, total: steps.append((done, total)))
    assert (rows.shape, rows.dtype, positions, errors) == ((11, 6), np.float16, list(range(11)), [])
    assert np.allclose(rows, [oracle(path) for path in paths], atol=2e-3)
    assert steps == sorted(steps)
    assert steps[-1] == (11, 11)
    assert module_of(encoder).photos == 11
    again, *_ = FeatureCache(encoder, cache_folder).features(paths[::-1])
    assert (again == rows[::-1]).all()
    assert module_of(encoder).photos == 11
    more, *_ = cache.features([*paths, *photo_files(tmp_path, 2, start=20)])
    assert (more[:11] == rows).all()
    assert module_of(encoder).photos == 13


def files_of(cache):
    return cache.folder / "features.f16", cache.folder / "photos.sha256"


def test_the_cache_holds_float16_rows_and_a_line_a_row(tmp_path):
    cache = FeatureCache(tiny(), tmp_path / "cache")
    rows, *_ = cache.features(photo_files(tmp_path, 5))
    stored, lines = files_of(cache)
    mapped = np.memmap(stored, np.float16, "r").reshape(-1, 6)
    assert (mapped == rows).all()
    assert len(lines.read_text().splitlines()) == 5


def test_the_same_content_under_other_names_shares_a_row(tmp_path):
    (path,) = photo_files(tmp_path, 1)
    copies = [tmp_path / f"copy{i}.bin" for i in range(3)]
    for copy_path in copies:
        copy_path.write_bytes(path.read_bytes())
    encoder = tiny()
    rows, positions, _ = FeatureCache(encoder, tmp_path / "cache").features([path, *copies, path])
    assert module_of(encoder).photos == 1
    assert positions == [0, 1, 2, 3, 4]
    assert (rows == rows[0]).all()


def test_changed_content_under_the_same_name_is_encoded_again(tmp_path):
    (path,) = photo_files(tmp_path, 1)
    cache = FeatureCache(tiny(), tmp_path / "cache")
    before, *_ = cache.features([path])
    noise(99, (12, 10)).save(path)
    after, *_ = cache.features([path])
    assert (before != after).any()
    assert np.allclose(after[0], oracle(path), atol=2e-3)


def test_a_file_written_again_within_its_clocks_tick_is_read_again(tmp_path):
    (path,) = photo_files(tmp_path, 1)
    ahead = time.time_ns() + 3600 * 10**9
    content = path.read_bytes()
    cache = FeatureCache(tiny(), tmp_path / "cache")
    os.utime(path, ns=(ahead, ahead))
    before, *_ = cache.features([path])
    noise(99, (12, 10)).save(path)
    assert path.stat().st_size == len(content)
    os.utime(path, ns=(ahead, ahead))
    after, *_ = cache.features([path])
    assert (before != after).any()


def test_a_file_that_stays_as_it_is_is_read_once(tmp_path, monkeypatch):
    (path,) = photo_files(tmp_path, 1)
    os.utime(path, (0, 0))
    cache = FeatureCache(tiny(), tmp_path / "cache")
    rows, *_ = cache.features([path])
    monkeypatch.setattr("mrnn.encoders.cache.sha256", lambda path: pytest.fail("read again"))
    assert (cache.features([path])[0] == rows).all()


def test_encoders_with_other_weights_do_not_share_a_cache(tmp_path):
    changed = Network()
    nn.init.zeros_(changed.convolution.weight)
    paths = photo_files(tmp_path, 2)
    rows, *_ = FeatureCache(tiny(), tmp_path / "cache").features(paths)
    others, *_ = FeatureCache(torch_encoder("tiny", changed, SMALL, 6), tmp_path / "cache").features(paths)
    assert (rows != others).any()


def test_unusable_photos_are_named(tmp_path):
    paths = photo_files(tmp_path, 3)
    for name in ("empty.jpg", "again.jpg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"text")
    bad = [tmp_path / name for name in ("empty.jpg", "absent.jpg", "again.jpg", "text.jpg", ".")]
    cache = FeatureCache(tiny(), tmp_path / "cache")
    for _ in range(2):
        rows, positions, errors = cache.features([bad[0], *paths, *bad[1:]])
        assert positions == [1, 2, 3]
        assert len(rows) == 3
        assert [error.name for error in errors] == [str(path) for path in bad]
        assert all(isinstance(error, ImageError) and error.reason for error in errors)


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_usable_gives_no_rows(tmp_path, n):
    rows, positions, errors = FeatureCache(tiny(), tmp_path / "cache").features([tmp_path / "absent.jpg"] * n)
    assert (rows.shape, rows.dtype, positions, len(errors)) == ((0, 6), np.float16, [], n)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("constant", [float("nan"), float("inf"), 1e5])
def test_features_that_are_not_finite_name_the_photo_and_keep_what_was_before(tmp_path, constant):
    paths = photo_files(tmp_path, 36)
    Image.new("RGB", (9, 9)).save(paths[33])
    encoder = tiny(constant=constant)
    cache = FeatureCache(encoder, tmp_path / "cache")
    with pytest.raises(ValueError, match=rf"{paths[33].name}: tiny gives features that are not finite"):
        cache.features(paths)
    module_of(encoder).photos = 0
    rows, *_ = cache.features(paths[:32])
    assert module_of(encoder).photos == 0
    assert np.allclose(rows, [oracle(path) for path in paths[:32]], atol=2e-3)


def test_cached_features_that_are_not_finite_are_refused(tmp_path):
    paths = photo_files(tmp_path, 3)
    cache = FeatureCache(tiny(), tmp_path / "cache")
    cache.features(paths)
    rows = next((tmp_path / "cache").rglob("features.f16"))
    rows.write_bytes(b"\xff" * rows.stat().st_size)
    with pytest.raises(ValueError, match=r"features\.f16: holds features that are not finite"):
        cache.features(paths)


def test_a_damaged_transformers_folder_is_one_line(spec_of, tmp_path):
    whole = Path(spec_of("vit").partition(":")[2])
    for damage in ({"preprocessor_config.json": b"[1]"}, {"model.safetensors": b"broken"}, {"config.json": b"{"}):
        for file in whole.iterdir():
            (tmp_path / file.name).write_bytes(damage.get(file.name, file.read_bytes()))
        with pytest.raises(ValueError, match=rf"huggingface:{tmp_path} cannot be loaded") as caught:
            load_encoder(f"huggingface:{tmp_path}")
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["own", "", "detr"])
def test_a_models_own_code_is_never_run_nor_asked_for(tmp_path, monkeypatch, kind):
    pytest.importorskip("transformers")

    def asked(*_args):
        raise AssertionError("somebody was asked")

    monkeypatch.setattr("builtins.input", asked)
    names = ("AutoConfig", "AutoModel", "AutoBackbone", "AutoImageProcessor", "AutoModelForObjectDetection")
    config = {"auto_map": dict.fromkeys(names, "own.Own"), **({"model_type": kind} if kind else {})}
    if kind == "detr":
        config = {"model_type": kind, "use_timm_backbone": False, "backbone_config": {"model_type": "own", **config}}
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    for file in ("config.json", "preprocessor_config.json"):
        (tmp_path / file).write_text(json.dumps(config))
    for work in (load_encoder, blank_network, load_proposer):
        with pytest.raises(ValueError, match="cannot be loaded"):
            work(f"huggingface:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_an_interruption_loses_nothing_that_was_whole(tmp_path):
    paths = photo_files(tmp_path, 40)
    encoder = tiny()
    cache = FeatureCache(encoder, tmp_path / "cache")

    def interrupt(done, total):
        if done >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.features(paths, progress=interrupt)
    assert module_of(encoder).photos < 40
    rows, *_ = cache.features(paths)
    assert module_of(encoder).photos == 40
    assert np.allclose(rows, [oracle(path) for path in paths], atol=2e-3)


@pytest.fixture(scope="module")
def whole_cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    paths = photo_files(folder, 10)
    cache = FeatureCache(tiny(), folder / "cache")
    rows, *_ = cache.features(paths)
    return paths, cache, rows, [file.read_bytes() for file in files_of(cache)]


@given(kept_rows=st.integers(0, 10 * 12), kept_lines=st.integers(0, 10 * 65))
@settings(max_examples=40)
def test_files_cut_at_any_byte_never_give_a_wrong_row(whole_cache, kept_rows, kept_lines):
    paths, cache, rows, (row_bytes, line_bytes) = whole_cache
    stored, lines = files_of(cache)
    stored.write_bytes(row_bytes[:kept_rows])
    lines.write_bytes(line_bytes[:kept_lines])
    module_of(cache.encoder).photos = 0
    again, positions, errors = cache.features(paths)
    assert positions == list(range(10))
    assert not errors
    assert np.allclose(again, rows, atol=2e-3)
    assert module_of(cache.encoder).photos == 10 - min(kept_rows // 12, kept_lines // 65)
    assert (stored.stat().st_size, lines.stat().st_size) == (len(row_bytes), len(line_bytes))


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_file_is_made_again(whole_cache, lost):
    paths, cache, rows, contents = whole_cache
    for file, content in zip(files_of(cache), contents, strict=True):
        file.write_bytes(content)
    files_of(cache)[lost].unlink()
    assert np.allclose(cache.features(paths)[0], rows, atol=2e-3)


def fill(folder, barrier, first):
    torch.set_num_threads(1)
    paths = sorted(Path(folder).glob("*.png"))
    barrier.wait(60)
    FeatureCache(tiny(), Path(folder) / "cache").features(paths if first else paths[::-1])


def test_two_processes_at_once_do_not_corrupt_the_cache(tmp_path):
    paths = photo_files(tmp_path, 60)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=fill, args=(os.fspath(tmp_path), barrier, first)) for first in (True, False)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    encoder = tiny()
    cache = FeatureCache(encoder, tmp_path / "cache")
    rows, *_ = cache.features(paths)
    assert module_of(encoder).photos == 0
    assert np.allclose(rows, [oracle(path) for path in paths], atol=2e-3)
    stored, lines = files_of(cache)
    assert stored.stat().st_size // 12 == lines.stat().st_size // 65
