"""What each word of a caption rests on, in bits, and where in the photo that lies.

*Evidence.* With P(w_t | w_<t) = sum_I' P(w_1..t | I') / sum_I' P(w_1..t-1 | I') over reference training images, the
evidence of a word is

    log2 P(w_t | w_<t, I) - log2 P(w_t | w_<t)

and the evidence of all words together is the normalised score, log P(w | I) / P(w), that ranks an image's sentences
(there with an approximated P(w): `retrieval.fast_sentence_prior`).

*Branches.* The word, the recurrent and the image branch meet in the multimodal layer. What each adds to
log2 P(w_t | ...) is its Shapley value: its mean effect over all orders in which the three may come, absent ones
replaced by nothing (the image by the mean training image). They add up to the difference between all and none, exactly.

*Heat.* Pooling is a mean and V_I is linear, so the image vector b is the mean of one b_c a grid cell; so are the keys
and values of regions that are parts of the grid. On the straight
path from the mean training image b0 to b (integrated gradients: Sundararajan et al. 2017, arXiv 1703.01365)

    log2 P(w_t | .., b) - log2 P(w_t | .., b0) = q . (b - b0),   q the mean gradient along the path

The share of cell c is q . (b_c - b0) / cells, and the shares add up to that difference.

*Attention.* A model over regions says itself where it looked when it chose a word.

Shapes: T tokens with the end sign, R reference images, M numbers of the text, F of an image vector, K regions, GH x GW
grid cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from mrnn.runtime import Runtime
from mrnn.runtime.protocol import top_k
from mrnn.shapes import Float, Int
from mrnn.tasks.confidence import GUESS
from mrnn.tasks.familiarity import NEIGHBOURS
from mrnn.tasks.retrieval.exact import BLOCK_ROWS
from mrnn.tasks.retrieval.prefixes import encode_sentences
from mrnn.tasks.retrieval.scores import log_sum
from mrnn.text import Vocabulary, tokenise

PATH_NODES = 8
LITTLE = frozenset(
    tokenise(
        "a an the this that there is are was were be been being has have with and or but as while for from of in on at "
        "to by into onto out off up down over under through near next behind between its it his her their he she they"
    )
)


@dataclass(frozen=True)
class Word:
    """A word and what it rests on.

    Args:
        token: The word, or the end sign.
        log_probability: Natural log of P(word | words before it, image).
        evidence: Bits that the image adds: above 0 it speaks for the word.
        branches: Bits that the word, recurrent and image branch add over knowing nothing.
        heat: (GH, GW) bits that each grid cell adds over the mean training image; None without a grid.
        attention: (K,) share of its attention that a model over regions gave each when it chose the word; None of
            other models.
    """

    token: str
    log_probability: float
    evidence: float
    branches: dict[str, float]
    heat: np.ndarray | None
    attention: np.ndarray | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, of files and answers alike."""
        return {
            "token": self.token,
            "log_probability": self.log_probability,
            "evidence": self.evidence,
            "branches": self.branches,
            "heat": None if self.heat is None else self.heat.tolist(),
            "attention": None if self.attention is None else self.attention.tolist(),
        }

    @property
    def content(self) -> bool:
        """Whether it is a word that may be seen in a photo."""
        return self.token.isalpha() and self.token not in LITTLE


@dataclass(frozen=True)
class Explanation:
    """What a caption rests on.

    Args:
        text: The caption.
        words: Its words, then the end sign.
        percentile: Share of the training images that are less far from the others than this photo is.
        support: Captions of the nearest training photos, nearest first; empty if these are not at hand.
        boxes: (K, 4) left, top, right, bottom of the regions attended to, as shares of width and height.
        confidence: How far the sentence can be trusted, 0 to 1; None if the model does not know.
        guess: Whether it is no more than a guess.
    """

    text: str
    words: tuple[Word, ...]
    percentile: float
    support: tuple[str, ...] = ()
    boxes: np.ndarray | None = None
    confidence: float | None = None
    guess: bool = False

    @property
    def note(self) -> str:
        """What people should know of it; nothing, mostly."""
        return GUESS if self.guess else ""

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, of files and answers alike."""
        return {
            "text": self.text,
            "percentile": self.percentile,
            "confidence": self.confidence,
            "guess": self.guess,
            "note": self.note,
            "words": [word.as_dict() for word in self.words],
            "support": list(self.support),
            "boxes": None if self.boxes is None else self.boxes.tolist(),
        }

    @property
    def heat(self) -> np.ndarray | None:
        """(GH, GW) of all content words together."""
        maps = [word.heat for word in self.words if word.content and word.heat is not None]
        return np.sum(maps, 0) if maps else None


def explain(
    model: Runtime,
    vocabulary: Vocabulary,
    sentence: Sequence[int],
    image: Float[np.ndarray, " F"],
    references: Float[np.ndarray, "R F"],
    cells: Float[np.ndarray, "GH GW F"] | None = None,
) -> tuple[Word, ...]:
    """What each word of a sentence, and its end, rests on.

    Args:
        model: Who speaks.
        vocabulary: Its words.
        sentence: Ids without signs.
        image: What `model.encode_image` gave of the photo.
        references: The same of training images.
        cells: The same of each grid cell's features, whose mean is `image`.
    """
    words = np.array([vocabulary.start, *sentence])
    targets = np.array([*sentence, vocabulary.end])
    encoded = encode_sentences(model, vocabulary, [sentence])
    text = encoded.text[encoded.edge_prefix[encoded.edges]]
    centre = references.mean(0)
    own = _log_p(model, text, image, targets)
    marginal = _marginal(model, text, references, targets)
    word = model.branch(words)
    parts = {"text": text} if word is None else {"word": word, "recurrent": text - word}
    shares = _shapley(parts, image - centre, centre, model, targets)
    attention = model.attention(text, np.tile(image, (len(text), 1)))
    log2 = math.log(2)
    heat = None
    if cells is not None:
        q = _path_gradients(model, text, centre, image, targets)
        heat = np.einsum("tm,hwm->thw", q, cells - centre) / (cells.shape[0] * cells.shape[1] * log2)
    tokens = [*(vocabulary.tokens[i] for i in sentence), vocabulary.tokens[vocabulary.end]]
    return tuple(
        Word(
            token,
            float(own[t]),
            float(own[t] - marginal[t]) / log2,
            {name: float(share[t]) / log2 for name, share in shares.items()},
            None if heat is None else heat[t],
            None if attention is None else attention[t],
        )
        for t, token in enumerate(tokens)
    )


def said_of_nearest(
    image: Float[np.ndarray, " F"],
    training: Float[np.ndarray, "N F"],
    captions: Sequence[Sequence[str]],
    sentence: Sequence[int],
    vocabulary: Vocabulary,
    n: int = NEIGHBOURS,
) -> tuple[str, ...]:
    """For each of the training photos nearest to a photo, the caption that shares most words with a sentence.

    Args:
        image: What `model.encode_image` gave of the photo.
        training: The same of training photos.
        captions: Of each of them.
        sentence: Ids without signs.
        vocabulary: The model's.
        n: Training photos.
    """
    centre = training.mean(0)
    directions = training - centre
    cosine = directions @ (image - centre) / np.linalg.norm(directions, axis=1).clip(1e-12)
    near = top_k(cosine[None], n)[1][0].tolist()
    words = set(vocabulary.decode(sentence)) - LITTLE
    return tuple(max(captions[i], key=lambda caption: len(words & set(tokenise(caption)))) for i in near)


def _log_p(
    model: Runtime,
    text: Float[np.ndarray, "R M"],
    image: Float[np.ndarray, "..."],
    targets: Int[np.ndarray, " R"],
) -> Float[np.ndarray, " R"]:
    """Natural log of each target's probability; one image a row, or one for all."""
    rows = np.arange(len(text))
    parts = [rows[i : i + BLOCK_ROWS] for i in range(0, len(rows), BLOCK_ROWS)]
    images = np.broadcast_to(image, (len(text), image.shape[-1]))
    return np.concatenate([model.log_p(text[p], images[p], np.arange(len(p)), targets[p]) for p in parts])


def _marginal(
    model: Runtime,
    text: Float[np.ndarray, "T M"],
    references: Float[np.ndarray, "R F"],
    targets: Int[np.ndarray, " T"],
) -> Float[np.ndarray, " T"]:
    """Log P(w_t | w_<t), the image unknown."""
    R, T = len(references), len(text)
    found = _log_p(model, np.tile(text, (R, 1)), references.repeat(T, 0), np.tile(targets, R)).reshape(R, T)
    sentence = log_sum(found.astype(np.float64).cumsum(1))  # log P(w_1..t), but for log R
    return np.diff(sentence, prepend=math.log(R))


def _shapley(
    text: dict[str, Float[np.ndarray, "T M"]],
    image: Float[np.ndarray, " F"],
    centre: Float[np.ndarray, " F"],
    model: Runtime,
    targets: Int[np.ndarray, " T"],
) -> dict[str, Float[np.ndarray, " T"]]:
    """What each branch adds to log P(target), averaged over the orders in which the branches may come."""
    parts = [*text, "image"]
    none = np.zeros_like(next(iter(text.values())))
    values: dict[frozenset[str], np.ndarray] = {}

    def value(present: frozenset[str]) -> np.ndarray:
        if present not in values:
            words = sum((text[name] for name in text if name in present), none)
            values[present] = _log_p(model, words, centre + image if "image" in present else centre, targets)
        return values[present]

    orders = list(permutations(parts))
    shares = {name: np.zeros(len(none)) for name in parts}
    for order in orders:
        for i, name in enumerate(order):
            before = frozenset(order[:i])
            shares[name] += (value(before | {name}) - value(before)) / len(orders)
    return shares


def _path_gradients(
    model: Runtime,
    text: Float[np.ndarray, "T M"],
    start: Float[np.ndarray, " F"],
    end: Float[np.ndarray, " F"],
    targets: Int[np.ndarray, " T"],
) -> Float[np.ndarray, "T F"]:
    """q of every token: the gradient of its log-probability in the image vector, averaged from one image to another."""
    # Gauss and Legendre's nodes, moved from [-1, 1] to [0, 1]: eight are exact to rounding for so smooth a path.
    nodes, weights = np.polynomial.legendre.leggauss(PATH_NODES)
    mean = np.zeros((len(text), len(end)))
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        between = start + np.float32(node) * (end - start)
        mean += weight * model.gradient(text, np.tile(between, (len(text), 1)), targets)[1]
    return mean
