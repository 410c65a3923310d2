"""From a recipe and a network to a small file and an honest report."""

from tersor.compress.pipeline import compress
from tersor.compress.recipe import Recipe, read_recipe, recipe_for, recipe_names
from tersor.compress.result import Result
from tersor.compress.steps import Factorize, Prune, Quantize, Share, Step, Train, kind_of
from tersor.compress.structure import load_network, restructure_, structure

__all__ = [
    "Factorize",
    "Prune",
    "Quantize",
    "Recipe",
    "Result",
    "Share",
    "Step",
    "Train",
    "compress",
    "kind_of",
    "load_network",
    "read_recipe",
    "recipe_for",
    "recipe_names",
    "restructure_",
    "structure",
]
