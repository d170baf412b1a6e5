"""`reslab recipes`: the training procedures by name, or all of one.

`reslab models [PATTERN]`: the networks by name.

`reslab studies`: the tables and figures that can be run.
"""

from typing import Annotated, Any

import typer

from reslab.cli.options import Json
from reslab.cli.output import print_json, print_pairs, print_table
from reslab.report.format import format_shape
from reslab.spec.arch import Arch
from reslab.spec.config import to_dict
from reslab.spec.errors import unknown_name
from reslab.spec.recipe import Recipe
from reslab.spec.recipes import RECIPES, get_recipe
from reslab.spec.zoo import ARCHS, match_model_names

TOLD = ("name", "reference", "notes")


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Every value of one recipe.")] = None,
    json: Json = False,
) -> None:
    """List the training procedures, each with its source, or print one: every value, and which differ from the default.

    `--set KEY=VALUE` of `reslab train` overrides any value of one, so does a file (`-c`).
    """
    if name is not None:
        recipe = get_recipe(name)
        if json:
            print_json({**to_dict(recipe), "differs": differing(recipe)})
        else:
            _print_one(recipe)
    elif json:
        print_json([to_dict(recipe) for recipe in RECIPES.values()])
    else:
        _print_all()


def values_of(recipe: Recipe) -> dict[str, Any]:
    """Every value by its key of --set, name, source and notes apart."""
    found: dict[str, Any] = {}
    for key, value in to_dict(recipe).items():
        inner = {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
        found |= {} if key in TOLD else inner
    return found


def differing(recipe: Recipe) -> list[str]:
    """The keys whose values are not those of a recipe that says nothing."""
    plain = values_of(Recipe("", ""))
    return [key for key, value in values_of(recipe).items() if value != plain[key]]


def shown(value: Any) -> str:
    """A value as --set takes it, or a word for nothing."""
    if isinstance(value, list):
        return ",".join(shown(one) for one in value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value in ("", None) else str(value)


def _print_one(recipe: Recipe) -> None:
    print_pairs([(key, getattr(recipe, key)) for key in TOLD if getattr(recipe, key)])
    print()
    differs = set(differing(recipe))
    plain = values_of(Recipe("", ""))
    rows = [
        (key, shown(value), f"default {shown(plain[key])}" if key in differs else "")
        for key, value in values_of(recipe).items()
    ]
    print_table(["key", "value", "differs"], rows)


def _print_all() -> None:
    print_table(
        ["name", "length", "batch", "lr", "optimizer", "schedule", "augmentation", "source"],
        [
            (
                recipe.name,
                recipe.duration,
                str(recipe.batch_size),
                f"{recipe.optimizer.lr:g}",
                recipe.optimizer.name,
                recipe.schedule.name,
                recipe.train_transform or "none",
                recipe.reference,
            )
            for recipe in RECIPES.values()
        ],
    )


def models(
    pattern: Annotated[str, typer.Argument(help="A part of the name, or a pattern such as 'resnet*_cifar'.")] = "",
    json: Json = False,
) -> None:
    """List the networks, each with where it comes from."""
    found = [ARCHS[name] for name in match_model_names(pattern.lower())]
    if not found:
        raise unknown_name("model", pattern, ARCHS, "`reslab models` lists all")
    if json:
        print_json([_facts(arch) for arch in found])
        return
    print_table(
        ["name", "depth", "input", "classes", "source"],
        [
            (arch.name, str(arch.depth), format_shape(arch.input_size), str(arch.num_classes), arch.reference)
            for arch in found
        ],
    )


def _facts(arch: Arch) -> dict[str, object]:
    return {
        "name": arch.name,
        "source": arch.reference,
        "depth": arch.depth,
        "input_size": arch.input_size,
        "num_classes": arch.num_classes,
        "order": arch.order,
        "match": arch.shortcut,
        "mix": arch.merge,
    }


def studies(
    pattern: Annotated[str, typer.Argument(help="A part of the name, such as he2016.")] = "",
    json: Json = False,
) -> None:
    """List the studies: tables and figures of papers, each with where it is printed."""
    from reslab.spec.papers import STUDIES

    found = [study for study in STUDIES.values() if pattern.lower() in study.name]
    if not found:
        raise unknown_name("study", pattern, STUDIES, "`reslab studies` lists all")
    if json:
        print_json(
            [
                {
                    "name": study.name,
                    "source": study.reference,
                    "title": study.title,
                    "rows": [row.name for row in study.rows],
                    "claims": [claim.text for claim in study.claims],
                }
                for study in found
            ]
        )
        return
    print_table(
        ["name", "rows", "claims", "title", "source"],
        [(study.name, str(len(study.rows)), str(len(study.claims)), study.title, study.reference) for study in found],
    )
