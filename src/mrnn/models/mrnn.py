"""m-RNN (Mao, Xu, Yang, Wang, Yuille 2014, arXiv 1410.1090, section 4).

    w(t) = W_2 W_1 onehot(w_t)                             two word-embedding layers, 128 then 256 units
    r(t) = ReLU(U_r r(t-1) + w(t))                         recurrent layer, 256 units
    m(t) = g(V_w w(t) + V_r r(t) + V_I I)                  multimodal layer, 512 units
    P(w_{t+1} | w_1..t, I) = softmax(U_M m(t))             g(x) = 1.7159 tanh(2x / 3)

The second paper (arXiv 1412.6632, section 5) may share weights: U_M = W_1^T P, with P from 512 to 128.
Other recurrent layers, and the layers that the papers argue for left out, are options for ablation.

Shapes: B batch, T time, N images, V vocabulary, W word width, M multimodal width, R recurrent width,
D feature width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mrnn.models.base import Config, NeuralLanguageModel, State, check_shares, check_sizes, map_state
from mrnn.models.dropout import ByteDropout
from mrnn.shapes import Float, Int

ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
GATED = {"gru": nn.GRU, "lstm": nn.LSTM}


@dataclass(frozen=True)
class MRNNConfig(Config):
    """Sizes and options; the defaults are the paper's.

    Args:
        embedding: Units of the first embedding layer.
        word: Units of the second embedding layer, w(t).
        recurrent: Units R of the recurrent layer. Where it differs from `word`, a matrix of our own maps
            w(t) into its space before they are added.
        multimodal: Units M of the multimodal layer.
        recurrence: Of the recurrent layer: the paper's ReLU, another activation in its place, or a GRU or LSTM.
        second_embedding: Whether there is a second embedding layer; without it the first has `word` units.
        word_to_multimodal: Whether w(t) reaches the multimodal layer directly, not through r(t) alone.
        shared: Transposed weight sharing of the second paper.
        dropout_word: Share of w(t)'s units dropped in training.
        dropout_image: Share of the image features dropped in training.
        dropout_multimodal: Share of the multimodal units dropped in training.
    """

    embedding: int = 128
    word: int = 256
    recurrent: int = 256
    multimodal: int = 512
    recurrence: Literal["relu", "sigmoid", "tanh", "gru", "lstm"] = "relu"
    second_embedding: bool = True
    word_to_multimodal: bool = True
    shared: bool = False
    dropout_word: float = 0.0
    dropout_image: float = 0.0
    dropout_multimodal: float = 0.0

    def __post_init__(self):
        if self.recurrence not in (*ACTIVATIONS, *GATED):
            raise ValueError(
                f"model.recurrence is {self.recurrence!r}, but is one of {', '.join((*ACTIVATIONS, *GATED))}"
            )
        check_sizes(self, "embedding", "word", "recurrent", "multimodal")
        check_shares(self, "dropout_word", "dropout_image", "dropout_multimodal")


def g(x: Tensor) -> Tensor:
    """The scaled hyperbolic tangent of LeCun et al. 1998, "Efficient BackProp"."""
    return 1.7159 * torch.tanh(x * (2 / 3))


def g_slope(x: Tensor) -> Tensor:
    """The derivative of g."""
    return 1.7159 * 2 / 3 * (1 - torch.tanh(x * (2 / 3)) ** 2)


class MRNN(NeuralLanguageModel):
    """The paper's model; see the equations at the top of this file."""

    Config = MRNNConfig

    def __init__(self, config: MRNNConfig, vocabulary: int, features: int):
        super().__init__(config, vocabulary, features)
        c = config
        embedding = c.embedding if c.second_embedding else c.word
        self.W_1 = nn.Embedding(vocabulary, embedding)
        self.W_2 = nn.Linear(embedding, c.word) if c.second_embedding else nn.Identity()
        if c.recurrence in GATED:
            self.gates = GATED[c.recurrence](c.word, c.recurrent, batch_first=True)
        else:
            self.W_r = nn.Identity() if c.recurrent == c.word else nn.Linear(c.word, c.recurrent, bias=False)
            self.U_r = nn.Linear(c.recurrent, c.recurrent, bias=False)
            # The paper's ReLU recurrence neither vanishes nor explodes at first if it begins as a rotation.
            nn.init.orthogonal_(self.U_r.weight)
        if c.word_to_multimodal:
            self.V_w = nn.Linear(c.word, c.multimodal)
        self.V_r = nn.Linear(c.recurrent, c.multimodal, bias=not c.word_to_multimodal)
        if self.uses_image:
            self.V_I = nn.Linear(features, c.multimodal, bias=False)
        if c.shared:
            self.P = nn.Linear(c.multimodal, embedding, bias=False)
            # As the softmax layer, vectors of unit deviation would begin with logits far too large.
            nn.init.normal_(self.W_1.weight, std=embedding**-0.5)
            self.U_M_bias = nn.Parameter(torch.zeros(vocabulary))
        else:
            self.U_M = nn.Linear(c.multimodal, vocabulary)
        self.drop_word = ByteDropout(c.dropout_word)
        self.drop_image = ByteDropout(c.dropout_image)
        self.drop_multimodal = ByteDropout(c.dropout_multimodal)

    def begin(self, n: int) -> State:
        """r(-1) = 0."""
        r = torch.zeros(n, self.config.recurrent, device=self.feature_mean.device)
        return (r, r) if self.config.recurrence == "lstm" else r

    def encode_text(self, tokens: Int[Tensor, "B T"], state: State = None) -> tuple[Float[Tensor, "B T M"], State]:
        """V_w w(t) + V_r r(t), and the last r(t); an LSTM's state is its hidden units and its cells."""
        w = self.drop_word(self.W_2(self.W_1(tokens)))
        r, state = self._recur(w, self.begin(len(tokens)) if state is None else state)
        text = self.V_r(r)
        return text + self.V_w(w) if self.config.word_to_multimodal else text, state

    def _recur(self, w: Float[Tensor, "B T W"], state: State) -> tuple[Float[Tensor, "B T R"], State]:
        if self.config.recurrence in GATED:
            r, after = self.gates(w, map_state(lambda s: s[None], state))
            return r, map_state(lambda s: s[0], after)
        activation = ACTIVATIONS[self.config.recurrence]
        inputs = self.W_r(w)
        r, steps = state, []
        for x in inputs.unbind(1):
            r = activation(self.U_r(r) + x)
            steps.append(r)
        return torch.stack(steps, 1), r

    def encode_image(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N M"]:
        """V_I I."""
        return self.V_I(self.drop_image(self.standardise(features)))

    def fuse(self, text: Float[Tensor, "... M"], image: Float[Tensor, "... M"]) -> Float[Tensor, "... H"]:
        """m(t), mapped to the embedding's space if the weights are shared."""
        m = self.drop_multimodal(g(text + image))
        return self.P(m) if self.config.shared else m

    def pull_hidden(
        self, text: Float[Tensor, "... M"], image: Float[Tensor, "... M"], raised: Float[Tensor, "... H"]
    ) -> Float[Tensor, "... M"]:
        """g'(text + image), times P^T raised if the weights are shared."""
        raised = nn.functional.linear(raised, self.P.weight.t()) if self.config.shared else raised
        return raised * g_slope(text + image)

    def branch(self, words: Int[Tensor, " T"]) -> Float[Tensor, "T M"] | None:
        """V_w w(t)."""
        return self.V_w(self.W_2(self.W_1(words))) if self.config.word_to_multimodal else None

    def softmax_layer(self) -> tuple[Float[Tensor, "V H"], Float[Tensor, " V"]]:
        """U_M and its bias."""
        return (self.W_1.weight, self.U_M_bias) if self.config.shared else (self.U_M.weight, self.U_M.bias)
