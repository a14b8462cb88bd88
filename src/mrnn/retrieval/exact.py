"""Exact log P(sentence | image) of all pairs, or of chosen ones, at the speed of matrix products.

`encode_text` runs once a shared prefix, `encode_image` once an image; pairs see `logits` alone. The work is
the softmax over V of every (prefix, image): it is done in blocks that stay in the processor's cache.

Shapes: N images, S sentences, P prefixes, E edges, R rows of a block, F words asked of a block, V vocabulary,
M multimodal width, F width of an image vector, H hidden units under the softmax.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mrnn.models import LanguageModel, NeuralLanguageModel
from mrnn.precision import Precision, matrix_dtype
from mrnn.retrieval.prefixes import EncodedSentences

BLOCK_ROWS = 1024
MEMORY = 1 << 30


class WordScorer:
    """Log-probabilities of chosen next words, for blocks of (prefix, image) rows.

    Args:
        model: In evaluation mode.
        device: Where the model is.
        precision: Of the softmax's normaliser, where rounding averages out; nothing else is rounded.
    """

    def __init__(self, model: LanguageModel, device: torch.device, precision: Precision):
        self.model = model
        if isinstance(model, NeuralLanguageModel):
            self.weight, self.bias = model.softmax_layer()
            self.rounded = self.weight.detach().to(matrix_dtype(precision, device))
            # Used again for every block: fresh memory would cost as much time as the product.
            self.product = torch.empty(0, dtype=self.rounded.dtype, device=device)
            self.logits = torch.empty(0, device=device)

    def __call__(
        self,
        text: Float[Tensor, "... M"],
        image: Float[Tensor, "... F"],
        row: Int[Tensor, "..."],
        token: Int[Tensor, "..."],
    ) -> Float[Tensor, "..."]:
        """Score words.

        Args:
            text: Broadcasts with `image` to R rows, in row-major order.
            image: See `text`.
            row: For each word the row whose distribution it is asked of.
            token: The words; broadcasts with `row`.

        Returns:
            Natural logarithms, in the shape that the two have together.
        """
        if not isinstance(self.model, NeuralLanguageModel):
            return self.model.logits(text, image).float().log_softmax(-1).flatten(0, -2)[row, token]
        hidden = self.model.fuse(text, image).flatten(0, -2)
        asked = (hidden[row] * self.weight[token]).sum(-1) + self.bias[token]
        return asked - self._log_normaliser(hidden)[row]

    def _log_normaliser(self, hidden: Float[Tensor, "R H"]) -> Float[Tensor, " R"]:
        shape = (len(hidden), len(self.bias))
        product, logits = self.product.resize_(shape), self.logits.resize_(shape)
        torch.mm(hidden.to(product.dtype), self.rounded.t(), out=product)
        logits.copy_(product).add_(self.bias)
        first = logits[:, 0].clone()
        # log_softmax is one fused pass, PyTorch's logsumexp three: the normaliser is read off its first column.
        return first - torch.log_softmax(logits, -1, out=logits)[:, 0]


@torch.inference_mode()
def log_likelihood(
    model: LanguageModel,
    sentences: EncodedSentences,
    image: Float[Tensor, "N F"],
    memory: int = MEMORY,
    precision: Precision = "float32",
) -> Float[Tensor, "N S"]:
    """Log P(sentence | image) of every pair, natural logarithm, end sign included.

    Args:
        model: In evaluation mode.
        sentences: What `encode_sentences` gave.
        image: What `model.encode_image` gave.
        memory: Bytes that may be held besides the result.
        precision: Of the softmax's normaliser; `auto` is bfloat16 where the machine is fast at it.

    Returns:
        (N, S).
    """
    if len(sentences) == 0 or len(image) == 0:
        return torch.empty(len(image), len(sentences))
    edges = max(1, len(sentences.edge_token))
    chunk = max(1, min(len(image), memory // (4 * edges), BLOCK_ROWS))
    parts = []
    scorer = WordScorer(model, image.device, precision)
    for images in image.split(chunk):
        words = torch.cat([_block(scorer, sentences, images, p, e) for p, e in _blocks(sentences, len(images))])
        sums = nn.functional.embedding_bag(sentences.edges, words, sentences.offsets[:-1], mode="sum")
        parts.append(sums.t().cpu())
    return torch.cat(parts)


def _blocks(sentences: EncodedSentences, images: int) -> Iterator[tuple[slice, slice]]:
    """Prefixes, and the edges that leave them, in blocks of about `BLOCK_ROWS` (prefix, image) rows."""
    prefixes = max(1, BLOCK_ROWS // images)
    starts = torch.arange(0, len(sentences.text) + prefixes, prefixes, device=sentences.edge_prefix.device)
    bounds = torch.searchsorted(sentences.edge_prefix, starts).tolist()
    for i, (first, last) in enumerate(pairwise(bounds)):
        if first < last:
            yield slice(i * prefixes, (i + 1) * prefixes), slice(first, last)


def _block(
    scorer: WordScorer, sentences: EncodedSentences, image: Float[Tensor, "N F"], prefixes: slice, edges: slice
) -> Float[Tensor, "E N"]:
    n = len(image)
    columns = torch.arange(n, device=image.device)
    row = (sentences.edge_prefix[edges] - prefixes.start)[:, None] * n + columns
    return scorer(sentences.text[prefixes, None], image[None], row, sentences.edge_token[edges][:, None])


@torch.inference_mode()
def pair_log_likelihood(
    model: LanguageModel,
    sentences: EncodedSentences,
    image: Float[Tensor, "N F"],
    pairs: Int[Tensor, "K 2"],
    precision: Precision = "float32",
) -> Float[Tensor, " K"]:
    """Log P(sentence | image) of chosen pairs; sentences that begin alike share their work for an image.

    Args:
        model: In evaluation mode.
        sentences: What `encode_sentences` gave.
        image: What `model.encode_image` gave.
        pairs: Rows of (image, sentence).
        precision: As for `log_likelihood`.

    Returns:
        (K,), equal to `log_likelihood(...)[pairs[:, 0], pairs[:, 1]]`.
    """
    if len(pairs) == 0:
        return torch.empty(0)
    order = pairs[:, 0].argsort(stable=True)  # pairs of one image together, so that they meet in a block
    n = len(image)
    parts = []
    scorer = WordScorer(model, image.device, precision)
    for some in pairs[order].to(image.device).split(BLOCK_ROWS):
        counts = sentences.tokens[some[:, 1]]
        owner = torch.arange(len(some), device=image.device).repeat_interleave(counts)
        begins = counts.cumsum(0) - counts
        within = torch.arange(len(owner), device=image.device) - begins[owner]
        edge = sentences.edges[sentences.offsets[some[owner, 1]] + within]
        # Each (edge, image) is asked once, and of each (prefix, image) one softmax is taken.
        asked, back = torch.unique(edge * n + some[owner, 0], return_inverse=True)
        edge, column = asked // n, asked % n
        rows, row = torch.unique(sentences.edge_prefix[edge] * n + column, return_inverse=True)
        words = torch.empty(len(asked), device=image.device)
        by_row = row.argsort(stable=True)
        bounds = torch.arange(0, len(rows) + BLOCK_ROWS, BLOCK_ROWS, device=image.device)
        cuts = torch.searchsorted(row[by_row], bounds).tolist()
        for start, (first, last) in zip(bounds.tolist(), pairwise(cuts), strict=False):
            block, of = rows[start : start + BLOCK_ROWS], by_row[first:last]
            words[of] = scorer(
                sentences.text[block // n],
                image[block % n],
                row[of] - start,
                sentences.edge_token[edge[of]],
            )
        parts.append(torch.zeros(len(some), device=image.device).index_add_(0, owner, words[back]).cpu())
    result = torch.empty(len(pairs))
    result[order.cpu()] = torch.cat(parts)
    return result
