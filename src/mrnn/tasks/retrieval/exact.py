"""Exact log P(sentence | image) of all pairs, or of chosen ones, at the speed of matrix products.

The sentence is read once a shared prefix, the image encoded once; what sees both is the softmax over V of every
(prefix, image) alone. It is done in blocks that stay in the processor's cache.

Shapes: N images, S sentences, P prefixes, E edges, R rows of a block, V vocabulary, F width of an image vector.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from mrnn.runtime import Precision, Runtime
from mrnn.shapes import Float, Int
from mrnn.tasks.retrieval.prefixes import EncodedSentences

BLOCK_ROWS = 1024
MEMORY = 1 << 30


def log_likelihood(
    model: Runtime,
    sentences: EncodedSentences,
    image: Float[np.ndarray, "N F"],
    memory: int = MEMORY,
    precision: Precision = "float32",
) -> Float[np.ndarray, "N S"]:
    """Log P(sentence | image) of every pair, natural logarithm, end sign included.

    Args:
        model: Who scores.
        sentences: What `encode_sentences` gave.
        image: What `model.encode_image` gave.
        memory: Bytes that may be held besides the result.
        precision: Of the softmax's normaliser; `auto` may round where the machine is faster then.

    Returns:
        (N, S).
    """
    if len(sentences) == 0 or len(image) == 0:
        return np.empty((len(image), len(sentences)), np.float32)
    edges = max(1, len(sentences.edge_token))
    chunk = max(1, min(len(image), memory // (8 * edges), BLOCK_ROWS))
    parts = []
    for start in range(0, len(image), chunk):
        images = image[start : start + chunk]
        words = [_block(model, sentences, images, p, e, precision) for p, e in _blocks(sentences, len(images))]
        parts.append(np.add.reduceat(np.concatenate(words)[sentences.edges], sentences.offsets[:-1]).T)
    return np.concatenate(parts)


def _blocks(sentences: EncodedSentences, images: int) -> Iterator[tuple[slice, slice]]:
    """Prefixes, and the edges that leave them, in blocks of about `BLOCK_ROWS` (prefix, image) rows."""
    prefixes = max(1, BLOCK_ROWS // images)
    starts = np.arange(0, len(sentences.text) + prefixes, prefixes)
    bounds = np.searchsorted(sentences.edge_prefix, starts).tolist()
    for i, (first, last) in enumerate(pairwise(bounds)):
        if first < last:
            yield slice(i * prefixes, (i + 1) * prefixes), slice(first, last)


def _block(
    model: Runtime,
    sentences: EncodedSentences,
    image: Float[np.ndarray, "N F"],
    prefixes: slice,
    edges: slice,
    precision: Precision,
) -> Float[np.ndarray, "E N"]:
    n, text = len(image), sentences.text[prefixes]
    row = (sentences.edge_prefix[edges] - prefixes.start)[:, None] * n + np.arange(n)
    target = sentences.edge_token[edges].repeat(n)
    found = model.log_p(text.repeat(n, 0), np.tile(image, (len(text), 1)), row.ravel(), target, precision)
    return found.reshape(row.shape)


def pair_log_likelihood(
    model: Runtime,
    sentences: EncodedSentences,
    image: Float[np.ndarray, "N F"],
    pairs: Int[np.ndarray, "K 2"],
    precision: Precision = "float32",
) -> Float[np.ndarray, " K"]:
    """Log P(sentence | image) of chosen pairs; sentences that begin alike share their work for an image.

    Args:
        model: Who scores.
        sentences: What `encode_sentences` gave.
        image: What `model.encode_image` gave.
        pairs: Rows of (image, sentence).
        precision: As for `log_likelihood`.

    Returns:
        (K,), equal to `log_likelihood(...)[pairs[:, 0], pairs[:, 1]]`.
    """
    result = np.empty(len(pairs), np.float32)
    order = pairs[:, 0].argsort(kind="stable")  # pairs of one image together, so that they meet in a block
    n = len(image)
    for start in range(0, len(pairs), BLOCK_ROWS):
        places = order[start : start + BLOCK_ROWS]
        some = pairs[places]
        counts = sentences.tokens[some[:, 1]]
        begins = counts.cumsum() - counts
        owner = np.arange(len(some)).repeat(counts)
        edge = sentences.edges[sentences.offsets[some[owner, 1]] + np.arange(len(owner)) - begins[owner]]
        # Each (edge, image) is asked once, and of each (prefix, image) one softmax is taken.
        asked, back = np.unique(edge * n + some[owner, 0], return_inverse=True)
        edge, column = asked // n, asked % n
        rows, row = np.unique(sentences.edge_prefix[edge] * n + column, return_inverse=True)
        words = np.empty(len(asked), np.float32)
        by_row = row.argsort(kind="stable")
        bounds = np.arange(0, len(rows) + BLOCK_ROWS, BLOCK_ROWS)
        cuts = np.searchsorted(row[by_row], bounds).tolist()
        for first_row, (first, last) in zip(bounds.tolist(), pairwise(cuts), strict=False):
            block, of = rows[first_row : first_row + BLOCK_ROWS], by_row[first:last]
            words[of] = model.log_p(
                sentences.text[block // n],
                image[block % n],
                row[of] - first_row,
                sentences.edge_token[edge[of]],
                precision,
            )
        result[places] = np.add.reduceat(words[back], begins)
    return result
