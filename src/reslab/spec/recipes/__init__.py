"""The recipes by name, each with its reference; many are changes of another."""

from dataclasses import replace

from reslab.spec.plugins import Table
from reslab.spec.recipe import Recipe
from reslab.spec.recipes.cifar import CIFAR
from reslab.spec.recipes.defaults import DEFAULTS
from reslab.spec.recipes.dense import DETECTION, SEGMENTATION
from reslab.spec.recipes.imagenet import IMAGENET
from reslab.spec.recipes.tutorials import TUTORIALS

RECIPES: Table[Recipe] = Table(
    "recipe",
    {recipe.name: recipe for recipe in (*DEFAULTS, *CIFAR, *IMAGENET, *SEGMENTATION, *DETECTION, *TUTORIALS)},
    is_saved=False,
)


def register_recipe(name: str, recipe: Recipe) -> Recipe:
    """Register a recipe, usually `replace(another, ...)`, under a name; return it.

    Raises ValueError for a name that is taken.
    """
    recipe = replace(recipe, name=name)
    RECIPES.register(name, recipe)
    return recipe
