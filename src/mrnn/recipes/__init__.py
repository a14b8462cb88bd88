"""Named frozen configurations, one data set a file, and how one becomes a trained model."""

from collections.abc import Callable

from mrnn.recipes import beyond, coco, flickr8k, flickr30k, iaprtc12
from mrnn.recipes.recipe import Recipe
from mrnn.recipes.training import Split, caption_data, encode_split, train_recipe, with_tensorboard

__all__ = ["RECIPES", "Recipe", "Split", "caption_data", "encode_split", "train_recipe", "with_tensorboard"]

RECIPES: dict[str, Callable[[], Recipe]] = {
    **flickr8k.RECIPES,
    **beyond.RECIPES,
    **flickr30k.RECIPES,
    **iaprtc12.RECIPES,
    **coco.RECIPES,
}
