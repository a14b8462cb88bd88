"""Figures of a model on a data set: perplexity, caption metrics, retrieval; flat dictionaries of floats."""

import math

import numpy as np

from mrnn.evaluation.captions import caption_metrics
from mrnn.evaluation.confidence import confidence_figures
from mrnn.evaluation.ranking import retrieval_figures
from mrnn.pipeline import Pipeline
from mrnn.shapes import Float
from mrnn.tasks.consensus import Consensus
from mrnn.tasks.generation import Caption, GenerationConfig
from mrnn.tasks.likelihood import log_likelihood_of, perplexity
from mrnn.tasks.retrieval import DEFAULTS, Query, Retriever, Score
from mrnn.text import tokenise

__all__ = ["caption_metrics", "evaluate_captions", "evaluate_likelihood", "evaluate_retrieval"]


def evaluate_likelihood(
    pipeline: Pipeline, captions: list[tuple[str, ...]], features: Float[np.ndarray, "N ..."]
) -> dict[str, float]:
    """Perplexity of every caption given its photo.

    Args:
        pipeline: The model and its words; those outside them count as one token, the unknown sign.
        captions: For each of N photos its captions.
        features: (N, ...) of the same photos.

    Returns:
        `perplexity` and `bits` a token, the end sign included; `tokens`, and `unknown`, their share
        that is not in the vocabulary.
    """
    vocabulary = pipeline.vocabulary
    sentences = [(i, vocabulary.encode(tokenise(c))) for i, several in enumerate(captions) for c in several]
    sentences = [(i, ids) for i, ids in sentences if ids]
    owner, ids_of = [i for i, _ in sentences], [ids for _, ids in sentences]
    score = log_likelihood_of(pipeline.model, vocabulary, ids_of, owner, features)
    tokens = sum(len(ids) + 1 for ids in ids_of)
    value = perplexity(math.fsum(score), tokens)
    unknown = sum(ids.count(vocabulary.unknown) for ids in ids_of)
    return {
        "perplexity": value,
        "bits": math.log2(value),
        "tokens": float(tokens),
        "unknown": unknown / tokens,
    }


def evaluate_captions(
    pipeline: Pipeline,
    references: list[tuple[str, ...]],
    features: Float[np.ndarray, "N ..."],
    generation: GenerationConfig | None = None,
    consensus: Consensus | None = None,
) -> tuple[dict[str, float], list[Caption]]:
    """Caption every photo, by consensus if given, and compare with its references.

    See `caption_metrics`, `confidence_figures`, `Pipeline.write` and `Consensus`; the model's own way of searching if
    `generation` is None.
    """
    model, vocabulary = pipeline.model, pipeline.vocabulary
    generation = generation or pipeline.generation
    image = model.encode_image(features)
    if consensus is not None:
        found = consensus.caption(model, vocabulary, image, generation)
        found = pipeline.trusted(image, [several[:1] for several in found])
    else:
        # What is reported was searched for without rounding.
        found = pipeline.write(image, generation, "float32")
    captions = [several[0] for several in found]
    figures = caption_metrics([caption.text for caption in captions], references)
    return figures | confidence_figures(captions, references), captions


def evaluate_retrieval(
    retriever: Retriever, owner: list[int], shortlist: int | None, score: Score | None = None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Retrieval in both directions, each by its default score unless one is given.

    Args:
        retriever: Over a split's photos and all their captions.
        owner: For each caption its photo.
        shortlist: Images a sentence that are scored exactly, and as many times more sentences an image as there
            are sentences for each; all if None.
        score: In both directions instead of the defaults.

    Returns:
        The figures of `retrieval_figures`, and the (N, S) scores of each query kind.
    """
    each = max(1, round(len(owner) / max(1, len(retriever.image))))
    lists: dict[Query, int | None] = {"image": shortlist and shortlist * each, "sentence": shortlist}
    scores: dict[str, np.ndarray] = {}
    for query, k in lists.items():
        scores[query] = retriever.ranked(query, score or DEFAULTS[query], k)
    return retrieval_figures(scores, owner), scores
