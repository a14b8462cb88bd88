"""New sentences for images: greedy, sampled, or by beam search, batched over images.

The unknown and the start sign are never generated; a caption's probabilities are the model's own all the same,
over the full vocabulary, so that they agree with the likelihood that ranks given sentences.

Shapes: N images, K beams or samples an image, V vocabulary, M multimodal width, T tokens so far.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mrnn.likelihood import token_log_probabilities
from mrnn.models import LanguageModel, map_state
from mrnn.precision import Precision, autocast
from mrnn.text import Vocabulary, detokenise

Method = Literal["beam", "greedy", "sample"]

_NEVER = float("-inf")


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
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError("top_k must be 0 or more, and top_p above 0 and at most 1")


@dataclass(frozen=True)
class Caption:
    """A generated sentence.

    Args:
        text: For people.
        tokens: Its words.
        log_probabilities: Natural log of each word's probability, then of the end sign's.
        score: What the search ranked it by: the log-likelihood, with the image gain, over tokens **
            length_exponent. A sample's is its own log-likelihood over the same.
    """

    text: str
    tokens: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    score: float

    @property
    def log_likelihood(self) -> float:
        """log P(sentence | image), the end sign included."""
        return sum(self.log_probabilities)


@torch.inference_mode()
def generate(
    model: LanguageModel,
    vocabulary: Vocabulary,
    image: Float[Tensor, "N M"],
    config: GenerationConfig | None = None,
    centre: Float[Tensor, " M"] | None = None,
    batch: int = 512,
    precision: Precision = "auto",
) -> list[list[Caption]]:
    """Write captions.

    Args:
        model: In evaluation mode.
        vocabulary: The model's.
        image: What `model.encode_image` gave.
        config: How to search; a beam of 5 if None.
        centre: b0, the mean of training images' vectors, for an image gain other than 1.
        batch: Images a step.
        precision: Of a search; samples and all reported probabilities are computed in float32.

    Returns:
        For every image `n` captions, the best first (samples in the order drawn).

    Raises:
        ValueError: An image gain is asked for without a centre.
    """
    config = config or GenerationConfig()
    stressed = image
    if config.image_gain != 1:
        if centre is None:
            raise ValueError("an image gain needs the mean training image, and this model has no reference images")
        stressed = centre + config.image_gain * (image - centre)
    found: list[list[tuple[list[int], float | None]]] = []
    # A search may round, as what it finds is measured exactly; samples must follow the exact distribution.
    with autocast("float32" if config.method == "sample" else precision, image.device) as reduced:
        for part in stressed.to(torch.bfloat16 if reduced else image.dtype).split(batch):
            if config.method == "beam":
                found += _beam(model, vocabulary, part, config)
            else:
                found += _draw(model, vocabulary, part, config, config.seed + len(found))
    return _measure(model, vocabulary, image, found, config)


def _measure(
    model: LanguageModel,
    vocabulary: Vocabulary,
    image: Float[Tensor, "N M"],
    found: Sequence[Sequence[tuple[list[int], float | None]]],
    config: GenerationConfig,
) -> list[list[Caption]]:
    """Captions with exact probabilities: searches may run in low precision, what is reported does not."""
    flat = [ids for several in found for ids, _ in several]
    owners = [i for i, several in enumerate(found) for _ in several]
    measured = iter(token_log_probabilities(model, vocabulary, flat, image[owners]))
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


def _next_word(
    model: LanguageModel, vocabulary: Vocabulary, words: Int[Tensor, " B"], state, image: Float[Tensor, "B M"]
) -> tuple[Float[Tensor, "B V"], object]:
    """Log-probabilities of the next word, the signs that are never generated ruled out, and the new state."""
    text, state = model.encode_text(words[:, None], state)
    log_p = torch.log_softmax(model.logits(text[:, 0], image).float(), -1)
    log_p[:, [vocabulary.start, vocabulary.unknown]] = _NEVER
    return log_p, state


def _beam(
    model: LanguageModel, vocabulary: Vocabulary, image: Float[Tensor, "N M"], config: GenerationConfig
) -> list[list[tuple[list[int], float | None]]]:
    """The `n` best finished hypotheses of every image, with their scores.

    A hypothesis that proposes the end sign among an image's K best continuations is finished. An image is
    done when K are finished and no live one, at its present length, ranks above the worst of them.
    """
    K, end, device = config.beam, vocabulary.end, image.device
    N = len(image)
    rows = torch.arange(N, device=device)  # the images that are not done, by their place in the batch
    words = torch.full((N,), vocabulary.start, device=device)
    live = torch.zeros((N, 1), device=device)
    history = torch.empty((N, 1, 0), dtype=torch.long, device=device)
    finished = torch.full((N, K), _NEVER, device=device)
    sentences = torch.full((N, K, config.max_length + 1), end, device=device)
    state = None
    for length in range(config.max_length + 1):
        width = live.shape[1]  # 1 at the start sign, K from then on
        log_p, state = _next_word(model, vocabulary, words, state, image[rows].repeat_interleave(width, 0))
        if length < config.min_length:
            log_p[:, end] = _NEVER
        if length == config.max_length:
            log_p[:, :end] = log_p[:, end + 1 :] = _NEVER
        # K + 1 continuations of each hypothesis are enough: K words and the end sign.
        top, word = log_p.topk(min(K + 1, log_p.shape[1]), -1)
        total = (live[:, :, None] + top.unflatten(0, (-1, width))).flatten(1)
        total, place = total.topk(min(2 * K, total.shape[1]), -1)
        parent = place // top.shape[1]
        word = word.unflatten(0, (-1, width)).flatten(1).gather(1, place)
        grown = history.gather(1, parent[:, :, None].expand(-1, -1, length))
        grown = torch.cat([grown, word[:, :, None]], -1)
        ends = word == end

        ended = (total / (length + 1) ** config.length_exponent).masked_fill(~ends, _NEVER)[:, :K]
        padded = torch.full((len(rows), ended.shape[1], config.max_length + 1), end, device=device)
        padded[:, :, : length + 1] = grown[:, : ended.shape[1]]
        best, which = torch.cat([finished[rows], ended], 1).topk(K, -1)
        finished[rows] = best
        both = torch.cat([sentences[rows], padded], 1)
        sentences[rows] = both.gather(1, which[:, :, None].expand(-1, -1, both.shape[2]))

        live, going = total.masked_fill(ends, _NEVER).topk(min(K, total.shape[1]), -1)
        words = word.gather(1, going)
        history = grown.gather(1, going[:, :, None].expand(-1, -1, length + 1))
        parent = parent.gather(1, going)
        on = live[:, 0] / (length + 1) ** config.length_exponent > finished[rows][:, -1]
        if not on.any():
            break
        kept = on.nonzero()[:, 0]
        flat = (kept[:, None] * width + parent[kept]).flatten()
        state = map_state(lambda s, flat=flat: s.index_select(0, flat), state)
        rows, live, history, words = rows[kept], live[kept], history[kept], words[kept].flatten()
    return [
        [(s[: s.index(end)], score) for s, score in zip(several, scores, strict=True) if score > _NEVER][: config.n]
        for several, scores in zip(sentences.tolist(), finished.tolist(), strict=True)
    ]


def _draw(
    model: LanguageModel,
    vocabulary: Vocabulary,
    image: Float[Tensor, "N M"],
    config: GenerationConfig,
    seed: int,
) -> list[list[tuple[list[int], float | None]]]:
    """`n` greedy or sampled sentences of every image; `seed` is the first one's."""
    # A uniform number a word, drawn where every device draws the same.
    size = config.n, config.max_length
    seeds = (seed + i for i in range(len(image)))
    uniform = torch.cat([torch.rand(size, generator=torch.Generator().manual_seed(one)) for one in seeds])
    uniform = uniform.to(image.device)

    def choose(log_p: Tensor, rows: Tensor, length: int) -> Tensor:
        return log_p.argmax(-1) if config.method == "greedy" else _sample(log_p, config, uniform[rows, length])

    found = _word_by_word(model, vocabulary, image, config.n, choose, config.min_length, config.max_length)
    return [[(ids, None) for ids in several] for several in found]


@torch.inference_mode()
def draw(
    model: LanguageModel, vocabulary: Vocabulary, image: Float[Tensor, "N M"], n: int, max_length: int = 25
) -> list[list[list[int]]]:
    """Ids of `n` sentences an image, drawn from the model's own distribution but for the signs never generated.

    The draws come from PyTorch's global generator, so that a training run which goes on draws the same.

    Args:
        model: In evaluation mode.
        vocabulary: The model's.
        image: What `model.encode_image` gave.
        n: Sentences an image.
        max_length: Most words.
    """

    def choose(log_p: Tensor, rows: Tensor, length: int) -> Tensor:
        return _pick(log_p.exp(), torch.rand(len(log_p), device=log_p.device))

    return _word_by_word(model, vocabulary, image, n, choose, 0, max_length)


def _word_by_word(
    model: LanguageModel,
    vocabulary: Vocabulary,
    image: Float[Tensor, "N M"],
    n: int,
    choose: Callable[[Float[Tensor, "B V"], Int[Tensor, " B"], int], Int[Tensor, " B"]],
    min_length: int,
    max_length: int,
) -> list[list[list[int]]]:
    """`n` sentences of every image, each next word chosen from its log-probabilities, its sentence and its place."""
    end = vocabulary.end
    image = image.repeat_interleave(n, 0)
    words = torch.full((len(image),), vocabulary.start, device=image.device)
    drawn = torch.full((len(image), max_length + 1), end, device=image.device)
    going, state = torch.arange(len(image), device=image.device), None
    for length in range(max_length):
        log_p, state = _next_word(model, vocabulary, words, state, image[going])
        if length < min_length:
            log_p[:, end] = _NEVER
        words = choose(log_p, going, length)
        drawn[going, length] = words
        kept = (words != end).nonzero()[:, 0]
        if not len(kept):
            break
        if len(kept) < len(going):
            going, words = going[kept], words[kept]
            state = map_state(lambda s, kept=kept: s.index_select(0, kept), state)
    sentences = [sentence[: sentence.index(end)] for sentence in drawn.tolist()]
    return [sentences[i : i + n] for i in range(0, len(sentences), n)]


def _pick(p: Float[Tensor, "B V"], uniform: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """The first word whose cumulated probability passes a uniform number."""
    total = p.cumsum_(-1)
    found = torch.searchsorted(total, uniform[:, None] * total[:, -1:])
    return found.clamp_max(total.shape[1] - 1)[:, 0]


def _sample(log_p: Float[Tensor, "B V"], config: GenerationConfig, uniform: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    scores, words = (log_p / config.temperature).sort(-1, descending=True)
    p = scores.softmax(-1)
    if config.top_k:
        p[:, config.top_k :] = 0
    if config.top_p < 1:
        # A word stays while the words before it have not yet reached top_p; the first always stays.
        p = p.masked_fill(p.cumsum(-1) - p >= config.top_p, 0)
    return words.gather(1, _pick(p, uniform)[:, None])[:, 0]
