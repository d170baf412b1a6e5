"""`reslab eval`: a run, several together, or a checkpoint trained by others, judged on any split.

What `reslab eval` says of an evaluation: rows for a person, keys for a script.
"""

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
from reslab.cli.output import print_json, print_pairs, print_table, say
from reslab.metrics.classification import macro_average
from reslab.report.format import format_int, format_number, format_percent
from reslab.runtime.torchrun import read_place
from reslab.spec.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from reslab.training.evaluation.loop import Evaluation


def scores(found: "Evaluation") -> list[tuple[str, str]]:
    """Split, accuracy, loss."""
    right = f"{format_int(found.num_correct)} of {format_int(found.num_samples)} right"
    rows = [("split", found.split), ("accuracy", f"{format_percent(found.top1)} ({right})")]
    rows += [("in the first five", format_percent(found.top5))] if found.top5 is not None else []
    return [*rows, ("loss", format_number(found.loss))]


def told(calibration: dict[str, Any]) -> list[tuple[str, str]]:
    """The calibration error, and what a temperature makes of it; nothing where none was asked for."""
    if not calibration:
        return []
    rows = [("calibration error", format_percent(calibration["ece"]))]
    if "temperature" not in calibration:
        why = (
            "none: it is fitted on validation images with a mistake among them (--val-fraction), never on the test set"
        )
        return [*rows, ("temperature", why)]
    images = f"{format_int(calibration['fitted_images'])} images of {calibration['fitted_on']}"
    rows.append(("temperature", f"{format_number(calibration['temperature'])}, fitted on {images}"))
    if "ece_scaled" in calibration:
        how = ", each half judged with the other's temperature" if calibration["in_halves"] else ""
        scaled = f"calibration error {format_percent(calibration['ece_scaled'])}, loss {format_number(calibration['loss_scaled'])}"
        rows.append(("with it", scaled + how))
    return rows


def class_facts(found: "Evaluation") -> dict[str, Any]:
    """`classes`: name, precision, recall, f1 (null where nothing defines one), num_samples; `confusion`, a row a true
    class."""
    names = ("name", "precision", "recall", "f1", "num_samples")
    classes = [{name: getattr(score, name) for name in names} for score in found.class_scores()]
    return {"classes": classes, "confusion": found.confusion}


def class_table(found: "Evaluation") -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns and rows: each class, and the mean of the classes."""
    every = found.class_scores()
    rows = [
        (
            score.name,
            *(format_percent(value, 1) for value in (score.precision, score.recall, score.f1)),
            format_int(score.num_samples),
        )
        for score in every
    ]
    means = [
        format_percent(macro_average([getattr(score, name) for score in every]), 1)
        for name in ("precision", "recall", "f1")
    ]
    return ["class", "precision", "recall", "F1", "images"], [*rows, ("mean", *means, format_int(found.num_samples))]


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
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Precision, recall and F1 of each class, and the confusion matrix.")
    ] = False,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Calibration error, and the temperature that val asks for.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit the temperature on val and keep it with the run, for `predict`.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="All of it on a page, with the worst mistakes.")
    ] = None,
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
    if calibrate:
        _refuse_calibrating(subject, model, {"--views": views, "--preprocess": words, "--mean": mean, "--std": std})
    from reslab.training.evaluation.evaluate import evaluate as judge
    from reslab.training.evaluation.predictions_file import check_answers_path, save_answers

    if predictions is not None:
        check_answers_path(predictions)
    sure = calibration or calibrate or page is not None
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
        "keep_probabilities": predictions is not None or sure,
    }
    found = judge(subject, data, split=split, **options)
    val = _judge_val(found, lambda: judge(subject, data, split="val", **options)) if sure else None
    if calibrate:
        _keep_temperature(subject, val)
    extra = _calibration(found, val) if sure else {}
    if read_place().first:
        if predictions is not None:
            save_answers(predictions, found)
        if page is not None:
            _write_page(page, found, extra, " and ".join(runs or [str(model)]))
    if json:
        print_json({**found.to_dict(), **extra, **(class_facts(found) if per_class else {})})
        return
    print_pairs([*scores(found), *told(extra), *([("page", str(page))] if page else [])])
    if per_class:
        print_table(*class_table(found))


def _judge_val(found: "Evaluation", judge_val: "Callable[[], Evaluation]") -> "Evaluation | None":
    """The answers on the validation split, where there is one."""
    if found.split == "val":
        return found
    try:
        return judge_val()
    except ValueError as error:
        if not str(error).startswith("unknown split"):
            raise
        return None


def _keep_temperature(subject: Any, val: "Evaluation | None") -> None:
    from reslab.training.evaluation.calibration import calibrated, keep_temperature

    if val is None:
        raise invalid(
            "a validation split to fit a temperature on (never the test set)",
            "data without one",
            next_step="train with --val-fraction 0.1",
        )
    kept = calibrated(val)
    if read_place().first:
        keep_temperature(subject, kept)
        images = f"{format_int(kept.num_samples)} validation images"
        say(
            f"temperature {format_number(kept.value)}, fitted on {images}, is kept with the weights for `reslab predict`"
        )


def _calibration(found: "Evaluation", val: "Evaluation | None") -> dict[str, Any]:
    from reslab.training.evaluation.calibration import calibration_facts

    return calibration_facts(found, val)


def _write_page(target: Path, found: "Evaluation", calibration: dict[str, Any], subject: str) -> None:
    from reslab.report.render import render_run_page
    from reslab.training.train import evaluation_page

    facts = {"judged": subject, "split": found.split, "precision": "float32"}
    text = render_run_page(evaluation_page(f"{subject} on {found.split}", found, calibration, facts))
    target.write_text(text, encoding="utf-8")


def _refuse_calibrating(subject: Any, model: str | None, given: dict[str, str | None]) -> None:
    """The temperature kept is that of one network on pictures prepared as `predict` prepares them."""
    several = isinstance(subject, list)
    if model or several:
        got = f"{len(subject)} runs" if several else f"--model {model}"
        raise invalid("one run (or its model.safetensors) with --calibrate", got, next_step="--calibration only tells")
    for option, value in given.items():
        if value:
            raise invalid(
                "--calibrate with pictures as `predict` prepares them",
                f"{option} {value}",
                next_step="--calibration only tells",
            )


def _subject(runs: list[str], model: str | None, pretrained: str | None) -> Any:
    if bool(runs) == bool(model):
        got = "neither" if not runs else f"{', '.join(runs)} and --model {model}"
        raise invalid("runs to judge, or --model NAME with --pretrained FILE", got, next_step=_LIST)
    if model:
        return model
    if pretrained:
        raise invalid(
            "--model NAME with --pretrained", "a run", next_step="a run has its own weights: leave --pretrained out"
        )
    for run in runs:
        if not Path(run).exists():
            raise invalid("the folder of a run, or its weights", f"{run} (nothing there)", next_step=_LIST)
    paths = [Path(run) for run in runs]
    return paths[0] if len(paths) == 1 else paths


def _refuse_settings(settings: dict[str, str], model: str | None) -> None:
    for key, value in settings.items():
        if model is None:
            raise invalid("--set only with --model", f"--set {key}={value}", next_step="a run has its own network")
        if not key.startswith("model."):
            raise invalid("keys of the network in `reslab eval`", f"--set {key}={value}", f"--set model.{key}={value}")
