"""`reslab eval`: a run, several together, or a checkpoint trained by others, judged on any split."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import (
    Batch,
    DataDir,
    Device,
    Json,
    ModelName,
    Pretrained,
    Settings,
    SkipBadImages,
    ValFraction,
    Workers,
    read_numbers,
    read_pretrained,
    read_settings,
)
from reslab.cli.output import print_json, print_pairs
from reslab.report.tables import count, number, percent
from reslab.spec.errors import refuse
from reslab.training.torchrun import read_place

if TYPE_CHECKING:
    from collections.abc import Callable

    from reslab.training.evaluation import Evaluation

_LIST = "`reslab runs` lists the runs here"


def evaluate(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs or weights; of several, probabilities are averaged."),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", metavar="train|val|test", help="[default: held out]")] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="NAME|FOLDER", help="[default: the run's own]")] = None,
    data_dir: DataDir = None,
    model: ModelName = None,
    pretrained: Pretrained = None,
    mean: Annotated[str | None, typer.Option("--mean", metavar="M...", help="One number a channel, of x/255.")] = None,
    std: Annotated[str | None, typer.Option("--std", metavar="S...", help="One number a channel, of x/255.")] = None,
    words: Annotated[
        str | None, typer.Option("--preprocess", metavar="WORDS", help="Such as 'resize(256) center-crop(256)'.")
    ] = None,
    views: Annotated[
        str, typer.Option("--views", metavar="WORDS", help="Averaged: flip, ten-crop(224), scales(224,256).")
    ] = "",
    predictions: Annotated[
        Path | None, typer.Option("--predictions", metavar="FILE", help="Every answer, into a .csv or .npz.")
    ] = None,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Calibration error, and the temperature that val asks for.")
    ] = False,
    batch: Batch = None,
    val_fraction: ValFraction = None,
    skip_bad_images: SkipBadImages = False,
    device: Device = "auto",
    workers: Workers = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Judge runs, or with --model and --pretrained a checkpoint of others, in float32: every image once."""
    subject = _subject(runs or [], model, pretrained)
    chosen = read_settings(settings)
    _refuse_settings(chosen, model)
    from reslab.training.answers import check_answers_path, save_answers
    from reslab.training.judging import evaluate as judge

    if predictions is not None:
        check_answers_path(predictions)
    options: dict[str, Any] = {
        "pretrained": read_pretrained(pretrained),
        "settings": chosen,
        "mean": read_numbers(mean, "--mean"),
        "std": read_numbers(std, "--std"),
        "words": words,
        "views": views,
        "batch": batch,
        "data_dir": data_dir,
        "val_fraction": val_fraction,
        "skip_bad_images": skip_bad_images,
        "device": device,
        "workers": workers,
        "share": True,
        "keep_probabilities": predictions is not None or calibration,
    }
    found = judge(subject, data, split=split, **options)
    if predictions is not None and read_place().first:
        save_answers(predictions, found)
    extra = _calibration(found, lambda: judge(subject, data, split="val", **options)) if calibration else {}
    if json:
        print_json({**found.to_dict(), **extra})
    else:
        print_pairs([*_scores(found), *_told(extra)])


def _scores(found: "Evaluation") -> list[tuple[str, str]]:
    right = f"{count(found.num_correct)} of {count(found.num_samples)} right"
    rows = [("split", found.split), ("accuracy", f"{percent(found.top1)} ({right})")]
    rows += [("in the first five", percent(found.top5))] if found.top5 is not None else []
    return [*rows, ("loss", number(found.loss))]


def _calibration(found: "Evaluation", judge_val: "Callable[[], Evaluation]") -> dict[str, Any]:
    """The calibration error and its diagram; with a validation split, also the temperature it asks for."""
    from reslab.spec.values import to_dict
    from reslab.training.calibration import calibrate, reliability

    assert found.probabilities is not None
    assert found.labels is not None
    shown = reliability(found.probabilities, found.labels)
    known = {"ece": shown.ece, "mce": shown.mce, "reliability": to_dict(shown.bins)}
    if found.split == "val":
        return known
    try:
        fitted = judge_val()
    except ValueError as error:
        if not str(error).startswith("unknown split"):
            raise
        return known
    after = calibrate(fitted, found)
    return {**known, "temperature": after.temperature, "ece_scaled": after.after.ece, "loss_scaled": after.loss_after}


def _told(extra: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("calibration error", percent(extra["ece"]))] if extra else []
    if "temperature" in extra:
        scaled = f"{percent(extra['ece_scaled'])}, loss {number(extra['loss_scaled'])}"
        rows.append((f"at temperature {number(extra['temperature'])}", scaled))
    elif extra:
        rows.append(("temperature", "none: it is fitted on a validation split (--val-fraction), judged on another"))
    return rows


def _subject(runs: list[str], model: str | None, pretrained: str | None) -> Any:
    if bool(runs) == bool(model):
        got = "neither" if not runs else f"{', '.join(runs)} and --model {model}"
        raise refuse("runs to judge, or --model NAME with --pretrained FILE", got, next_step=_LIST)
    if model:
        return model
    if pretrained:
        raise refuse(
            "--model NAME with --pretrained", "a run", next_step="a run has its own weights: leave --pretrained out"
        )
    for run in runs:
        if not Path(run).exists():
            raise refuse("the folder of a run, or its weights", f"{run} (nothing there)", next_step=_LIST)
    paths = [Path(run) for run in runs]
    return paths[0] if len(paths) == 1 else paths


def _refuse_settings(settings: dict[str, str], model: str | None) -> None:
    for key, value in settings.items():
        if model is None:
            raise refuse("--set only with --model", f"--set {key}={value}", next_step="a run has its own network")
        if not key.startswith("model."):
            raise refuse("keys of the network in `reslab eval`", f"--set {key}={value}", f"--set model.{key}={value}")
