"""The waist: three calls that every model fills and every task is written against.

The image enters late, so a model splits into what the sentence says alone, what the image says alone, and
the one step that sees both. Perplexity, generation, retrieval and explanation use these three calls only.

Shapes: B batch, T time, N images, V vocabulary, M multimodal width, F width of an image vector (M, but for models over
regions), H hidden units under the softmax, D feature width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

State = Any  # None, a tensor, or tuples of tensors, batch first


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

    def __init__(self, config: Any, vocabulary: int, features: int):
        super().__init__()
        self.config, self.vocabulary, self.features = config, vocabulary, features

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

    def forward(self, tokens: Int[Tensor, "B T"], features: Float[Tensor, "B ..."]) -> Float[Tensor, "B T V"]:
        """The three calls in a row: next-word logits of a batch of sentences, each with its image."""
        text, _ = self.encode_text(tokens)
        return self.logits(text, self.encode_image(features)[:, None])

    def encode_cells(self, features: Float[Tensor, "C ..."]) -> Float[Tensor, "C F"]:
        """One image vector a grid cell, whose mean is that of the cells' mean features; for explanations."""
        return self.encode_image(features)

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
    def softmax_layer(self) -> tuple[Float[Tensor, "V H"], Float[Tensor, " V"]]:
        """Weights and bias from the hidden units to the logits."""

    def logits(self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"]) -> Float[Tensor, "... V"]:
        """Softmax layer over the fused units."""
        return nn.functional.linear(self.fuse(text, image), *self.softmax_layer())

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
