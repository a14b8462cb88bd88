"""Retrieval figures in both directions, from a matrix of scores.

Shapes: N images, S sentences, Q queries.
"""

from collections.abc import Sequence

import numpy as np

RECALLS = (1, 5, 10)


def ranks(scores: np.ndarray, owner: np.ndarray, query: str) -> np.ndarray:
    """Rank of the best true match of every query, from 1; a candidate with an equal score counts as ahead.

    Args:
        scores: (N, S), higher is better.
        owner: (S,) the image each sentence belongs to.
        query: `image` ranks sentences for each image, `sentence` ranks images for each sentence.

    Returns:
        (Q,), infinite for an image without a sentence. A score that is no number ranks last.
    """
    scores = np.nan_to_num(np.asarray(scores, np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    N, S = scores.shape
    if query == "sentence":
        true = scores[owner, np.arange(S)]
        return (scores >= true).sum(0).astype(float)
    result = np.full(N, np.inf)
    for image in range(N):
        mine = owner == image
        if mine.any():
            best = scores[image, mine].max()
            # The image's own other sentences are true matches too: none of them is ahead of the best.
            result[image] = 1 + (scores[image, ~mine] >= best).sum()
    return result


def recall_figures(rank: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10 in percent, median and mean rank."""
    figures = {f"R@{k}": 100 * float((rank <= k).mean()) for k in RECALLS}
    return figures | {"median rank": float(np.median(rank)), "mean rank": float(rank.mean())}


def chance_figures(candidates: int, true: int, queries: int = 4000, seed: int = 0) -> dict[str, float]:
    """The same figures for a random order of candidates of which some are true."""
    # The best of `true` distinct places among `candidates`.
    rng = np.random.default_rng(seed)
    best = np.array([rng.choice(candidates, true, replace=False).min() + 1 for _ in range(queries)])
    exact = {f"R@{k}": 100 * (1 - _none_in_top(candidates, true, k)) for k in RECALLS}
    return exact | {"median rank": float(np.median(best)), "mean rank": (candidates + 1) / (true + 1)}


def _none_in_top(candidates: int, true: int, k: int) -> float:
    k = min(k, candidates)
    return float(np.prod([max(candidates - true - i, 0) / (candidates - i) for i in range(k)]))


def confidence(
    rank: np.ndarray, groups: np.ndarray, draws: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % intervals of `recall_figures` by bootstrap over images.

    Args:
        rank: (Q,).
        groups: (Q,) the image of every query: queries of one image are drawn together.
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    samples = []
    for _ in range(draws):
        chosen = rng.integers(0, len(members), len(members))
        samples.append(list(recall_figures(rank[np.concatenate([members[i] for i in chosen])]).values()))
    low, high = np.percentile(samples, [2.5, 97.5], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(recall_figures(rank), low, high, strict=True)}


def retrieval_figures(scores: dict[str, np.ndarray], owner: Sequence[int]) -> dict[str, float]:
    """Both directions' figures with chance and intervals, as one flat dictionary.

    Args:
        scores: For each query kind (`image`, `sentence`) the (N, S) scores it ranks by.
        owner: (S,) the image each sentence belongs to.
    """
    of = np.asarray(owner)
    figures: dict[str, float] = {}
    for query, name in (("image", "image-to-sentence"), ("sentence", "sentence-to-image")):
        matrix = scores[query]
        rank = ranks(matrix, of, query)
        groups = np.arange(len(matrix)) if query == "image" else of
        candidates, true = (matrix.shape[1], round(len(of) / len(matrix))) if query == "image" else (len(matrix), 1)
        chance, intervals = chance_figures(candidates, max(true, 1)), confidence(rank, groups)
        for key, value in recall_figures(rank).items():
            figures[f"{name} {key}"] = value
            figures[f"{name} {key} low"], figures[f"{name} {key} high"] = intervals[key]
            figures[f"{name} {key} chance"] = chance[key]
    return figures
