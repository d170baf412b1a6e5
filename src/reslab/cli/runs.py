"""`reslab runs [FOLDER]`: the runs in a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import Json
from reslab.cli.output import print_json, print_table, say
from reslab.report.tables import percent, seconds

if TYPE_CHECKING:
    from reslab.training.run import Run


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where the runs are.")] = Path("runs"),
    json: Json = False,
) -> None:
    """List the runs in a folder, each with what it trained and how well it did."""
    from reslab.training.run import list_runs

    found = list_runs(folder)
    if json:
        print_json([_facts(run) for run in found])
        return
    if not found:
        say(f"no runs in {folder}; `reslab train` makes one")
        return
    print_table(["run", "network", "data", "recipe", "accuracy", "time"], [_row(run) for run in found])


def _facts(run: "Run") -> dict[str, Any]:
    result = run.result or {}
    return {
        "name": run.name,
        "source": run.facts["model"]["source"],
        "run": str(run.path),
        "model": run.facts["model"]["name"],
        "data": run.facts["data"]["name"],
        "recipe": run.facts["recipe"]["name"],
        "seed": run.facts["seed"],
        "finished": run.result is not None,
        "top1": result.get("top1"),
        "loss": result.get("loss"),
        "steps": result.get("steps"),
        "train_seconds": result.get("train_seconds"),
    }


def _row(run: "Run") -> tuple[str, ...]:
    facts = _facts(run)
    end = (percent(facts["top1"]), seconds(facts["train_seconds"])) if facts["finished"] else ("not finished", "–")
    return (str(run.path), facts["model"], facts["data"], facts["recipe"], *end)
