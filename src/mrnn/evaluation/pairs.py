"""What a reference-free score is worth: captions against their foils, and the agreement with people's ratings.

Shapes: S sentences.
"""

from collections.abc import Sequence

import numpy as np

from mrnn.shapes import Float

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
TAUS = ("tau-b", "tau-c")
BLIND = "blind"  # by the sentence alone, whatever the photo


def weighed(
    raw: Float[np.ndarray, " S"], prior: Float[np.ndarray, " S"], weights: Sequence[float] = WEIGHTS
) -> dict[str, Float[np.ndarray, " S"]]:
    """Scores log P(w | I) - a log P(w) by the weight a of the prior, and log P(w) alone, the blind one."""
    scores = {f"{weight:g}": raw - weight * prior for weight in weights}
    return {**scores, BLIND: prior}


def foil_accuracy(caption: Float[np.ndarray, " S"], foil: Float[np.ndarray, " S"]) -> float:
    """Share of pairs whose caption scores above its foil; a tie is half."""
    return float(((caption > foil) + 0.5 * (caption == foil)).mean())


def rating_agreement(scores: Float[np.ndarray, " S"], ratings: Sequence[Sequence[float]]) -> dict[str, float]:
    """Kendall's tau-b and tau-c of scores with people's ratings, each rating of a sentence by itself.

    Args:
        scores: Of S sentences.
        ratings: Of each sentence all it was given.

    Raises:
        ValueError: SciPy is not installed.
    """
    try:
        from scipy.stats import kendalltau
    except ImportError:
        raise ValueError("Kendall's tau needs an extra: pip install 'mrnn[eval]'") from None
    given = np.concatenate([np.asarray(several, float) for several in ratings])
    repeated = scores.repeat([len(several) for several in ratings])
    return {tau: float(kendalltau(repeated, given, variant=tau[-1])[0]) for tau in TAUS}
