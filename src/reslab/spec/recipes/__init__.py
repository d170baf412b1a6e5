"""The recipes by name, each with its reference; many are changes of another."""

from reslab.spec.errors import unknown_name
from reslab.spec.recipe import Recipe
from reslab.spec.recipes.cifar import CIFAR
from reslab.spec.recipes.defaults import DEFAULTS
from reslab.spec.recipes.imagenet import IMAGENET
from reslab.spec.recipes.tutorials import TUTORIALS

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*DEFAULTS, *CIFAR, *IMAGENET, *TUTORIALS)}


def get_recipe(name: str) -> Recipe:
    """Return the recipe of that name. Raises ValueError with the nearest names if there is none."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES, "`reslab recipes` lists all of them")
    return RECIPES[name]
