"""Retrieval in both directions by likelihood: exact scores, sentence prior, first-order vectors, shortlists."""

from mrnn.tasks.retrieval.exact import log_likelihood, pair_log_likelihood
from mrnn.tasks.retrieval.first_order import FirstOrder, first_order
from mrnn.tasks.retrieval.prefixes import EncodedSentences, encode_sentences
from mrnn.tasks.retrieval.scores import (
    DEFAULTS,
    PRIOR_WEIGHT,
    SCORES,
    Score,
    apply_score,
    fast_sentence_prior,
    sentence_prior,
)
from mrnn.tasks.retrieval.search import Match, Query, Retriever, best_matches

__all__ = [
    "DEFAULTS",
    "PRIOR_WEIGHT",
    "SCORES",
    "EncodedSentences",
    "FirstOrder",
    "Match",
    "Query",
    "Retriever",
    "Score",
    "apply_score",
    "best_matches",
    "encode_sentences",
    "fast_sentence_prior",
    "first_order",
    "log_likelihood",
    "pair_log_likelihood",
    "sentence_prior",
]
