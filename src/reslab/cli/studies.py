"""`reslab studies`: the tables and figures that can be run."""

from typing import Annotated

import typer

from reslab.cli.options import Json
from reslab.cli.output import print_json, print_table
from reslab.spec.errors import unknown


def studies(
    pattern: Annotated[str, typer.Argument(help="A part of the name, such as he2016.")] = "",
    json: Json = False,
) -> None:
    """List the studies: tables and figures of papers, each with where it is printed."""
    from reslab.spec.papers import STUDIES

    found = [study for study in STUDIES.values() if pattern.lower() in study.name]
    if not found:
        raise unknown("study", pattern, STUDIES, "`reslab studies` lists all")
    if json:
        print_json(
            [
                {
                    "name": study.name,
                    "source": study.source,
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
        [(study.name, str(len(study.rows)), str(len(study.claims)), study.title, study.source) for study in found],
    )
