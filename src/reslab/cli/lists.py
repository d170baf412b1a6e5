"""`reslab models`, `recipes`, `transforms` and `studies`: list what is available by name."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import (
    JsonFlag,
    complete_recipe,
)
from reslab.cli.output import print_json, print_pairs, print_table
from reslab.report.format import format_shape
from reslab.spec.config import to_dict
from reslab.spec.errors import unknown_name

# The tables are imported by the command that lists them.
if TYPE_CHECKING:
    from reslab.spec.arch import Arch
    from reslab.spec.dense import DenseArch
    from reslab.spec.recipe import Recipe
    from reslab.spec.transforms import TransformArg, TransformSpec

DESCRIPTIVE_KEYS = ("name", "reference", "notes")


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Recipe to print in full, each key with its value.", autocompletion=complete_recipe
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the recipes, or print one in full and mark the values that differ from the defaults.

    `reslab train` overrides any value with --set KEY=VALUE or a file (-c).
    """
    from reslab.spec.recipes import RECIPES, find_recipe

    if name is not None:
        recipe = find_recipe(name)
        if as_json:
            print_json({**to_dict(recipe), "differs": changed_keys(recipe)})
        else:
            _print_recipe(recipe)
    elif as_json:
        print_json([to_dict(recipe) for recipe in RECIPES.values()])
    else:
        _print_recipes(list(RECIPES.values()))


def flatten_recipe(recipe: "Recipe") -> dict[str, Any]:
    """Return every value by its key for --set, except name, reference and notes."""
    values: dict[str, Any] = {}
    for key, value in to_dict(recipe).items():
        entries = {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
        values |= {} if key in DESCRIPTIVE_KEYS else entries
    return values


def changed_keys(recipe: "Recipe") -> list[str]:
    """Return the keys whose values differ from the defaults."""
    from reslab.spec.recipe import Recipe

    defaults = flatten_recipe(Recipe("", ""))
    return [key for key, value in flatten_recipe(recipe).items() if value != defaults[key]]


def format_value(value: Any) -> str:
    """Format a value as --set takes it; an empty one is `none`."""
    if isinstance(value, list):
        return ",".join(format_value(item) for item in value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value in ("", None) else str(value)


def _print_recipe(recipe: "Recipe") -> None:
    from reslab.spec.recipe import Recipe

    print_pairs([(key, getattr(recipe, key)) for key in DESCRIPTIVE_KEYS if getattr(recipe, key)])
    print()
    changed = set(changed_keys(recipe))
    defaults = flatten_recipe(Recipe("", ""))
    rows = [
        (key, format_value(value), f"default {format_value(defaults[key])}" if key in changed else "")
        for key, value in flatten_recipe(recipe).items()
    ]
    print_table(["key", "value", "differs"], rows)


def _print_recipes(recipes: "list[Recipe]") -> None:
    print_table(
        ["name", "duration", "batch size", "lr", "optimizer", "schedule", "reference"],
        [
            (
                recipe.name,
                recipe.duration,
                str(recipe.batch_size),
                f"{recipe.optimizer.lr:g}",
                recipe.optimizer.name,
                recipe.schedule.name,
                recipe.reference,
            )
            for recipe in recipes
        ],
    )


def models(
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN",
            help="Part of a name, or a pattern such as 'resnet*_cifar'.",
            show_default="all",
        ),
    ] = "",
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="classification, segmentation or detection.", show_default="all"),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the models with depth, input size, number of classes and reference."""
    from reslab.spec.zoo import ARCHS
    from reslab.spec.zoo.dense import DENSE_ARCHS, match_all_names, require_model
    from reslab.spec.zoo.resolve import parse_model_name

    names = match_all_names(pattern.lower(), kind)
    if not names and kind is not None:
        raise unknown_name(f"model for {kind}", pattern, match_all_names("", kind))
    if not names:
        require_model(pattern)
        names = [parse_model_name(pattern).arch]
    archs = [DENSE_ARCHS.get(name) or ARCHS[name] for name in names]
    if as_json:
        print_json([_model_payload(arch) for arch in archs])
        return
    print_table(
        ["name", "depth", "input", "classes", "reference"],
        [
            (arch.name, str(arch.depth), format_shape(arch.input_size), str(arch.num_classes), arch.reference)
            for arch in archs
        ],
        cut=("reference",),
    )


def _model_payload(arch: "Arch | DenseArch") -> dict[str, object]:
    """Return the entry of `--json`; the layout of its blocks is that of the backbone of a segmentation model."""
    from reslab.spec.dense import DenseArch
    from reslab.spec.zoo.dense import arch_kind

    blocks = arch.backbone if isinstance(arch, DenseArch) else arch
    return {
        "name": arch.name,
        "reference": arch.reference,
        "kind": arch_kind(arch),
        "depth": arch.depth,
        "input_size": arch.input_size,
        "num_classes": arch.num_classes,
        "order": blocks.order,
        "shortcut": blocks.shortcut,
        "merge": blocks.merge,
    }


def studies(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Part of a name, such as he2016.", show_default="all")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """List the studies: tables and figures of papers that `reslab study` reproduces."""
    from reslab.spec.papers import STUDIES

    selected = [study for study in STUDIES.values() if pattern.lower() in study.name]
    if not selected:
        raise unknown_name("study", pattern, STUDIES, "`reslab studies` lists all")
    if as_json:
        print_json(
            [
                {
                    "name": study.name,
                    "reference": study.reference,
                    "title": study.title,
                    "rows": [row.name for row in study.rows],
                    "claims": [claim.text for claim in study.claims],
                }
                for study in selected
            ]
        )
        return
    print_table(
        ["name", "rows", "claims", "title", "reference"],
        [
            (study.name, str(len(study.rows)), str(len(study.claims)), study.title, study.reference)
            for study in selected
        ],
    )


def transforms(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Transform to print with its arguments.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the transforms of train_transform and eval_transform, or print one with its arguments.

    An expression applies them in order: --set "train_transform=random-resized-crop(224) flip rotate(15)".
    """
    from reslab.spec.transform_grammar import TransformCall, unknown_transform
    from reslab.spec.transforms import TRANSFORMS

    if name is not None and name not in TRANSFORMS:
        raise unknown_transform(TransformCall(name))
    if as_json:
        payloads = [transform_payload(spec) for spec in TRANSFORMS.values()]
        print_json(payloads if name is None else transform_payload(TRANSFORMS[name]))
    elif name is not None:
        _print_transform(TRANSFORMS[name])
    else:
        print_table(
            ["name", "kind", "example", "effect"],
            [(spec.name, spec.kind.value, spec.example, spec.summary) for spec in TRANSFORMS.values()],
        )


def transform_payload(spec: "TransformSpec") -> dict[str, object]:
    """Return a transform as `reslab transforms --json` prints it."""
    return {
        "name": spec.name,
        "reference": spec.reference,
        "kind": spec.kind.value,
        "summary": spec.summary,
        "example": spec.example,
        "other_names": list(spec.other_names),
        "args": [
            {
                "name": arg.name,
                "summary": arg.summary,
                "type": "choice" if arg.choices else arg.value_type.__name__,
                "choices": list(arg.choices),
                "minimum": None if arg.choices else arg.minimum,
                "maximum": None if arg.choices else arg.maximum,
                "odd": arg.odd,
                "default": arg.default,
                "required": arg.default is None,
            }
            for arg in spec.args
        ],
    }


def _print_transform(spec: "TransformSpec") -> None:
    print(spec.summary)
    print()
    print_pairs(
        [("name", spec.name), ("kind", spec.kind.value), ("example", spec.example), ("reference", spec.reference)]
    )
    if spec.args:
        print()
        print_table(
            ["argument", "type", "range", "default", "meaning"],
            [(arg.name, arg.type_text, arg.range_text, format_default(arg), arg.summary) for arg in spec.args],
        )


def format_default(arg: "TransformArg") -> str:
    """Return the default of an argument, or `required`."""
    if arg.default is None:
        return "required"
    return f"{arg.default:g}" if isinstance(arg.default, float) else str(arg.default)
