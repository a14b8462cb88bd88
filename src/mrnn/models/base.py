"""The waist: three calls that every model fills, and the questions that only a model can answer.

The image enters late, so a model splits into what the sentence says alone, what the image says alone, and
the one step that sees both. How a model is used, by these calls, is in `runtime/protocol.py`.

Shapes: B batch, T time, N images, V vocabulary, M multimodal width, F width of an image vector (M, but for models over
regions), H hidden units under the softmax, D feature width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mrnn.encoders import Encoder
from mrnn.shapes import Float, Int
from mrnn.text import Vocabulary

State = Any  # None, a tensor, or tuples of tensors, batch first


@dataclass(frozen=True)
class Config:
    """Sizes and options of a model."""

    def for_encoder(self, encoder: str) -> str:
        """Name of the encoder whose features the model takes, where a recipe names the encoder given."""
        return encoder


def check_shares(config: Config, *names: str) -> None:
    """Refuse shares that are no shares, or that would leave fewer than one unit of 256.

    Raises:
        ValueError: One of them is below 0, or too near to 1.
    """
    for name in names:
        if not 0 <= getattr(config, name) <= MOST_DROPPED:
            raise ValueError(f"model.{name} is {getattr(config, name)}, but must be between 0 and {MOST_DROPPED}")


def check_sizes(config: Config, *names: str) -> None:
    """Refuse layers without units, and sizes that no model has.

    Raises:
        ValueError: One of them is below 1, or above a million.
    """
    for name in names:
        if not 1 <= getattr(config, name) <= MOST_UNITS:
            raise ValueError(f"model.{name} is {getattr(config, name)}, but must be between 1 and {MOST_UNITS:,}")


MOST_UNITS = 1_000_000
MOST_DROPPED = 0.99


class LanguageModel(nn.Module, ABC):
    """P(next word | words so far, image).

    Args:
        config: The model's own frozen dataclass of sizes and options.
        vocabulary: V, signs included.
        features: D, width of the image features.
    """

    Config: ClassVar[Any]
    uses_image: ClassVar[bool] = True
    uses_regions: ClassVar[bool] = False  # its features are (N, 1 + K, D), the whole photo first
    trained_by_gradient: ClassVar[bool] = True  # its weights can be started from and trained on
    learns_words_from_text: ClassVar[bool] = False  # words of captions without photos join its vocabulary

    def __init__(self, config: Any, vocabulary: int, features: int):
        super().__init__()
        self.config, self.vocabulary, self.features = config, vocabulary, features

    @abstractmethod
    def begin(self, n: int) -> State:
        """The state of n sentences before their start sign; tensors with n rows, each of one value."""

    @abstractmethod
    def encode_text(self, tokens: Int[Tensor, "B T"], state: State = None) -> tuple[Float[Tensor, "B T M"], State]:
        """What the sentence alone says at every position.

        Args:
            tokens: Ids; the first call of a sentence begins with the start sign. A position sees itself and
                what lies before it, never after, so padding on the right changes nothing.
            state: What an earlier call returned, to go on where it ended; None begins a sentence.

        Returns:
            The text side, and the state after the last position.
        """

    @abstractmethod
    def encode_image(self, features: Float[Tensor, "N ..."]) -> Float[Tensor, "N F"]:
        """What the image alone says, once an image."""

    @abstractmethod
    def logits(self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"]) -> Float[Tensor, "... V"]:
        """Fuse the two, which broadcast against each other, and score every next word.

        The softmax over V is the model's distribution; models that count give log-probabilities here.
        """

    @abstractmethod
    def pull(
        self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"], raised: Float[Tensor, "... V"]
    ) -> Float[Tensor, "... F"]:
        """The gradient of raised . logits(text, image) in the image, written out."""

    def forward(self, tokens: Int[Tensor, "B T"], features: Float[Tensor, "B ..."]) -> Float[Tensor, "B T V"]:
        """The three calls in a row: next-word logits of a batch of sentences, each with its image."""
        text, _ = self.encode_text(tokens)
        return self.logits(text, self.encode_image(features)[:, None])

    def encode_cells(self, features: Float[Tensor, "C ..."]) -> Float[Tensor, "C F"]:
        """One image vector a grid cell, whose mean is that of the cells' mean features; for explanations."""
        return self.encode_image(features)

    def branch(self, words: Int[Tensor, " T"]) -> Float[Tensor, "T M"] | None:
        """The part of the text that the last word alone gives; None where it is not told apart."""
        return None

    def attention(self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"]) -> Float[Tensor, "... K"] | None:
        """The share of its attention that each region gets; None of a model without attention."""
        return None

    @classmethod
    def check_encoder(cls, encoder: Encoder) -> None:
        """Refuse features that the model cannot take.

        Raises:
            ValueError: They are of another kind.
        """
        if cls.uses_regions != (len(encoder.feature_shape) == 2) or len(encoder.feature_shape) > 2:
            needed = "regions, such as grid:3:efficientnet_lite2" if cls.uses_regions else "one vector a photo"
            raise ValueError(f"{cls.__name__} needs an encoder of {needed}, which {encoder.name} is not")

    @classmethod
    def build(cls, config: Any, vocabulary: Vocabulary, encoder: Encoder) -> "LanguageModel":
        """A model with fresh weights for some words, on what an encoder gives."""
        return cls(config, len(vocabulary), encoder.width)

    def join(self, encoder: Encoder) -> Encoder:
        """The encoder at use: of a model that trained a part of it, with that part."""
        return encoder

    def fit(self, sentences: Sequence[Sequence[int]], vocabulary: Vocabulary, loop: Callable[[], Any]) -> Any:
        """Learn from sentences: by the training loop, whose answer is returned; or by counting, which returns None."""
        return loop()

    def parameter_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Parameters by the rate they are trained with: `model`, or `encoder` of a CNN's."""
        return [("model", list(self.parameters()))]

    def check(self, name: str, weight: Tensor) -> None:
        """Refuse weights that cannot be right.

        Raises:
            ValueError: They hold what no trained model has.
        """
        if not weight.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite")
        if name == "feature_std" and not (weight > 0).all():
            raise ValueError("a feature's deviation is not above 0")

    def describe(self) -> dict[str, Any]:
        """The JSON form that a saved model holds; `build_model` reads it back."""
        return {"vocabulary": self.vocabulary, "features": self.features, **asdict(self.config)}


class NeuralLanguageModel(LanguageModel):
    """A model that fuses text and image into hidden units and ends in one softmax layer.

    Features are standardised by the mean and deviation of the training images, which are the model's own
    buffers: whoever loads it need not know them.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: Any, vocabulary: int, features: int):
        super().__init__(config, vocabulary, features)
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_std", torch.ones(features))

    @abstractmethod
    def fuse(self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"]) -> Float[Tensor, "... H"]:
        """The hidden units under the softmax layer."""

    @abstractmethod
    def pull_hidden(
        self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"], raised: Float[Tensor, "... H"]
    ) -> Float[Tensor, "... F"]:
        """The gradient of raised . fuse(text, image) in the image, written out."""

    @abstractmethod
    def softmax_layer(self) -> tuple[Float[Tensor, "V H"], Float[Tensor, " V"]]:
        """Weights and bias from the hidden units to the logits."""

    def logits(self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"]) -> Float[Tensor, "... V"]:
        """Softmax layer over the fused units."""
        return nn.functional.linear(self.fuse(text, image), *self.softmax_layer())

    def pull(
        self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"], raised: Float[Tensor, "... V"]
    ) -> Float[Tensor, "... F"]:
        """Through the softmax layer, then through the fused units."""
        return self.pull_hidden(text, image, nn.functional.linear(raised, self.softmax_layer()[0].t()))

    def standardise(self, features: Float[Tensor, "N ..."]) -> Float[Tensor, "N ..."]:
        """Features with mean 0 and deviation 1 over the training images."""
        return (features - self.feature_mean) / self.feature_std

    @torch.no_grad()
    def fit_features(self, features: Float[Tensor, "N *regions D"]) -> None:
        """Take mean and deviation from the training images, and from all their regions alike."""
        rows = features.flatten(0, -2)
        self.feature_mean.copy_(rows.mean(0))
        # A feature that never varies stays 0 rather than blowing up on a photo where it does.
        self.feature_std.copy_(rows.std(0, correction=0).clamp_min(1e-3))

    @torch.no_grad()
    def set_output_bias(self, log_frequencies: Float[Tensor, " V"]) -> None:
        """Start from the words' frequencies, which spares the first epoch from learning them."""
        self.softmax_layer()[1].copy_(log_frequencies)


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to every tensor of a state, for example to select beams."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    return tuple(map_state(function, part) for part in state)
