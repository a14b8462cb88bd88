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

*Familiarity.* A photo's distance is the mean distance of b to its five nearest reference images, against the distances
that these have among themselves.

Shapes: T tokens with the end sign, R reference images, M multimodal width, V vocabulary, K regions, GH x GW grid
cells.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mrnn.files import atomic_path
from mrnn.likelihood import Batch
from mrnn.models import MRNN, LanguageModel, MRNNRegions
from mrnn.text import Vocabulary, detokenise, tokenise

GUESS = "unlike anything the model was trained on, a guess"
NEIGHBOURS = 5
PATH_NODES = 8
UNFAMILIAR = 0.99
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
    """

    text: str
    words: tuple[Word, ...]
    percentile: float
    support: tuple[str, ...] = ()
    boxes: np.ndarray | None = None

    @property
    def familiar(self) -> bool:
        """Whether the photo is like those that the model was trained on."""
        return self.percentile <= UNFAMILIAR

    @property
    def heat(self) -> np.ndarray | None:
        """(GH, GW) of all content words together."""
        maps = [word.heat for word in self.words if word.content and word.heat is not None]
        return np.sum(maps, 0) if maps else None


class Familiarity:
    """How far a photo is from the training images, in percentiles of how far these are from each other.

    Args:
        references: (R, M), image vectors of training images.
    """

    def __init__(self, references: Float[Tensor, "R M"]):
        self.references = references.cpu()
        among = torch.cdist(self.references, self.references).fill_diagonal_(math.inf)
        self.distances = self._nearest(among).sort().values

    @staticmethod
    def _nearest(distances: Float[Tensor, "N R"]) -> Float[Tensor, " N"]:
        return distances.topk(min(NEIGHBOURS, max(1, distances.shape[1] - 1)), 1, largest=False).values.mean(1)

    def percentile(self, image: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
        """Between 0 and 1; above `UNFAMILIAR` the photo is unlike the training images."""
        distance = self._nearest(torch.cdist(image.cpu(), self.references))
        return torch.searchsorted(self.distances, distance) / len(self.distances)


def explain(
    model: LanguageModel,
    vocabulary: Vocabulary,
    sentence: Sequence[int],
    image: Float[Tensor, " M"],
    references: Float[Tensor, "R M"],
    cells: Float[Tensor, "GH GW M"] | None = None,
) -> tuple[Word, ...]:
    """What each word of a sentence, and its end, rests on.

    Args:
        model: In evaluation mode.
        vocabulary: The model's.
        sentence: Ids without signs.
        image: What `model.encode_image` gave of the photo.
        references: The same of training images.
        cells: The same of each grid cell's features, whose mean is `image`.
    """
    batch = Batch.of([sentence], [0], vocabulary).to(image.device)
    targets = batch.targets[0]
    centre = references.mean(0)
    with torch.inference_mode():
        text, _ = model.encode_text(batch.inputs)
        own = _log_p(model, text[0], image, targets)
        marginal = _marginal(model, text[0], references, targets)
        shares = _shapley(branches(model, batch.inputs, text[0]), image - centre, centre, model, targets)
        attention = model.attend(text[0], image).cpu().numpy() if isinstance(model, MRNNRegions) else None
    log2 = math.log(2)
    heat = None
    if cells is not None:
        q = _path_gradients(model, text[0].clone(), centre, image, targets)
        heat = torch.einsum("tm,hwm->thw", q, cells - centre) / (cells.shape[0] * cells.shape[1] * log2)
    tokens = [*(vocabulary.tokens[i] for i in sentence), vocabulary.tokens[vocabulary.end]]
    return tuple(
        Word(
            token,
            own[t].item(),
            (own[t] - marginal[t]).item() / log2,
            {name: share[t].item() / log2 for name, share in shares.items()},
            None if heat is None else heat[t].cpu().numpy(),
            None if attention is None else attention[t],
        )
        for t, token in enumerate(tokens)
    )


def said_of_nearest(
    image: Float[Tensor, " M"],
    training: Float[Tensor, "N M"],
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
    near = torch.cosine_similarity(training - centre, image - centre).topk(min(n, len(training))).indices.tolist()
    words = set(vocabulary.decode(sentence)) - LITTLE
    return tuple(max(captions[i], key=lambda caption: len(words & set(tokenise(caption)))) for i in near)


def branches(model: LanguageModel, tokens: Tensor, text: Float[Tensor, "T M"]) -> dict[str, Float[Tensor, "T M"]]:
    """The parts that the text side is the sum of: m-RNN's V_w w(t) and V_r r(t), or the whole of it."""
    if isinstance(model, MRNN) and model.config.word_to_multimodal:
        word = model.V_w(model.W_2(model.W_1(tokens)))[0]
        return {"word": word, "recurrent": text - word}
    return {"text": text}


def _log_p(model: LanguageModel, text: Tensor, image: Tensor, targets: Tensor) -> Tensor:
    """Natural log of each target's probability."""
    log_p = model.logits(text, image.expand(*text.shape[:-1], -1)).float().log_softmax(-1)
    return log_p.gather(-1, targets.expand(log_p.shape[:-1])[..., None])[..., 0]


def _marginal(model: LanguageModel, text: Tensor, references: Tensor, targets: Tensor) -> Float[Tensor, " T"]:
    """Log P(w_t | w_<t), the image unknown."""
    parts = [_log_p(model, text.expand(len(part), -1, -1), part[:, None], targets) for part in references.split(64)]
    sentence = torch.cat(parts).double().cumsum(1).logsumexp(0)  # log P(w_1..t), but for log R
    before = torch.cat([sentence.new_tensor([math.log(len(references))]), sentence[:-1]])
    return (sentence - before).float()


def _shapley(
    text: dict[str, Tensor], image: Tensor, centre: Tensor, model: LanguageModel, targets: Tensor
) -> dict[str, Float[Tensor, " T"]]:
    """What each branch adds to log P(target), averaged over the orders in which the branches may come."""
    parts: dict[str, Tensor] = {**text, "image": image}
    none = torch.zeros_like(next(iter(text.values())))
    values: dict[frozenset[str], Tensor] = {}

    def value(present: frozenset[str]) -> Tensor:
        if present not in values:
            words = sum((text[name] for name in text if name in present), none)
            values[present] = _log_p(model, words, centre + image if "image" in present else centre, targets)
        return values[present]

    orders = list(permutations(parts))
    shares = {name: torch.zeros(len(none), device=none.device) for name in parts}
    for order in orders:
        for i, name in enumerate(order):
            before = frozenset(order[:i])
            shares[name] += (value(before | {name}) - value(before)) / len(orders)
    return shares


def _path_gradients(
    model: LanguageModel, text: Tensor, start: Tensor, end: Tensor, targets: Tensor
) -> Float[Tensor, "T M"]:
    """q of every token: the gradient of its log-probability in the image vector, averaged from one image to another."""
    # Gauss and Legendre's nodes, moved from [-1, 1] to [0, 1]: eight are exact to rounding for so smooth a path.
    nodes, weights = np.polynomial.legendre.leggauss(PATH_NODES)
    mean = torch.zeros(len(targets), len(end), device=end.device)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        with torch.enable_grad():
            between = (start + node * (end - start)).detach().expand(len(targets), -1).contiguous().requires_grad_()
            log_p = model.logits(text, between).float().log_softmax(-1).gather(-1, targets[:, None])
            (q,) = torch.autograd.grad(log_p.sum(), between)
        mean += weight * q
    return mean


def occlusion(
    photo: Image.Image, rows: int, columns: int, score: Callable[[list[Image.Image]], Float[Tensor, "K T"]]
) -> Float[np.ndarray, "T GH GW"]:
    """Bits that each word loses when a cell of the photo is greyed out: a check on heat that shares no code with it.

    Args:
        photo: Upright RGB.
        rows: GH.
        columns: GW.
        score: Natural log-probabilities of the T words for each of K photos.
    """
    grey = tuple(int(x) for x in np.asarray(photo).reshape(-1, 3).mean(0))
    masked = []
    for r in range(rows):
        for c in range(columns):
            copy = photo.copy()
            copy.paste(grey, cell_box(photo.size, rows, columns, r, c))
            masked.append(copy)
    whole = score([photo])
    return ((whole - score(masked)) / math.log(2)).t().reshape(-1, rows, columns).cpu().numpy()


def cell_box(size: tuple[int, int], rows: int, columns: int, row: int, column: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a grid cell, in pixels."""
    width, height = size
    left, top = column * width // columns, row * height // rows
    return left, top, (column + 1) * width // columns, (row + 1) * height // rows


def draw_explanation(explanation: Explanation, photo: Image.Image, picture: Path, columns: int = 4) -> None:
    """Draw the photo, the words coloured by evidence, and a heat map, with the attended boxes, a content word.

    Args:
        explanation: What `explain` gave.
        photo: Upright RGB.
        picture: PNG to write.
        columns: Pictures a row.
    """
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure

    shown = [w for w in explanation.words if w.content and (w.heat is not None or w.attention is not None)]
    rows = -(-(1 + len(shown)) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows + 1.1), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=(0.9, 2.6 * rows))
    assert isinstance(parts, np.ndarray)
    top, bottom = parts
    text = top.subplots()
    text.set_axis_off()
    norm = TwoSlopeNorm(0, -4, 4)
    x = 0.0
    words = explanation.words[:-1]
    step = 1 / max(8, sum(len(word.token) + 2 for word in words))
    for word in words:
        shade = _shade(norm(max(-4, min(4, word.evidence))))
        width = (len(word.token) + 2) * step
        box = {"facecolor": shade, "edgecolor": "none", "boxstyle": "square,pad=0.25"}
        text.text(x + width / 2, 0.6, word.token, ha="center", va="center", fontsize=10, bbox=box)
        text.text(x + width / 2, 0.15, f"{word.evidence:+.1f}", ha="center", va="center", fontsize=7, color="0.3")
        x += width
    note = "" if explanation.familiar else f"   ({GUESS})"
    text.set_title(f"{detokenise(w.token for w in words)}{note}: bits of evidence from the photo", fontsize=9)
    text.set(xlim=(0, 1), ylim=(0, 1))
    grid = bottom.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    grid[0].imshow(photo)
    limit = max([np.abs(word.heat).max() for word in shown if word.heat is not None], default=1.0)
    for axes, word in zip(grid[1:], shown, strict=False):
        axes.imshow(photo.convert("L"), cmap="gray", alpha=0.6)
        if word.heat is not None:
            extent = (0, photo.width, photo.height, 0)
            style: dict[str, Any] = {"cmap": "RdBu_r", "alpha": 0.55, "interpolation": "bilinear"}
            axes.imshow(word.heat, vmin=-limit, vmax=limit, extent=extent, **style)
        if word.attention is not None and explanation.boxes is not None:
            _draw_boxes(axes, photo.size, explanation.boxes, word.attention)
        axes.set_title(f"{word.token}  {word.evidence:+.1f}", fontsize=9)
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_boxes(axes: Any, size: tuple[int, int], boxes: np.ndarray, attention: np.ndarray) -> None:
    """The boxes that got more than their even share, the surer the stronger."""
    from matplotlib.patches import Rectangle

    for (left, top, right, bottom), share in zip(boxes * np.array([*size, *size]), attention, strict=True):
        if share >= 1 / len(boxes):
            strength = min(1.0, 0.2 + share)
            axes.add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, color="tab:red", lw=2, alpha=strength)
            )


def _shade(x: float) -> tuple[float, float, float]:
    """Blue below .5, white there, red above, all pale enough for black letters."""
    strength = 0.75 * abs(2 * x - 1)
    return (1, 1 - strength, 1 - strength) if x > 0.5 else (1 - strength, 1 - strength, 1)
