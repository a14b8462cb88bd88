"""First-order vectors: an image's score for a sentence as one dot product.

The image enters m-RNN once, as the vector b = V_I I. So for a sentence w and an image b near a centre b0

    log P(w | b)  ~  c + q . (b - b0),    c = log P(w | b0),   q = gradient of log P(w | b) at b0

One reading of the sentence and one gradient a word; then any vector index serves.

Shapes: S sentences, N images, F width of an image vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrnn.runtime import Precision, Runtime
from mrnn.shapes import Float
from mrnn.tasks.retrieval.exact import BLOCK_ROWS
from mrnn.tasks.retrieval.prefixes import EncodedSentences, encode_sentences
from mrnn.text import Vocabulary


@dataclass(frozen=True)
class FirstOrder:
    """Plain float32 arrays that any vector index takes.

    Args:
        constant: (S,) c - q . b0, so that a score is constant + q . b.
        vectors: (S, F) q.
    """

    constant: Float[np.ndarray, " S"]
    vectors: Float[np.ndarray, "S F"]

    def scores(self, image: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N S"]:
        """Approximate log P(sentence | image) of every pair."""
        return image @ self.vectors.T + self.constant


def first_order(
    model: Runtime,
    vocabulary: Vocabulary,
    sentences: Sequence[Sequence[int]],
    centre: Float[np.ndarray, " F"],
    precision: Precision = "float32",
    encoded: EncodedSentences | None = None,
) -> FirstOrder:
    """Expand every sentence's log-likelihood at one image vector.

    Args:
        model: Who scores.
        vocabulary: Its words.
        sentences: S sentences of ids without signs.
        centre: b0, the mean of the training images' vectors.
        precision: Of the products.
        encoded: What `encode_sentences` gave of them, where that is known.
    """
    if not len(sentences):
        return FirstOrder(np.empty(0, np.float32), np.empty((0, len(centre)), np.float32))
    encoded = encoded or encode_sentences(model, vocabulary, sentences)
    edges = len(encoded.edge_token)  # each once, however many sentences begin with it
    c, q = np.empty(edges, np.float32), np.empty((edges, len(centre)), np.float32)
    for start in range(0, edges, BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        text = encoded.text[encoded.edge_prefix[part]]
        image = np.tile(centre, (len(text), 1))
        c[part], q[part] = model.gradient(text, image, encoded.edge_token[part], precision)
    begins = encoded.offsets[:-1]
    vectors = np.add.reduceat(q[encoded.edges], begins)
    return FirstOrder(np.add.reduceat(c[encoded.edges], begins) - vectors @ centre, vectors)
