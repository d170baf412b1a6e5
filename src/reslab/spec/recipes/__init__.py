"""The recipes by name, each with its reference; many are changes of another."""

from dataclasses import replace
from pathlib import Path

from reslab.spec.config import base_of, described, flatten, is_toml, override, read_toml
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.plugins import Table
from reslab.spec.recipe import Recipe, expand_recipe_keys
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


def get_recipe(recipe: str | Path | Recipe) -> Recipe:
    """Return the recipe of this name or TOML file, or the given one.

    Raises ValueError as `find_recipe`, and for values of other types.
    """
    if not isinstance(recipe, str | Path | Recipe):
        raise invalid("a name, a TOML file or a Recipe as recipe", f"a {type(recipe).__name__}")
    return recipe if isinstance(recipe, Recipe) else find_recipe(recipe)


def find_recipe(name: str | Path, level: int = 0) -> Recipe:
    """Return the recipe of a name or a TOML file; keys may be shortened as in `--set` (`lr = 0.2`).

    A base is a name or a file, as in `find_arch`. Raises ValueError for an unknown name or key, with the nearest ones,
    and for a file that is none.
    """
    if not is_toml(name):
        if str(name) not in RECIPES:
            raise unknown_name("recipe", str(name), RECIPES, "`reslab recipes` lists all of them")
        return RECIPES[str(name)]
    path, table = read_toml(name, level)
    base_name = table.pop("base", None)
    base = Recipe("", "") if base_name is None else find_recipe(base_of(path, base_name), level + 1)
    values = described(path, base.name) | flatten(table)
    texts = {key: str(values.pop(key)) for key in ("name", "reference", "notes") if key in values}
    return replace(override(base, expand_recipe_keys(values), kind=f"key of {path}"), **texts)  # type: ignore[arg-type]


def register_recipe(name: str, recipe: Recipe) -> Recipe:
    """Register a recipe, usually `replace(another, ...)`, under a name; return it.

    Raises ValueError for a name that is taken.
    """
    recipe = replace(recipe, name=name)
    RECIPES.register(name, recipe)
    return recipe
