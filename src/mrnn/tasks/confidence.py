"""How far a caption can be trusted: a number between 0 and 1, fitted on photos that people have described.

    confidence = 1 / (1 + exp(-(w0 + w1 l + w2 p + w3 / T)))

l is log P(w | I) and p is log P(w), both a token, T the tokens. A caption is surer the likelier the photo makes it, and
less sure the more anyone would say it of any photo. The weights are those of a logistic regression on dev photos, where
a caption is *good* if its CIDEr is that of the median sentence of people, each against the others of its photo. So of
captions with the confidence .7, seven in ten agree with what people say of the photo as well as half of people's own
sentences do.

Shapes: S sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrnn.cider import CIDEr
from mrnn.runtime import Runtime
from mrnn.shapes import Float, Int
from mrnn.tasks.retrieval import encode_sentences, fast_sentence_prior, first_order
from mrnn.text import Vocabulary

GUESS = "a guess"
GUESSED_BELOW = 0.2
FEWEST = 100  # captions to fit the weights on
_REFERENCES = 10  # scored exactly for the prior: thirty tell good from bad no better


@dataclass(frozen=True)
class Confidence:
    """The weights of a model's confidence.

    Args:
        constant: w0.
        likelihood: w1.
        prior: w2.
        brevity: w3.
    """

    constant: float
    likelihood: float
    prior: float
    brevity: float

    def __post_init__(self):
        weights = (self.constant, self.likelihood, self.prior, self.brevity)
        if not all(isinstance(w, int | float) and np.isfinite(w) for w in weights):
            raise ValueError("a weight of the confidence is no finite number")

    def __call__(
        self, log_likelihood: Float[np.ndarray, " S"], prior: Float[np.ndarray, " S"], tokens: Int[np.ndarray, " S"]
    ) -> Float[np.ndarray, " S"]:
        """Of S sentences, each with its photo.

        Args:
            log_likelihood: log P(w | I), natural.
            prior: log P(w).
            tokens: The end sign included.
        """
        weights = (self.constant, self.likelihood, self.prior, self.brevity)
        return _logistic(_numbers(log_likelihood, prior, tokens) @ np.array(weights))


def fit_confidence(
    log_likelihood: Float[np.ndarray, " S"],
    prior: Float[np.ndarray, " S"],
    tokens: Int[np.ndarray, " S"],
    good: Sequence[bool],
) -> Confidence | None:
    """The weights that tell good captions from others best; None of fewer than `FEWEST`, or if all are alike.

    Args:
        log_likelihood: As for `Confidence`.
        prior: As for `Confidence`.
        tokens: As for `Confidence`.
        good: Of each.
    """
    y = np.asarray(good, np.float64)
    if len(y) < FEWEST or y.min() == y.max():
        return None
    x = _numbers(log_likelihood, prior, tokens)
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


def usual_prior(
    model: Runtime,
    vocabulary: Vocabulary,
    sentences: Sequence[Sequence[int]],
    references: Float[np.ndarray, "R F"],
) -> Float[np.ndarray, " S"]:
    """log P(w) of sentences, as exactly as a confidence needs it.

    Args:
        model: Who speaks.
        vocabulary: Its words.
        sentences: Ids without signs.
        references: Image vectors of training photos.
    """
    if not len(sentences):
        return np.empty(0, np.float32)
    encoded = encode_sentences(model, vocabulary, sentences)
    first = first_order(model, vocabulary, sentences, references.mean(0), encoded=encoded)
    return fast_sentence_prior(model, encoded, references, first, _REFERENCES, "auto")


def _numbers(
    log_likelihood: Float[np.ndarray, " S"], prior: Float[np.ndarray, " S"], tokens: Int[np.ndarray, " S"]
) -> Float[np.ndarray, "S 4"]:
    t = np.asarray(tokens, np.float64)
    return np.stack([np.ones(len(t)), log_likelihood / t, prior / t, 1 / t], 1)


def _logistic(x: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    return 1 / (1 + np.exp(-x.clip(-30, 30)))
