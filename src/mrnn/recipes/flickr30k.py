"""Recipes of Flickr30K, whose photos are not on our machines: proven on made data in its layout, not run.

Every recipe runs by `mrnn train NAME --data DIR --out runs/NAME`, and all of them by `mrnn reproduce flickr30k`.
"""

from dataclasses import replace

from mrnn.recipes import flickr8k
from mrnn.recipes.recipe import Recipe


def mrnn() -> Recipe:
    """m-RNN on Flickr30K. Not run."""
    return flickr8k.mrnn()


def mrnn_alexnet() -> Recipe:
    """m-RNN on Flickr30K and AlexNet's 7th layer, as in the first paper. Not run."""
    return replace(mrnn(), encoder="alexnet")


def mrnn_vgg() -> Recipe:
    """m-RNN with the second paper's shared weights on Flickr30K and VGG-16's 7th layer. Not run."""
    return replace(flickr8k.mrnn_paper2(), encoder="vgg16")


def rnn() -> Recipe:
    """RNN-Base on Flickr30K. Not run."""
    return flickr8k.rnn()


RECIPES = {
    "flickr30k": mrnn,
    "flickr30k-alexnet": mrnn_alexnet,
    "flickr30k-vgg16": mrnn_vgg,
    "flickr30k-rnn": rnn,
}
