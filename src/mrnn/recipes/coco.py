"""Recipes of COCO, of which our machines have 2,500 photos: those of the whole data set are not run.

Every recipe runs by `mrnn train NAME --data DIR --out runs/NAME`, and all of them by `mrnn reproduce coco`.
"""

from dataclasses import replace

from mrnn.recipes import flickr8k
from mrnn.recipes.recipe import Recipe


def base() -> Recipe:
    """m-RNN on Flickr8K and COCO together: the default of every verb.

    mrnn train base --data DIR/flickr8k --data DIR/coco --out runs/base

    Dev perplexity 15.26. Flickr8K test: perplexity 15.00, BLEU-4 .202, CIDEr .532; COCO test (250 photos of our own
    split): 15.38, .220, .688.
    """
    return flickr8k.mrnn()


def mrnn() -> Recipe:
    """m-RNN on COCO. Not run on all of it."""
    return flickr8k.mrnn()


def mrnn_alexnet() -> Recipe:
    """m-RNN on COCO and AlexNet's 7th layer. Not run."""
    return replace(mrnn(), encoder="alexnet")


def mrnn_vgg() -> Recipe:
    """m-RNN with the second paper's shared weights on COCO and VGG-16's 7th layer. Not run."""
    return replace(flickr8k.mrnn_paper2(), encoder="vgg16")


def rnn() -> Recipe:
    """RNN-Base on COCO. Not run."""
    return flickr8k.rnn()


RECIPES = {
    "base": base,
    "coco": mrnn,
    "coco-alexnet": mrnn_alexnet,
    "coco-vgg16": mrnn_vgg,
    "coco-rnn": rnn,
}
