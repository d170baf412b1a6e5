"""`reslab models [PATTERN]`: the networks by name."""

from typing import Annotated

import typer

from reslab.cli.options import Json
from reslab.cli.output import print_json, print_table
from reslab.report.format import shape
from reslab.spec.arch import Arch
from reslab.spec.errors import unknown
from reslab.spec.zoo import ARCHS, match_names


def models(
    pattern: Annotated[str, typer.Argument(help="A part of the name, or a pattern such as 'resnet*_cifar'.")] = "",
    json: Json = False,
) -> None:
    """List the networks, each with where it comes from."""
    found = [ARCHS[name] for name in match_names(pattern.lower())]
    if not found:
        raise unknown("model", pattern, ARCHS, "`reslab models` lists all")
    if json:
        print_json([_facts(arch) for arch in found])
        return
    print_table(
        ["name", "depth", "input", "classes", "source"],
        [(arch.name, str(arch.depth), shape(arch.input_size), str(arch.num_classes), arch.source) for arch in found],
    )


def _facts(arch: Arch) -> dict[str, object]:
    return {
        "name": arch.name,
        "source": arch.source,
        "depth": arch.depth,
        "input_size": arch.input_size,
        "num_classes": arch.num_classes,
        "order": arch.order,
        "match": arch.match,
        "mix": arch.mix,
    }
