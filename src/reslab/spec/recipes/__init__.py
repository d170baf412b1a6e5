"""The training procedures by name: literal tables, many lines a change of another; each with its source."""

from reslab.spec.errors import unknown_name
from reslab.spec.recipe import Recipe
from reslab.spec.recipes.cifar import CIFAR
from reslab.spec.recipes.defaults import DEFAULTS
from reslab.spec.recipes.imagenet import IMAGENET
from reslab.spec.recipes.tutorials import TUTORIALS

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*DEFAULTS, *CIFAR, *IMAGENET, *TUTORIALS)}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name; ValueError with the nearest names where there is none."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES, "`reslab recipes` lists all")
    return RECIPES[name]
