"""`reslab runs`: list, sort, filter and group runs, or compare them on a page."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.lists import flatten_recipe
from reslab.cli.options import JsonFlag, html_option
from reslab.cli.output import echo_err, print_json, print_table, write_page
from reslab.report.format import format_duration, format_metric, format_number, format_shape
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.optim import parse_duration
from reslab.spec.task import all_metrics

if TYPE_CHECKING:
    from reslab.report.pages.compare import ComparedRun
    from reslab.training.run import Run
    from reslab.training.seeds import MetricSummary, SeedGroup

# The columns of the table, and those that a narrow terminal leaves out, the least important first.
_SETTINGS = ("network", "data", "recipe", "epochs", "lr", "size")
_COLUMNS = ("run", *_SETTINGS, "seed", "{metric}", "val", "best", "last", "time")
_GROUP_COLUMNS = ("runs", *_SETTINGS, "n", "{metric}", "std", "loss", "loss std")
_OPTIONAL_COLUMNS = (
    "size",
    "loss std",
    "loss",
    "time",
    "recipe",
    "last",
    "best",
    "data",
    "lr",
    "epochs",
    "val",
    "network",
)


def runs(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN|FOLDER", help="Runs, or folders of runs.", show_default="runs"),
    ] = None,
    group: Annotated[
        bool, typer.Option("--group", help="Group the runs that differ only in their seed: mean, std and n.")
    ] = False,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            metavar="KEY",
            help="Sort by a key of --json or of the recipe, such as top1 or optimizer.lr; -KEY: the largest first.",
            show_default="name",
        ),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="KEY=VALUE",
            help="Keep the runs with this value, such as data=cifar10, 'model=resnet*' or optimizer.lr=0.1.",
        ),
    ] = None,
    html_path: Annotated[
        Path | None,
        html_option("Write an HTML page that compares the runs."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List runs with their settings and accuracy, one by one or grouped by seeds, or compare them on a page."""
    requested = paths or [Path("runs")]
    runs = _collect_runs(requested)
    selected = sort_runs(filter_runs(runs, filters or []), sort)
    if html_path is not None:
        _write_compare_page(html_path, selected, requested)
    if group:
        _print_groups(selected, sort, as_json)
    elif as_json:
        print_json([run_payload(run) for run in selected])
    elif selected:
        _print_runs(selected)
    if not selected and not as_json:
        paths_text = ", ".join(str(path) for path in requested)
        echo_err(f"no run in {paths_text} matches" if runs else f"no runs in {paths_text}; `reslab train` creates one")


def _collect_runs(paths: Sequence[Path]) -> list["Run"]:
    """Return the given runs and those in the given folders, each once, in the given order.

    Those with a broken run.json are left out, with a warning; if there is no other, the first one is the error.
    """
    from reslab.training.run import Run, find_runs

    is_multiple = len(paths) > 1
    by_path: dict[Path, Run] = {}
    errors: list[ValueError] = []
    for path in paths:
        path_runs, path_errors = _open_run(path) if (path / "run.json").is_file() else find_runs(path)
        errors += path_errors
        if is_multiple and not path_runs and not path_errors:
            path_runs = [Run(path)]  # raises the error that says what is wrong
        by_path |= {run.path.resolve(): run for run in path_runs if run.path.resolve() not in by_path}
    if errors and not by_path:
        raise errors[0]
    for error in errors:
        echo_err(f"warning: left out: {error}")
    return list(by_path.values())


def _open_run(path: Path) -> tuple[list["Run"], list[ValueError]]:
    from reslab.training.run import Run

    try:
        return [Run(path)], []
    except ValueError as error:
        return [], [error]


def _name_metric(columns: Sequence[str], runs: Sequence["Run"]) -> list[str]:
    """Return the columns with the heading of the runs' metric, `metric` where they have several."""
    names = {run.task.selection_metric.column for run in runs}
    name = names.pop() if len(names) == 1 else "metric"
    return [column.format(metric=name) for column in columns]


def _print_runs(runs: Sequence["Run"]) -> None:
    """Print a row for each run; the column of the validation split only where a run has one."""
    table = [_name_metric(_COLUMNS, runs), *(_run_row(run) for run in runs)]
    if not any((run.result or {}).get("val_metrics") for run in runs):
        position = _COLUMNS.index("val")
        table = [[*cells[:position], *cells[position + 1 :]] for cells in table]
    print_table(table[0], table[1:], optional=_OPTIONAL_COLUMNS)


def run_payload(run: "Run") -> dict[str, Any]:
    """Return what `reslab runs --json` prints of a run.

    The metrics (`top1`, `loss`) are those of the selected weights on the evaluation split, `val_top1` on the validation
    split, null without one; `best_top1` and `last_top1` those of the evaluations during training, in other tasks of
    their metric.
    """
    result, metadata, metric = run.result or {}, run.metadata, run.task.selection_metric
    values = [record[metric.name] for record in run.log.records() if metric.name in record and "split" in record]
    return {
        "name": run.name,
        "reference": metadata["model"]["reference"],
        "run": str(run.path),
        **_settings_payload(run),
        "seed": metadata["seed"],
        "finished": run.result is not None,
        "task": run.task.name,
        metric.name: run.main_metric,
        f"val_{metric.name}": (result.get("val_metrics") or {}).get(metric.name),
        f"best_{metric.name}": max(values, key=metric.score, default=None),
        f"last_{metric.name}": values[-1] if values else None,
        "loss": result.get("loss"),
        "steps": result.get("steps"),
        "train_seconds": result.get("train_seconds"),
    }


def _settings_payload(run: "Run") -> dict[str, Any]:
    """Return what the runs of a group have in common."""
    model, data, recipe = run.metadata["model"], run.metadata["data"], run.metadata["recipe"]
    steps_per_epoch = max(1, data["num_images"]["train"] // recipe["batch_size"])
    return {
        "model": model["name"],
        "spec": run.model_spec,
        "data": data["name"],
        "recipe": recipe["name"],
        "epochs": parse_duration(recipe["duration"]).num_steps(steps_per_epoch) / steps_per_epoch,
        "lr": recipe["optimizer"]["lr"],
        "batch_size": recipe["batch_size"],
        "image_size": (model["arch"] or {}).get("image_size"),
    }


def filter_runs(runs: Sequence["Run"], filters: Sequence[str]) -> list["Run"]:
    """Return the runs that match every `KEY=VALUE`. VALUE is a number, a text or a pattern with `*`."""
    selected = list(runs)
    for text in filters:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not key or not equals:
            raise invalid("--filter as KEY=VALUE", text, nearest="data=cifar10")
        selected = [run for run in selected if _matches(_lookup(run, key), value)]
    return selected


def _matches(actual: Any, value: str) -> bool:
    if isinstance(actual, int | float) and not isinstance(actual, bool):
        try:
            return float(value) == actual
        except ValueError:
            return False
    if isinstance(actual, list):
        return ",".join(map(str, actual)) == value.replace("x", ",").replace(" ", "")
    return fnmatchcase(str(actual).lower(), value.lower())


def sort_runs(runs: Sequence["Run"], sort: str | None) -> list["Run"]:
    """Return the runs by the value of a key, `-KEY` the largest first; runs without a value come last."""
    if not sort:
        return list(runs)
    values = [(_lookup(run, sort.removeprefix("-")), run) for run in runs]
    known = [pair for pair in values if pair[0] is not None]
    is_numeric = all(isinstance(value, int | float | list) for value, _ in known)
    known.sort(key=lambda pair: pair[0] if is_numeric else str(pair[0]), reverse=sort.startswith("-"))
    return [run for _, run in known] + [run for value, run in values if value is None]


def _lookup(run: "Run", key: str) -> Any:
    """Return the value of a key of `run_payload` or of the recipe. Raises ValueError with the nearest keys."""
    values = {**flatten_recipe(run.recipe), **run_payload(run)}
    metrics = [f"{prefix}{metric.name}" for metric in all_metrics() for prefix in ("", "val_", "best_", "last_")]
    if key not in values and key not in metrics:
        raise unknown_name("key of a run", key, values)
    return values.get(key)


def _setting_cells(payload: Mapping[str, Any]) -> tuple[str, ...]:
    size = "–" if payload["image_size"] is None else format_shape(payload["image_size"])
    return (payload["spec"], payload["data"], payload["recipe"], f"{payload['epochs']:.4g}", f"{payload['lr']:g}", size)


def _run_row(run: "Run") -> tuple[str, ...]:
    payload, metric = run_payload(run), run.task.selection_metric
    value = format_metric(metric, run.main_metric) if payload["finished"] else "not finished"
    curve = [format_metric(metric, payload[f"{name}_{metric.name}"]) for name in ("val", "best", "last")]
    cells = (*_setting_cells(payload), str(payload["seed"]), value, *curve)
    return (str(run.path), *cells, format_duration(payload["train_seconds"]))


def _print_groups(selected: Sequence["Run"], sort: str | None, as_json: bool) -> None:
    """Print the groups, in the order of their first runs or, sorted by a metric, of its means."""
    from reslab.report.pages.compare import compare_summary_text
    from reslab.training.seeds import group_runs

    groups = group_runs(selected)
    key = (sort or "").removeprefix("-")
    if key in {metric.name for metric in all_metrics()}:
        sign = -1 if (sort or "").startswith("-") else 1
        means = {id(group): summary.mean for group in groups if (summary := group.summarize(key)) is not None}
        groups.sort(key=lambda group: sign * means.get(id(group), sign * float("inf")))
    if as_json:
        print_json([_group_payload(group) for group in groups])
    elif groups:
        columns = _name_metric(_GROUP_COLUMNS, selected)
        print_table(columns, [_group_row(group) for group in groups], optional=_OPTIONAL_COLUMNS)
        if len(groups) > 1:
            print(f"\n{compare_summary_text(_compared_runs(selected))}")


def _group_payload(group: "SeedGroup") -> dict[str, Any]:
    first = group.runs[0]
    summaries = {name: group.summarize(name) for name in (first.task.selection_metric.name, "loss")}
    return {
        "name": _group_folder(group),
        "reference": first.metadata["model"]["reference"],
        **_settings_payload(first),
        "runs": [str(run.path) for run in group.runs],
        "seeds": [run.metadata["seed"] for run in group.runs],
        "n": len(group.finished),
        **{name: None if summary is None else vars(summary) for name, summary in summaries.items()},
    }


def _group_row(group: "SeedGroup") -> tuple[str, ...]:
    metric = group.runs[0].task.selection_metric
    summary, loss = group.summarize(metric.name), group.summarize("loss")
    cells = (
        *_spread_cells(summary, lambda value: format_metric(metric, value)),
        *_spread_cells(loss, lambda value: format_number(value, 3)),
    )
    return (_group_folder(group), *_setting_cells(_settings_payload(group.runs[0])), str(len(group.finished)), *cells)


def _spread_cells(summary: "MetricSummary | None", format_value: Any) -> tuple[str, str]:
    if summary is None:
        return "–", "–"
    return format_value(summary.mean), "–" if summary.std is None else format_value(summary.std)


def _group_folder(group: "SeedGroup") -> str:
    """Return the run of a single one, the folder that holds all runs of the group alone, or the first of them."""
    first = group.runs[0]
    if len(group.runs) == 1:
        return str(first.path)
    parents = {run.path.parent for run in group.runs}
    is_seeds_folder = len(parents) == 1 and all(run.path.name == f"seed{run.metadata['seed']}" for run in group.runs)
    return str(first.path.parent) if is_seeds_folder else f"{first.path}, ..."


def _write_compare_page(html_path: Path, selected: Sequence["Run"], requested: Sequence[Path]) -> None:
    from reslab.report.pages.compare import ComparePage

    if not selected:
        raise invalid(
            "runs to compare", f"none in {', '.join(map(str, requested))}", next_step="`reslab train` creates one"
        )
    compared = _compared_runs(selected)
    title = " and ".join(run.name for run in compared) if len(selected) < 3 else f"{len(selected)} runs"
    run_paths = {run.name: str(path.path) for run, path in zip(compared, selected, strict=True)}
    write_page(html_path, ComparePage(title, compared, run_paths))


def _compared_runs(selected: Sequence["Run"]) -> list["ComparedRun"]:
    """Return the runs for the page: `photos/seed0` where names are not unique, and each with the name of its group."""
    from reslab.training.seeds import group_runs

    names = [run.name for run in selected]
    unique_names = {
        run.path: run.name if names.count(run.name) == 1 else f"{run.path.resolve().parent.name}/{run.name}"
        for run in selected
    }
    group_names: dict[Path, str] = {}
    for group in group_runs(selected):
        name = unique_names[group.runs[0].path] if len(group.runs) == 1 else _group_folder(group)
        group_names |= {run.path: name for run in group.runs}
    return [_compared_run(run, unique_names[run.path], group_names[run.path]) for run in selected]


def _compared_run(run: "Run", name: str, group: str) -> "ComparedRun":
    from reslab.report.pages.compare import ComparedRun
    from reslab.training.evaluation.prediction_files import load_correctness

    payload, data = run_payload(run), run.metadata["data"]
    return ComparedRun(
        **{key: payload[key] for key in ("data", "recipe", "seed", "task", "loss", "train_seconds")},
        value=run.main_metric,
        name=name,
        model=run.model_spec,
        log=run.log.records(),
        group=group,
        images=f"{data['fingerprint']} {data['eval_split']}",
        correct=load_correctness(run.predictions_path),
    )
