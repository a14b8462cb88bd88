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


def base_contrastive() -> Recipe:
    """m-RNN with a GRU and the contrastive term on Flickr8K and COCO together, its CNN as it is.

    Dev perplexity 15.75.
    """
    return beyond.contrastive()


def base() -> Recipe:
    """The same with its CNN, which sees photos of 320 pixels: the default of every verb.

    mrnn train base --data DIR/flickr8k --data DIR/coco --out runs/base

    Its eight epochs take 40 minutes on two cores. Dev perplexity 14.31. Flickr8K test: perplexity 13.83, BLEU-4 .222,
    CIDEr .589, R@1 / R@10 39.3 / 81.2 image to sentence and 31.8 / 73.6 sentence to image; COCO test: 14.26, .253,
    .783, 50.4 / 90.4 and 41.1 / 89.1.
    """
    recipe = replace(beyond.contrastive(), encoder="efficientnet_lite2@320")
    return beyond.with_cnn(recipe, "base-contrastive", epochs=8)


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
    "base-contrastive": base_contrastive,
    "base": base,
    "coco": mrnn,
    "coco-alexnet": mrnn_alexnet,
    "coco-vgg16": mrnn_vgg,
    "coco-rnn": rnn,
}
