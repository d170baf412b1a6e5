"""`reslab models [PATTERN]`: the networks by name."""

from fnmatch import fnmatchcase
from typing import Annotated

import typer

from reslab.cli.options import Json
from reslab.cli.output import print_json, print_table
from reslab.report.tables import shape
from reslab.spec.arch import Arch
from reslab.spec.errors import unknown
from reslab.spec.zoo import ARCHS


def models(
    pattern: Annotated[str, typer.Argument(help="A part of the name, or a pattern such as 'resnet*_cifar'.")] = "",
    json: Json = False,
) -> None:
    """List the networks, each with where it comes from."""
    found = matching(pattern)
    if not found:
        raise unknown("model", pattern, ARCHS, "`reslab models` lists all")
    if json:
        print_json([_facts(arch) for arch in found])
        return
    print_table(
        ["name", "depth", "input", "classes", "source"],
        [(arch.name, str(arch.depth), shape(arch.input_size), str(arch.num_classes), arch.source) for arch in found],
    )


def matching(pattern: str) -> list[Arch]:
    """The networks whose name holds `pattern`, or matches it where it has a wildcard."""
    wild = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return [arch for name, arch in ARCHS.items() if fnmatchcase(name, wild.lower())]


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
