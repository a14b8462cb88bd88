"""N-gram models against independent code: nltk, KenLM, and the formulas written out."""

import functools
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrnn.models import NGram, NGramConfig
from mrnn.models.arpa import load_arpa, save_arpa
from mrnn.models.hand import TorchRuntime
from mrnn.models.ngram import katz_discounts, kneser_ney_discounts
from mrnn.runtime.ngram import NGramRuntime
from mrnn.tasks.likelihood import token_log_probabilities
from mrnn.text import SIGNS, Vocabulary

V = 40
WORDS = Vocabulary([*SIGNS, *(f"w{i}" for i in range(V - 3))])
SMOOTHINGS = ("good-turing", "kneser-ney")


def sentences(n=500, seed=5):
    generator = torch.Generator().manual_seed(seed)
    weights = 1 / torch.arange(1, V - 1).float() ** 1.2
    lengths = torch.randint(1, 9, (n,), generator=generator).tolist()
    return [(torch.multinomial(weights, k, True, generator=generator) + 2).tolist() for k in lengths]


@functools.cache
def counted(**options) -> NGram:
    model = NGram(NGramConfig(**options), V, 4)
    model.count(sentences(), WORDS)
    return model.eval()


def log_p(model: NGram, history: list[int]) -> torch.Tensor:
    """Of every word after a history that begins with the start sign."""
    return model(torch.tensor([history]), torch.zeros(1, 4))[0, -1].double()


def scores(model: NGram, of: list[list[int]]) -> list[list[float]]:
    runtime = TorchRuntime(model, "ngram")
    return token_log_probabilities(runtime, WORDS, of, runtime.encode_image(np.zeros((len(of), 4), np.float32)))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [2, 3, 4])
@settings(max_examples=15)
@given(history=st.lists(st.integers(2, V - 1), max_size=5))
def test_every_distribution_sums_to_one(smoothing, order, history):
    model = counted(order=order, smoothing=smoothing)
    values = log_p(model, [WORDS.start, *history])
    assert values.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert values[WORDS.start] == -math.inf


def test_kneser_ney_is_nltks():
    lm = pytest.importorskip("nltk.lm", reason="nltk is not installed")
    from nltk.util import everygrams

    train = [["<s>", *(str(i) for i in s), "</s>"] for s in sentences()]
    theirs = lm.KneserNeyInterpolated(2, discount=0.25)
    theirs.fit([list(everygrams(s, max_len=2)) for s in train], [w for s in train for w in s])
    model = counted(order=2, discount=0.25)
    for word in range(3, V):
        values = log_p(model, [WORDS.start, word]).exp()
        for after in range(3, V):
            assert values[after].item() == pytest.approx(theirs.score(str(after), [str(word)]), rel=1e-4)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [2, 3])
def test_kenlm_gives_our_arpa_file_our_probabilities(smoothing, order, tmp_path):
    kenlm = pytest.importorskip("kenlm", reason="KenLM is not installed")
    model = counted(order=order, smoothing=smoothing)
    save_arpa(model, WORDS, tmp_path / "lm.arpa")
    theirs = kenlm.Model(str(tmp_path / "lm.arpa"))
    unseen = sentences(50, seed=9)
    for ids, ours in zip(unseen, scores(model, unseen), strict=True):
        steps = theirs.full_scores(" ".join(WORDS.decode(ids)))
        assert [s[0] * math.log(10) for s in steps] == pytest.approx(ours, abs=1e-4)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_an_arpa_file_holds_the_model(smoothing, tmp_path):
    model = counted(order=3, smoothing=smoothing)
    save_arpa(model, WORDS, tmp_path / "lm.arpa")
    again, vocabulary = load_arpa(tmp_path / "lm.arpa")
    assert vocabulary == WORDS
    for ours, theirs in zip(scores(model, sentences(20, 8)), scores(again, sentences(20, 8)), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2].rsplit("\n", 1)[0], "cut short"),
        (lambda text: text.replace("\\end\\", ""), "cut short"),
        (lambda text: text.replace("ngram 2=", "ngram 2=9"), "its head says"),
        (lambda text: text.replace("\\2-grams:", "\\2-grams:\n-1.0 a b c d"), "is not ARPA"),
        (lambda text: "", "no ARPA file"),
        (lambda text: "\\data\\\nngram 1=1\n\n\\1-grams:\n-1\tword\n\n\\end\\\n", "lacks the sign"),
    ],
)
def test_a_damaged_arpa_file_is_named(tmp_path, change, reason):
    path = tmp_path / "lm.arpa"
    save_arpa(counted(order=2), WORDS, path)
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=reason) as error:
        load_arpa(path)
    assert "\n" not in str(error.value)


def test_kneser_ney_by_its_formulas():
    model = counted(order=2)
    bigrams, before = Counter(), Counter()
    for s in sentences():
        words = [WORDS.start, *s, WORDS.end]
        bigrams.update(pairwise(words))
    before.update(b for _, b in bigrams)
    n = Counter(bigrams.values())
    y = n[1] / (n[1] + 2 * n[2])
    d = [0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
    unseen_words = sum(before[w] == 0 for w in range(V) if w != WORDS.start)
    for history in (WORDS.start, 3, 7, V - 1):
        row = {w: c for (h, w), c in bigrams.items() if h == history}
        total = sum(row.values())
        left = sum(d[min(c, 3)] for c in row.values()) / total
        values = log_p(model, [WORDS.start, history] if history != WORDS.start else [history]).exp()
        for w in range(1, V):
            p1 = max(before[w], 1) / (len(bigrams) + unseen_words)
            c = row.get(w, 0)
            assert values[w].item() == pytest.approx(max(c - d[min(c, 3)], 0) / total + left * p1, rel=1e-4)


def test_good_turing_by_its_formulas():
    model = counted(order=2, smoothing="good-turing")
    bigrams = Counter()
    for s in sentences():
        words = [WORDS.start, *s, WORDS.end]
        bigrams.update(pairwise(words))
    singles = Counter()
    for (_, w), c in bigrams.items():
        singles[w] += c
    d = katz_discounts(Counter(bigrams.values()))
    p1 = {w: max(singles[w], 1) for w in range(1, V)}
    p1 = {w: c / sum(p1.values()) for w, c in p1.items()}
    for history in (3, 7, V - 1):
        row = {w: c for (h, w), c in bigrams.items() if h == history}
        seen = {w: d.get(c, 1) * c / sum(row.values()) for w, c in row.items()}
        values = log_p(model, [WORDS.start, history]).exp()
        rest = (1 - sum(seen.values())) / (1 - sum(p1[w] for w in seen))
        for w in range(1, V):
            assert values[w].item() == pytest.approx(seen.get(w, rest * p1[w]), rel=1e-4)


def test_discounts_by_hand():
    counts = {1: 100, 2: 40, 3: 20, 4: 12, 5: 8, 6: 6, 7: 5, 8: 4}
    x = 8 * 4 / 100
    stars = {c: (c + 1) * counts[c + 1] / counts[c] for c in range(1, 8)}
    assert katz_discounts(Counter(counts)) == pytest.approx({c: (s / c - x) / (1 - x) for c, s in stars.items()})
    assert katz_discounts(Counter({1: 10, 2: 4, 3: 2})) == pytest.approx({1: 0.8, 2: 0.75})
    y = 10 / 18
    assert kneser_ney_discounts(Counter({1: 10, 2: 4, 3: 2, 4: 1})) == pytest.approx(
        [0, 1 - 2 * y * 0.4, 2 - 3 * y * 0.5, 3 - 4 * y * 0.5]
    )


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_too_few_sentences_are_refused(smoothing):
    model = NGram(NGramConfig(smoothing=smoothing), V, 4)
    with pytest.raises(ValueError, match="too few different n-grams"):
        model.count([[3, 4]], WORDS)
    with pytest.raises(ValueError, match="no sentence"):
        model.count([], WORDS)


@pytest.mark.parametrize("options", [{"order": 1}, {"order": 6}, {"discount": 1.0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        NGramConfig(**options)


def test_a_history_that_left_nothing_still_leaves_something():
    model = NGram(NGramConfig(order=2, smoothing="good-turing"), V, 4)
    model.count([*sentences(), *[[V - 1, V - 2]] * 50], WORDS)
    assert log_p(model, [WORDS.start, V - 1])[2:].isfinite().all()


def plain_log_p(log_p, log_alpha, history: list[int], word: int) -> float:
    """The back-off formula, word by word, from the dictionaries of `NGram.tables`."""
    gram = (*history, word)
    if gram in log_p[len(history)]:
        return log_p[len(history)][gram]
    if not history:
        return -math.inf
    left = log_alpha[len(history) - 1].get(tuple(history), 0.0)
    return left + plain_log_p(log_p, log_alpha, history[1:], word)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [2, 3, 4])
def test_numpys_tables_give_the_distribution_of_the_torch_model(smoothing, order):
    model = counted(order=order, smoothing=smoothing)
    buffers = {name: buffer.numpy() for name, buffer in model.named_buffers()}
    runtime = NGramRuntime(buffers, order, 4)
    assert (runtime.vocabulary, runtime.feature_shape, runtime.image_width) == (V, (4,), order - 1)
    assert not runtime.uses_image
    image = runtime.encode_image(np.ones((3, 4), np.float32))
    said = [s[:6] for s in sentences(200, 11) if len(s) >= 6][:3]
    tokens = torch.tensor([[WORDS.start, *s] for s in said])
    whole = model(tokens, torch.ones(3, 4))
    log_p, log_alpha = model.tables()
    state = runtime.begin(3)
    for t, words in enumerate(tokens.numpy().T):
        text, state = runtime.text(words, state)
        got = runtime.distribution(text, image)
        np.testing.assert_array_equal(got, whole[:, t].numpy())
        np.testing.assert_allclose(np.exp(got.astype(np.float64)).sum(1), 1, atol=1e-5)
        for row, before in zip(got, tokens[:, : t + 1].tolist(), strict=True):
            past = before[-(order - 1) :]
            expected = [plain_log_p(log_p, log_alpha, past, word) for word in range(V)]
            np.testing.assert_allclose(row, expected, atol=1e-5)
        asked = np.array([WORDS.end, 5, V - 1])
        found = runtime.log_p(text, image, np.arange(3), asked)
        np.testing.assert_array_equal(found, got[np.arange(3), asked])
    # Sentences that are chosen, and repeated, go on from where they were.
    text, _ = runtime.text(np.array([7, 7]), runtime.select(state, np.array([2, 2])))
    (expected,) = model(torch.tensor([[*tokens[2].tolist(), 7]]), torch.ones(1, 4))[:, -1].numpy()
    np.testing.assert_array_equal(runtime.distribution(text, image[:2]), [expected, expected])
