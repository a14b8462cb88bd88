"""Named frozen configurations, by model and method, and how one becomes a trained model."""

from collections.abc import Callable

from mrnn.recipes import beyond, paper
from mrnn.recipes.recipe import Recipe
from mrnn.recipes.training import train_recipe

__all__ = ["RECIPES", "Recipe", "train_recipe"]

RECIPES: dict[str, Callable[[], Recipe]] = {**paper.RECIPES, **beyond.RECIPES}
