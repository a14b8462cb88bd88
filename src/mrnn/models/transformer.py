"""A Transformer language model in the place of m-RNN's recurrent layer; the image still enters late, by addition.

    x_0 = W w_t
    y_l = x_l + A_l(norm(x_l)),   x_{l+1} = y_l + F_l(norm(y_l))        pre-norm (Xiong et al. 2020, arXiv 2002.04745)
    A(x) = softmax(q k^T / sqrt(d)) v over what came before             Vaswani et al. 2017, arXiv 1706.03762
    m(t) = g(V_x norm(x_L(t)) + V_I I)                                  m-RNN's multimodal layer, arXiv 1410.1090
    P(w_{t+1} | w_1..t, I) = softmax(U_M m(t))

Queries and keys are turned by their position (rotary: Su et al. 2021, arXiv 2104.09864), so there is no longest
sentence. The state is the keys and values so far.

Shapes: B batch, T time, P positions before, N images, V vocabulary, W width, A heads, E = W / A, M multimodal width,
D feature width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrnn.models.base import Config, NeuralLanguageModel, State, check_shares, check_sizes
from mrnn.models.dropout import ByteDropout
from mrnn.models.mrnn import g, g_slope
from mrnn.shapes import Float, Int


@dataclass(frozen=True)
class TransformerConfig(Config):
    """Sizes and options.

    Args:
        width: Units W of a layer.
        heads: A, among which the width is shared out.
        layers: Blocks of attention and feed-forward.
        multimodal: Units M of the multimodal layer.
        dropout_word: Share of the word vectors' units dropped in training.
        dropout_layer: Share of what each block adds that is dropped in training.
        dropout_image: Share of the image features dropped in training.
        dropout_multimodal: Share of the multimodal units dropped in training.
    """

    width: int = 256
    heads: int = 4
    layers: int = 2
    multimodal: int = 512
    dropout_word: float = 0.0
    dropout_layer: float = 0.0
    dropout_image: float = 0.0
    dropout_multimodal: float = 0.0

    def __post_init__(self):
        check_sizes(self, "width", "heads", "layers", "multimodal")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"model.width is {self.width}, but must be a multiple of {2 * self.heads}: "
                "each head has as many units as the others, and they turn in pairs"
            )
        check_shares(self, "dropout_word", "dropout_layer", "dropout_image", "dropout_multimodal")


class Transformer(NeuralLanguageModel):
    """See the equations at the top of this file."""

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, vocabulary: int, features: int):
        super().__init__(config, vocabulary, features)
        c = config
        self.W = nn.Embedding(vocabulary, c.width)
        self.blocks = nn.ModuleList(_Block(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.width)
        self.V_x = nn.Linear(c.width, c.multimodal)
        self.V_I = nn.Linear(features, c.multimodal, bias=False)
        self.U_M = nn.Linear(c.multimodal, vocabulary)
        self.drop_word = ByteDropout(c.dropout_word)
        self.drop_image = ByteDropout(c.dropout_image)
        self.drop_multimodal = ByteDropout(c.dropout_multimodal)

    def begin(self, n: int) -> State:
        """No keys and values."""
        c = self.config
        none = torch.zeros(n, c.heads, 0, c.width // c.heads, device=self.feature_mean.device)
        return ((none, none),) * c.layers

    def encode_text(self, tokens: Int[Tensor, "B T"], state: State = None) -> tuple[Float[Tensor, "B T M"], State]:
        """V_x norm(x_L(t)), and for each block its keys and values."""
        x = self.drop_word(self.W(tokens))
        after = []
        for block, before in zip(self.blocks, self.begin(len(tokens)) if state is None else state, strict=True):
            x, cache = block(x, before)
            after.append(cache)
        return self.V_x(self.norm(x)), tuple(after)

    def encode_image(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N M"]:
        """V_I I."""
        return self.V_I(self.drop_image(self.standardise(features)))

    def fuse(self, text: Float[Tensor, "... M"], image: Float[Tensor, "... M"]) -> Float[Tensor, "... M"]:
        """m(t)."""
        return self.drop_multimodal(g(text + image))

    def pull_hidden(
        self, text: Float[Tensor, "... M"], image: Float[Tensor, "... M"], raised: Float[Tensor, "... M"]
    ) -> Float[Tensor, "... M"]:
        """g'(text + image)."""
        return raised * g_slope(text + image)

    def softmax_layer(self) -> tuple[Float[Tensor, "V M"], Float[Tensor, " V"]]:
        """U_M and its bias."""
        return self.U_M.weight, self.U_M.bias


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2) * weight (Zhang and Sennrich 2019, arXiv 1910.07467); PyTorch's own has no ONNX export."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "... W"]) -> Float[Tensor, "... W"]:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps) * self.weight


class _Block(nn.Module):
    """Attention over what came before, then a feed-forward layer four times as wide."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm_attention, self.norm_forward = RMSNorm(width), RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = ByteDropout(config.dropout_layer)

    def forward(self, x: Float[Tensor, "B T W"], cache: State) -> tuple[Float[Tensor, "B T W"], State]:
        before = cache[0].shape[2]
        q, k, v = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        place = torch.arange(before + x.shape[1], device=x.device)
        q, k = _turn(q, place[before:]), _turn(k, place[before:])
        k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        seen = place <= place[before:, None]
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        y = x + self.drop(self.out(attended.transpose(1, 2).flatten(2)))
        forward = self.narrow(nn.functional.gelu(self.widen(self.norm_forward(y))))
        return y + self.drop(forward), (k, v)


def _turn(x: Float[Tensor, "B A T E"], place: Int[Tensor, " T"]) -> Float[Tensor, "B A T E"]:
    """Each pair of units turned by its position times its own speed."""
    half = x.shape[-1] // 2
    speed = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angle = place[:, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
