import contextlib
import fnmatch
import itertools
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made import photo, pipeline
from PIL import Image
from safetensors.torch import load_file, save_file

import mrnn
from benchmarks.campaign.folders import WORDS as FEW
from benchmarks.campaign.folders import tiny_model
from mrnn import version
from mrnn.files import sha256
from mrnn.images import ImageError, open_image
from mrnn.models import MRNN, MRNNConfig, NGram, NGramConfig, saving
from mrnn.models.hand import TorchRuntime
from mrnn.pipeline import Pipeline, load
from mrnn.runtime.folder import find_folder
from mrnn.runtime.ngram import NGramRuntime
from mrnn.runtime.onnx import OnnxRuntime

GRAPHS = ("branch", "distribution", "encoder", "gradient", "image", "log_p", "pull", "score", "search", "step", "text")
FILES = sorted([*(f"{name}.onnx" for name in GRAPHS), "README.md", "config.json", "vocab.txt"])
FILES = sorted([*FILES, "model.safetensors", "encoder.safetensors"])
NOT_THE_FILE = "is not the file that was saved with the others"
every_hand = pytest.mark.parametrize("runtime", ["onnx", "torch"])
every_search = pytest.mark.parametrize("options", [{}, {"method": "greedy"}, {"method": "sample", "n": 2}])


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return pipeline()


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory) -> Path:
    """A folder that no test changes."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    assert pipe.save(folder) == []
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return [photo(folder / f"{colour}.jpg", colour) for colour in ("red", "blue")]


def trained(pipe, data: str, seed: int) -> Pipeline:
    """Another model with the words and the encoder of `pipe`, which searches with an image gain."""
    torch.manual_seed(seed)
    model = MRNN(MRNNConfig(embedding=4, word=6, recurrent=6, multimodal=8), len(pipe.vocabulary), 1280)
    training = {"data": data, "data_fingerprint": data * 64, "recipe_name": "mrnn", "command": "mrnn train mrnn"}
    provenance = {"training": {**training, "dev_perplexity": 9.0, "best_epoch": 1}}
    references = torch.randn(9, 8).numpy()
    generation = replace(pipe.generation, image_gain=1.15)
    return Pipeline(TorchRuntime(model, "mrnn"), pipe.vocabulary, pipe.encoder, generation, provenance, references)


@pytest.fixture(scope="module")
def others(pipe, tmp_path_factory) -> dict[str, Path]:
    """Three trained models: `a` and `b` on the same data, `c` on other data."""
    folder = tmp_path_factory.mktemp("others")
    for seed, (name, data) in enumerate({"a": "1", "b": "1", "c": "2"}.items(), 1):
        trained(pipe, data, seed).save(folder / name)
    return {name: folder / name for name in "abc"}


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def rehash(folder):
    """As if the files had been saved like this: their hashes in `config.json` are made right."""
    change_config(folder, lambda c: c.update(files={name: sha256(folder / name) for name in c["files"]}))


def make_older(folder):
    """The folder as format 1 had it."""

    def change(config):
        config["format"] = 1
        for key in ("files", "use", "fingerprint"):
            del config[key]
        del config["encoder"]["fingerprint_at_use"]

    change_config(folder, change)
    for path in (*folder.glob("*.onnx"), folder / "encoder.safetensors"):
        path.unlink()


def refuse(message, folder, runtime="auto", photos=None):
    """Loading, or captioning if photos are given, ends in one line that says so."""
    with pytest.raises(ValueError, match=message) as error:
        found = load(folder, runtime)
        if photos is not None:
            found.caption(photos)
    # The tests' own type checker says more than a line.
    assert "\n" not in str(error.value) or "Type-check error" in str(error.value)


@every_hand
def test_a_saved_model_loads_and_captions_alike(pipe, saved, photos, runtime):
    again = load(saved, runtime)
    assert type(again.model) is {"onnx": OnnxRuntime, "torch": TorchRuntime}[runtime]
    assert [c[0].tokens for c in again.caption(photos)] == [c[0].tokens for c in pipe.caption(photos)]
    assert again.fingerprint == pipe.fingerprint
    assert sorted(p.name for p in saved.iterdir()) == FILES
    config = json.loads((saved / "config.json").read_text())
    assert sorted(config["files"]) == sorted(set(FILES) - {"README.md", "config.json"})
    assert config["encoder"]["name"] == "efficientnet_lite2"
    assert config["encoder"]["preprocessing"]["side"] == 260
    assert config["model"]["name"] == "mrnn"


def test_a_saved_model_is_used_without_pytorch_unless_asked(saved):
    assert type(load(saved).model) is OnnxRuntime
    with pytest.raises(ValueError, match="no runtime 'jax'"):
        load(saved, "jax")


@every_hand
def test_half_precision_halves_the_file_and_keeps_the_captions(pipe, tmp_path, photos, runtime):
    pipe.save(tmp_path / "half", torch.float16)
    for name in ("model.safetensors", "encoder.safetensors"):
        assert {tensor.dtype for tensor in load_file(tmp_path / "half" / name).values()} == {torch.float16}
    again = load(tmp_path / "half", runtime)
    np.testing.assert_allclose(
        again.log_likelihood(photos, ["a red square"]), pipe.log_likelihood(photos, ["a red square"]), atol=0.05, rtol=0
    )
    assert [c[0].tokens for c in again.caption(photos)] == [c[0].tokens for c in pipe.caption(photos)]


def test_one_photo_and_one_sentence_need_no_list(pipe, photos):
    several = pipe.log_likelihood(photos[:1], ["a red square"])
    assert pipe.log_likelihood(photos[0], "a red square") == pytest.approx(several)
    assert pipe.log_likelihood(str(photos[0]), "a red square").shape == (1, 1)
    assert [match.index for match in pipe.rank(photos[0], "a red square", score="raw")[0]] == [0]


def test_one_photo_or_sentence_where_several_are_meant_works_or_is_told(pipe, photos):
    content = photos[0].read_bytes()
    for one in (str(photos[0]), photos[0], content, bytearray(content), memoryview(content), Image.open(photos[0])):
        assert [described.error for described in pipe.describe(one)] == [None]
        assert len(pipe.caption(one)) == 1
    assert pipe.features(path for path in photos[:2]).shape[0] == 2
    assert pipe.log_likelihood(str(photos[0]), (sentence for sentence in ["a red square"])).shape == (1, 1)
    with pytest.raises(ImageError, match="is no path, bytes, open file"):
        open_image(None)
    with photos[0].open(encoding="latin-1") as text, pytest.raises(ImageError, match="open it for reading bytes"):
        open_image(text)
    with pytest.raises(ValueError, match="a sentence is one text"):
        pipe.log_likelihood(photos[0], [["a red square"]])


def test_arrays_and_open_files_are_photos(pipe, photos):
    expected = pipe.features(photos[:2])
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in photos[:2]]
    assert np.allclose(pipe.features(arrays), expected, atol=1e-5)
    assert np.allclose(pipe.features(np.stack(arrays)), expected, atol=1e-5)
    assert np.allclose(pipe.features(arrays[0]), expected[:1], atol=1e-5)
    with photos[0].open("rb") as file:
        assert np.allclose(pipe.features(file), expected[:1], atol=1e-5)
    with pytest.raises(ImageError, match=r"<array>: is no array of bytes"):
        pipe.features(arrays[0] / 255)


def test_log_likelihoods_agree_with_those_of_captions(pipe, photos):
    captions = pipe.caption(photos, n=2)
    for i, several in enumerate(captions):
        scores = pipe.log_likelihood([photos[i]], [c.text for c in several])[0]
        assert scores.tolist() == pytest.approx([c.log_likelihood for c in several], abs=1e-3)


def test_one_photo_needs_no_list_and_bytes_will_do(pipe, photos):
    expected = pipe.caption(photos)[0][0].tokens
    assert pipe.caption(photos[0])[0][0].tokens == expected
    assert pipe.caption(str(photos[0]))[0][0].tokens == expected
    assert pipe.caption(photos[0].read_bytes())[0][0].tokens == expected


@every_hand
@every_search
def test_no_photos_give_no_captions(saved, runtime, options):
    found = load(saved, runtime)
    assert found.caption([], **options) == []
    assert found.caption_features(np.empty((0, 1280), np.float32), **options) == []
    assert list(found.describe([], **options)) == []
    assert found.log_likelihood([], ["a red square"]).shape == (0, 1)


@every_search
def test_photos_are_described_in_order_some_at_a_time(pipe, photos, tmp_path, monkeypatch, options):
    files = [photos[0], tmp_path / "gone.jpg", photos[1], *photos]
    monkeypatch.setattr("mrnn.pipeline.AT_ONCE", 2)
    found = list(pipe.describe(iter(files), **options))
    assert [d.photo for d in found] == files
    expected = iter(pipe.caption([file for file in files if file.exists()], **options))
    for file, described in zip(files, found, strict=True):
        if file.exists():
            assert [c.tokens for c in described.captions] == [c.tokens for c in next(expected)]
            assert not described.guess and described.note == ""
            assert described.as_dict()["captions"] == [c.as_dict() for c in described.captions]
        else:
            assert isinstance(described.error, ImageError) and described.as_dict() == {"error": "no such file"}


def test_reference_images_travel_with_the_model(tmp_path, photos):
    pipe = pipeline(references=9)
    pipe.save(tmp_path / "m")
    again = load(tmp_path / "m", "torch")
    assert np.array_equal(again.references, pipe.references)
    sentences = ["a red square", "a large picture", "a blue square"]
    ranked = pipe.rank(photos, sentences)
    assert again.rank(photos, sentences) == ranked
    other = load(tmp_path / "m", "onnx")
    assert np.array_equal(other.references, pipe.references)
    assert [[m.index for m in several] for several in other.rank(photos, sentences)] == [
        [m.index for m in several] for several in ranked
    ]
    exact = [p.retriever(p.features(photos), sentences, precision="float32").exact("normalised") for p in (pipe, other)]
    np.testing.assert_allclose(exact[1], exact[0], atol=1e-4, rtol=0)
    path = tmp_path / "m" / "references.safetensors"
    whole = path.read_bytes()
    for content, message in ((None, "no reference images of this model"), (b"x", r"references\.safetensors: damaged")):
        save_file({"image": torch.zeros(3, 5)}, path) if content is None else path.write_bytes(content)
        refuse(f"references.safetensors {NOT_THE_FILE}", tmp_path / "m")
        rehash(tmp_path / "m")
        refuse(message, tmp_path / "m")
        refuse(message, tmp_path / "m", "torch")
        path.write_bytes(whole)
        rehash(tmp_path / "m")
    Pipeline(pipe.model, pipe.vocabulary, pipe.encoder).save(tmp_path / "m")
    assert load(tmp_path / "m").references is None, "those of the model that was there are gone"


@every_hand
def test_a_loaded_model_is_saved_as_it_is(folder, saved, others, tmp_path, runtime, photos):
    found = load(folder, runtime)
    assert found.save(tmp_path / "copy") == []
    assert {p.name: p.read_bytes() for p in (tmp_path / "copy").iterdir()} == {
        p.name: p.read_bytes() for p in saved.iterdir()
    }
    found.save(folder)
    assert sorted(p.name for p in folder.iterdir()) == FILES, "it may be saved where it lies"
    there = shutil.copytree(others["a"], tmp_path / "there")
    found.save(there)
    again = load(there, runtime)
    assert again.references is None, "those of the model that was there are gone"
    assert again.fingerprint == found.fingerprint
    assert [c[0].tokens for c in again.caption(photos)] == [c[0].tokens for c in found.caption(photos)]


def made_retriever():
    pipe = pipeline(references=9)
    sentences = [" ".join(words) for words in itertools.permutations(["a", "red", "blue", "square"], 3)]
    drawn = torch.randn(30, 1280, generator=torch.Generator().manual_seed(0))
    features = (pipe.model.model.feature_mean + drawn).numpy()
    return pipe.retriever(features, sentences, precision="float32")


@pytest.mark.parametrize("query", ["image", "sentence"])
@pytest.mark.parametrize("score", ["raw", "normalised", "per-token"])
def test_a_shortlist_is_ranked_as_the_exact_scores_rank_it(query, score):
    retriever = made_retriever()
    exact, some = retriever.exact(score), retriever.ranked(query, score, shortlist=5)
    axis = 1 if query == "image" else 0
    found = np.take(np.argsort(-some, axis), range(5), axis)
    np.testing.assert_allclose(
        np.take_along_axis(some, found, axis), np.take_along_axis(exact, found, axis), atol=1e-4, rtol=0
    )
    assert np.array_equal(retriever.ranked(query, score, shortlist=1000), exact)
    with pytest.raises(ValueError, match="shortlist"):
        retriever.ranked(query, score, shortlist=0)


def test_rank_gives_indices_and_scores_best_first(photos):
    pipe = pipeline(references=9)
    sentences = ["a red square", "a blue square", "a large picture"]
    matches = pipe.rank(photos, sentences, score="raw", top=9)
    scores = pipe.log_likelihood(photos, sentences)
    for i, several in enumerate(matches):
        assert sorted(m.index for m in several) == [0, 1, 2]
        assert [m.score for m in several] == sorted((m.score for m in several), reverse=True)
        assert several[0].index == int(scores[i].argmax())
    by_sentence = pipe.rank(photos, sentences, query="sentence", top=1)
    assert [m[0].index for m in by_sentence] == scores.argmax(0).tolist()


def test_a_bad_photo_and_an_empty_sentence_are_named(pipe, photos, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg: no such file"):
        pipe.caption([photos[0], tmp_path / "gone.jpg"])
    with pytest.raises(ValueError, match="no word"):
        pipe.log_likelihood(photos, ["a red square", " ... "])


@every_hand
@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_missing_file_is_named(folder, name, runtime):
    (folder / name).unlink()
    refuse(name, folder, runtime)


@every_hand
@pytest.mark.parametrize("name", ["step.onnx", "encoder.onnx", "encoder.safetensors"])
def test_a_missing_graph_is_named(folder, name, runtime):
    (folder / name).unlink()
    refuse(f"has no {name}, so it is no whole model", folder, runtime)


@every_hand
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_a_pickle_is_never_loaded(folder, name, runtime):
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / name)
    refuse("pickle is never loaded", folder, runtime)


@every_hand
def test_a_pickle_in_safetensors_clothes_is_damaged_weights(folder, runtime, photos):
    torch.save({"x": torch.zeros(1)}, folder / "model.safetensors")
    refuse(f"model.safetensors {NOT_THE_FILE}", folder, runtime)
    rehash(folder)
    refuse({"torch": "damaged weights", "onnx": "does not fit its weights"}[runtime], folder, runtime, photos)


def damage(folder, change, name="model.safetensors"):
    weights = load_file(folder / name)
    change(weights)
    save_file(weights, folder / name)


@pytest.mark.parametrize(
    ("change", "message", "without_torch"),
    [
        (lambda w: w.pop("U_r.weight"), "U_r.weight is missing", "does not fit its weights"),
        (lambda w: w.update(extra=torch.zeros(1)), "extra is not one of the model", "weights"),
        (lambda w: w.update({"U_r.weight": torch.zeros(2, 2)}), "U_r.weight has the shape", "does not fit its weights"),
        (lambda w: w["V_I.weight"].fill_(torch.nan), "V_I.weight holds numbers that are not finite", "not finite"),
        (lambda w: w["U_r.weight"].fill_(torch.nan), "U_r.weight holds numbers that are not finite", "not finite"),
        (lambda w: w["feature_std"].fill_(0), "a feature's deviation is not above 0", "not finite"),
    ],
)
def test_wrong_weights_are_named(folder, change, message, without_torch, photos):
    damage(folder, change)
    for runtime in ("torch", "onnx"):
        refuse(f"model.safetensors {NOT_THE_FILE}", folder, runtime)
    rehash(folder)
    refuse(message, folder, "torch")
    refuse(without_torch, folder, "onnx", photos)
    make_older(folder)
    refuse(message, folder)


@every_hand
@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.pop("_conv_stem.weight"),
        lambda w: w.update({"_conv_stem.weight": torch.zeros(2, 2)}),
        lambda w: w["_conv_stem.weight"].fill_(torch.nan),
        None,
    ],
)
def test_wrong_weights_of_the_encoder_are_refused(folder, change, photos, runtime):
    if change is None:
        (folder / "encoder.safetensors").write_bytes(b"x")
    else:
        damage(folder, change, "encoder.safetensors")
    refuse(f"encoder.safetensors {NOT_THE_FILE}", folder, runtime)
    rehash(folder)
    refuse("weights|not finite", folder, runtime, photos)


@pytest.mark.parametrize("name", ["search.onnx", "image.onnx", "encoder.onnx"])
def test_a_damaged_graph_is_named(folder, name, photos, capfd):
    (folder / name).write_bytes(b"x")
    refuse(f"{name} {NOT_THE_FILE}", folder)
    rehash(folder)
    refuse(f"{name}: does not fit its weights, or cannot be run here", folder, photos=photos)
    assert capfd.readouterr() == ("", ""), "the line is all that is said"


@every_hand
def test_words_in_another_order_are_refused(folder, runtime):
    words = (folder / "vocab.txt").read_text().splitlines()
    words[-1], words[-2] = words[-2], words[-1]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    refuse(f"vocab.txt {NOT_THE_FILE}", folder, runtime)


@every_hand
@pytest.mark.parametrize("name", ["model.safetensors", "references.safetensors", "config.json"])
def test_a_folder_that_is_half_another_models_is_refused(others, tmp_path, name, runtime):
    folder = shutil.copytree(others["a"], tmp_path / "m")
    shutil.copyfile(others["b"] / name, folder / name)
    refuse(NOT_THE_FILE, folder, runtime)


@every_hand
def test_a_file_that_is_not_the_models_own_is_not_used(saved, folder, others, runtime):
    shutil.copyfile(others["a"] / "references.safetensors", folder / "references.safetensors")
    try:
        assert load(folder, runtime).references is None
    except ValueError as error:
        assert "references.safetensors" in str(error)


@pytest.mark.parametrize(
    ("change", "message", "runtimes"),
    [
        (lambda c: c.update(format=99), "another version", "onnx torch"),
        (lambda c: c["model"].update(name="unknown"), "no model 'unknown'", "torch"),
        (lambda c: c["model"].update(wings=2), "no option 'wings'", "torch"),
        (lambda c: c["generation"].update(beam=0), "beam", "onnx torch"),
        (lambda c: c.pop("encoder"), "encoder", "onnx torch"),
        (lambda c: c["encoder"].update(width=5), "width", "onnx torch"),
        (lambda c: c["encoder"].update(row=[10**400]), "what an encoder says", "onnx torch"),
        (lambda c: c["encoder"].pop("fingerprint"), "fingerprint", "onnx torch"),
        (lambda c: c["encoder"].update(name=3), "name", "onnx torch"),
        (lambda c: c["encoder"].update(row="wide"), "encoder", "onnx torch"),
        (lambda c: c.update(encoder=None), "encoder", "onnx torch"),
        (lambda c: c["generation"].update(beam=2.5), r"2\.5", "onnx torch"),
        (lambda c: c["generation"].update(method="foo"), "foo", "onnx torch"),
        (lambda c: c.pop("files"), "files", "onnx torch"),
        (lambda c: c.update(files=5), "files", "onnx torch"),
        (lambda c: c["files"].update({"../a": "0"}), r"\.\./a", "onnx torch"),
    ],
)
def test_a_strange_config_is_refused(folder, change, message, runtimes):
    change_config(folder, change)
    for runtime in runtimes.split():
        refuse(message, folder, runtime)


def test_config_that_is_no_json_and_a_vocabulary_of_another_size(folder):
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text() + "more\n")
    refuse(f"vocab.txt {NOT_THE_FILE}", folder)
    rehash(folder)
    refuse("the model has 12 words, but the vocabulary 13", folder)
    refuse("the model has 12 words, but the vocabulary 13", folder, "torch")
    (folder / "config.json").write_text("{")
    refuse("not JSON", folder)


def test_weights_of_another_encoder_are_refused(folder, photos):
    damage(folder, lambda w: w["_conv_stem.weight"].mul_(2), "encoder.safetensors")
    for runtime in ("onnx", "torch"):
        refuse(f"encoder.safetensors {NOT_THE_FILE}", folder, runtime)
    make_older(folder)
    change_config(folder, lambda c: c["encoder"].update(fingerprint="0" * 64))
    load(folder)
    refuse("trained on other weights", folder, photos=photos)


def test_photos_prepared_otherwise_than_in_training_are_refused(folder, photos):
    make_older(folder)
    change_config(folder, lambda c: c["encoder"]["preprocessing"].update(side=64))
    refuse("was given otherwise", folder, photos=photos)


@every_hand
@pytest.mark.parametrize("changed", [{"side": 64}, {"mean": [0.0, 0.0, 0.0]}, {"resize": "crop"}])
def test_a_whole_folder_does_not_prepare_photos_otherwise_than_in_training(folder, photos, changed, runtime):
    change_config(folder, lambda c: c["encoder"]["preprocessing"].update(changed))
    refuse(r"otherwise|config\.json|encoder\.onnx", folder, runtime, photos)


@every_hand
@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c["encoder"].pop("preprocessing"),
        lambda c: c["encoder"].update(preprocessing=None),
        lambda c: c["encoder"]["preprocessing"].update(more=1),
        lambda c: c["encoder"]["preprocessing"].update(side=[]),
        lambda c: c["encoder"]["preprocessing"].update(side=10**9),
        lambda c: c["encoder"]["preprocessing"].update(scale=10**400),
        lambda c: c["encoder"]["preprocessing"].update(mean=[1, None, 2]),
        lambda c: c["model"].update(vocabulary=-5),
        lambda c: c["generation"].update(length_exponent="long"),
        lambda c: c["generation"].update(seed=10**30),
        lambda c: c["model"].pop("name"),
        lambda c: c.update(use=5),
        lambda c: c["use"].update(state=[{}]),
    ],
)
def test_a_damaged_config_is_named(folder, damage, runtime):
    change_config(folder, damage)
    refuse(r"config\.json", folder, runtime)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("fingerprint"),
        lambda c: c.update(use={"tables": True}),
        lambda c: c["use"].pop("uses_image"),
        lambda c: c["use"].update(state=[]),
        lambda c: c["use"]["state"][0].update(shape=[5]),
        lambda c: c["use"]["state"][0].update(type="int64"),
        lambda c: c["use"]["state"][0].update(type="int64", fill="nan"),
    ],
)
def test_a_config_that_does_not_fit_the_graphs_is_refused(folder, damage, photos):
    change_config(folder, damage)
    refuse(r"config\.json|\.onnx", folder, photos=photos)


def test_config_nested_too_deep_is_no_json(folder):
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json: not JSON"):
        load(folder)


def test_a_full_disk_leaves_the_old_model_whole(pipe, folder, photos, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    other = Pipeline(pipe.model, pipe.vocabulary, pipe.encoder, replace(pipe.generation, beam=3))
    for target in ("write_json", "save_file"):
        monkeypatch.setattr(saving, target, full)
        with pytest.raises(OSError, match="No space left"):
            other.save(folder)
        monkeypatch.undo()
    assert {p.name for p in folder.iterdir()} == set(before)
    assert (folder / "model.safetensors").read_bytes() == before["model.safetensors"]
    load(folder).caption(photos)
    load(folder, "torch").caption(photos)


def test_a_save_that_is_cut_off_anywhere_leaves_the_old_model_or_the_new_one(tmp_path, monkeypatch):
    class Cut(Exception):
        pass

    left, used, prints = 0, 0, []

    def cut(work):
        def counted(*args, **options):
            nonlocal used
            used += 1
            if used == left:
                raise Cut
            return work(*args, **options)

        return counted

    for seed, name in enumerate(("old", "new")):
        tiny_model(seed, FEW).save(tmp_path / name)
    old, new = (load(tmp_path / name, "onnx") for name in ("old", "new"))
    monkeypatch.setattr(os, "fsync", lambda file: None)
    for module, name in ((os, "link"), (Path, "rename"), (Path, "replace"), (Path, "mkdir"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, cut(getattr(module, name)))
    while True:
        folder, used, left = tmp_path / f"{left}", 0, left + 2
        shutil.copytree(tmp_path / "old", folder)
        with contextlib.suppress(Cut):
            new.save(folder)
        cut_off, stopped, left = used >= left, left, 10**6
        prints.append(load(folder, "onnx").fingerprint)
        new.save(folder)
        left = stopped
        assert load(folder, "onnx").fingerprint == new.fingerprint
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in (tmp_path / "new").iterdir())
        if not cut_off:
            break
    assert prints == sorted(prints, key=[old.fingerprint, new.fingerprint].index)
    assert set(prints) == {old.fingerprint, new.fingerprint}


@pytest.mark.parametrize(("width", "said"), [(10**6, "safetensors: .* shape"), (10**12, "json: model.word is 10+,")])
def test_sizes_that_are_not_those_of_the_weights_take_no_memory(folder, width, said):
    change_config(folder, lambda config: config["model"].update(recurrent=width, word=width))
    refuse(said, folder, "torch")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_folder_of_an_earlier_version_is_used_by_pytorch_and_brought_up_to_date(pipe, tmp_path, photos, dtype):
    pipe.save(tmp_path / "m", dtype)
    make_older(tmp_path / "m")
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    refuse(f"mrnn convert {tmp_path / 'm'}", tmp_path / "m", "onnx")
    old = load(tmp_path / "m")
    assert type(old.model) is TorchRuntime
    captions = [c[0].tokens for c in old.caption(photos)]
    assert captions == [c[0].tokens for c in pipe.caption(photos)]
    assert saving.convert(old, tmp_path / "m") == []
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == FILES
    for name in ("model.safetensors", "encoder.safetensors"):
        assert {t.dtype for t in load_file(tmp_path / "m" / name).values()} == {dtype}
    for runtime in ("onnx", "torch"):
        new = load(tmp_path / "m", runtime)
        assert [c[0].tokens for c in new.caption(photos)] == captions
        assert new.fingerprint == old.fingerprint
    assert type(load(tmp_path / "m").model) is OnnxRuntime


def test_an_earlier_versions_weights_are_halved_if_asked(folder, photos):
    make_older(folder)
    old = load(folder)
    captions = [c[0].tokens for c in old.caption(photos)]
    saving.convert(old, folder, half=True)
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert [c[0].tokens for c in load(folder).caption(photos)] == captions


@every_hand
def test_an_ensemble_of_models_trained_on_different_data_captions(others, photos, runtime):
    mixed = load(f"{others['a']}+{others['c']}", runtime)
    assert load(others["a"], runtime).generation.image_gain == 1.15
    assert mixed.references is None and mixed.generation.image_gain == 1
    for options in ({}, {"method": "greedy"}, {"method": "sample"}):
        assert all(several[0].tokens for several in mixed.caption(photos, **options))
    assert all(described.captions for described in mixed.describe(photos))
    with pytest.raises(ValueError, match="no reference images"):
        mixed.caption(photos, image_gain=1.15)
    alike = load(f"{others['a']}+{others['b']}", runtime)
    assert alike.references.shape == (9, 16) and alike.generation.image_gain == 1.15
    assert all(several[0].tokens for several in alike.caption(photos))


@every_hand
def test_an_ensemble_is_not_saved(others, tmp_path, runtime):
    with pytest.raises(ValueError, match="ensemble is not saved"):
        load(f"{others['a']}+{others['b']}", runtime).save(tmp_path / "both")


def test_names_that_are_no_model_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="none of the bundled models"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="hub does not give it"):
        load("somebody/no-such-model")


@pytest.mark.parametrize("runtime", [None, "onnx", "torch"])
def test_push_to_hub_uploads_what_load_gets_from_it(pipe, saved, tmp_path, monkeypatch, runtime):
    uploaded = {}
    pipe = pipe if runtime is None else load(saved, runtime)

    class Api:
        def create_repo(self, name, exist_ok, **options):
            uploaded["repository"] = (name, options)
            return f"hub/{name}"

        def upload_folder(self, repo_id, folder_path):
            uploaded["files"] = {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert pipe.push_to_hub("me/model", private=True) == "hub/me/model"
    assert uploaded["repository"] == ("me/model", {"private": True})
    assert sorted(uploaded["files"]) == FILES
    card = uploaded["files"]["README.md"].decode()
    assert "# model\n" in card and 'mrnn.load("me/model")' in card

    def download(name, allow_patterns):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for file, content in uploaded["files"].items():
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                (folder / file).write_bytes(content)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for hand in ("onnx", "torch"):
        shutil.rmtree(tmp_path / "me", ignore_errors=True)
        assert load("me/model", hand).fingerprint == pipe.fingerprint


def test_a_card_says_how_the_model_is_loaded_from_where_it_was_saved(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe.save("runs/mine")
    card = (tmp_path / "runs" / "mine" / "README.md").read_text()
    assert "# mine\n" in card and 'mrnn.load("runs/mine")' in card


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_commit_is_that_of_a_checkout_of_the_package_alone(tmp_path, monkeypatch):
    package = tmp_path / "venv" / "mrnn"
    package.mkdir(parents=True)
    (tmp_path / ".gitignore").write_text("venv\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "another project"]):
        subprocess.run([*git, *command], check=True)
    (package / "version.py").touch()
    monkeypatch.setattr(version, "__file__", str(package / "version.py"))
    assert set(version.code_version()) == {"version"}
    subprocess.run([*git, "add", "-f", str(package)], check=True)
    assert set(version.code_version()) == {"version", "commit"}


@pytest.mark.parametrize(("name", "recurrent"), [("base", 512), ("flickr8k", 256)])
def test_bundled_models_are_small_and_whole_and_one_has_the_papers_sizes(name, recurrent):
    sizes = mrnn.load(name, "torch").model.model.config
    assert (sizes.embedding, sizes.word, sizes.recurrent, sizes.multimodal) == (128, 256, recurrent, 512)
    assert type(mrnn.load(name).model) is OnnxRuntime
    folder = find_folder(name)
    assert sum(file.stat().st_size for file in folder.parent.rglob("*") if file.is_file()) <= 60 * 2**20
    weights = [load_file(folder / file) for file in ("model.safetensors", "encoder.safetensors")]
    assert {t.dtype for some in weights for t in some.values()} == {torch.float16}
    card = (folder / "README.md").read_text()
    assert "Figures on" in card and "Provenance" in card


def test_the_bundled_model_finds_the_sample_photo_that_a_sentence_describes():
    from mrnn.demo import SENTENCE, sample_photos

    samples = sample_photos()
    (matches,) = mrnn.load().rank(samples, [SENTENCE], query="sentence")
    assert samples[matches[0].index].name == "camera.png"
    assert len(matches) == len(samples)


def test_a_model_that_does_not_look_captions_but_never_ranks(tmp_path, photos):
    torch.manual_seed(0)
    vocabulary = pipeline().vocabulary
    model = NGram(NGramConfig(order=2, smoothing="good-turing"), len(vocabulary), 1280)
    weights = 1 / torch.arange(1, len(vocabulary) - 1)
    sentences = [(torch.multinomial(weights, 1 + i % 7, True) + 2).tolist() for i in range(60)]
    model.count(sentences, vocabulary)
    Pipeline(TorchRuntime(model, "ngram"), vocabulary, pipeline().encoder).save(tmp_path / "ngram")
    assert type(load(tmp_path / "ngram").model) is NGramRuntime
    texts = set()
    for runtime in ("auto", "onnx", "torch"):
        blind = load(tmp_path / "ngram", runtime)
        texts |= {several[0].text for several in blind.caption(photos)}
        with pytest.raises(ValueError, match="ngram does not look at the image"):
            blind.rank(photos, ["a red square"])
    assert len(texts) == 1
