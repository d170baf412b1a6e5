"""The options that several verbs share, named as other tools name them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from reslab.spec.errors import refuse

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output, and nothing else there.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="Where the data set lies, or is to be kept.")
]
Device = Annotated[str, typer.Option("--device", help="auto (cuda, mps, cpu: the first there is), or one by name.")]
Workers = Annotated[
    int | None, typer.Option("-j", "--workers", min=0, help="Processes that decode pictures. [default: chosen]")
]
Batch = Annotated[int | None, typer.Option("-b", "--batch-size", min=1, help="Images a step.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override one value (repeatable): model.KEY the network's, KEY the recipe's."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Everything random follows from it.")]
ValFraction = Annotated[
    float | None, typer.Option("--val-fraction", metavar="P", help="Split this part off for validation, stratified.")
]
SkipBadImages = Annotated[
    bool, typer.Option("--skip-bad-images", help="Leave out images that cannot be read, and list them.")
]
ModelName = Annotated[str | None, typer.Option("--model", metavar="NAME", help="`reslab models` lists them.")]
Pretrained = Annotated[
    str | None,
    typer.Option("--pretrained", metavar="FILE|TAG", help="Weights to start from: a file, or a published tag."),
]


def split_settings(settings: Sequence[str] | None) -> tuple[dict[str, str], dict[str, str]]:
    """`["model.mix=none", "optimizer.lr=0.2"]` as (axes of the network, values of the recipe).

    Raises ValueError where the `=` or the key is missing, or a key is given twice.
    """
    axes: dict[str, str] = {}
    recipe: dict[str, str] = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise refuse("--set KEY=VALUE", setting, "--set optimizer.lr=0.2 or --set model.order=full-preact")
        table, name = (axes, key.removeprefix("model.")) if key.startswith("model.") else (recipe, key)
        if name in table:
            raise refuse(f"each key once in --set, {key} came twice", setting, next_step="leave one of them out")
        table[name] = value.strip()
    return axes, recipe
