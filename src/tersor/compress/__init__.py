"""From a recipe and a network to a small file and an honest report."""

from tersor.compress.pipeline import Result, compress
from tersor.compress.recipe import (
    Prune,
    Quantize,
    Recipe,
    Train,
    read_recipe,
    recipe_for,
    recipe_names,
)

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
