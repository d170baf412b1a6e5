"""`reslab recipes`: the training procedures by name."""

from reslab.cli.options import Json
from reslab.cli.output import print_json, print_table
from reslab.spec.recipes import RECIPES
from reslab.spec.values import to_dict


def recipes(json: Json = False) -> None:
    """List the training procedures, each with its source; `--set KEY=VALUE` overrides any value of one."""
    if json:
        print_json([to_dict(recipe) for recipe in RECIPES.values()])
        return
    print_table(
        ["name", "length", "batch", "lr", "optimizer", "schedule", "augmentation", "source"],
        [
            (
                recipe.name,
                recipe.length,
                str(recipe.batch),
                f"{recipe.optimizer.lr:g}",
                recipe.optimizer.name,
                recipe.schedule.name,
                recipe.augment or "none",
                recipe.source,
            )
            for recipe in RECIPES.values()
        ],
    )
