"""m-RNN whose image classifier has a say in words: for things that training captions never or rarely named.

    p_k(I) = sum of the classifier's probabilities of the classes that word k stands for
    e_k(I) = max(0, log p_k(I) - log p_k(mean training image))
    s(t)   = sigmoid(u . m(t) + c)                          is it time for the name of a thing?
    P(w_{t+1} | w_1..t, I) = softmax(U_M m(t) + a s(t) E e(I))      E puts e_k at word k; the rest as in `mrnn.py`

u, c and a are shared by all words. So a word whose use is learned from text alone, at the mean image, where e is 0, is
said of a photo as readily as those that captions of photos taught. `models/imagenet_words.py` has the words.

Shapes: N images, V vocabulary, M multimodal width, K words with classes, D feature width, F = M + K.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mrnn.encoders import Encoder
from mrnn.models.imagenet_words import classes_of
from mrnn.models.mrnn import MRNN, MRNNConfig, g, g_slope
from mrnn.shapes import Float
from mrnn.text import Vocabulary

CLASSES = 1000


@dataclass(frozen=True)
class ClassesConfig(MRNNConfig):
    """m-RNN's sizes and options, and the words that stand for classes, which training fills in.

    Args:
        words: K words.
        ids: Their ids in the vocabulary.
    """

    words: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if self.shared:
            raise ValueError("model.shared cannot be had with class words")


class MRNNClasses(MRNN):
    """m-RNN with class words; see the equations at the top of this file."""

    Config = ClassesConfig
    learns_words_from_text = True  # its classifier speaks for words that no photo was captioned with
    classifier_weight: Tensor
    classifier_bias: Tensor
    members: Tensor
    places: Tensor

    def __init__(self, config: ClassesConfig, vocabulary: int, features: int):
        super().__init__(config, vocabulary, features)
        self.register_buffer("classifier_weight", torch.zeros(CLASSES, features))
        self.register_buffer("classifier_bias", torch.zeros(CLASSES))
        members, places = torch.zeros(CLASSES, len(config.words)), torch.zeros(vocabulary, len(config.words))
        for k, (word, i) in enumerate(zip(config.words, config.ids, strict=True)):
            members[classes_of(word), k] = 1
            places[i, k] = 1
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("places", places, persistent=False)
        self.u = nn.Linear(config.multimodal, 1)
        self.a = nn.Parameter(torch.ones(()))

    @classmethod
    def check_encoder(cls, encoder: Encoder) -> None:
        """Refuse an encoder whose network has no classifier of ImageNet's classes.

        Raises:
            ValueError: It has none.
        """
        super().check_encoder(encoder)
        if encoder.classifier is None:
            raise ValueError(f"class words need an encoder that knows ImageNet's classes, and {encoder.name} does not")

    @classmethod
    def build(cls, config: ClassesConfig, vocabulary: Vocabulary, encoder: Encoder) -> "MRNNClasses":
        """With the encoder's classifier, and those of the words that stand for classes."""
        words, ids = class_words(vocabulary)
        model = cls(replace(config, words=words, ids=ids), len(vocabulary), encoder.width)
        assert encoder.classifier is not None
        model.classifier_weight.copy_(torch.from_numpy(encoder.classifier[0]))
        model.classifier_bias.copy_(torch.from_numpy(encoder.classifier[1]))
        return model

    def encode_image(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        """V_I I, then e(I)."""
        return torch.cat([super().encode_image(features), self.evidence(features)], 1)

    def encode_cells(self, features: Float[Tensor, "C D"]) -> Float[Tensor, "C F"]:
        """V_I I of each grid cell, and e(I) of their mean, shared out as the cells' own evidence is."""
        whole, own = self.evidence(features.mean(0, keepdim=True)), self.evidence(features) + 1e-6
        shared = whole * len(features) * own / own.sum(0)
        return torch.cat([super().encode_image(features), shared], 1)

    def evidence(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """e(I)."""
        both = torch.cat([features, self.feature_mean[None]]).to(self.classifier_weight)
        p = nn.functional.linear(both, self.classifier_weight, self.classifier_bias).float().softmax(-1)
        log_p = (p @ self.members + 1e-4).log()
        return (log_p[:-1] - log_p[-1]).clamp_min(0)

    def fuse(self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"]) -> Float[Tensor, "... H"]:
        """m(t), then a s(t) e(I)."""
        size = self.config.multimodal
        m = super().fuse(text, image[..., :size])
        said = self.a * torch.sigmoid(self.u(m)) * image[..., size:]
        return torch.cat([m, said.expand(*m.shape[:-1], -1)], -1)

    def pull_hidden(
        self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"], raised: Float[Tensor, "... H"]
    ) -> Float[Tensor, "... F"]:
        """Through m(t), which the classifier's say depends on, and to the evidence itself."""
        size = self.config.multimodal
        x, evidence = text + image[..., :size], image[..., size:]
        s = torch.sigmoid(self.u(g(x)))
        to_m, to_said = raised[..., :size], raised[..., size:]
        to_s = self.a * (to_said * evidence).sum(-1, keepdim=True)
        to_m = to_m + to_s * s * (1 - s) * self.u.weight[0]
        return torch.cat([to_m * g_slope(x), self.a * s * to_said], -1)

    def softmax_layer(self) -> tuple[Float[Tensor, "V H"], Float[Tensor, " V"]]:
        """U_M with E behind it, and the bias."""
        return torch.cat([self.U_M.weight, self.places], 1), self.U_M.bias


def class_words(vocabulary: Vocabulary) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The words of a vocabulary that stand for classes, and their ids."""
    known = [(word, i) for i, word in enumerate(vocabulary.tokens) if classes_of(word)]
    return tuple(word for word, _ in known), tuple(i for _, i in known)
