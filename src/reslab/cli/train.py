"""`reslab train`: a network, data and a recipe to the folder of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import (
    DataArgument,
    DataDir,
    DataName,
    Device,
    Json,
    ModelName,
    NumImages,
    Pretrained,
    RecipeName,
    Settings,
    SettingsFile,
    SkipBadImages,
    ValFraction,
    Workers,
    merged,
    one_data_set,
    read_pretrained,
    read_settings,
    read_settings_file,
)
from reslab.cli.output import print_json, print_pairs
from reslab.cli.progress import Display
from reslab.report.format import format_duration, format_int, format_number, format_percent

if TYPE_CHECKING:
    from reslab.training.run import Run


def train(
    folder: DataArgument = None,
    data: DataName = None,
    model: ModelName = None,
    recipe: RecipeName = None,
    data_dir: DataDir = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Length, in place of the recipe's.")] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            "-b", "--batch-size", metavar="N|auto", help="Images a step; auto: the recipe's, in fitting parts."
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate, for the batch that is used.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Everything random follows from it. (default: 0)")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="The run's folder. (default: runs/TIME-MODEL-DATA)")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
    pretrained: Pretrained = None,
    val_fraction: ValFraction = None,
    num_images: NumImages = None,
    skip_bad_images: SkipBadImages = False,
    device: Device = "auto",
    workers: Workers = None,
    snapshots: Annotated[
        str | None, typer.Option("--snapshots", metavar="LENGTH", help="Keep the weights every '1 epoch', '500 steps'.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the log's numbers for TensorBoard too (an extra).")
    ] = False,
    config: SettingsFile = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Train a network; with no argument at all, a small residual network on scikit-learn's handwritten digits."""
    place = one_data_set(folder, data)
    from reslab.training.options import read_batch
    from reslab.training.train import train as train_run

    flags = {"model": model, "data": data or folder, "val_fraction": val_fraction, "pretrained": pretrained}
    chosen = merged(read_settings_file(config), read_settings(settings), epochs, read_batch(batch)[0], lr, **flags)

    with Display() as display:
        run = train_run(
            model,
            place,
            recipe,
            seed=seed,
            output=output,
            resume=resume,
            epochs=epochs,
            batch=batch,
            lr=lr,
            settings=chosen,
            pretrained=read_pretrained(pretrained),
            data_dir=data_dir,
            val_fraction=val_fraction,
            num_images=num_images,
            skip_bad_images=skip_bad_images,
            device=device,
            workers=workers,
            show=display,
            snapshots=snapshots,
            tensorboard=tensorboard,
        )
    if json:
        print_json(facts_of(run))
    else:
        print_pairs(summary(run))


_ON_TRAINING = ("train_average_loss", "train_average_top1", "train_loss", "train_top1")


def facts_of(run: "Run") -> dict[str, Any]:
    """What `reslab train --json` promises: run, top1, loss, train_seconds, images_per_second, steps."""
    assert run.result is not None
    names = ["top1", "loss", "train_seconds", "images_per_second", "steps"]
    names += [name for name in ("images_per_second_without_loading", *_ON_TRAINING) if name in run.result]
    return {"run": str(run.path), **{name: run.result[name] for name in names}}


def summary(run: "Run") -> list[tuple[str, str]]:
    """The end of a run in a few lines: how good, how chosen, how long, and where everything is."""
    result = run.result
    assert result is not None
    right = f"{format_int(result['num_correct'])} of {format_int(result['num_samples'])} right"
    lines = [
        (
            "accuracy",
            f"{format_percent(result['top1'])} on {result['split']} ({right}), loss {format_number(result['loss'])}",
        ),
        ("weights", f"{result['chosen']}: {run.weights_path}"),
        *_on_training(result),
        ("training", f"{format_duration(result['train_seconds'])}, {_speed(result)}"),
        ("report", str(run.report_path)),
        ("next", f"reslab predict {run.path} IMAGE   or   reslab eval {run.path}"),
    ]
    return lines


def _on_training(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Where the recipe has the training images judged: both things that go by the name of training accuracy."""
    if "train_top1" not in result:
        return []
    along = f"{format_percent(result['train_average_top1'])}, loss {format_number(result['train_average_loss'])}"
    judged = f"{format_percent(result['train_top1'])}, loss {format_number(result['train_loss'])}"
    return [("on training", f"{judged} of the finished weights; {along} on average along the last epoch")]


def _speed(result: dict[str, Any]) -> str:
    told = f"{format_int(round(result['images_per_second']))} images/s"
    alone = result.get("images_per_second_without_loading")
    return told if alone is None else f"{told} ({format_int(round(alone))} without loading)"
