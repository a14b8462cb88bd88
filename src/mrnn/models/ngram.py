"""Back-off n-gram models: Good-Turing (Katz 1987) and interpolated modified Kneser-Ney (Chen and Goodman 1999).

    P(w | h) = P*(w | h)                 if the n-gram h w was counted
             = alpha(h) P(w | h')        otherwise; h' is h without its first word

Good-Turing: P* = d_c c(h w) / c(h), where n-grams counted c <= 7 times are discounted by

    d_c = (c* / c - x) / (1 - x),   c* = (c + 1) n_{c+1} / n_c,   x = 8 n_8 / n_1     n_c n-grams were counted c times

and alpha(h) gives what is left to the words that did not follow h.

Kneser-Ney: P* = (c(h w) - D_c) / c(h) + alpha(h) P(w | h'), with alpha(h) = sum_w D_{c(h w)} / c(h), where c below the
highest order counts the different words before an n-gram (except of those that begin a sentence), and

    D_1 = 1 - 2 Y n_2 / n_1,   D_2 = 2 - 3 Y n_3 / n_2,   D_3+ = 3 - 4 Y n_4 / n_3,   Y = n_1 / (n_1 + 2 n_2)

Single words are not discounted: the vocabulary is closed and nearly every word of it was counted. One that was not
counts as seen once.

Shapes: B batch, T time, N images, V vocabulary, H words of history (order - 1), G n-grams of one order; how they are
looked up is in `runtime/ngram.py`.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mrnn.models.base import Config, LanguageModel, State
from mrnn.runtime.ngram import NONE, NGramRuntime
from mrnn.shapes import Float, Int
from mrnn.text import Vocabulary

KATZ_LIMIT = 7


@dataclass(frozen=True)
class NGramConfig(Config):
    """Order and smoothing.

    Args:
        order: Words of an n-gram: 2 for a bigram model, 3 for a trigram model.
        smoothing: How counts become probabilities.
        discount: Of Kneser-Ney; estimated from the counts of counts if 0.
        entries: N-grams of each order from 2 on that the model holds; counting sets it.
    """

    order: int = 3
    smoothing: Literal["good-turing", "kneser-ney"] = "kneser-ney"
    discount: float = 0.0
    entries: tuple[int, ...] = ()

    def __post_init__(self):
        if not 2 <= self.order <= 5:
            raise ValueError(f"model.order is {self.order}, but must be between 2 and 5")
        if not 0 <= self.discount < 1:
            raise ValueError(f"model.discount is {self.discount}, but must be 0 or more and below 1")


class NGram(LanguageModel):
    """An n-gram model in back-off form. Its probabilities come from `count` or from an ARPA file.

    Attributes:
        unigram: (V,) natural log-probabilities; minus infinity for the start sign, which is never next.
        log_alpha_1: (V,) natural log of the back-off weight of every word as a history.
        keys_n: (G,) ascending, the n-grams of order n as numbers of base V.
        log_p_n: (G,) their natural log-probabilities.
        log_alpha_n: (G,) of each as a history; below the highest order.
    """

    Config = NGramConfig
    uses_image = False
    trained_by_gradient = False
    unigram: Tensor
    log_alpha_1: Tensor

    def __init__(self, config: NGramConfig, vocabulary: int, features: int):
        super().__init__(config, vocabulary, features)
        if vocabulary**config.order >= 2**63:
            raise ValueError(f"n-grams of {config.order} words out of {vocabulary:,} cannot be numbered")
        sizes = (*config.entries, *[0] * (config.order - 1))[: config.order - 1]
        self.register_buffer("unigram", torch.full((vocabulary,), -math.log(vocabulary)))
        self.register_buffer("log_alpha_1", torch.zeros(vocabulary))
        for n, size in enumerate(sizes, 2):
            self.register_buffer(f"keys_{n}", torch.zeros(size, dtype=torch.int64))
            self.register_buffer(f"log_p_{n}", torch.zeros(size))
            if n < config.order:
                self.register_buffer(f"log_alpha_{n}", torch.zeros(size))

    def begin(self, n: int) -> State:
        """No word yet."""
        return torch.full((n, self.config.order - 1), NONE, device=self.unigram.device)

    def encode_text(self, tokens: Int[Tensor, "B T"], state: State = None) -> tuple[Float[Tensor, "B T H"], State]:
        """The last H words at every position, as numbers (exact up to 16 million words)."""
        H = self.config.order - 1
        past = self.begin(len(tokens)) if state is None else state
        words = torch.cat([past, tokens], 1)
        return words[:, 1:].unfold(1, H, 1).float(), words[:, -H:]

    def encode_image(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N H"]:
        """Zeros, whatever the image."""
        return torch.zeros(len(features), self.config.order - 1, device=features.device)

    def logits(self, text: Float[Tensor, "... H"], image: Float[Tensor, "... H"]) -> Float[Tensor, "... V"]:
        """Log P(w | h) of every word."""
        history = (text + image).flatten(0, -2).cpu().numpy()
        found = self.tables_at_use().distribution(history, np.zeros_like(history))
        return torch.from_numpy(found).to(text.device).view(*(text + image).shape[:-1], self.vocabulary)

    def pull(
        self, text: Float[Tensor, "... H"], image: Float[Tensor, "... H"], raised: Float[Tensor, "... V"]
    ) -> Float[Tensor, "... H"]:
        """Nothing: there is no image."""
        return torch.zeros_like(text + image)

    def tables_at_use(self) -> NGramRuntime:
        """The tables as they are looked up."""
        tables = {name: buffer.cpu().numpy() for name, buffer in self.named_buffers()}
        return NGramRuntime(tables, self.config.order, self.features)

    def fit(self, sentences: Sequence[Sequence[int]], vocabulary: Vocabulary, loop: Callable[[], Any]) -> None:
        """Count n-grams; there is nothing to go on with after a kill, and so no loop."""
        self.count(sentences, vocabulary)

    def check(self, name: str, weight: Tensor) -> None:
        """Infinities are allowed: a word may never come."""
        if weight.isnan().any():
            raise ValueError(f"{name} holds numbers that are not finite")

    def count(self, sentences: Iterable[Sequence[int]], vocabulary: Vocabulary) -> None:
        """Take the probabilities from training sentences.

        Args:
            sentences: Ids without signs.
            vocabulary: The model's.

        Raises:
            ValueError: There is no sentence, or too few n-grams to estimate discounts from.
        """
        raw = _ngram_counts(sentences, vocabulary, self.config.order)
        if not raw[0]:
            raise ValueError("there is no sentence to count n-grams in")
        if self.config.smoothing == "good-turing":
            tables = _good_turing(raw, vocabulary)
        else:
            tables = _kneser_ney(raw, vocabulary, self.config.discount)
        self.set_tables(*tables)

    def set_tables(self, log_p: list["Table"], log_alpha: list["Table"]) -> None:
        """Take log-probabilities of n-grams, and back-off weights of histories, of order 1, 2, ..."""
        device = self.unigram.device
        V = self.vocabulary
        unigram = torch.full((V,), -math.inf, dtype=torch.float64)
        for (word,), value in log_p[0].items():
            unigram[word] = value
        self.register_buffer("unigram", unigram.float().to(device))
        alpha = torch.zeros(V, dtype=torch.float64)
        for (word,), value in (log_alpha[0] if log_alpha else {}).items():
            alpha[word] = value
        self.register_buffer("log_alpha_1", alpha.float().to(device))
        for n, table in enumerate(log_p[1:], 2):
            grams = sorted(table)  # base V numbers have the order of the tuples
            keys = [sum(word * V ** (n - 1 - i) for i, word in enumerate(gram)) for gram in grams]
            self.register_buffer(f"keys_{n}", torch.tensor(keys, dtype=torch.int64, device=device))
            self.register_buffer(f"log_p_{n}", torch.tensor([table[g] for g in grams], device=device))
            if n < self.config.order:
                alphas = torch.tensor([log_alpha[n - 1].get(g, 0.0) for g in grams], device=device)
                self.register_buffer(f"log_alpha_{n}", alphas)
        self.config = replace(self.config, entries=tuple(len(table) for table in log_p[1:]))

    def tables(self) -> tuple[list["Table"], list["Table"]]:
        """What `set_tables` takes, without words of probability 0."""
        V = self.vocabulary
        log_p: list[Table] = [{(w,): v for w, v in enumerate(self.unigram.tolist()) if v > -math.inf}]
        log_alpha: list[Table] = [{(w,): v for w, v in enumerate(self.log_alpha_1.tolist())}]
        for n in range(2, self.config.order + 1):
            keys = self.get_buffer(f"keys_{n}").tolist()
            grams = [tuple(key // V ** (n - 1 - i) % V for i in range(n)) for key in keys]
            log_p.append(dict(zip(grams, self.get_buffer(f"log_p_{n}").tolist(), strict=True)))
            if n < self.config.order:
                log_alpha.append(dict(zip(grams, self.get_buffer(f"log_alpha_{n}").tolist(), strict=True)))
        return log_p, log_alpha[: self.config.order - 1]


Gram = tuple[int, ...]
Table = dict[Gram, float]


def _ngram_counts(sentences: Iterable[Sequence[int]], vocabulary: Vocabulary, order: int) -> list[Counter[Gram]]:
    """Counts of n-grams of order 1, 2, ..., with one start sign and one end sign a sentence."""
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = (vocabulary.start, *sentence, vocabulary.end)
        for n in range(1, order + 1):
            counts[n - 1].update(words[i : i + n] for i in range(len(words) - n + 1))
    del counts[0][(vocabulary.start,)]  # which is never the next word
    return counts


def _unigram(counts: Counter[Gram], vocabulary: Vocabulary) -> Table:
    seen = {(w,): counts[(w,)] or 1 for w in range(len(vocabulary)) if w != vocabulary.start}
    total = sum(seen.values())
    return {gram: math.log(c / total) for gram, c in seen.items()}


def _totals(counts: Counter[Gram]) -> Counter[Gram]:
    """c(h) of every history."""
    totals: Counter[Gram] = Counter()
    for gram, c in counts.items():
        totals[gram[:-1]] += c
    return totals


def _back_off(gram: Gram, log_p: list[Table], log_alpha: list[Table]) -> float:
    """Log P(w | h) by the orders that are done."""
    n = len(gram)
    if n == 1 or gram in log_p[n - 1]:
        return log_p[n - 1][gram]
    return log_alpha[n - 2].get(gram[:-1], 0.0) + _back_off(gram[1:], log_p, log_alpha)


def _good_turing(counts: list[Counter[Gram]], vocabulary: Vocabulary) -> tuple[list[Table], list[Table]]:
    log_p, log_alpha = [_unigram(counts[0], vocabulary)], []
    for grams in counts[1:]:
        discount = katz_discounts(Counter(grams.values()))
        totals = _totals(grams)
        kept: dict[Gram, float] = defaultdict(float)
        for gram, c in grams.items():
            kept[gram[:-1]] += discount.get(c, 1.0) * c
        # A history whose words were all seen often has nothing left for others: it counts as seen once more.
        totals = {h: total + (kept[h] > total - 1e-9) for h, total in totals.items()}
        table = {g: math.log(discount.get(c, 1.0) * c / totals[g[:-1]]) for g, c in grams.items()}
        below: dict[Gram, float] = defaultdict(float)
        for gram in grams:
            below[gram[:-1]] += math.exp(_back_off(gram[1:], log_p, log_alpha))
        alphas = {h: math.log(1 - kept[h] / totals[h]) - math.log(max(1 - below[h], 1e-12)) for h in totals}
        log_p.append(table)
        log_alpha.append(alphas)
    return log_p, log_alpha


def katz_discounts(counts_of_counts: Counter[int]) -> dict[int, float]:
    """d_c for c = 1..7, as far as the counts of counts are regular: the others are left alone, as SRILM does.

    Raises:
        ValueError: Not even n-grams seen once can be discounted.
    """
    n = counts_of_counts
    for limit in range(KATZ_LIMIT, 0, -1):
        x = (limit + 1) * n[limit + 1] / n[1] if n[1] else 1.0
        if x < 1:
            discount = {c: ((c + 1) * n[c + 1] / (c * n[c]) - x) / (1 - x) for c in range(1, limit + 1) if n[c]}
            if 0 < discount[1] < 1:
                return {c: d for c, d in discount.items() if 0 < d < 1}
    raise ValueError(
        f"too few different n-grams for Good-Turing discounting ({n[1]} were seen once, {n[2]} twice); "
        "give more captions"
    )


def _kneser_ney(counts: list[Counter[Gram]], vocabulary: Vocabulary, fixed: float) -> tuple[list[Table], list[Table]]:
    adjusted = list(counts)
    for n in range(len(counts) - 1, 0, -1):  # an n-gram counts the different words before it
        before = Counter(gram[1:] for gram in counts[n])
        for gram, c in counts[n - 1].items():
            if gram[0] == vocabulary.start:  # nothing ever stands before it
                before[gram] = c
        adjusted[n - 1] = before
    log_p, log_alpha = [_unigram(adjusted[0], vocabulary)], []
    for grams in adjusted[1:]:
        discount = [0.0, fixed, fixed, fixed] if fixed else kneser_ney_discounts(Counter(grams.values()))
        totals = _totals(grams)
        removed: dict[Gram, float] = defaultdict(float)
        for gram, c in grams.items():
            removed[gram[:-1]] += discount[min(c, 3)]
        alphas = {h: math.log(removed[h] / total) for h, total in totals.items()}
        table = {}
        for gram, c in grams.items():
            h = gram[:-1]
            below = math.exp(alphas[h] + _back_off(gram[1:], log_p, log_alpha))
            table[gram] = math.log((c - discount[min(c, 3)]) / totals[h] + below)
        log_p.append(table)
        log_alpha.append(alphas)
    return log_p, log_alpha


def kneser_ney_discounts(counts_of_counts: Counter[int]) -> list[float]:
    """0, D_1, D_2, D_3+.

    Raises:
        ValueError: The counts of counts are too few to estimate them from.
    """
    n = counts_of_counts
    if all(n[c] for c in range(1, 5)):
        y = n[1] / (n[1] + 2 * n[2])
        discount = [0.0, *(c - (c + 1) * y * n[c + 1] / n[c] for c in range(1, 4))]
        if all(0 < d < c for c, d in enumerate(discount[1:], 1)):
            return discount
    raise ValueError(
        f"too few different n-grams for Kneser-Ney discounting ({n[1]} were seen once, {n[2]} twice, {n[3]} three "
        f"and {n[4]} four times); give more captions, or a fixed model.discount"
    )
