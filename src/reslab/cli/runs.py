"""`reslab runs [RUN|FOLDER]...`: the runs in a folder, or some runs held against each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import Json
from reslab.cli.output import print_json, print_table, say
from reslab.report.format import format_duration, format_percent
from reslab.spec.errors import invalid

if TYPE_CHECKING:
    from reslab.report.pages.compare import ComparedRun
    from reslab.training.run import Run


def runs(
    places: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN|FOLDER]...", help="Runs, or folders of runs. [default: runs]")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Write a page with the curves of all of them.")
    ] = None,
    json: Json = False,
) -> None:
    """List the runs in a folder, or those named, each with what it trained and how well it did."""
    asked = places or [Path("runs")]
    found = _found(asked)
    if page is not None:
        _write_page(page, found, asked)
    if json:
        print_json([_facts(run) for run in found])
        return
    if not found:
        say(f"no runs in {', '.join(str(place) for place in asked)}; `reslab train` makes one")
        return
    print_table(["run", "network", "data", "recipe", "accuracy", "time"], [_row(run) for run in found])


def _found(places: Sequence[Path]) -> list["Run"]:
    """The runs themselves, and those in folders; each once, in the order asked."""
    from reslab.training.run import Run, list_runs

    several = len(places) > 1
    found: dict[Path, Run] = {}
    for place in places:
        here = list_runs(place) if not (place / "run.json").is_file() else [Run(place)]
        if several and not here:
            here = [Run(place)]  # says what is wrong with it
        found |= {run.path.resolve(): run for run in here if run.path.resolve() not in found}
    return list(found.values())


def _write_page(page: Path, found: Sequence["Run"], asked: Sequence[Path]) -> None:
    from reslab.report.pages.compare import ComparePage
    from reslab.report.render import render_compare_page

    if not found:
        raise invalid("runs to compare", f"none in {', '.join(map(str, asked))}", next_step="`reslab train` makes one")
    title = " and ".join(run.name for run in found) if len(found) < 3 else f"{len(found)} runs"
    facts = {run.name: str(run.path) for run in found}
    page.write_text(render_compare_page(ComparePage(title, [_compared(run) for run in found], facts)), encoding="utf-8")
    say(f"page: {page}")


def _compared(run: "Run") -> "ComparedRun":
    from reslab.report.pages.compare import ComparedRun

    facts = _facts(run)
    names = ("name", "data", "recipe", "seed", "top1", "loss", "train_seconds")
    return ComparedRun(**{name: facts[name] for name in names}, model=run.network, log=run.log.lines())


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
    end = (
        (format_percent(facts["top1"]), format_duration(facts["train_seconds"]))
        if facts["finished"]
        else ("not finished", "–")
    )
    return (str(run.path), run.network, facts["data"], facts["recipe"], *end)
