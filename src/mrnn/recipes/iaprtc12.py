"""Recipes of IAPR TC-12, which is not on our machines: proven on made data in its layout, not run.

Each phrase of a description is one caption. Every recipe runs by `mrnn train NAME --data DIR --out runs/NAME`, and
all of them by `mrnn reproduce iaprtc12`.
"""

from dataclasses import replace

from mrnn.recipes import flickr8k
from mrnn.recipes.recipe import Recipe


def mrnn() -> Recipe:
    """m-RNN on IAPR TC-12. Not run."""
    return flickr8k.mrnn()


def mrnn_alexnet() -> Recipe:
    """m-RNN on IAPR TC-12 and AlexNet's 7th layer, as in the paper. Not run."""
    return replace(mrnn(), encoder="alexnet")


def mrnn_vgg() -> Recipe:
    """m-RNN on IAPR TC-12 and VGG-16's 7th layer. Not run."""
    return replace(mrnn(), encoder="vgg16")


def rnn() -> Recipe:
    """RNN-Base on IAPR TC-12. Not run."""
    return flickr8k.rnn()


def lbl() -> Recipe:
    """LBL on IAPR TC-12. Not run."""
    return flickr8k.lbl()


def mlbl_b() -> Recipe:
    """MLBL-B on IAPR TC-12. Not run."""
    return flickr8k.mlbl_b()


def mlbl_b_alexnet() -> Recipe:
    """MLBL-B on IAPR TC-12 and AlexNet's 7th layer, as in the paper. Not run."""
    return replace(mlbl_b(), encoder="alexnet")


def mlbl_f() -> Recipe:
    """MLBL-F on IAPR TC-12. Not run."""
    return flickr8k.mlbl_f()


def mlbl_f_alexnet() -> Recipe:
    """MLBL-F on IAPR TC-12 and AlexNet's 7th layer, as in the paper. Not run."""
    return replace(mlbl_f(), encoder="alexnet")


def gt2() -> Recipe:
    """Back-off bigrams with Good-Turing discounting on IAPR TC-12. Not run."""
    return flickr8k.gt2()


def gt3() -> Recipe:
    """Back-off trigrams with Good-Turing discounting on IAPR TC-12. Not run."""
    return flickr8k.gt3()


RECIPES = {
    "iaprtc12": mrnn,
    "iaprtc12-alexnet": mrnn_alexnet,
    "iaprtc12-vgg16": mrnn_vgg,
    "iaprtc12-rnn": rnn,
    "iaprtc12-lbl": lbl,
    "iaprtc12-mlbl-b": mlbl_b,
    "iaprtc12-mlbl-b-alexnet": mlbl_b_alexnet,
    "iaprtc12-mlbl-f": mlbl_f,
    "iaprtc12-mlbl-f-alexnet": mlbl_f_alexnet,
    "iaprtc12-gt2": gt2,
    "iaprtc12-gt3": gt3,
}
