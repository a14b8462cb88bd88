"""Two hands, one protocol: PyTorch and ONNX Runtime give the same of every registered model."""

import json

import numpy as np
import pytest
import torch
from made import photo
from tiny import VOCABULARY, D, V, make, photos

from mrnn.encoders import Encoder
from mrnn.images import Preprocessing
from mrnn.models import MODELS
from mrnn.models.hand import TorchRuntime
from mrnn.models.saving import save
from mrnn.networks import load_encoder, torch_encoder
from mrnn.pipeline import Pipeline, load
from mrnn.runtime import Runtime
from mrnn.runtime.ensemble import Ensemble
from mrnn.runtime.onnx import Graphs
from mrnn.runtime.protocol import top_k
from mrnn.runtime.told import Told
from mrnn.tasks.generation import GenerationConfig, generate
from mrnn.tasks.retrieval import encode_sentences, first_order, log_likelihood, pair_log_likelihood
from mrnn.text import Vocabulary

KINDS = {
    **{name: (name, {}) for name in MODELS},
    **{f"mrnn {kind}": ("mrnn", {"recurrence": kind}) for kind in ("sigmoid", "tanh", "gru", "lstm")},
    "mrnn shared": ("mrnn", {"shared": True}),
    "mrnn without w(t)": ("mrnn", {"word_to_multimodal": False, "second_embedding": False}),
    "mrnn-classes with words": ("mrnn-classes", {"words": ("dog", "cat"), "ids": (5, 6)}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
SENTENCES = [[5, 6, 5, 7], [5, 6, 8], [9], [5, 6, 8, 2, 11]]


def torch_hand(kind: str) -> TorchRuntime:
    name, options = KINDS[kind]
    return TorchRuntime(make(name, **options), name, tuple(photos(1, name).shape[1:]))


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """Both hands of a kind of model, the second as saved and loaded."""
    known: dict[str, tuple[Runtime, Runtime]] = {}
    encoder = Encoder(
        "huggingface:nowhere", lambda pixels: (pixels, None), Preprocessing(8, (0,) * 3, (1,) * 3), D, "x"
    )

    def of(kind: str) -> tuple[Runtime, Runtime]:
        if kind not in known:
            first = torch_hand(kind)
            folder = tmp_path_factory.mktemp("model")
            save(Pipeline(first, VOCABULARY, encoder), folder)
            known[kind] = first, load(folder, "onnx").model
        return known[kind]

    return of


def same(a, b, atol=1e-4):
    np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4)


@every_kind
def test_the_hands_agree_in_every_call(hands, kind):
    one, other = hands(kind)
    features = photos(5, KINDS[kind][0]).numpy()
    image = one.encode_image(features)
    same(other.encode_image(features), image, 1e-5)
    assert (other.vocabulary, other.image_width, other.feature_shape) == (V, one.image_width, one.feature_shape)
    assert (other.uses_image, other.uses_regions) == (one.uses_image, one.uses_regions)
    rng = np.random.default_rng(0)
    state, other_state = one.begin(5), other.begin(5)
    allowed = np.zeros(V, np.float32)
    allowed[[0, 7]] = -np.inf
    for rows in ([0, 1, 2, 3, 4], [3, 3, 1, 0, 4]):
        state, other_state = one.select(state, np.array(rows)), other.select(other_state, np.array(rows))
        words = rng.integers(3, V, 5)
        text, after = one.text(words, state)
        other_text, other_after = other.text(words, other_state)
        same(other_text, text)
        same(other.distribution(text, image), one.distribution(text, image))
        top, ids, stepped = one.step(words, state, image, 4, allowed)
        other_top, other_ids, other_stepped = other.step(words, other_state, image, 4, allowed)
        same(other_top, top)
        assert not {0, 7} & set(ids.ravel().tolist()) | {0, 7} & set(other_ids.ravel().tolist())
        same(np.take_along_axis(one.distribution(text, image), other_ids, 1), top)
        if kind != "ngram":  # whose words that never followed are all as likely
            assert (other_ids == ids).all()
        row, target = np.array([0, 2, 2, 4]), rng.integers(0, V, 4)
        same(other.log_p(text, image, row, target), one.log_p(text, image, row, target))
        targets = rng.integers(3, V, 5)
        for a, b in zip(one.gradient(text, image, targets), other.gradient(text, image, targets), strict=True):
            same(b, a)
        same(other.encode_cells(features), one.encode_cells(features), 1e-5)
        for optional in ("branch", "attention"):
            arguments = (words,) if optional == "branch" else (text, image)
            a, b = getattr(one, optional)(*arguments), getattr(other, optional)(*arguments)
            assert (a is None) == (b is None)
            if a is not None:
                same(b, a)
        state, other_state = stepped, other_stepped
    same(one.text(words, after)[0], one.text(words, stepped)[0])
    same(other.text(words, other_after)[0], one.text(words, after)[0])


@every_kind
def test_what_a_hand_computes_at_once_is_what_the_protocol_says(hands, kind):
    rng = np.random.default_rng(1)
    for model in hands(kind):
        image = model.encode_image(photos(6, KINDS[kind][0]).numpy())
        words, targets, row = rng.integers(3, V, 6), rng.integers(3, V, 6), np.array([5, 0, 0])
        text, _ = model.text(words, model.begin(6))
        allowed = np.zeros(V, np.float32)
        asked = words, model.begin(6), image, 3, allowed
        same(model.step(*asked)[0], Runtime.step(model, *asked)[0])
        same(model.log_p(text, image, row, targets[:3]), Runtime.log_p(model, text, image, row, targets[:3]))
        for a, b in zip(
            model.gradient(text, image, targets), Runtime.gradient(model, text, image, targets), strict=True
        ):
            same(a, b)


@every_kind
@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_the_hands_write_the_same_captions_in_float32(hands, kind, method):
    config = GenerationConfig(method=method, n=1, max_length=8, min_length=2)
    image = hands(kind)[0].encode_image(photos(9, KINDS[kind][0]).numpy())
    one, other = (generate(model, VOCABULARY, image, config, precision="float32") for model in hands(kind))
    assert [c[0].tokens for c in one] == [c[0].tokens for c in other]
    same([c[0].log_likelihood for c in one], [c[0].log_likelihood for c in other])


@every_kind
def test_the_hands_score_and_expand_alike(hands, kind):
    image = hands(kind)[0].encode_image(photos(7, KINDS[kind][0]).numpy())
    pairs = np.array([[0, 1], [6, 0], [6, 3], [2, 2]])
    found = []
    for model in hands(kind):
        encoded = encode_sentences(model, VOCABULARY, SENTENCES)
        scores = log_likelihood(model, encoded, image)
        same(pair_log_likelihood(model, encoded, image, pairs), scores[pairs[:, 0], pairs[:, 1]])
        first = first_order(model, VOCABULARY, SENTENCES, image.mean(0))
        found.append((scores, first.constant, first.vectors))
    for a, b in zip(*found, strict=True):
        same(a, b, 3e-4)


def test_a_rounded_search_finds_what_an_exact_one_finds_nearly_always(hands):
    _, model = hands("mrnn gru")
    image = model.encode_image(photos(200, "mrnn").numpy())
    exact, rounded = (
        model.step(np.full(200, 5), model.begin(200), image, 3, np.zeros(V, np.float32), precision)
        for precision in ("float32", "auto")
    )
    assert (exact[1][:, 0] == rounded[1][:, 0]).mean() > 0.95
    assert np.abs(exact[0] - rounded[0]).max() < 0.05


@pytest.mark.parametrize(("kind", "name"), [("mrnn gru", "mrnn"), ("transformer", "transformer")])
def test_rounded_scores_are_those_of_the_words_asked_over_a_rounded_normaliser(hands, kind, name):
    _, model = hands(kind)
    image = model.encode_image(photos(9, name).numpy())
    encoded = encode_sentences(model, VOCABULARY, SENTENCES)
    exact, rounded = (log_likelihood(model, encoded, image, precision=p) for p in ("float32", "auto"))
    assert (exact != rounded).any()
    assert np.abs(exact - rounded).max() < 0.02 * encoded.tokens.max()


@pytest.mark.parametrize("k", [1, 3, 23, 40])
def test_top_k_is_a_sort_cut_off(k):
    values = np.random.default_rng(0).integers(0, 9, (11, 23)).astype(np.float32)
    top, ids = top_k(values, k)
    expected = np.sort(values, axis=1)[:, ::-1][:, :k]
    assert (top == expected).all() and (np.take_along_axis(values, ids, 1) == top).all()
    assert all(len(set(row)) == len(row) for row in ids.tolist())


def test_an_ensemble_is_its_members_mean_log_probability(hands):
    for hand in (0, 1):
        members = [hands(kind)[hand] for kind in ("mrnn", "mrnn-regions", "transformer")]
        ensemble = Ensemble(members)
        features = photos(4, "mrnn-regions").numpy()
        image = ensemble.encode_image(features)
        state = ensemble.begin(4)
        states = [member.begin(4) for member in members]
        for word in (1, 5, 9):
            words = np.full(4, word)
            text, state = ensemble.text(words, state)
            alone = []
            for i, member in enumerate(members):
                said, states[i] = member.text(words, states[i])
                seen = member.encode_image(features if member.uses_regions else features[:, 0])
                alone.append(member.distribution(said, seen))
            expected = torch.from_numpy(np.mean(alone, 0)).log_softmax(-1).numpy()
            same(ensemble.distribution(text, image), expected)
        targets = np.array([3, 4, 5, 6])
        log_p, q = ensemble.gradient(text, image, targets)
        step = 1e-2 * np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
        ahead, behind = (ensemble.distribution(text, image + s)[range(4), targets] for s in (step, -step))
        np.testing.assert_allclose((ahead - behind) / 2, (q * step).sum(1), atol=2e-4)
        same(log_p, ensemble.distribution(text, image)[range(4), targets])


def test_an_ensemble_wants_one_vocabulary_and_features_that_fit(hands):
    other = make("mrnn")
    other.vocabulary = V + 1
    with pytest.raises(ValueError, match="same vocabulary"):
        Ensemble([hands("mrnn")[0], TorchRuntime(other, "mrnn")])


@every_kind
def test_a_told_model_counts_the_sentences_with_the_model_as_their_prior(hands, kind):
    model, name = hands(kind)[0], KINDS[kind][0]
    said, weights = [[5, 6, 5, 7], [5, 6, 8], [9]], [0.5, 2.0, 1.0]
    told, silent = Told(model, VOCABULARY, said, weights), Told(model, VOCABULARY, said, [0.0] * 3)
    image = told.encode_image(photos(2, name).numpy())

    def counted(history):
        """Weighted counts of what follows a history in the sentences."""
        count, n = np.zeros(V), len(history)
        for sentence, weight in zip(said, weights, strict=True):
            signed = [VOCABULARY.start, VOCABULARY.start, *sentence, VOCABULARY.end]
            for i in range(2, len(signed)):
                if signed[i - n : i] == history:
                    count[signed[i]] += weight
        return count

    states = [told.begin(2), silent.begin(2), model.begin(2)]
    past = [[VOCABULARY.start] for _ in range(2)]
    for words in np.array([[VOCABULARY.start] * 2, [5, 9], [6, 6], [5, 11]]):
        texts = []
        for i, one in enumerate((told, silent, model)):
            text, states[i] = one.text(words, states[i])
            texts.append(text)
        prior = np.exp(model.distribution(texts[2], image).astype(np.float64))
        got = np.exp(told.distribution(texts[0], image))
        for row in range(2):
            past[row].append(int(words[row]))
            p = prior[row]
            for n in (1, 2):
                count = counted(past[row][-n:])
                p = (count + p) / (count.sum() + 1)
            np.testing.assert_allclose(got[row], p, atol=1e-6)
        np.testing.assert_allclose(np.exp(silent.distribution(texts[1], image)), prior, atol=1e-6)


@pytest.mark.parametrize("name", ["efficientnet_lite2", "grid:3:efficientnet_lite2", "stem:21:efficientnet_lite2"])
def test_the_hands_see_the_same_in_a_photo(tmp_path, name):
    encoder = load_encoder(name)
    kind = {"grid": "mrnn-regions", "stem": "mrnn-tuned"}.get(name.partition(":")[0], "mrnn")
    torch.manual_seed(0)
    config = MODELS[kind].Config(embedding=4, word=6, recurrent=6, multimodal=8)
    model = MODELS[kind].build(config, VOCABULARY, encoder).eval()
    joined = model.join(encoder)
    runtime = TorchRuntime(model, kind, joined.feature_shape)
    pipe = Pipeline(runtime, VOCABULARY, joined, described=encoder.describe())
    assert pipe.save(tmp_path / "model") == []
    photo_file = photo(tmp_path / "red.jpg", "red")
    expected = pipe.features([photo_file])
    for hand in ("onnx", "torch"):
        again = load(tmp_path / "model", hand)
        found = again.features([photo_file])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert again.encoder.fingerprint == joined.fingerprint
        captions = [p.caption(photo_file, method="greedy", min_length=3)[0][0] for p in (again, pipe)]
        assert captions[0].log_likelihood == pytest.approx(captions[1].log_likelihood, abs=0.5)
    half = tmp_path / "half"
    pipe.save(half, torch.float16)
    one, other = load(half, "onnx"), load(half, "torch")
    np.testing.assert_allclose(one.features([photo_file]), other.features([photo_file]), rtol=1e-5, atol=1e-5)
    sizes = {p.name: p.stat().st_size for p in half.glob("*.onnx")}
    assert max(sizes.values()) < 250_000, "graphs hold no weights"


class OnNoDevice(TorchRuntime):
    """PyTorch's hand on its `meta` device, where tensors have shapes alone: mixed devices are found without a GPU."""

    def _given(self, tensor):
        assert tensor.device.type == "meta", "a number that was computed elsewhere"
        if tensor.dtype == torch.int64:  # ids, the end sign's among them
            return np.tile(np.arange(tensor.shape[-1]), (*tensor.shape[:-1], 1))
        return np.zeros(tuple(tensor.shape), np.float32)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("ngram")])
def test_no_call_mixes_devices(kind):
    name, options = KINDS[kind]
    model = OnNoDevice(make(name, **options).to("meta"), name, tuple(photos(1, name).shape[1:]))
    image = model.encode_image(photos(3, name).numpy())
    model.encode_cells(photos(3, name).numpy())
    for precision in ("float32", "auto"):
        generate(model, VOCABULARY, image, GenerationConfig(max_length=3), precision=precision)
    generate(model, VOCABULARY, image, GenerationConfig(method="sample", max_length=3))
    encoded = encode_sentences(model, VOCABULARY, SENTENCES)
    log_likelihood(model, encoded, image)
    first_order(model, VOCABULARY, SENTENCES, image.mean(0))
    text, _ = model.text(np.array([3, 4, 5]), model.begin(3))
    model.pull(text, image, np.zeros((3, V), np.float32))
    model.branch(np.array([3, 4, 5]))
    model.attention(text, image)


def test_a_provider_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(ValueError, match="no provider for the device 'cuda' here; it has cpu"):
        Graphs(tmp_path, "cuda")
    with pytest.raises(ValueError, match="no provider"):
        load("flickr8k", "onnx", "cuda")


@pytest.fixture
def saved(tmp_path):
    encoder = Encoder(
        "huggingface:nowhere", lambda pixels: (pixels, None), Preprocessing(8, (0,) * 3, (1,) * 3), D, "x"
    )
    save(Pipeline(torch_hand("mrnn"), VOCABULARY, encoder), tmp_path / "model")
    return tmp_path / "model"


def rehash(folder):
    """The folder as if its files had been saved as they are now."""
    from mrnn.files import sha256

    config = json.loads((folder / "config.json").read_text())
    config["files"] = {name: sha256(folder / name) for name in config["files"]}
    (folder / "config.json").write_text(json.dumps(config))


def test_a_graph_that_does_not_fit_its_weights_is_one_clear_line(saved):
    (saved / "step.onnx").write_bytes((saved / "text.onnx").read_bytes()[:-40])
    rehash(saved)
    model = load(saved, "onnx")
    with pytest.raises(ValueError, match=r"step\.onnx: does not fit its weights, or cannot be run here") as error:
        generate(model.model, VOCABULARY, np.zeros((1, model.model.image_width), np.float32), precision="float32")
    assert "\n" not in str(error.value)


def test_a_graph_of_another_vocabulary_is_one_clear_line(saved, hands):
    other = torch_hand("mrnn")
    other.model.U_M = torch.nn.Linear(10, V + 2)
    encoder = Encoder(
        "huggingface:nowhere", lambda pixels: (pixels, None), Preprocessing(8, (0,) * 3, (1,) * 3), D, "x"
    )
    other.model.vocabulary = other.vocabulary = V + 2
    words = Vocabulary([*VOCABULARY.tokens, "more", "words"])
    save(Pipeline(other, words, encoder), saved.with_name("other"))
    for file in ("step.onnx", "search.onnx"):
        (saved / file).write_bytes((saved.with_name("other") / file).read_bytes())
    rehash(saved)
    model = load(saved, "onnx").model
    for precision in ("float32", "auto"):
        with pytest.raises(ValueError, match=r"(step|search)\.onnx: does not fit") as error:
            generate(model, VOCABULARY, np.zeros((1, model.image_width), np.float32), precision=precision)
        assert "\n" not in str(error.value)


def test_an_encoder_that_cannot_be_exported_is_named_and_the_model_saved(tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x.mean(1))[:, :D], None

    encoder = torch_encoder("odd", Odd(), Preprocessing(8, (0.0,) * 3, (1.0,) * 3), D)
    (note,) = Pipeline(torch_hand("mrnn"), VOCABULARY, encoder).save(tmp_path / "model")
    assert note.startswith("the encoder is used by PyTorch alone: encoder cannot be exported to ONNX (")
    assert load(tmp_path / "model").caption_features(np.zeros((1, D), np.float32))


def test_an_onnxruntime_too_old_for_a_graph_is_named(saved):
    import onnx

    for path in saved.glob("*.onnx"):
        graph = onnx.load(path, load_external_data=False)
        graph.opset_import[0].version = 99
        path.write_bytes(graph.SerializeToString())
    rehash(saved)
    with pytest.raises(ValueError, match="too old for it"):
        load(saved, "onnx").model.encode_image(np.zeros((1, D), np.float32))


def test_a_folder_without_graphs_asks_for_pytorch_where_it_is_not(saved, monkeypatch):
    config = json.loads((saved / "config.json").read_text())
    config["use"] = None
    (saved / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("mrnn.workshop.import_module", _no_torch)
    with pytest.raises(ValueError, match=r"needs PyTorch, which is an extra: pip install 'mrnn\[train\]'"):
        load(saved)
    with pytest.raises(ValueError, match=r"mrnn convert"):
        load(saved, "onnx")


def _no_torch(name):
    raise ModuleNotFoundError("No module named 'torch'", name="torch")


def test_a_device_that_pytorch_alone_has_is_taken(monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["AzureExecutionProvider"])
    assert type(load("flickr8k", device="cpu").model) is type(load("flickr8k", "torch").model)
