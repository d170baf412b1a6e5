"""`reslab eval`: evaluate a run, an ensemble of runs, or a third-party checkpoint on any split."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.evaluation_report import EvaluationReport
from reslab.cli.model_options import AllowCode
from reslab.cli.option_groups import DatasetOptions
from reslab.cli.options import (
    AllowExtra,
    BatchSize,
    DataDir,
    Device,
    ImageSize,
    ModelName,
    ModelOverrides,
    Panel,
    Pretrained,
    ValFraction,
    Workers,
    parse_channel_values,
    parse_model_overrides,
    parse_overrides,
    parse_pretrained,
    require_model_and_recipe,
)
from reslab.cli.output import echo_err
from reslab.data.dataset_names import require_dataset_name
from reslab.report.format import format_int, format_number
from reslab.runtime.torchrun import read_distributed_env
from reslab.spec.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from reslab.training.evaluation.evaluation import Evaluation


_LIST_RUNS_STEP = "`reslab runs` lists the runs here"


RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN", help="Runs or their weights. Several are an ensemble (mean probabilities)."),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="train|val|test",
        rich_help_panel=Panel.DATA,
        help="Split to evaluate on.",
        show_default="the evaluation split",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME|PATH",
        rich_help_panel=Panel.DATA,
        help="Dataset to evaluate on.",
        show_default="the run's own",
    ),
]
MeanOption = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="FLOAT...",
        rich_help_panel=Panel.DATA,
        help="Mean of each channel, of pixels scaled to [0, 1] (or to --pixel-max).",
    ),
]
StdOption = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="FLOAT...",
        rich_help_panel=Panel.DATA,
        help="Standard deviation of each channel, of pixels scaled to [0, 1] (or to --pixel-max).",
    ),
]
MeanImageOption = Annotated[
    Path | None,
    typer.Option(
        "--mean-image",
        metavar="FILE",
        rich_help_panel=Panel.DATA,
        help="Mean of each pixel, subtracted instead of --mean: .npy, or .binaryproto of Caffe.",
    ),
]
ChannelOrderOption = Annotated[
    str | None,
    typer.Option(
        "--channel-order",
        metavar="rgb|bgr",
        rich_help_panel=Panel.DATA,
        help="Order of the color channels in the network's input, --mean, --std and --mean-image.",
        show_default="rgb",
    ),
]
PixelMaxOption = Annotated[
    float,
    typer.Option(
        "--pixel-max",
        metavar="FLOAT",
        rich_help_panel=Panel.DATA,
        help="Value of a white pixel in --mean, --std and --mean-image: 1, or 255 as in Caffe.",
    ),
]
SaveWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--save-weights",
        metavar="FILE",
        rich_help_panel=Panel.OUTPUT,
        help="Save the network with this preprocessing and the classes, for predict, export and serve.",
    ),
]
EvalTransform = Annotated[
    str | None,
    typer.Option(
        "--eval-transform",
        metavar="TRANSFORMS",
        rich_help_panel=Panel.DATA,
        help="Evaluation transform, such as 'resize(256) center-crop(224)'.",
        show_default="the model's own",
    ),
]
TTAOption = Annotated[
    str,
    typer.Option(
        "--tta",
        metavar="VIEWS",
        rich_help_panel=Panel.DATA,
        help="Test-time augmentation: flip, ten-crop(224) or scales(224,256).",
        show_default=False,
    ),
]
ResultsFile = Annotated[
    Path | None,
    typer.Option(
        "--results",
        metavar="FILE",
        rich_help_panel=Panel.DATA,
        help="Detections to evaluate instead of a run: COCO's .json, VOC's folder, or the .csv of --predictions.",
    ),
]


@dataclass(frozen=True)
class InputOptions:
    """The values of the network's input, as the author of the weights states them."""

    mean: MeanOption = None
    std: StdOption = None
    mean_image: MeanImageOption = None
    channel_order: ChannelOrderOption = None
    pixel_max: PixelMaxOption = 1.0

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `evaluate` for these options."""
        return {
            "mean": parse_channel_values(self.mean, "--mean"),
            "std": parse_channel_values(self.std, "--std"),
            "mean_image": self.mean_image,
            "channel_order": self.channel_order,
            "pixel_max": self.pixel_max,
        }

    def by_flag(self) -> dict[str, Any]:
        """Return the options that change the preprocessing, by flag."""
        changed = {"--mean": self.mean, "--std": self.std, "--mean-image": str(self.mean_image or "")}
        return {**changed, "--channel-order": self.channel_order}


def evaluate(
    *,
    runs: RunsArgument = None,
    split: SplitOption = None,
    data: DataOption = None,
    data_dir: DataDir = None,
    model: ModelName = None,
    pretrained: Pretrained = None,
    allow_code: AllowCode = False,
    inputs: InputOptions,
    save_weights: SaveWeightsOption = None,
    allow_extra: AllowExtra = False,
    eval_transform: EvalTransform = None,
    image_size: ImageSize = None,
    tta: TTAOption = "",
    results: ResultsFile = None,
    report: EvaluationReport,
    batch_size: BatchSize = None,
    val_fraction: ValFraction = None,
    reading: DatasetOptions,
    device: Device = "auto",
    workers: Workers = None,
    overrides: ModelOverrides = None,
) -> None:
    """Evaluate one or more runs, or a third-party checkpoint (--model with --pretrained), in float32."""
    report.check()
    data_options: dict[str, Any] = {"data_dir": data_dir, "val_fraction": val_fraction, **reading.arguments()}
    if results is not None:
        of_network: dict[str, Any] = {"RUN": runs}
        of_network |= {"--model": model, "--pretrained": pretrained, "--set": overrides, "--tta": tta}
        of_network |= {"--eval-transform": eval_transform, "--size": image_size, "--save-weights": save_weights}
        of_network |= {"--calibration": report.calibration, "--save-temperature": report.save_temperature}
        _check_without_network(results, data, of_network)
        with reading.limits():
            _evaluate_file(results, data, report, split, data_options)
        return
    _check_predictions_file(report.predictions, runs or [])
    model_source = _resolve_model_source(runs or [], model, pretrained)
    _check_overrides(overrides, model)
    if report.save_temperature:
        changed = {"--tta": tta, "--eval-transform": eval_transform, "--size": image_size, **inputs.by_flag()}
        _check_calibration_options(model_source, model, changed)
    if data is not None:
        require_dataset_name(data)
    require_model_and_recipe(model, None, reading.task)
    from reslab.training.evaluation.evaluate import evaluate as evaluate_models

    evaluate_split = functools.partial(
        evaluate_models,
        model_source,
        data,
        pretrained=parse_pretrained(pretrained),
        module=model if runs else None,
        allow_code=allow_code,
        overrides=parse_overrides(overrides),
        save_weights=save_weights,
        allow_extra=allow_extra,
        eval_transform=eval_transform,
        image_size=image_size,
        tta=tta,
        batch_size=batch_size,
        device=device,
        workers=workers,
        distributed=True,
        keep_predictions=report.keeps_predictions,
        **inputs.arguments(),
        **data_options,
    )
    with reading.limits():
        evaluation = evaluate_split(split=split)
        val_evaluation = _evaluate_val(evaluation, evaluate_split) if report.needs_calibration else None
    if report.save_temperature:
        _save_temperature(model_source, val_evaluation)
    report.show(evaluation, val_evaluation, runs or [str(model)])


def _check_predictions_file(predictions: Path | None, runs: list[str]) -> None:
    """Raise ValueError, before an evaluation, for detections in a .json file that a run cannot have."""
    if predictions is None or predictions.suffix.lower() != ".json":
        return
    from reslab.spec.task import TargetKind, find_task
    from reslab.training.run import Run

    for path in runs:
        if not (Path(path) / "run.json").is_file():
            continue
        task = find_task(Run(path).metadata["task"]["name"])
        if task.target is not TargetKind.BOXES:
            required = f"a .csv or .npz file for the predictions of {task.name}"
            raise invalid(required, predictions, str(predictions.with_suffix(".csv")))


def _evaluate_file(
    results: Path, data: str | None, report: EvaluationReport, split: str | None, options: dict[str, Any]
) -> None:
    from reslab.training.evaluation.evaluate_results import evaluate_results
    from reslab.training.run_data import DataOptions

    evaluation = evaluate_results(results, data, split=split, options=DataOptions(**options))
    report.show(evaluation, None, [results.name])


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


def _evaluate_val(evaluation: "Evaluation", evaluate_split: "Callable[..., Evaluation]") -> "Evaluation | None":
    """Return the evaluation of the validation split, or None if there is none."""
    if evaluation.split == "val":
        return evaluation
    from reslab.data.dataset import UnknownSplitError

    try:
        return evaluate_split(split="val")
    except UnknownSplitError:
        return None


def _save_temperature(model_source: Any, val_evaluation: "Evaluation | None") -> None:
    from reslab.training.evaluation.calibration import (
        TemperatureNotBetterError,
        fit_validation_temperature,
        save_temperature,
    )
    from reslab.training.evaluation.classification import require_classification

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


def _resolve_model_source(runs: list[str], model: str | None, pretrained: str | None) -> Any:
    if model and len(runs) == 1 and not pretrained and ":" in model:  # the factory of a run, named again
        return Path(runs[0])
    if bool(runs) == bool(model):
        got = "neither" if not runs else f"{', '.join(runs)} and --model {model}"
        raise invalid("runs to evaluate, or --model NAME with --pretrained FILE", got, next_step=_LIST_RUNS_STEP)
    if model:
        return model
    if pretrained:
        raise invalid(
            "--model NAME with --pretrained", "a run", next_step="leave --pretrained out: a run has its own weights"
        )
    for run in runs:
        if not Path(run).exists():
            raise invalid("the folder of a run, or its weights", f"{run} (no such path)", next_step=_LIST_RUNS_STEP)
    paths = [Path(run) for run in runs]
    return paths[0] if len(paths) == 1 else paths


def _check_overrides(overrides: list[str] | None, model: str | None) -> None:
    if overrides and model is None:
        raise invalid("--set only with --model", f"--set {overrides[0]}", next_step="a run has its own architecture")
    parse_model_overrides(overrides)
