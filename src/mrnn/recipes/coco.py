"""Recipes of COCO, of which our machines have 2,500 photos: those of the whole data set are not run.

Every recipe runs by `mrnn train NAME --data DIR --out runs/NAME`, and all of them by `mrnn reproduce coco`.
"""

from dataclasses import replace

from mrnn.recipes import beyond, flickr8k
from mrnn.recipes.recipe import Recipe


def base_likelihood() -> Recipe:
    """m-RNN on Flickr8K and COCO together, its CNN as it is.

    mrnn train base-likelihood --data DIR/flickr8k --data DIR/coco --out runs/base-likelihood

    Dev perplexity 15.26. Flickr8K test: perplexity 15.00, BLEU-4 .202, CIDEr .532; COCO test (250 photos of our own
    split): 15.38, .220, .688.
    """
    return flickr8k.mrnn()


def base() -> Recipe:
    """The same with its CNN: the default of every verb.

    mrnn train base --data DIR/flickr8k --data DIR/coco --out runs/base

    Its five epochs take 35 minutes on one core. Dev perplexity 14.91. Flickr8K test: perplexity 14.57, BLEU-4 .219,
    CIDEr .585, R@1 34.5 image to sentence and 28.5 sentence to image; COCO test: 15.16, .228, .691, 46.0, 40.7.
    """
    return beyond.with_cnn(flickr8k.mrnn(), "base-likelihood")


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
    "base-likelihood": base_likelihood,
    "base": base,
    "coco": mrnn,
    "coco-alexnet": mrnn_alexnet,
    "coco-vgg16": mrnn_vgg,
    "coco-rnn": rnn,
}
