"""What to pre-train: named recipes, and files with settings on top of one. `pretrain --help` lists the names."""

from trainer.recipes.named import RECIPES
from trainer.recipes.overview import overview
from trainer.recipes.recipe import OWN, Recipe, find_recipe

__all__ = ["OWN", "RECIPES", "Recipe", "find_recipe", "overview"]
