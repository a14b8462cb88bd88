"""How far a caption can be trusted: a number between 0 and 1, fitted on photos that people have described.

    confidence = 1 / (1 + exp(-(w0 + w1 l + w2 p + w3 a)))

l is log P(w | I) and p is log P(w), both a token, and a is the agreement with what else the model would say of the
photo (`choice.py`). A caption is surer the likelier the photo makes it and the more it agrees, and less sure the more
anyone would say it of any photo. The weights are those of a logistic regression on dev photos, where
a caption is *good* if its CIDEr is that of the median sentence of people, each against the others of its photo. So of
captions with the confidence .7, seven in ten agree with what people say of the photo as well as half of people's own
sentences do.

Shapes: S sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrnn.cider import CIDEr
from mrnn.shapes import Float, Int

GUESS = "a guess"
GUESSED_BELOW = 0.2
FEWEST = 100  # captions to fit the weights on


@dataclass(frozen=True)
class Confidence:
    """The weights of a model's confidence.

    Args:
        constant: w0.
        likelihood: w1.
        prior: w2.
        agreement: w3.
    """

    constant: float
    likelihood: float
    prior: float
    agreement: float

    def __post_init__(self):
        weights = (self.constant, self.likelihood, self.prior, self.agreement)
        if not all(isinstance(w, int | float) and np.isfinite(w) for w in weights):
            raise ValueError("a weight of the confidence is no finite number")

    def __call__(
        self,
        log_likelihood: Float[np.ndarray, " S"],
        prior: Float[np.ndarray, " S"],
        agreement: Float[np.ndarray, " S"],
        tokens: Int[np.ndarray, " S"],
    ) -> Float[np.ndarray, " S"]:
        """Of S sentences, each with its photo.

        Args:
            log_likelihood: log P(w | I), natural.
            prior: log P(w).
            agreement: Of `choice.agreement`.
            tokens: The end sign included.
        """
        weights = (self.constant, self.likelihood, self.prior, self.agreement)
        # More digits mean nothing, and differ with what else was computed beside it.
        return _logistic(_numbers(log_likelihood, prior, agreement, tokens) @ np.array(weights)).round(4)


def fit_confidence(
    log_likelihood: Float[np.ndarray, " S"],
    prior: Float[np.ndarray, " S"],
    agreement: Float[np.ndarray, " S"],
    tokens: Int[np.ndarray, " S"],
    good: Sequence[bool],
) -> Confidence | None:
    """The weights that tell good captions from others best; None of fewer than `FEWEST`, or if all are alike.

    Args:
        log_likelihood: As for `Confidence`.
        prior: As for `Confidence`.
        agreement: As for `Confidence`.
        tokens: As for `Confidence`.
        good: Of each.
    """
    y = np.asarray(good, np.float64)
    if len(y) < FEWEST or y.min() == y.max():
        return None
    x = _numbers(log_likelihood, prior, agreement, tokens)
    weights = np.zeros(x.shape[1])
    ridge = 1e-3 * np.diag([0.0, 1, 1, 1])  # where good and bad can be told apart by a line, the weights have no end
    for _ in range(100):  # Newton's steps
        p = _logistic(x @ weights)
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + ridge, x.T @ (y - p) - ridge @ weights)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    return Confidence(*map(float, weights))


def good_captions(
    captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> list[bool] | None:
    """Which captions agree with people's sentences as well as half of these do with each other.

    Args:
        captions: One a photo, in words.
        references: For each photo its sentences.

    Returns:
        None if no photo has two sentences.
    """
    cider = CIDEr(references)
    people = [score for i, several in enumerate(references) if len(several) > 1 for score in cider.agreement(i)]
    if not people:
        return None
    usual = float(np.median(people))
    return [cider(i, caption) >= usual for i, caption in enumerate(captions)]


def _numbers(
    log_likelihood: Float[np.ndarray, " S"],
    prior: Float[np.ndarray, " S"],
    agreement: Float[np.ndarray, " S"],
    tokens: Int[np.ndarray, " S"],
) -> Float[np.ndarray, "S 4"]:
    return np.stack([np.ones(len(tokens)), log_likelihood / tokens, prior / tokens, agreement], 1).astype(np.float64)


def _logistic(x: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    return 1 / (1 + np.exp(-x.clip(-30, 30)))
