"""Figures of a model on a data set: perplexity, caption metrics, retrieval; flat dictionaries of floats."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mrnn.consensus import Consensus
from mrnn.evaluation.captions import caption_metrics
from mrnn.evaluation.ranking import retrieval_figures
from mrnn.generation import Caption, GenerationConfig, generate
from mrnn.likelihood import pair_log_likelihood, perplexity
from mrnn.models import LanguageModel
from mrnn.retrieval import DEFAULTS, Query, Retriever, Score
from mrnn.text import Vocabulary, tokenise

__all__ = ["caption_metrics", "evaluate_captions", "evaluate_likelihood", "evaluate_retrieval"]


def evaluate_likelihood(
    model: LanguageModel,
    vocabulary: Vocabulary,
    captions: list[tuple[str, ...]],
    features: Float[Tensor, "N ..."],
) -> dict[str, float]:
    """Perplexity of every caption given its photo.

    Args:
        model: In evaluation mode.
        vocabulary: The model's; words outside it count as one token, the unknown sign.
        captions: For each of N photos its captions.
        features: (N, ...) of the same photos.

    Returns:
        `perplexity` and `bits` a token, the end sign included; `tokens`, and `unknown`, their share
        that is not in the vocabulary.
    """
    sentences = [(i, vocabulary.encode(tokenise(c))) for i, several in enumerate(captions) for c in several]
    sentences = [(i, ids) for i, ids in sentences if ids]
    score = pair_log_likelihood(model, vocabulary, [ids for _, ids in sentences], [i for i, _ in sentences], features)
    tokens = sum(len(ids) + 1 for _, ids in sentences)
    value = perplexity(score.double().sum().item(), tokens)
    unknown = sum(ids.count(vocabulary.unknown) for _, ids in sentences)
    return {
        "perplexity": value,
        "bits": torch.tensor(value, dtype=torch.float64).log2().item(),
        "tokens": float(tokens),
        "unknown": unknown / tokens,
    }


def evaluate_captions(
    model: LanguageModel,
    vocabulary: Vocabulary,
    references: list[tuple[str, ...]],
    features: Float[Tensor, "N ..."],
    generation: GenerationConfig,
    centre: Float[Tensor, " M"] | None = None,
    consensus: Consensus | None = None,
) -> tuple[dict[str, float], list[Caption]]:
    """Caption every photo, by consensus if given, and compare with its references.

    See `caption_metrics`, `generate` and `Consensus`.
    """
    with torch.inference_mode():
        image = torch.cat([model.encode_image(part) for part in features.split(512)])
    if consensus is not None:
        found = consensus.caption(model, vocabulary, image, generation)
    else:
        found = generate(model, vocabulary, image, generation, centre)
    captions = [several[0] for several in found]
    return caption_metrics([caption.text for caption in captions], references), captions


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
        scores[query] = retriever.ranked(query, score or DEFAULTS[query], k).numpy()
    return retrieval_figures(scores, owner), scores
