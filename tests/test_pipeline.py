import itertools
import json
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from made import photo, pipeline
from safetensors.torch import load_file, save_file

import mrnn
from mrnn import pipeline as pipeline_module
from mrnn.images import ImageError
from mrnn.models import NGram, NGramConfig
from mrnn.pipeline import Pipeline, load


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return pipeline()


@pytest.fixture
def folder(pipe, tmp_path):
    pipe.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def photos(tmp_path):
    return [photo(tmp_path / f"{colour}.jpg", colour) for colour in ("red", "blue")]


def test_a_saved_model_loads_and_captions_alike(pipe, folder, photos):
    again = load(folder)
    assert [c[0].tokens for c in again.caption(photos)] == [c[0].tokens for c in pipe.caption(photos)]
    assert again.fingerprint == pipe.fingerprint
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors", "vocab.txt"]
    config = json.loads((folder / "config.json").read_text())
    assert config["encoder"]["name"] == "efficientnet_lite2"
    assert config["encoder"]["preprocessing"]["side"] == 260
    assert config["model"]["name"] == "mrnn"


def test_half_precision_halves_the_file_and_keeps_the_captions(pipe, tmp_path, photos):
    pipe.save(tmp_path / "half", torch.float16)
    weights = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    again = load(tmp_path / "half")
    torch.testing.assert_close(
        again.log_likelihood(photos, ["a red square"]), pipe.log_likelihood(photos, ["a red square"]), atol=0.05, rtol=0
    )


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


def test_reference_images_travel_with_the_model(tmp_path, photos):
    pipe = pipeline(references=9)
    pipe.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert torch.equal(again.references, pipe.references)
    sentences = ["a red square", "a large picture", "a blue square"]
    assert again.rank(photos, sentences) == pipe.rank(photos, sentences)
    Pipeline(pipe.model, pipe.vocabulary, pipe.encoder).save(tmp_path / "m")
    assert load(tmp_path / "m").references is None, "those of the model that was there are gone"
    save_file({"image": torch.zeros(3, 5)}, tmp_path / "m" / "references.safetensors")
    with pytest.raises(ValueError, match="no reference images of this model"):
        load(tmp_path / "m")
    (tmp_path / "m" / "references.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged reference images"):
        load(tmp_path / "m")


def made_retriever():
    pipe = pipeline(references=9)
    sentences = [" ".join(words) for words in itertools.permutations(["a", "red", "blue", "square"], 3)]
    features = pipe.model.feature_mean + torch.randn(30, 1280, generator=torch.Generator().manual_seed(0))
    return pipe.retriever(features, sentences, precision="float32")


@pytest.mark.parametrize("query", ["image", "sentence"])
@pytest.mark.parametrize("score", ["raw", "normalised", "per-token"])
def test_a_shortlist_is_ranked_as_the_exact_scores_rank_it(query, score):
    retriever = made_retriever()
    exact, some = retriever.exact(score), retriever.ranked(query, score, shortlist=5)
    dim = 1 if query == "image" else 0
    found = some.topk(5, dim).indices
    torch.testing.assert_close(some.gather(dim, found), exact.gather(dim, found), atol=1e-4, rtol=0)
    assert torch.equal(retriever.ranked(query, score, shortlist=1000), exact)
    with pytest.raises(ValueError, match="shortlist"):
        retriever.ranked(query, score, shortlist=0)


@pytest.mark.parametrize("query", ["image", "sentence"])
@pytest.mark.parametrize("score", ["raw", "normalised", "per-token"])
def test_a_large_pool_is_searched_by_an_index(monkeypatch, query, score):
    retriever = made_retriever()
    expected = retriever.matches(query, 4, score, shortlist=6)
    monkeypatch.setattr("mrnn.retrieval.search.BRUTE_FORCE", 0)
    found = retriever.matches(query, 4, score, shortlist=6)
    assert [[m.index for m in several] for several in found] == [[m.index for m in several] for several in expected]
    for some, others in zip(found, expected, strict=True):
        assert [m.score for m in some] == pytest.approx([m.score for m in others], abs=1e-4)


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


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name):
        load(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_a_pickle_is_never_loaded(folder, name):
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / name)
    with pytest.raises(ValueError, match="pickle is never loaded"):
        load(folder)


def test_a_pickle_in_safetensors_clothes_is_damaged_weights(folder):
    torch.save({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="damaged weights"):
        load(folder)


def damage(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("U_r.weight"), "U_r.weight is missing"),
        (lambda w: w.update(extra=torch.zeros(1)), "extra is not one of the model"),
        (lambda w: w.update({"U_r.weight": torch.zeros(2, 2)}), "U_r.weight has the shape"),
        (lambda w: w["V_I.weight"].fill_(torch.nan), "V_I.weight holds numbers that are not finite"),
    ],
)
def test_wrong_weights_are_named(folder, change, message):
    damage(folder, change)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=99), "another version"),
        (lambda c: c["model"].update(name="unknown"), "no model 'unknown'"),
        (lambda c: c["model"].update(wings=2), "no option 'wings'"),
        (lambda c: c["generation"].update(beam=0), "beam"),
        (lambda c: c.pop("encoder"), "encoder"),
        (lambda c: c["encoder"].update(width=5), "width"),
        (lambda c: c["encoder"].pop("fingerprint"), "fingerprint"),
        (lambda c: c["encoder"].update(name=3), "name"),
        (lambda c: c["encoder"].update(row="wide"), "encoder"),
        (lambda c: c.update(encoder=None), "encoder"),
        (lambda c: c["generation"].update(beam=2.5), r"2\.5"),
        (lambda c: c["generation"].update(method="foo"), "foo"),
    ],
)
def test_a_strange_config_is_refused(folder, change, message):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_config_that_is_no_json_and_a_vocabulary_of_another_size(folder):
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text() + "more\n")
    with pytest.raises(ValueError, match="vocabulary"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load(folder)


def test_weights_of_another_encoder_are_refused(folder, photos):
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["fingerprint"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trained on other weights"):
        load(folder).caption(photos)


def test_photos_prepared_otherwise_than_in_training_are_refused(folder, photos):
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["preprocessing"]["side"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="was given otherwise"):
        load(folder).caption(photos)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c["encoder"].pop("preprocessing"),
        lambda c: c["encoder"].update(preprocessing=None),
        lambda c: c["encoder"]["preprocessing"].update(more=1),
        lambda c: c["model"].update(vocabulary=-5),
        lambda c: c["generation"].update(length_exponent="long"),
        lambda c: c["generation"].update(seed=10**30),
    ],
)
def test_a_damaged_config_is_named(folder, damage):
    config = json.loads((folder / "config.json").read_text())
    damage(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json"):
        load(folder)


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
        monkeypatch.setattr(pipeline_module, target, full)
        with pytest.raises(OSError, match="No space left"):
            other.save(folder)
        monkeypatch.undo()
    assert {p.name for p in folder.iterdir()} == set(before)
    assert (folder / "model.safetensors").read_bytes() == before["model.safetensors"]
    load(folder).caption(photos)


def test_names_that_are_no_model_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="none of the bundled models"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="hub does not give it"):
        load("somebody/no-such-model")


def test_push_to_hub_uploads_what_load_gets_from_it(pipe, tmp_path, monkeypatch):
    uploaded = {}

    class Api:
        def create_repo(self, name, exist_ok, **options):
            uploaded["repository"] = (name, options)
            return f"hub/{name}"

        def upload_folder(self, repo_id, folder_path):
            uploaded["files"] = {p.name: p.read_bytes() for p in pipeline_module.Path(folder_path).iterdir()}

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert pipe.push_to_hub("me/model", private=True) == "hub/me/model"
    assert uploaded["repository"] == ("me/model", {"private": True})
    assert sorted(uploaded["files"]) == ["README.md", "config.json", "model.safetensors", "vocab.txt"]
    card = uploaded["files"]["README.md"].decode()
    assert "# model\n" in card and 'mrnn.load("me/model")' in card

    def download(name, allow_patterns):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for file in set(uploaded["files"]) & set(allow_patterns):
            (folder / file).write_bytes(uploaded["files"][file])
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load("me/model").fingerprint == pipe.fingerprint


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
    (package / "pipeline.py").touch()
    monkeypatch.setattr(pipeline_module, "__file__", str(package / "pipeline.py"))
    assert set(pipeline_module.code_version()) == {"version"}
    subprocess.run([*git, "add", "-f", str(package)], check=True)
    assert set(pipeline_module.code_version()) == {"version", "commit"}


@pytest.mark.parametrize("name", ["base", "flickr8k"])
def test_bundled_models_are_small_whole_and_of_the_papers_sizes(name):
    pipe = mrnn.load(name)
    sizes = pipe.model.config
    assert (sizes.embedding, sizes.word, sizes.recurrent, sizes.multimodal) == (128, 256, 256, 512)
    weights = pipeline_module.BUNDLED / name / "model.safetensors"
    assert weights.stat().st_size <= 16 * 2**20
    assert {t.dtype for t in load_file(weights).values()} == {torch.float16}
    card = (pipeline_module.BUNDLED / name / "README.md").read_text()
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
    Pipeline(model, vocabulary, pipeline().encoder).save(tmp_path / "ngram")
    blind = load(tmp_path / "ngram")
    first, second = blind.caption(photos)
    assert first[0].text == second[0].text
    with pytest.raises(ValueError, match="ngram does not look at the image"):
        blind.rank(photos, ["a red square"])
