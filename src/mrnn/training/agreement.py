"""How much each caption counts: the more, the better it agrees with what else was said of its photo.

    C = (1/N) sum_i a_i L_i log2 PPL(w_i | I_i),    a_i = K exp(p s_i) / sum_k exp(p s_k)

s_i is the CIDEr of a caption against the K - 1 others of its photo, k runs over all K: the weighted cross-entropy of
consensus-based sequence training (Phan et al. 2017, arXiv 1712.09532). A photo's weights are K together, so photos
count as they did, and with p = 0, or one caption a photo, this is the paper's cost.

Shapes: S sentences.
"""

import torch
from torch import Tensor

from mrnn.cider import CIDEr
from mrnn.shapes import Float
from mrnn.text import Vocabulary
from mrnn.training.data import CaptionData, references


def agreement_weights(data: CaptionData, vocabulary: Vocabulary, power: float) -> Float[Tensor, " S"]:
    """The weights a_i above.

    Args:
        data: Whose captions; those without an image have nothing to agree with, and weigh 1.
        vocabulary: The model's.
        power: p.
    """
    described = len(data.sentences) - data.without_image
    images = data.images[:described]
    several, place = references(data, vocabulary)
    cider = CIDEr(several)
    weights = []
    for row in range(len(several)):
        scores = torch.tensor(cider.agreement(row), dtype=torch.float64)
        share = (power * scores).softmax(0)
        weights.append(iter((len(scores) * share).tolist()))
    return torch.tensor([*(next(weights[place[image]]) for image in images), *[1.0] * data.without_image])
