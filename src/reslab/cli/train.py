"""`reslab train`: train a network on a dataset by a recipe, into the folder of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.option_groups import ComputeOptions, NetworkOptions, TrainingDataOptions
from reslab.cli.options import JsonFlag, Panel, output_option
from reslab.cli.output import print_result
from reslab.cli.overrides import (
    ConfigFile,
    RecipeName,
    TrainOverrides,
    check_overrides,
    merge_config,
    parse_overrides,
    read_config_file,
    require_model_and_recipe,
)
from reslab.cli.progress import ProgressDisplay
from reslab.report.format import (
    format_duration,
    format_metric,
    format_metric_spread,
    format_number,
    format_speed,
    metric_rows,
)
from reslab.runtime.allocator import keep_freed_memory
from reslab.runtime.torchrun import read_distributed_env
from reslab.spec.task import LOSS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reslab.spec.task import Task
    from reslab.training.run import Run


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """The recipe, and the values of it that are changed; the seeds to train with."""

    recipe: RecipeName = None
    epochs: Annotated[
        float | None,
        typer.Option(
            "--epochs",
            metavar="FLOAT",
            rich_help_panel=Panel.TRAINING,
            help="Number of epochs.",
            show_default="the recipe's duration",
        ),
    ] = None
    batch_size: Annotated[
        str | None,
        typer.Option(
            "-b",
            "--batch-size",
            metavar="INTEGER|auto",
            rich_help_panel=Panel.TRAINING,
            help="Global batch size; auto keeps the recipe's and accumulates gradients to fit in memory.",
            show_default="the recipe's",
        ),
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            metavar="FLOAT",
            rich_help_panel=Panel.TRAINING,
            help="Learning rate, for the batch size in use.",
            show_default="the recipe's",
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="INTEGER", rich_help_panel=Panel.TRAINING, help="Random seed.", show_default="0"
        ),
    ] = None
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            metavar="INTEGER",
            min=1,
            rich_help_panel=Panel.TRAINING,
            help="Train this many seeds, from --seed on, in OUTPUT/seed0, OUTPUT/seed1, ...; finished ones are kept.",
            show_default="one run",
        ),
    ] = None
    config_path: ConfigFile = None
    overrides: TrainOverrides = None

    @property
    def flags(self) -> dict[str, Any]:
        """The keys of the recipe that have a flag, with the values that were given."""
        batch_size = self.batch_size or ""
        flags = {
            "duration": None if self.epochs is None else f"{self.epochs:g} epochs",
            "batch_size": int(batch_size) if batch_size.isdecimal() else None,
            "optimizer.lr": self.lr,
        }
        return {key: value for key, value in flags.items() if value is not None}

    @property
    def seed_list(self) -> list[int]:
        """The seeds of `--seeds`."""
        first = self.seed or 0
        return list(range(first, first + (self.seeds or 0)))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `train` for the flags."""
        return {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The folder of the run, and what is written into it and printed."""

    output: Annotated[
        Path | None,
        output_option("DIR", "Folder of the run.", "runs/TIME-MODEL-DATA"),
    ] = None
    resume: Annotated[
        bool,
        typer.Option("--resume", rich_help_panel=Panel.OUTPUT, help="Resume the run in --output, which must exist."),
    ] = False
    save_every: Annotated[
        str | None,
        typer.Option(
            "--save-every",
            metavar="DURATION",
            rich_help_panel=Panel.OUTPUT,
            help="Keep a snapshot of the weights every '1 epoch' or '500 steps'.",
        ),
    ] = None
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", rich_help_panel=Panel.OUTPUT, help="Write the metrics for TensorBoard too."),
    ] = False
    as_json: JsonFlag = False

    def check(self) -> None:
        """Raise ValueError for a run to resume that does not exist; a job that torchrun restarts may have none yet."""
        if self.resume and not read_distributed_env().restart_count:
            from reslab.training.run_folder import require_run_folder

            require_run_folder(self.output)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `train` for what is written."""
        return {"output": self.output, "snapshot_every": self.save_every, "tensorboard": self.tensorboard}


def train(
    *,
    data: TrainingDataOptions,
    network: NetworkOptions,
    recipe: RecipeOptions,
    run: RunOptions,
    compute: ComputeOptions,
) -> None:
    """Train a network. Without arguments: a small residual network on scikit-learn's handwritten digits."""
    keep_freed_memory()
    dataset = data.dataset()
    require_model_and_recipe(network.model, recipe.recipe, data.reading.labels.task)
    run.check()
    overrides = _merge_overrides(dataset, data, network, recipe)
    if not run.resume:
        check_overrides({**overrides, **recipe.flags}, network.model, recipe.recipe)
    options: dict[str, Any] = {"overrides": overrides, "image_size": data.image_size, **vars(compute)}
    for group in (data, network, recipe, run):
        options |= group.arguments()
    with data.reading.limits(), ProgressDisplay() as display:
        _train(network.model, dataset, recipe, run, options={**options, "on_log": display})


def _merge_overrides(
    dataset: str | None, data: TrainingDataOptions, network: NetworkOptions, recipe: RecipeOptions
) -> dict[str, Any]:
    """Return the values of --set and the config file, those of the file without what a flag sets."""
    flags = {
        **recipe.flags,
        "model": network.model,
        "data": dataset,
        "val_fraction": data.reading.val_fraction,
        "pretrained": network.pretrained,
        "image_size": data.image_size,
    }
    return merge_config(read_config_file(recipe.config_path), parse_overrides(recipe.overrides), flags)


def _train(
    model: str | None, dataset: str | None, recipe: RecipeOptions, run: RunOptions, *, options: dict[str, Any]
) -> None:
    """Train one run or, with --seeds, several, and print the result."""
    from reslab.training.seeds import train_seeds
    from reslab.training.train import train as train_run

    if recipe.seeds is None:
        result = train_run(model, dataset, recipe.recipe, seed=recipe.seed, resume=run.resume, **options)
        print_result(train_payload(result), train_rows(result), as_json=run.as_json)
    else:
        results = train_seeds(model, dataset, recipe.recipe, seeds=recipe.seed_list, **options)
        print_result(seeds_payload(results), seeds_rows(results), as_json=run.as_json)


def train_payload(run: "Run") -> dict[str, Any]:
    """Return the value of `reslab train --json`."""
    result = run.result
    assert result is not None
    metrics = {name: result[name] for name in _metric_names(run) if name in result}
    speeds = ("images_per_second", "compute_images_per_second", "waiting_fraction")
    names = ("train_seconds", "steps", "stop_reason", *speeds)
    values = {name: value for name, value in result.items() if name in names or name.startswith("train_")}
    val_metrics = result.get("val_metrics")
    return {
        "run": str(run.path),
        "task": run.task.name,
        "metrics": metrics,
        "val_metrics": val_metrics,
        **metrics,
        **values,
    }


def _metric_names(run: "Run") -> list[str]:
    return [*(metric.name for metric in run.task.metrics), "loss"]


def seeds_payload(runs: "Sequence[Run]") -> dict[str, Any]:
    """Return the value of `reslab train --seeds N --json`: each run as without --seeds, and every metric's summary."""
    from reslab.training.seeds import SeedGroup

    group = SeedGroup(tuple(runs))
    summaries = {name: group.summarize(name) for name in _metric_names(runs[0])}
    return {
        "folder": str(runs[0].path.parent),
        "seeds": [run.metadata["seed"] for run in runs],
        "metrics": {name: vars(summary) for name, summary in summaries.items() if summary is not None},
        "runs": [train_payload(run) for run in runs],
    }


def seeds_rows(runs: "Sequence[Run]") -> list[tuple[str, str]]:
    """Return the rows printed at the end of --seeds: mean and standard deviation, each seed's metric, the folder."""
    from reslab.training.seeds import SeedGroup

    folder, metric = runs[0].path.parent, runs[0].task.selection_metric
    summary = SeedGroup(tuple(runs)).summarize(metric.name)
    assert summary is not None
    rows = [(metric.title, format_metric_spread(metric, summary.mean, summary.std, summary.n))]
    rows += [(f"seed {run.metadata['seed']}", f"{format_metric(metric, run.main_metric)}: {run.path}") for run in runs]
    return [*rows, ("next", f"reslab runs {folder} --group   or   reslab eval {runs[0].path}")]


def train_rows(run: "Run") -> list[tuple[str, str]]:
    """Return the rows printed at the end: metrics, weights, time, speed and paths."""
    result = run.result
    assert result is not None
    rows = [
        ("split", str(result["split"])),
        *metric_rows(run.task, result),
        *_val_metric_rows(run.task, result),
        ("weights", f"{result['selection_text']}: {run.weights_path}"),
        *_train_metric_rows(run.task, result),
        ("training", f"{format_duration(result['train_seconds'])}, {format_speed(result)}"),
        ("report", str(run.report_path)),
        ("next", f"reslab predict {run.path} IMAGE   or   reslab eval {run.path}"),
    ]
    return rows


def _val_metric_rows(task: "Task", result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the row of the metric on the validation images, where the other metrics are those of the test images."""
    val_metrics, metric = result.get("val_metrics"), task.selection_metric
    if val_metrics is None or result["split"] == "val":
        return []
    return [("validation", f"{metric.title} {format_metric(metric, val_metrics[metric.name])}, to choose settings by")]


def _train_metric_rows(task: "Task", result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the row of the metrics on the training images (final weights, running), if the recipe evaluates them."""
    final, running, metric = task.selection_metric, task.train_metric, "train_{}_running"
    if f"train_{final.name}" not in result:
        return []
    running_text = f"loss {format_number(result['train_loss_running'])}"
    if running != LOSS:
        running_text = f"{format_metric(running, result[metric.format(running.name)])}, {running_text}"
    final_text = format_metric(final, result[f"train_{final.name}"])
    if result.get("train_loss") is not None:
        final_text += f", loss {format_number(result['train_loss'])}"
    return [("training set", f"{final_text} (final weights); {running_text} (running mean of the last epoch)")]
