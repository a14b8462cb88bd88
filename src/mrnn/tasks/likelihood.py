"""How likely given sentences are for given images: the measure that every task ranks by.

Log-likelihoods are natural logarithms, summed over the tokens, the end sign included.

Shapes: N images, S sentences, F width of an image vector.
"""

import math
from collections.abc import Sequence

import numpy as np

from mrnn.runtime import Runtime
from mrnn.shapes import Float
from mrnn.tasks.retrieval.exact import BLOCK_ROWS
from mrnn.tasks.retrieval.prefixes import encode_sentences
from mrnn.text import Vocabulary


def token_log_probabilities(
    model: Runtime,
    vocabulary: Vocabulary,
    sentences: Sequence[Sequence[int]],
    image: Float[np.ndarray, "S F"],
) -> list[list[float]]:
    """Log P(word | words before it, image) of every word, then of the end sign.

    Args:
        model: Who scores.
        vocabulary: Its words.
        sentences: S sentences of ids without signs.
        image: (S, F), for each sentence what `model.encode_image` gave of its image.

    Returns:
        A list a sentence, one longer than the sentence, of natural logarithms.
    """
    if not len(sentences):
        return []
    encoded = encode_sentences(model, vocabulary, sentences)
    owner = np.arange(len(sentences)).repeat(encoded.tokens)
    tokens = np.empty(len(owner))
    for start in range(0, len(owner), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        edge = encoded.edges[part]
        text = encoded.text[encoded.edge_prefix[edge]]
        tokens[part] = model.log_p(text, image[owner[part]], np.arange(len(edge)), encoded.edge_token[edge])
    return [part.tolist() for part in np.split(tokens, encoded.offsets[1:-1])]


def log_likelihood_of(
    model: Runtime,
    vocabulary: Vocabulary,
    sentences: Sequence[Sequence[int]],
    images: Sequence[int],
    features: Float[np.ndarray, "N ..."],
) -> Float[np.ndarray, " S"]:
    """Log P(sentence | its image), one image a sentence.

    Args:
        model: Who scores.
        vocabulary: Its words.
        sentences: S sentences of ids without signs.
        images: For each sentence the row of its image in `features`.
        features: What `model.encode_image` takes.

    Returns:
        (S,) natural logarithms, summed over the tokens.
    """
    image = model.encode_image(features)
    tokens = token_log_probabilities(model, vocabulary, sentences, image[np.asarray(images, np.int64)])
    return np.array([math.fsum(log_p) for log_p in tokens])


def perplexity(log_likelihood: float, tokens: int) -> float:
    """2 to the bits a token, or e to the nats a token: the same number; infinite where it is beyond a float."""
    try:
        return math.exp(-log_likelihood / tokens)
    except OverflowError:
        return math.inf
