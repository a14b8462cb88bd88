"""MLBL-B and MLBL-F, multimodal log-bilinear models (Kiros, Salakhutdinov, Zemel 2014, "Multimodal Neural Language
Models", ICML, sections 4.1 and 4.2).

MLBL-B: the image x is a bias on the vector that LBL predicts.

    r^(t) = sum_{i=1..5} C_i r_{w(t+1-i)} + C_m x
    P(w_{t+1} | w_1..t, x) = softmax(R r^(t) + b)

MLBL-F: it also gates F factors, through which the words' vectors, a tensor of words, units and image, are factored.

    E = W_fv W_fk                                          word vectors r, of the context
    f(t) = (W_fk r^(t)) * (W_fd x)                         elementwise
    P(w_{t+1} | w_1..t, x) = softmax(W_fv f(t) + b)

Our own choice: W_fd has a bias, which begins at 1, so that every factor is open at first.

Shapes: B batch, T time, N images, V vocabulary, K units of a word vector, F factors, D feature width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrnn.models.base import NeuralLanguageModel, State, check_shares, check_sizes
from mrnn.models.dropout import ByteDropout
from mrnn.models.lbl import LBL, Context, LBLConfig
from mrnn.shapes import Float, Int


@dataclass(frozen=True)
class MLBLBConfig(LBLConfig):
    """LBL's sizes and options.

    Args:
        dropout_image: Share of the image features dropped in training.
    """

    dropout_image: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_shares(self, "dropout_image")


class MLBLB(LBL):
    """Modality-biased log-bilinear model."""

    Config = MLBLBConfig
    uses_image = True

    def __init__(self, config: MLBLBConfig, vocabulary: int, features: int):
        super().__init__(config, vocabulary, features)
        self.C_m = nn.Linear(features, config.word, bias=False)
        self.drop_image = ByteDropout(config.dropout_image)

    def encode_image(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """C_m x."""
        return self.C_m(self.drop_image(self.standardise(features)))


@dataclass(frozen=True)
class MLBLFConfig(MLBLBConfig):
    """MLBL-B's sizes and options.

    Args:
        factors: F.
    """

    factors: int = 256

    def __post_init__(self):
        super().__post_init__()
        check_sizes(self, "factors")


class MLBLF(NeuralLanguageModel):
    """Factored three-way log-bilinear model.

    What the waist calls text and image has 2 F numbers: W_fk r^(t) is a sum of text and image, the gate is the
    image's alone.
    """

    Config = MLBLFConfig

    def __init__(self, config: MLBLFConfig, vocabulary: int, features: int):
        super().__init__(config, vocabulary, features)
        c = config
        self.W_fv = nn.Embedding(vocabulary, c.factors)
        self.b = nn.Parameter(torch.zeros(vocabulary))
        self.W_fk = nn.Linear(c.word, c.factors, bias=False)
        self.W_fd = nn.Linear(features, c.factors)
        self.context = Context(c.word, c.context)
        self.C_m = nn.Linear(features, c.word, bias=False)
        self.drop_word = ByteDropout(c.dropout_word)
        self.drop_image = ByteDropout(c.dropout_image)
        self.drop_multimodal = ByteDropout(c.dropout_multimodal)
        nn.init.normal_(self.W_fv.weight, std=c.factors**-0.5)
        nn.init.orthogonal_(self.W_fk.weight)
        nn.init.ones_(self.W_fd.bias)

    def begin(self, n: int) -> State:
        """No word's vector."""
        return self.context.begin(n)

    def encode_text(self, tokens: Int[Tensor, "B T"], state: State = None) -> tuple[Float[Tensor, "B T F2"], State]:
        """W_fk sum_i C_i r_{w(t+1-i)} beside zeros, and the vectors of the last C - 1 words."""
        r = self.drop_word(nn.functional.linear(self.W_fv(tokens), self.W_fk.weight.t()))
        predicted, state = self.context(r, self.begin(len(tokens)) if state is None else state)
        factors = self.W_fk(predicted)
        return torch.cat([factors, torch.zeros_like(factors)], -1), state

    def encode_image(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N F2"]:
        """W_fk C_m x beside the gate W_fd x."""
        x = self.drop_image(self.standardise(features))
        return torch.cat([self.W_fk(self.C_m(x)), self.W_fd(x)], -1)

    def fuse(self, text: Float[Tensor, "... F2"], image: Float[Tensor, "... F2"]) -> Float[Tensor, "... F"]:
        """f(t)."""
        vector, gate = (text + image).chunk(2, -1)
        return self.drop_multimodal(vector * gate)

    def pull_hidden(
        self, text: Float[Tensor, "... F2"], image: Float[Tensor, "... F2"], raised: Float[Tensor, "... F"]
    ) -> Float[Tensor, "... F2"]:
        """Each of the two, times the other."""
        vector, gate = (text + image).chunk(2, -1)
        return torch.cat([raised * gate, raised * vector], -1)

    def softmax_layer(self) -> tuple[Float[Tensor, "V F"], Float[Tensor, " V"]]:
        """W_fv and b."""
        return self.W_fv.weight, self.b
