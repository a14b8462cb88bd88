"""From log-likelihoods to the scores that rank, and the sentence prior they need.

    raw         log P(w | I)
    normalised  log P(w | I) - a log P(w)          a = 1: the paper's P(w | I) / P(w)
    per-token   log P(w | I) / tokens              minus the log of the perplexity
    posterior   log P(w | I) / sum over the candidate images of P(w | I')     Bayes, over the pool

The prior's weight a is 1 for the paper's score; below 1 what is said usually counts too (VisualGPTScore, arXiv
2306.01879, equation 5). For a fixed sentence P(w) is constant: dividing by it changes which sentence fits an image,
never which image fits a sentence.

Shapes: N images, S sentences, R reference images, F width of an image vector.
"""

import math
from typing import Literal, get_args

import numpy as np

from mrnn.runtime import Precision, Runtime
from mrnn.shapes import Float, Int
from mrnn.tasks.retrieval.exact import MEMORY, log_likelihood, pair_log_likelihood
from mrnn.tasks.retrieval.first_order import FirstOrder
from mrnn.tasks.retrieval.prefixes import EncodedSentences

Score = Literal["raw", "normalised", "per-token", "posterior"]
SCORES: tuple[str, ...] = get_args(Score)
# Of all weights of the prior, the one that ranks sentences for dev photos best; see docs/retrieval.md.
PRIOR_WEIGHT = 1.0
DEFAULTS: dict[str, Score] = {"image": "normalised", "sentence": "raw"}


def log_sum(x: Float[np.ndarray, "R S"]) -> Float[np.ndarray, " S"]:
    """log sum exp over the first axis, in float64."""
    most = x.max(0)
    most = np.where(np.isfinite(most), most, 0)
    with np.errstate(divide="ignore"):
        return (np.log(np.exp(x.astype(np.float64) - most).sum(0)) + most).astype(x.dtype)


def sentence_prior(
    model: Runtime,
    sentences: EncodedSentences,
    references: Float[np.ndarray, "R F"],
    memory: int = MEMORY,
    precision: Precision = "float32",
) -> Float[np.ndarray, " S"]:
    """log P(w) = log of the mean of P(w | I') over reference training images (paper 1, section 6).

    Args:
        model: Who scores.
        sentences: What `encode_sentences` gave.
        references: Image vectors of training images, each as likely as the others.
        memory: Bytes that may be held.
        precision: As for `log_likelihood`.
    """
    return log_sum(log_likelihood(model, sentences, references, memory, precision)) - math.log(len(references))


def fast_sentence_prior(
    model: Runtime,
    sentences: EncodedSentences,
    references: Float[np.ndarray, "R F"],
    approximate: FirstOrder,
    shortlist: int = 30,
    precision: Precision = "float32",
    share: float = 1.0,
) -> Float[np.ndarray, " S"]:
    """`sentence_prior`, with exact scores only where they matter.

    The mean is dominated by the references that fit the sentence best. Those that the first-order scores rank
    highest are scored exactly; the others keep their first-order score, moved by the median error of the former.

    Args:
        model: Who scores.
        sentences: What `encode_sentences` gave.
        references: As for `sentence_prior`.
        approximate: What `first_order` gave of the same sentences.
        shortlist: References a sentence that are scored exactly.
        precision: As for `log_likelihood`.
        share: Of the exact scores that counts, as it does in `approximate`: of a phrase, whose scores are sums.
    """
    if not len(sentences):
        return np.empty(0, np.float32)
    first = approximate.scores(references)
    k = min(shortlist, len(references))
    which = np.argpartition(-first, k - 1, axis=0)[:k]
    top = np.take_along_axis(first, which, 0)
    columns = np.broadcast_to(np.arange(len(sentences)), which.shape)
    pairs = np.stack([which.ravel(), columns.ravel()], 1)
    exact = pair_log_likelihood(model, sentences, references, pairs, precision).reshape(top.shape) * np.float32(share)
    # The lower of the two in the middle where their number is even.
    others = first + np.sort(exact - top, axis=0)[(k - 1) // 2]
    np.put_along_axis(others, which, -np.inf, 0)
    return log_sum(np.concatenate([exact, others])) - math.log(len(references))


def apply_score(
    name: str,
    log_likelihoods: Float[np.ndarray, "N S"],
    tokens: Int[np.ndarray, " S"],
    prior: Float[np.ndarray, " S"] | None = None,
    prior_weight: float = PRIOR_WEIGHT,
) -> Float[np.ndarray, "N S"]:
    """Turn log-likelihoods into one of the scores above.

    Args:
        name: Which.
        log_likelihoods: Of every pair of the pool.
        tokens: Of each sentence, the end sign included.
        prior: log P(w), for `normalised`.
        prior_weight: How much of it is taken off.

    Raises:
        ValueError: No such score, or the prior is missing.
    """
    if name == "raw":
        return log_likelihoods
    if name == "normalised":
        if prior is None:
            raise ValueError("the normalised score needs the sentence prior, and this model has no reference images")
        return log_likelihoods - np.float32(prior_weight) * prior
    if name == "per-token":
        return log_likelihoods / tokens.astype(np.float32)
    if name == "posterior":
        return log_likelihoods - log_sum(log_likelihoods)
    raise ValueError(f"no score {name!r}; there are {', '.join(SCORES)}")
