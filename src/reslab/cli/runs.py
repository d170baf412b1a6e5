"""`reslab runs`: list runs, or compare them on a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import (
    JsonFlag,
    Panel,
)
from reslab.cli.output import echo_err, print_json, print_table, write_html
from reslab.report.format import format_duration, format_percent
from reslab.spec.errors import invalid

if TYPE_CHECKING:
    from reslab.report.pages.compare import ComparedRun
    from reslab.training.run import Run


def runs(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN|FOLDER", help="Runs, or folders of runs.", show_default="runs"),
    ] = None,
    html_path: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", rich_help_panel=Panel.OUTPUT, help="Write an HTML page that compares the runs."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List runs with model, dataset, recipe and accuracy, or compare them on an HTML page."""
    requested = paths or [Path("runs")]
    selected = _collect_runs(requested)
    if html_path is not None:
        _write_html(html_path, selected, requested)
    if as_json:
        print_json([_run_payload(run) for run in selected])
        return
    if not selected:
        echo_err(f"no runs in {', '.join(str(path) for path in requested)}; `reslab train` creates one")
        return
    print_table(["run", "network", "data", "recipe", "accuracy", "time"], [_run_row(run) for run in selected])


def _collect_runs(paths: Sequence[Path]) -> list["Run"]:
    """Return the given runs and those in the given folders, each once, in the given order."""
    from reslab.training.run import Run, list_runs

    is_multiple = len(paths) > 1
    by_path: dict[Path, Run] = {}
    for path in paths:
        path_runs = list_runs(path) if not (path / "run.json").is_file() else [Run(path)]
        if is_multiple and not path_runs:
            path_runs = [Run(path)]  # raises the error that says what is wrong
        by_path |= {run.path.resolve(): run for run in path_runs if run.path.resolve() not in by_path}
    return list(by_path.values())


def _write_html(html_path: Path, selected: Sequence["Run"], requested: Sequence[Path]) -> None:
    from reslab.report.pages.compare import ComparePage
    from reslab.report.render import render_page

    if not selected:
        raise invalid(
            "runs to compare", f"none in {', '.join(map(str, requested))}", next_step="`reslab train` creates one"
        )
    title = " and ".join(run.name for run in selected) if len(selected) < 3 else f"{len(selected)} runs"
    run_paths = {run.name: str(run.path) for run in selected}
    write_html(html_path, render_page(ComparePage(title, [_compared_run(run) for run in selected], run_paths)))


def _compared_run(run: "Run") -> "ComparedRun":
    from reslab.report.pages.compare import ComparedRun

    payload = _run_payload(run)
    names = ("name", "data", "recipe", "seed", "top1", "loss", "train_seconds")
    return ComparedRun(**{name: payload[name] for name in names}, model=run.model_spec, log=run.log.records())


def _run_payload(run: "Run") -> dict[str, Any]:
    result = run.result or {}
    return {
        "name": run.name,
        "reference": run.metadata["model"]["reference"],
        "run": str(run.path),
        "model": run.metadata["model"]["name"],
        "data": run.metadata["data"]["name"],
        "recipe": run.metadata["recipe"]["name"],
        "seed": run.metadata["seed"],
        "finished": run.result is not None,
        "top1": result.get("top1"),
        "loss": result.get("loss"),
        "steps": result.get("steps"),
        "train_seconds": result.get("train_seconds"),
    }


def _run_row(run: "Run") -> tuple[str, ...]:
    payload = _run_payload(run)
    outcome = (
        (format_percent(payload["top1"]), format_duration(payload["train_seconds"]))
        if payload["finished"]
        else ("not finished", "–")
    )
    return (str(run.path), run.model_spec, payload["data"], payload["recipe"], *outcome)
