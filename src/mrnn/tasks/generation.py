"""New sentences for images: greedy, sampled, or by beam search, batched over images.

The unknown and the start sign are never generated; a caption's probabilities are the model's own all the same,
over the full vocabulary, so that they agree with the likelihood that ranks given sentences.

Shapes: N images, B sentences that go on, K beams or samples an image, V vocabulary, F width of an image vector, T
tokens so far.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mrnn.runtime import Precision, Runtime
from mrnn.runtime.protocol import State, top_k
from mrnn.shapes import Float, Int
from mrnn.tasks.likelihood import token_log_probabilities
from mrnn.text import END, Vocabulary, detokenise

Method = Literal["beam", "greedy", "sample"]

_NEVER = -np.inf
BATCH = 512


@dataclass(frozen=True)
class GenerationConfig:
    """How captions are searched for.

    Args:
        method: `beam` finds likely sentences, `greedy` takes the likeliest word each time, `sample` draws.
        n: Captions an image.
        beam: Beams an image.
        length_exponent: Beam hypotheses are ranked by log-likelihood / tokens ** this; 0 prefers short ones.
        min_length: Fewest words.
        max_length: Most words.
        prior_weight: Of a beam's captions, rank those first that the photo makes likely rather than those that are
            always likely: the a of `tasks/choice.py`, 0 to 2.
        agreement: Of a beam's captions, rank those first that are like what else the model would say: the c there.
        image_gain: Search for captions of b0 + gain (b - b0), b the image's vector and b0 the mean of training
            images: above 1 stresses what sets the photo apart. The probabilities reported are those of b itself.
        temperature: Of sampling; below 1 is safer, above 1 wilder.
        top_k: Sample among the k likeliest words; 0 among all.
        top_p: Sample among the likeliest words that together have this probability.
        seed: Of sampling; each image of a call has its own, this one plus its place, so that what is drawn for it
            does not depend on the others.
    """

    method: Method = "beam"
    n: int = 1
    beam: int = 5
    length_exponent: float = 0.7
    min_length: int = 1
    max_length: int = 25
    image_gain: float = 1.0
    prior_weight: float = 0.0
    agreement: float = 0.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if self.method not in get_args(Method):
            raise ValueError(f"no method {self.method!r}; there are {', '.join(get_args(Method))}")
        for name in ("n", "beam", "min_length", "max_length", "top_k", "seed"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be a whole number")
        if not 1 <= self.beam <= 1000 or self.n < 1:
            raise ValueError("beam must be between 1 and 1,000, and n 1 or more")
        if not isinstance(self.length_exponent, int | float) or not 0 <= self.length_exponent <= 10:
            raise ValueError(f"length_exponent is {self.length_exponent!r}, but must be between 0 and 10")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}, but must be 0 or more and below 2 ** 32")
        if self.method == "beam" and self.n > self.beam:
            raise ValueError(f"{self.n} captions cannot come from a beam of {self.beam}; give a larger beam")
        if self.method == "greedy" and self.n > 1:
            raise ValueError("greedy search gives one caption; use a beam or sampling for more")
        if not 0 <= self.min_length <= self.max_length <= 1000 or self.max_length < 1:
            raise ValueError(f"no length is between {self.min_length} and {self.max_length} words")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"the temperature is {self.temperature}, but must be above 0 (or use greedy search)")
        if not 0 < self.image_gain < math.inf:
            raise ValueError(f"the image gain is {self.image_gain}, but must be above 0")
        if not 0 <= self.prior_weight <= 2 or not 0 <= self.agreement <= 10:
            raise ValueError(
                f"the weights of prior and agreement are {self.prior_weight} and {self.agreement}, "
                "but must be between 0 and 2, and between 0 and 10"
            )
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError("top_k must be 0 or more, and top_p above 0 and at most 1")

    @property
    def chooses(self) -> bool:
        """Whether a beam's captions are ranked anew."""
        return self.method == "beam" and bool(self.prior_weight or self.agreement)


@dataclass(frozen=True)
class Caption:
    """A generated sentence.

    Args:
        text: For people.
        tokens: Its words.
        log_probabilities: Natural log of each word's probability, then of the end sign's.
        score: What the search ranked it by: the log-likelihood, with the image gain, over tokens **
            length_exponent; or what it was chosen by (`tasks/choice.py`). A sample's is its own log-likelihood over
            the same.
        confidence: How far it can be trusted, 0 to 1 (`tasks/confidence.py`); None if the model does not know.
    """

    text: str
    tokens: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    score: float
    confidence: float | None = None

    @property
    def log_likelihood(self) -> float:
        """log P(sentence | image), the end sign included."""
        return sum(self.log_probabilities)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, of files and answers alike."""
        words = [*self.tokens, END]
        return {
            "text": self.text,
            "log_likelihood": self.log_likelihood,
            "score": self.score,
            "confidence": self.confidence,
            "tokens": [{"token": w, "log_probability": p} for w, p in zip(words, self.log_probabilities, strict=True)],
        }


def generate(
    model: Runtime,
    vocabulary: Vocabulary,
    image: Float[np.ndarray, "N F"],
    config: GenerationConfig | None = None,
    centre: Float[np.ndarray, " F"] | None = None,
    precision: Precision = "auto",
) -> list[list[Caption]]:
    """Write captions.

    Args:
        model: Who writes.
        vocabulary: Its words.
        image: What `model.encode_image` gave.
        config: How to search; a beam of 5 if None.
        centre: b0, the mean of training images' vectors, for an image gain other than 1.
        precision: Of a search; samples and all reported probabilities are computed in float32.

    Returns:
        For every image `n` captions, the best first (samples in the order drawn).

    Raises:
        ValueError: An image gain is asked for without a centre, or the model or an image holds numbers that are none.
    """
    config = config or GenerationConfig()
    stressed = image
    # Samples are drawn from the model's own distribution, at the photo as it is.
    if config.image_gain != 1 and config.method != "sample":
        if centre is None:
            raise ValueError("an image gain needs the mean training image, and this model has no reference images")
        stressed = centre + np.float32(config.image_gain) * (image - centre)
    found: list[list[tuple[list[int], float | None]]] = []
    for start in range(0, len(image), BATCH):
        part = stressed[start : start + BATCH]
        if config.method == "beam":
            found += _beam(model, vocabulary, part, config, precision)
        elif config.method == "greedy":
            found += [[(ids, None)] for ids in _greedy(model, vocabulary, part, config, precision)]
        else:
            found += _sampled(model, vocabulary, part, config, config.seed + start)
    return _measure(model, vocabulary, image, found, config)


def _measure(
    model: Runtime,
    vocabulary: Vocabulary,
    image: Float[np.ndarray, "N F"],
    found: Sequence[Sequence[tuple[list[int], float | None]]],
    config: GenerationConfig,
) -> list[list[Caption]]:
    """Captions with exact probabilities: searches may run in low precision, what is reported does not.

    Raises:
        ValueError: There is no probability, as of damaged weights.
    """
    flat = [ids for several in found for ids, _ in several]
    owners = [i for i, several in enumerate(found) for _ in several]
    tokens = token_log_probabilities(model, vocabulary, flat, image[owners])
    if not all(found) or any(math.isnan(log_p) for several in tokens for log_p in several):
        raise ValueError("no sentence has a probability: weights or features hold numbers that are not finite")
    measured = iter(tokens)
    captions = []
    for several in found:
        row = []
        for ids, score in several:
            log_probabilities = tuple(next(measured))
            tokens = tuple(vocabulary.decode(ids))
            if score is None:
                score = sum(log_probabilities) / len(log_probabilities) ** config.length_exponent
            row.append(Caption(detokenise(tokens), tokens, log_probabilities, score))
        captions.append(row)
    return captions


class AllowedWords:
    """What may come next, as a term added to log-probabilities: never the unknown or the start sign."""

    def __init__(self, vocabulary: Vocabulary, min_length: int, max_length: int):
        self.end, self.min_length, self.max_length = vocabulary.end, min_length, max_length
        self.usual = np.zeros(len(vocabulary), np.float32)
        self.usual[[vocabulary.start, vocabulary.unknown]] = _NEVER

    def __call__(self, length: int) -> Float[np.ndarray, " V"]:
        """After so many words."""
        if length == self.max_length:
            only = np.full_like(self.usual, _NEVER)
            only[self.end] = 0
            return only
        if length < self.min_length:
            going = self.usual.copy()
            going[self.end] = _NEVER
            return going
        return self.usual


def _beam(
    model: Runtime,
    vocabulary: Vocabulary,
    image: Float[np.ndarray, "N F"],
    config: GenerationConfig,
    precision: Precision,
) -> list[list[tuple[list[int], float | None]]]:
    """The `n` best finished hypotheses of every image, with their scores.

    A hypothesis that proposes the end sign among an image's K best continuations is finished. An image is
    done when K are finished and no live one, at its present length, ranks above the worst of them.
    """
    K, end, N = config.beam, vocabulary.end, len(image)
    allowed = AllowedWords(vocabulary, config.min_length, config.max_length)
    rows = np.arange(N)  # the images that are not done, by their place in the batch
    words = np.full(N, vocabulary.start, np.int64)
    live = np.zeros((N, 1), np.float32)
    history = np.empty((N, 1, 0), np.int64)
    finished = np.full((N, K), _NEVER, np.float32)
    sentences = np.full((N, K, config.max_length + 1), end, np.int64)
    state = model.begin(N)
    for length in range(config.max_length + 1):
        width = live.shape[1]  # 1 at the start sign, K from then on
        seen = image[rows].repeat(width, 0)
        # K + 1 continuations of each hypothesis are enough: K words and the end sign.
        top, word, state = model.step(words, state, seen, K + 1, allowed(length), precision)
        total = (live[:, :, None] + top.reshape(len(rows), width, -1)).reshape(len(rows), -1)
        total, place = top_k(total, 2 * K)
        parent = place // top.shape[1]
        word = np.take_along_axis(word.reshape(len(rows), -1), place, 1)
        grown = np.concatenate([np.take_along_axis(history, parent[:, :, None], 1), word[:, :, None]], 2)
        ends = word == end

        ended = np.where(ends, total / np.float32((length + 1) ** config.length_exponent), _NEVER)[:, :K]
        padded = np.full((len(rows), ended.shape[1], config.max_length + 1), end, np.int64)
        padded[:, :, : length + 1] = grown[:, : ended.shape[1]]
        finished[rows], which = top_k(np.concatenate([finished[rows], ended.astype(np.float32)], 1), K)
        both = np.concatenate([sentences[rows], padded], 1)
        sentences[rows] = np.take_along_axis(both, which[:, :, None], 1)

        live, going = top_k(np.where(ends, _NEVER, total).astype(np.float32), K)
        words = np.take_along_axis(word, going, 1)
        history = np.take_along_axis(grown, going[:, :, None], 1)
        parent = np.take_along_axis(parent, going, 1)
        on = live[:, 0] / (length + 1) ** config.length_exponent > finished[rows][:, -1]
        kept = on.nonzero()[0]
        if not len(kept):
            break
        state = model.select(state, (kept[:, None] * width + parent[kept]).ravel())
        rows, live, history, words = rows[kept], live[kept], history[kept], words[kept].ravel()
    return [
        [(s[: s.index(end)], score) for s, score in zip(several, scores, strict=True) if score > _NEVER][: config.n]
        for several, scores in zip(sentences.tolist(), finished.tolist(), strict=True)
    ]


def _greedy(
    model: Runtime,
    vocabulary: Vocabulary,
    image: Float[np.ndarray, "N F"],
    config: GenerationConfig,
    precision: Precision,
) -> list[list[int]]:
    """The sentence of every image whose every word is the likeliest."""
    allowed = AllowedWords(vocabulary, config.min_length, config.max_length)

    def step(words: np.ndarray, state: State, rows: np.ndarray, length: int) -> tuple[np.ndarray, State]:
        _, best, state = model.step(words, state, image[rows], 1, allowed(length), precision)
        return best[:, 0], state

    return _word_by_word(model, vocabulary, len(image), step, config.max_length)


def _sampled(
    model: Runtime, vocabulary: Vocabulary, image: Float[np.ndarray, "N F"], config: GenerationConfig, seed: int
) -> list[list[tuple[list[int], float | None]]]:
    """`n` sampled sentences of every image; `seed` is the first one's."""
    # A uniform number a word, from a generator of each image's own.
    size = config.n, config.max_length
    uniform = [np.random.Generator(np.random.PCG64(seed + i)).random(size) for i in range(len(image))]
    numbers = np.concatenate(uniform) if uniform else np.empty(size)
    allowed = AllowedWords(vocabulary, config.min_length, config.max_length)
    owner = np.arange(len(image)).repeat(config.n)

    def step(words: np.ndarray, state: State, rows: np.ndarray, length: int) -> tuple[np.ndarray, State]:
        text, state = model.text(words, state)
        log_p = model.distribution(text, image[owner[rows]]) + allowed(length)
        return _sample(log_p, config, numbers[rows, length]), state

    sentences = _word_by_word(model, vocabulary, len(owner), step, config.max_length)
    return [[(ids, None) for ids in sentences[i : i + config.n]] for i in range(0, len(sentences), config.n)]


def draw(
    model: Runtime,
    vocabulary: Vocabulary,
    image: Float[np.ndarray, "N F"],
    n: int,
    uniform: Callable[[int], Float[np.ndarray, " B"]],
    max_length: int = 25,
) -> list[list[list[int]]]:
    """Ids of `n` sentences an image, drawn from the model's own distribution but for the signs never generated.

    Args:
        model: Who writes.
        vocabulary: Its words.
        image: What `model.encode_image` gave.
        n: Sentences an image.
        uniform: Gives so many numbers between 0 and 1.
        max_length: Most words.
    """
    allowed = AllowedWords(vocabulary, 0, max_length + 1)
    seen = image.repeat(n, 0)

    def step(words: np.ndarray, state: State, rows: np.ndarray, length: int) -> tuple[np.ndarray, State]:
        text, state = model.text(words, state)
        p = np.exp(model.distribution(text, seen[rows]) + allowed(length))
        return _pick(p, uniform(len(p))), state

    sentences = _word_by_word(model, vocabulary, len(seen), step, max_length)
    return [sentences[i : i + n] for i in range(0, len(sentences), n)]


def _word_by_word(
    model: Runtime,
    vocabulary: Vocabulary,
    n: int,
    step: Callable[[Int[np.ndarray, " B"], State, Int[np.ndarray, " B"], int], tuple[Int[np.ndarray, " B"], State]],
    max_length: int,
) -> list[list[int]]:
    """`n` sentences, each next word chosen from the last, the state, the sentence's place and the words so far."""
    end = vocabulary.end
    words = np.full(n, vocabulary.start, np.int64)
    drawn = np.full((n, max_length + 1), end, np.int64)
    going, state = np.arange(n), model.begin(n)
    for length in range(max_length):
        words, state = step(words, state, going, length)
        drawn[going, length] = words
        kept = (words != end).nonzero()[0]
        if not len(kept):
            break
        if len(kept) < len(going):
            going, words, state = going[kept], words[kept], model.select(state, kept)
    return [sentence[: sentence.index(end)] for sentence in drawn.tolist()]


def _pick(p: Float[np.ndarray, "B V"], uniform: Float[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
    """The first word whose cumulated probability passes a uniform number."""
    total = p.astype(np.float64).cumsum(1)
    return (total <= uniform[:, None] * total[:, -1:]).sum(1).clip(max=p.shape[1] - 1)


def _sample(
    log_p: Float[np.ndarray, "B V"], config: GenerationConfig, uniform: Float[np.ndarray, " B"]
) -> Int[np.ndarray, " B"]:
    scores, words = top_k(log_p / np.float32(config.temperature), log_p.shape[1])
    p = np.exp(scores - scores[:, :1])
    p /= p.sum(1, keepdims=True)
    if config.top_k:
        p[:, config.top_k :] = 0
    if config.top_p < 1:
        # A word stays while the words before it have not yet reached top_p; the first always stays.
        p = np.where(p.cumsum(1) - p >= config.top_p, 0, p)
    return np.take_along_axis(words, _pick(p, uniform)[:, None], 1)[:, 0]
