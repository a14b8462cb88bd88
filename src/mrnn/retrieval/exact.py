"""Exact log P(sentence | image) of all pairs, or of chosen ones, at the speed of matrix products.

`encode_text` runs once a shared prefix, `encode_image` once an image; pairs see `logits` alone. The work is
the softmax over V of every (prefix, image): it is done in blocks that stay in the processor's cache.

Shapes: N images, S sentences, P prefixes, E edges, R rows of a block, F words asked of a block, V vocabulary,
M multimodal width, H hidden units under the softmax.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mrnn.models import LanguageModel, NeuralLanguageModel
from mrnn.precision import Precision, autocast
from mrnn.retrieval.prefixes import EncodedSentences

BLOCK_ROWS = 2048
MEMORY = 1 << 30


def word_scores(
    model: LanguageModel,
    text: Float[Tensor, "... M"],
    image: Float[Tensor, "... M"],
    row: Int[Tensor, " F"],
    token: Int[Tensor, " F"],
) -> Float[Tensor, " F"]:
    """Log-probabilities of some next words.

    Args:
        model: In evaluation mode.
        text: Broadcasts with `image` to R rows, in row-major order.
        image: See `text`.
        row: For each word the row whose distribution it is asked of.
        token: The words.

    Returns:
        (F,) natural logarithms.
    """
    if not isinstance(model, NeuralLanguageModel):
        log_p = model.logits(text, image).float().log_softmax(-1)
        return log_p.flatten(0, -2)[row, token]
    hidden = model.fuse(text, image).flatten(0, -2)
    weight, bias = model.softmax_layer()
    # Only the normaliser may be computed in bfloat16, where rounding averages out; the words asked for are not.
    asked = (hidden[row].float() * weight[token]).sum(-1) + bias[token]
    logits = nn.functional.linear(hidden, weight, bias).float()
    # One fused pass over the block: PyTorch's logsumexp takes three.
    normaliser = logits[:, 0] - logits.log_softmax(-1)[:, 0]
    return asked - normaliser[row]


@torch.inference_mode()
def log_likelihood(
    model: LanguageModel,
    sentences: EncodedSentences,
    image: Float[Tensor, "N M"],
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
    with autocast(precision, image.device):
        for images in image.split(chunk):
            words = torch.cat([_block(model, sentences, images, p, e) for p, e in _blocks(sentences, len(images))])
            sums = nn.functional.embedding_bag(sentences.edges, words, sentences.offsets[:-1], mode="sum")
            parts.append(sums.t().cpu())
    return torch.cat(parts)


def _blocks(sentences: EncodedSentences, images: int) -> Iterator[tuple[slice, slice]]:
    """Prefixes, and the edges that leave them, in blocks of about `BLOCK_ROWS` (prefix, image) rows."""
    prefixes = max(1, BLOCK_ROWS // images)
    starts = torch.arange(0, len(sentences.text) + prefixes, prefixes, device=sentences.edge_prefix.device)
    bounds = torch.searchsorted(sentences.edge_prefix, starts).tolist()
    for i, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
        if first < last:
            yield slice(i * prefixes, (i + 1) * prefixes), slice(first, last)


def _block(
    model: LanguageModel, sentences: EncodedSentences, image: Float[Tensor, "N M"], prefixes: slice, edges: slice
) -> Float[Tensor, "E N"]:
    n = len(image)
    columns = torch.arange(n, device=image.device)
    row = (sentences.edge_prefix[edges] - prefixes.start)[:, None] * n + columns
    token = sentences.edge_token[edges][:, None].expand(-1, n)
    scores = word_scores(model, sentences.text[prefixes, None], image[None], row.flatten(), token.flatten())
    return scores.view(-1, n)


@torch.inference_mode()
def pair_log_likelihood(
    model: LanguageModel,
    sentences: EncodedSentences,
    image: Float[Tensor, "N M"],
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
    with autocast(precision, image.device):
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
            for start, first, last in zip(bounds.tolist(), cuts, cuts[1:], strict=False):
                block, of = rows[start : start + BLOCK_ROWS], by_row[first:last]
                words[of] = word_scores(
                    model,
                    sentences.text[block // n],
                    image[block % n],
                    row[of] - start,
                    sentences.edge_token[edge[of]],
                )
            parts.append(torch.zeros(len(some), device=image.device).index_add_(0, owner, words[back]).cpu())
    result = torch.empty(len(pairs))
    result[order.cpu()] = torch.cat(parts)
    return result
