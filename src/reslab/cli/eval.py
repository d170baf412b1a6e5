"""`reslab eval`: evaluate a run, an ensemble of runs, or a third-party checkpoint on any split."""

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.evaluation_report import EvaluationReport
from reslab.cli.option_groups import ComputeOptions, DatasetOptions
from reslab.cli.options import (
    AllowCode,
    AllowExtra,
    DataDir,
    ImageSize,
    ModelName,
    Panel,
    Pretrained,
    parse_channel_values,
    parse_pretrained,
)
from reslab.cli.output import echo_err
from reslab.cli.overrides import (
    ModelOverrides,
    parse_model_overrides,
    parse_overrides,
    require_model_and_recipe,
)
from reslab.data.dataset_names import require_dataset_name
from reslab.report.format import format_int, format_number
from reslab.runtime.torchrun import read_distributed_env
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind, find_task

if TYPE_CHECKING:
    from reslab.training.evaluation.evaluation import Evaluation


_LIST_RUNS_STEP = "`reslab runs` lists the runs here"


@dataclass(frozen=True, kw_only=True)
class EvaluatedDataOptions:
    """The images to evaluate on, or the detections to evaluate in place of a network."""

    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="train|val|test",
            rich_help_panel=Panel.DATA,
            help="Split to evaluate on.",
            show_default="the evaluation split",
        ),
    ] = None
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME|PATH",
            rich_help_panel=Panel.DATA,
            help="Dataset to evaluate on.",
            show_default="the run's own",
        ),
    ] = None
    data_dir: DataDir = None
    results: Annotated[
        Path | None,
        typer.Option(
            "--results",
            metavar="FILE",
            rich_help_panel=Panel.DATA,
            help="Detections to evaluate instead of a run: COCO's .json, VOC's folder, or the .csv of --predictions.",
        ),
    ] = None
    reading: DatasetOptions

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `evaluate` for these options, without the dataset and the split."""
        return {"data_dir": self.data_dir, **self.reading.arguments()}


@dataclass(frozen=True, kw_only=True)
class EvaluatedModelOptions:
    """The runs to evaluate, or the network and its weights."""

    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Runs or their weights. Several are an ensemble (mean probabilities)."),
    ] = None
    model: ModelName = None
    pretrained: Pretrained = None
    allow_code: AllowCode = False
    allow_extra: AllowExtra = False
    overrides: ModelOverrides = None

    @property
    def names(self) -> list[str]:
        """The runs, or the model."""
        return self.runs or [str(self.model)]

    def source(self) -> Any:
        """Return the model of `evaluate`. Raises ValueError for options that do not name one."""
        runs, model = self.runs or [], self.model
        if model and len(runs) == 1 and not self.pretrained and ":" in model:  # the factory of a run, named again
            return Path(runs[0])
        if bool(runs) == bool(model):
            got = "neither" if not runs else f"{', '.join(runs)} and --model {model}"
            raise invalid("runs to evaluate, or --model NAME with --pretrained FILE", got, next_step=_LIST_RUNS_STEP)
        if model:
            return model
        if self.pretrained:
            step = "leave --pretrained out: a run has its own weights"
            raise invalid("--model NAME with --pretrained", "a run", next_step=step)
        for run in runs:
            if not Path(run).exists():
                raise invalid("the folder of a run, or its weights", f"{run} (no such path)", next_step=_LIST_RUNS_STEP)
        paths = [Path(run) for run in runs]
        return paths[0] if len(paths) == 1 else paths

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `evaluate` for these options."""
        if self.overrides and self.model is None:
            step = "a run has its own architecture"
            raise invalid("--set only with --model", f"--set {self.overrides[0]}", next_step=step)
        parse_model_overrides(self.overrides)
        return {
            "pretrained": parse_pretrained(self.pretrained),
            "module": self.model if self.runs else None,
            "allow_code": self.allow_code,
            "allow_extra": self.allow_extra,
            "overrides": parse_overrides(self.overrides),
        }

    def by_flag(self) -> dict[str, Any]:
        """Return the options that name a network, by flag."""
        return {"RUN": self.runs, "--model": self.model, "--pretrained": self.pretrained, "--set": self.overrides}


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How images become the network's input: the values that the author of the weights states, size and views."""

    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="FLOAT...",
            rich_help_panel=Panel.DATA,
            help="Mean of each channel, of pixels scaled to [0, 1] (or to --pixel-max).",
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(
            "--std",
            metavar="FLOAT...",
            rich_help_panel=Panel.DATA,
            help="Standard deviation of each channel, of pixels scaled to [0, 1] (or to --pixel-max).",
        ),
    ] = None
    mean_image: Annotated[
        Path | None,
        typer.Option(
            "--mean-image",
            metavar="FILE",
            rich_help_panel=Panel.DATA,
            help="Mean of each pixel, subtracted instead of --mean: .npy, or .binaryproto of Caffe.",
        ),
    ] = None
    channel_order: Annotated[
        str | None,
        typer.Option(
            "--channel-order",
            metavar="rgb|bgr",
            rich_help_panel=Panel.DATA,
            help="Order of the color channels in the network's input, --mean, --std and --mean-image.",
            show_default="rgb",
        ),
    ] = None
    pixel_max: Annotated[
        float,
        typer.Option(
            "--pixel-max",
            metavar="FLOAT",
            rich_help_panel=Panel.DATA,
            help="Value of a white pixel in --mean, --std and --mean-image: 1, or 255 as in Caffe.",
        ),
    ] = 1.0
    eval_transform: Annotated[
        str | None,
        typer.Option(
            "--eval-transform",
            metavar="TRANSFORMS",
            rich_help_panel=Panel.DATA,
            help="Evaluation transform, such as 'resize(256) center-crop(224)'.",
            show_default="the model's own",
        ),
    ] = None
    image_size: ImageSize = None
    tta: Annotated[
        str,
        typer.Option(
            "--tta",
            metavar="VIEWS",
            rich_help_panel=Panel.DATA,
            help="Test-time augmentation: flip, vertical-flip, shift(1), ten-crop(224), scales(224,256).",
            show_default=False,
        ),
    ] = ""
    save_weights: Annotated[
        Path | None,
        typer.Option(
            "--save-weights",
            metavar="FILE",
            rich_help_panel=Panel.OUTPUT,
            help="Save the network with this preprocessing and the classes, for predict, export and serve.",
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `evaluate` for these options."""
        channel_values = {name: parse_channel_values(getattr(self, name), f"--{name}") for name in ("mean", "std")}
        return {**vars(self), **channel_values}

    def by_flag(self) -> dict[str, Any]:
        """Return the options that change the preprocessing, by flag."""
        own = {"--tta": self.tta, "--eval-transform": self.eval_transform, "--size": self.image_size}
        values = {"--mean": self.mean, "--std": self.std, "--mean-image": str(self.mean_image or "")}
        return {**own, **values, "--channel-order": self.channel_order}


def evaluate(
    *,
    data: EvaluatedDataOptions,
    models: EvaluatedModelOptions,
    inputs: InputOptions,
    report: EvaluationReport,
    batch_size: Annotated[
        int,
        typer.Option("-b", "--batch-size", metavar="INTEGER", min=1, rich_help_panel=Panel.COMPUTE, help="Batch size."),
    ] = 256,
    compute: ComputeOptions,
) -> None:
    """Evaluate one or more runs, or a third-party checkpoint (--model with --pretrained), in float32."""
    report.check()
    if data.results is not None:
        of_network = {**models.by_flag(), **inputs.by_flag(), **report.by_flag(), "--save-weights": inputs.save_weights}
        _check_without_network(data.results, data.data, of_network)
        with data.reading.limits():
            report.show(_evaluate_file(data.results, data), None, [data.results.name])
        return
    _check_run_tasks(report, models.runs or [])
    source, arguments = models.source(), models.arguments()
    if report.save_temperature:
        _check_calibration_options(source, models.model, inputs.by_flag())
    if data.data is not None:
        require_dataset_name(data.data)
    require_model_and_recipe(models.model, None, data.reading.labels.task)
    arguments |= {**inputs.arguments(), **data.arguments(), **vars(compute), "batch_size": batch_size}
    evaluation, val_evaluation = _evaluate(source, data, report, arguments)
    if report.save_temperature:
        _save_temperature(source, val_evaluation)
    report.show(evaluation, val_evaluation, models.names)


def _evaluate(
    source: Any, data: EvaluatedDataOptions, report: EvaluationReport, arguments: dict[str, Any]
) -> "tuple[Evaluation, Evaluation | None]":
    """Evaluate the split, and the validation split if the report needs it and the data have one."""
    from reslab.data.dataset import UnknownSplitError
    from reslab.training.evaluation.evaluate import evaluate as evaluate_models

    evaluate_split = functools.partial(
        evaluate_models, source, data.data, distributed=True, keep_predictions=report.keeps_predictions, **arguments
    )
    with data.reading.limits():
        evaluation = evaluate_split(split=data.split)
        if not report.needs_calibration or evaluation.split == "val":
            return evaluation, evaluation if report.needs_calibration else None
        with contextlib.suppress(UnknownSplitError):
            return evaluation, evaluate_split(split="val")
    return evaluation, None


def _check_run_tasks(report: EvaluationReport, runs: list[str]) -> None:
    """Raise ValueError, before an evaluation, for a calibration or detections in .json that a run cannot have."""
    needs_boxes = report.predictions is not None and report.predictions.suffix.lower() == ".json"
    calibrates = report.calibration or report.save_temperature
    if not (needs_boxes or calibrates):
        return
    from reslab.training.run import Run

    for path in runs:
        if not (Path(path) / "run.json").is_file():
            continue
        task = find_task(Run(path).metadata["task"]["name"])
        if needs_boxes and task.target is not TargetKind.BOXES:
            assert report.predictions is not None
            required = f"a .csv or .npz file for the predictions of {task.name}"
            raise invalid(required, report.predictions, str(report.predictions.with_suffix(".csv")))
        if calibrates and task.target is not TargetKind.CLASS:
            option = "--save-temperature" if report.save_temperature else "--calibration"
            raise invalid(f"a classification for {option}", f"{path}, a run of the task {task.name}")


def _evaluate_file(results: Path, data: EvaluatedDataOptions) -> "Evaluation":
    from reslab.training.evaluation.evaluate_results import evaluate_results
    from reslab.training.run_data import DataOptions

    return evaluate_results(results, data.data, split=data.split, options=DataOptions(**data.arguments()))


def _check_without_network(results: Path, data: str | None, of_network: dict[str, Any]) -> None:
    """Raise ValueError for options of a network beside a file of detections, or without data."""
    for option, value in of_network.items():
        if value:
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            raise invalid("--results FILE without a network", f"{option} {shown}", next_step="leave one of them out")
    if data is None:
        required = f"the data whose images {results.name} is of"
        raise invalid(required, "none", next_step="add --data FOLDER, or a .json file of COCO's annotations")
    require_dataset_name(data)


def _save_temperature(model_source: Any, val_evaluation: "Evaluation | None") -> None:
    from reslab.training.checkpoint import save_temperature
    from reslab.training.evaluation.calibration import TemperatureNotBetterError
    from reslab.training.tasks.classification import fit_validation_temperature, require_classification

    if val_evaluation is None:
        raise invalid(
            "a validation split to fit a temperature on (never the test set)",
            "data without one",
            next_step="train with --val-fraction 0.1",
        )
    try:
        fitted = fit_validation_temperature(require_classification(val_evaluation, "--save-temperature"))
    except TemperatureNotBetterError as error:
        if read_distributed_env().is_main:
            echo_err(f"no temperature was saved; {error}")
        return
    if read_distributed_env().is_main:
        save_temperature(model_source, fitted)
        images_text = f"{format_int(fitted.num_samples)} validation images"
        echo_err(
            f"temperature {format_number(fitted.value)}, fitted on {images_text}, "
            "was saved with the weights for `reslab predict`"
        )


def _check_calibration_options(model_source: Any, model: str | None, changed_options: dict[str, Any]) -> None:
    """Raise ValueError unless one network is evaluated with the preprocessing of `predict`."""
    is_ensemble = isinstance(model_source, list)
    if model or is_ensemble:
        got = f"{len(model_source)} runs" if is_ensemble else f"--model {model}"
        raise invalid(
            "one run (or its model.safetensors) with --save-temperature",
            got,
            next_step="use --calibration, which only reports",
        )
    for option, value in changed_options.items():
        if value:
            raise invalid(
                "--save-temperature with the preprocessing of `predict`",
                f"{option} {value}",
                next_step="use --calibration, which only reports",
            )
