"""`reslab data check PATH`: everything at a path read once, and what to know before training on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reslab.cli.options import DataDir, Json
from reslab.cli.output import print_json, print_table, say
from reslab.report.format import format_int

if TYPE_CHECKING:
    from reslab.data.check.check import DataCheck

data = typer.Typer(help="Look through data before training on it.", no_args_is_help=True)


@data.callback()
def _group() -> None:
    """Look through data before training on it."""


@data.command()
def check(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A folder, CSV file, shards, or the name of a data set.")],
    augment: Annotated[
        str | None,
        typer.Option("--augment", metavar="WORDS", help="Of the batch shown. [default: what training takes]"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="The page. [default: data-check-NAME.html]")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the batch shown.")] = 0,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Read every picture once: counts, broken files, duplicates, pictures in two splits, sizes; and write a page."""
    from reslab.data.check.check import check_data
    from reslab.data.check.findings import findings
    from reslab.report.pages.data_check import build_data_check_page
    from reslab.report.render import render_data_check_page

    found = check_data(path, data_dir)
    told = findings(found)
    page = output or Path(f"data-check-{found.inventory.name}.html")
    page.parent.mkdir(parents=True, exist_ok=True)
    words = training_words(found) if augment is None else augment
    page.write_text(render_data_check_page(build_data_check_page(found, told, words, seed)), encoding="utf-8")
    if json:
        print_json(
            {
                **found.to_dict(),
                "findings": [{"severity": f.severity, "kind": f.kind, "text": f.text} for f in told],
                "page": str(page),
            }
        )
        return
    print_table(["class", *found.counts], _rows(found))
    print()
    for finding in told:
        print(f"{finding.severity}: {finding.text}")
    if not told:
        print("nothing is wrong: every file was read, no picture is there twice, the classes are even")
    say(f"\nThe page: {page}")


def training_words(found: "DataCheck") -> str:
    """The augmentation that `reslab train` would take for this data."""
    from reslab.data.transforms.pipeline import Augment
    from reslab.training.options import default_recipe

    if not found.readable:
        return ""
    first = found.readable[0]
    size = Augment(found.words).one(first.images.raw(first.place), 0).shape
    return default_recipe(found.inventory.name, tuple(size), pretrained=True).train_transform


def _rows(found: "DataCheck") -> list[list[str]]:
    names = found.inventory.classes
    rows = [[name, *(format_int(numbers[name]) for numbers in found.counts.values())] for name in names]
    return [*rows, ["all", *(format_int(sum(numbers.values())) for numbers in found.counts.values())]]
