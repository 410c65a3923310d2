"""From a recipe and a network to a small file and an honest report."""

from tersor.compress.pipeline import compress
from tersor.compress.recipe import (
    Prune,
    Quantize,
    Recipe,
    Train,
    read_recipe,
    recipe_for,
    recipe_names,
)
from tersor.compress.result import Result

__all__ = [
    "Prune",
    "Quantize",
    "Recipe",
    "Result",
    "Train",
    "compress",
    "read_recipe",
    "recipe_for",
    "recipe_names",
]
