"""The protocol that every task is written against: a few calls, each a pure function of NumPy arrays.

A model is *written* as three calls (`models/base.py`) and *used* through these, whoever computes them: PyTorch
(`models/hand.py`), ONNX Runtime (`runtime/onnx.py`), or NumPy alone (`runtime/ngram.py`). `step`, `log_p` and
`gradient` are defined here by the others; a hand that can do better computes the same within its own graph.

Arrays of numbers are float32, ids int64, log-probabilities natural logarithms.

Shapes: N images, B sentences at their next word, R rows (a sentence's part and an image that meet), E words asked of
rows, V vocabulary, M numbers of a sentence's part, F numbers of an image vector, K results.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np

from mrnn.shapes import Float, Int

Array = np.ndarray
Precision = Literal["auto", "float32"]  # `auto` may round where that is faster; what is reported never does
State = Any  # of B sentences so far; only its own runtime looks inside


class DeviceError(ValueError):
    """A device that is not to be had here."""


class Runtime(ABC):
    """A model at use.

    Attributes:
        name: Of the model, as registered.
        vocabulary: V, signs included.
        feature_shape: Of one photo's features, as `encode_image` takes them.
        image_width: F.
        uses_image: Whether the image changes anything.
        uses_regions: Whether features are (1 + K, D), the whole photo first.
    """

    name: str
    vocabulary: int
    feature_shape: tuple[int, ...]
    image_width: int
    uses_image: bool = True
    uses_regions: bool = False

    @property
    def device(self) -> Any:
        """Where it computes: `cpu`, `cuda` or `mps`."""
        return "cpu"

    @abstractmethod
    def encode_image(self, features: Float[Array, "N ..."]) -> Float[Array, "N F"]:
        """What the image alone says, once an image."""

    @abstractmethod
    def begin(self, n: int) -> State:
        """The state of n sentences before their start sign."""

    @abstractmethod
    def select(self, state: State, rows: Int[Array, " C"]) -> State:
        """The state of some of the sentences, in a new order, with repeats."""

    @abstractmethod
    def text(self, words: Int[Array, " B"], state: State) -> tuple[Float[Array, "B M"], State]:
        """What the sentence alone says once one more word is read, and the state after it."""

    @abstractmethod
    def distribution(self, text: Float[Array, "R M"], image: Float[Array, "R F"]) -> Float[Array, "R V"]:
        """Log-probability of every next word: the only step that sees both."""

    @abstractmethod
    def pull(
        self, text: Float[Array, "R M"], image: Float[Array, "R F"], raised: Float[Array, "R V"]
    ) -> Float[Array, "R F"]:
        """The gradient of `(raised * logits).sum(1)` in the image vector, where `raised` sums to 0 in every row."""

    def step(
        self,
        words: Int[Array, " B"],
        state: State,
        image: Float[Array, "B F"],
        k: int,
        allowed: Float[Array, " V"],
        precision: Precision = "float32",
    ) -> tuple[Float[Array, "B K"], Int[Array, "B K"], State]:
        """Read a word and find the k best next ones, so that B x K numbers cross and not B x V.

        Args:
            words: The words to read.
            state: Before them.
            image: Of each sentence.
            k: How many.
            allowed: Added to the log-probabilities: 0, or minus infinity for words that must not come next.
            precision: Of the products.

        Returns:
            Log-probabilities, best first, their words, and the state after.
        """
        text, state = self.text(words, state)
        return *top_k(self.distribution(text, image) + allowed, k), state

    def log_p(
        self,
        text: Float[Array, "R M"],
        image: Float[Array, "R F"],
        row: Int[Array, " E"],
        target: Int[Array, " E"],
        precision: Precision = "float32",
    ) -> Float[Array, " E"]:
        """Log-probability of given next words.

        Args:
            text: Of R rows.
            image: Of R rows.
            row: For each word asked, the row whose distribution it is asked of.
            target: The words.
            precision: Of the softmax's normaliser, where rounding averages out; nothing else is rounded.
        """
        return self.distribution(text, image)[row, target]

    def gradient(
        self,
        text: Float[Array, "R M"],
        image: Float[Array, "R F"],
        target: Int[Array, " R"],
        precision: Precision = "float32",
    ) -> tuple[Float[Array, " R"], Float[Array, "R F"]]:
        """Log-probability of each row's next word, and its gradient in the image vector."""
        log_p = self.distribution(text, image)
        raised = -np.exp(log_p)
        rows = np.arange(len(target))
        raised[rows, target] += 1
        return log_p[rows, target], self.pull(text, image, raised)

    def prepare(self, task: Literal["caption", "search"] = "caption") -> None:  # noqa: B027  (most load nothing)
        """Begin to load what a first caption, or a first search by a sentence, needs, while the caller reads photos."""

    def encode_cells(self, features: Float[Array, "C ..."]) -> Float[Array, "C F"]:
        """One image vector a grid cell, whose mean is that of the cells' mean features; for explanations."""
        return self.encode_image(features)

    def branch(self, words: Int[Array, " T"]) -> Float[Array, "T M"] | None:
        """The part of the sentence's side that the last word alone gives; None where it is not told apart."""
        return None

    def attention(self, text: Float[Array, "R M"], image: Float[Array, "R F"]) -> Float[Array, "R K"] | None:
        """The share of its attention that each region gets when the next word is chosen; None without attention."""
        return None


def top_k(log_p: Float[Array, "B V"], k: int) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """The k greatest of every row, the greatest first, and their places; of equals the earlier."""
    k = min(k, log_p.shape[1])
    if k == 1:
        ids = log_p.argmax(1)[:, None]
    elif k < log_p.shape[1]:
        ids = np.sort(np.argpartition(-log_p, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(-np.take_along_axis(log_p, ids, 1), axis=1, kind="stable")
        ids = np.take_along_axis(ids, order, 1)
    else:
        ids = np.argsort(-log_p, axis=1, kind="stable")
    return np.take_along_axis(log_p, ids, 1), ids.astype(np.int64)


def log_softmax(logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
    """Logarithm of the softmax of every row."""
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
