"""From log-likelihoods to the scores that rank, and the sentence prior they need.

    raw         log P(w | I)
    normalised  log P(w | I) - log P(w)            the paper's P(w | I) / P(w)
    per-token   log P(w | I) / tokens              minus the log of the perplexity
    posterior   log P(w | I) / sum over the candidate images of P(w | I')     Bayes, over the pool

For a fixed sentence P(w) is constant: dividing by it changes which sentence fits an image, never which image
fits a sentence.

Shapes: N images, S sentences, R reference images, M multimodal width.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mrnn.models import LanguageModel
from mrnn.precision import Precision
from mrnn.retrieval.exact import MEMORY, log_likelihood, pair_log_likelihood
from mrnn.retrieval.first_order import FirstOrder
from mrnn.retrieval.prefixes import EncodedSentences

Score = Literal["raw", "normalised", "per-token", "posterior"]
SCORES: tuple[str, ...] = get_args(Score)
DEFAULTS: dict[str, Score] = {"image": "normalised", "sentence": "raw"}


def sentence_prior(
    model: LanguageModel,
    sentences: EncodedSentences,
    references: Float[Tensor, "R M"],
    memory: int = MEMORY,
    precision: Precision = "float32",
) -> Float[Tensor, " S"]:
    """log P(w) = log of the mean of P(w | I') over reference training images (paper 1, section 6).

    Args:
        model: In evaluation mode.
        sentences: What `encode_sentences` gave.
        references: Image vectors of training images, each as likely as the others.
        memory: Bytes that may be held.
        precision: As for `log_likelihood`.
    """
    scores = log_likelihood(model, sentences, references, memory, precision)
    return scores.logsumexp(0) - math.log(len(references))


def fast_sentence_prior(
    model: LanguageModel,
    sentences: EncodedSentences,
    references: Float[Tensor, "R M"],
    approximate: FirstOrder,
    shortlist: int = 30,
    precision: Precision = "float32",
) -> Float[Tensor, " S"]:
    """`sentence_prior`, with exact scores only where they matter.

    The mean is dominated by the references that fit the sentence best. Those that the first-order scores rank
    highest are scored exactly; the others keep their first-order score, moved by the median error of the former.

    Args:
        model: In evaluation mode.
        sentences: What `encode_sentences` gave.
        references: As for `sentence_prior`.
        approximate: What `first_order` gave of the same sentences.
        shortlist: References a sentence that are scored exactly.
        precision: As for `log_likelihood`.
    """
    if not len(sentences):
        return torch.empty(0)
    references = references.to(sentences.text.device)
    first = approximate.scores(references.cpu())
    top, which = first.topk(min(shortlist, len(references)), 0)
    columns = torch.arange(len(sentences)).expand_as(which)
    pairs = torch.stack([which.flatten(), columns.flatten()], 1)
    exact = pair_log_likelihood(model, sentences, references, pairs, precision).view_as(top)
    others = first.scatter(0, which, -math.inf) + (exact - top).median(0).values
    return torch.cat([exact, others]).logsumexp(0) - math.log(len(references))


def apply_score(
    name: str,
    log_likelihoods: Float[Tensor, "N S"],
    tokens: Int[Tensor, " S"],
    prior: Float[Tensor, " S"] | None = None,
) -> Float[Tensor, "N S"]:
    """Turn log-likelihoods into one of the scores above.

    Args:
        name: Which.
        log_likelihoods: Of every pair of the pool.
        tokens: Of each sentence, the end sign included.
        prior: log P(w), for `normalised`.

    Raises:
        ValueError: No such score, or the prior is missing.
    """
    if name == "raw":
        return log_likelihoods
    if name == "normalised":
        if prior is None:
            raise ValueError("the normalised score needs the sentence prior, and this model has no reference images")
        return log_likelihoods - prior
    if name == "per-token":
        return log_likelihoods / tokens
    if name == "posterior":
        return log_likelihoods - log_likelihoods.logsumexp(0)
    raise ValueError(f"no score {name!r}; there are {', '.join(SCORES)}")
