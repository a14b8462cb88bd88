"""LBL, the log-bilinear language model (Mnih and Hinton 2007, "Three New Graphical Models for Statistical Language
Modelling", section 3).

    r^(t) = sum_{i=1..5} C_i r_{w(t+1-i)}                  the next word's vector, predicted from the last 5
    P(w_{t+1} | w_t, w_{t-1}, ...) = softmax(R r^(t) + b)  R holds the words' vectors r, b a bias a word

Before the start sign there is nothing, a vector of zeros.

Shapes: B batch, T time, N images, V vocabulary, K units of a word vector, C words of context, D feature width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mrnn.models.base import NeuralLanguageModel, State
from mrnn.models.dropout import ByteDropout


@dataclass(frozen=True)
class LBLConfig:
    """Sizes and options.

    Args:
        word: Units K of a word vector.
        context: Words C that a prediction sees.
        dropout_word: Share of the context vectors' units dropped in training.
        dropout_multimodal: Share of the predicted vector's units dropped in training.
    """

    word: int = 256
    context: int = 5
    dropout_word: float = 0.0
    dropout_multimodal: float = 0.0

    def __post_init__(self):
        for name in ("word", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)}, but must be 1 or more")
        for name in ("dropout_word", "dropout_multimodal"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)}, but must be 0 or more and below 1")


class Context(nn.Module):
    """sum_{i=1..C} C_i r_{w(t+1-i)}.

    Args:
        word: K.
        context: C.
    """

    def __init__(self, word: int, context: int):
        super().__init__()
        self.C = nn.ModuleList(nn.Linear(word, word, bias=False) for _ in range(context))

    def forward(self, r: Float[Tensor, "B T K"], state: State) -> tuple[Float[Tensor, "B T K"], State]:
        """The predicted vectors, and the last C - 1 words' vectors, which an earlier call returned as `state`."""
        before, T = len(self.C) - 1, r.shape[1]
        past = r.new_zeros(len(r), before, r.shape[2]) if state is None else state
        r = torch.cat([past, r], 1)
        predicted = torch.stack([C(r[:, before - i : before - i + T]) for i, C in enumerate(self.C)]).sum(0)
        return predicted, r[:, T:]


class LBL(NeuralLanguageModel):
    """Log-bilinear model; see the equations at the top of this file."""

    Config = LBLConfig
    uses_image = False

    def __init__(self, config: LBLConfig, vocabulary: int, features: int):
        super().__init__(config, vocabulary, features)
        self.R = nn.Embedding(vocabulary, config.word)
        self.b = nn.Parameter(torch.zeros(vocabulary))
        self.context = Context(config.word, config.context)
        self.drop_word = ByteDropout(config.dropout_word)
        self.drop_multimodal = ByteDropout(config.dropout_multimodal)
        # The vectors are also the softmax layer: of unit deviation, its logits would begin far too large.
        nn.init.normal_(self.R.weight, std=config.word**-0.5)

    def encode_text(self, tokens: Int[Tensor, "B T"], state: State = None) -> tuple[Float[Tensor, "B T K"], State]:
        """r^(t), and the vectors of the last C - 1 words."""
        return self.context(self.drop_word(self.R(tokens)), state)

    def encode_image(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """Zeros, whatever the image."""
        return torch.zeros(len(features), self.config.word, device=features.device)

    def fuse(self, text: Float[Tensor, "... K"], image: Float[Tensor, "... K"]) -> Float[Tensor, "... K"]:
        """r^(t)."""
        return self.drop_multimodal(text + image)

    def softmax_layer(self) -> tuple[Float[Tensor, "V K"], Float[Tensor, " V"]]:
        """R and b."""
        return self.R.weight, self.b
