"""LBL, the log-bilinear language model (Mnih and Hinton 2007, "Three New Graphical Models for Statistical Language
Modelling", section 3).

    r^(t) = sum_{i=1..5} C_i r_{w(t+1-i)}                  the next word's vector, predicted from the last 5
    P(w_{t+1} | w_t, w_{t-1}, ...) = softmax(R r^(t) + b)  R holds the words' vectors r, b a bias a word

Before the start sign there is nothing, a vector of zeros.

Shapes: B batch, T time, N images, V vocabulary, K units of a word vector, C words of context, P = C - 1,
D feature width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrnn.models.base import Config, NeuralLanguageModel, State, check_shares, check_sizes
from mrnn.models.dropout import ByteDropout
from mrnn.shapes import Float, Int


@dataclass(frozen=True)
class LBLConfig(Config):
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
        check_sizes(self, "word", "context")
        check_shares(self, "dropout_word", "dropout_multimodal")


class Context(nn.Module):
    """sum_{i=1..C} C_i r_{w(t+1-i)}.

    Args:
        word: K.
        context: C.
    """

    def __init__(self, word: int, context: int):
        super().__init__()
        self.C = nn.ModuleList(nn.Linear(word, word, bias=False) for _ in range(context))

    def begin(self, n: int) -> Float[Tensor, "B P K"]:
        """Before the start sign there is nothing."""
        weight = next(self.parameters())
        return torch.zeros(n, len(self.C) - 1, len(weight), device=weight.device)

    def forward(self, r: Float[Tensor, "B T K"], state: Float[Tensor, "B P K"]) -> tuple[Float[Tensor, "B T K"], State]:
        """The predicted vectors, and the last C - 1 words' vectors, which an earlier call returned as `state`."""
        before, T = len(self.C) - 1, r.shape[1]
        r = torch.cat([state, r], 1)
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

    def begin(self, n: int) -> State:
        """No word's vector."""
        return self.context.begin(n)

    def encode_text(self, tokens: Int[Tensor, "B T"], state: State = None) -> tuple[Float[Tensor, "B T K"], State]:
        """r^(t), and the vectors of the last C - 1 words."""
        return self.context(self.drop_word(self.R(tokens)), self.begin(len(tokens)) if state is None else state)

    def encode_image(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """Zeros, whatever the image."""
        return features.new_zeros(len(features), self.config.word)

    def fuse(self, text: Float[Tensor, "... K"], image: Float[Tensor, "... K"]) -> Float[Tensor, "... K"]:
        """r^(t)."""
        return self.drop_multimodal(text + image)

    def pull_hidden(
        self, text: Float[Tensor, "... K"], image: Float[Tensor, "... K"], raised: Float[Tensor, "... K"]
    ) -> Float[Tensor, "... K"]:
        """The same: text and image are added."""
        return raised.expand(torch.broadcast_shapes(text.shape, image.shape))

    def softmax_layer(self) -> tuple[Float[Tensor, "V K"], Float[Tensor, " V"]]:
        """R and b."""
        return self.R.weight, self.b
