"""`reslab predict`: what a trained network says of images: classes, values, masks or boxes."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reslab.cli.option_groups import ModelChoice, ModelOptions
from reslab.cli.options import (
    Device,
    ImageSize,
    InferenceBackend,
    InferencePrecision,
    JsonFlag,
    MaxPixels,
    Panel,
    output_option,
)
from reslab.cli.output import echo_err, print_json
from reslab.cli.prediction_table import print_prediction_table
from reslab.report.format import format_number, pluralize
from reslab.spec.errors import invalid

if TYPE_CHECKING:
    from torch import Tensor

    from reslab.deploy.inputs import InputItem
    from reslab.deploy.outputs import PredictionFile
    from reslab.deploy.predict import PredictOptions
    from reslab.deploy.prediction import Prediction
    from reslab.nn.module_network import Model

_PROGRESS_INTERVAL_SECONDS = 30.0
_MAX_WARNINGS = 5


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """What is predicted of each image and written beside it, by the names of `PredictOptions`."""

    top_k: Annotated[
        int | None,
        typer.Option(
            "-k",
            "--top-k",
            metavar="INTEGER",
            min=1,
            help="Number of classes per image (default 5; in multi-label tasks the classes above their thresholds), "
            "or of boxes.",
        ),
    ] = None
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score",
            metavar="FLOAT",
            help="Leave out boxes with a lower score (default: 0.5 in the table and in images, none in files).",
        ),
    ] = None
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Add the embedding, the input of the last linear layer.")
    ] = False
    use_temperature: Annotated[
        bool,
        typer.Option(
            "--temperature/--no-temperature",
            help="Divide the logits by the temperature saved with the weights, if any.",
        ),
    ] = True
    grad_cam_dir: Annotated[
        Path | None,
        typer.Option(
            "--grad-cam",
            metavar="DIR",
            rich_help_panel=Panel.OUTPUT,
            help="Write a Grad-CAM heatmap of the top class, or of the best box, of each image.",
        ),
    ] = None
    grad_cam_class: Annotated[
        str,
        typer.Option(
            "--grad-cam-class",
            metavar="NAME",
            rich_help_panel=Panel.OUTPUT,
            help="Write heatmaps of this class or target instead.",
        ),
    ] = ""
    masks_dir: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="DIR",
            rich_help_panel=Panel.OUTPUT,
            help="Write the mask of each image, NAME.png, and its overlay (segmentation).",
        ),
    ] = None
    boxes_dir: Annotated[
        Path | None,
        typer.Option(
            "--boxes",
            metavar="DIR",
            rich_help_panel=Panel.OUTPUT,
            help="Write each image with its boxes, NAME_boxes.png (detection).",
        ),
    ] = None

    def check(self) -> None:
        """Raise ValueError for a class of heatmaps without a folder for them."""
        if self.grad_cam_class and self.grad_cam_dir is None:
            raise invalid("--grad-cam DIR with --grad-cam-class", "--grad-cam-class alone", next_step="name the folder")


@dataclass(frozen=True, kw_only=True)
class PredictionOutput:
    """Where the predictions go: a file, or the terminal as a table, CSV or JSON."""

    output: Annotated[
        Path | None,
        output_option(
            "FILE",
            "Write the predictions to a .json, .csv or .parquet file; boxes also as COCO's results (.coco.json) "
            "or a folder of VOC's (.voc).",
        ),
    ] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", rich_help_panel=Panel.OUTPUT, help="Resume --output: images already in it are not repeated."
        ),
    ] = False
    as_csv: Annotated[
        bool, typer.Option("--csv", rich_help_panel=Panel.OUTPUT, help="Print CSV, one line per class.")
    ] = False
    as_json: JsonFlag = False

    def check(self) -> None:
        """Raise ValueError for options that do not go together."""
        if self.as_json and self.as_csv:
            raise invalid("one of --json and --csv", "both", next_step="leave one of them out")
        if self.resume and self.output is None:
            raise invalid("--output FILE with --resume", "--resume alone", next_step="name the file to resume")


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """How the network is computed, by the names of `PredictOptions`."""

    backend: InferenceBackend = "auto"
    precision: InferencePrecision = "float32"
    compiled: Annotated[
        bool,
        typer.Option("--compile", rich_help_panel=Panel.COMPUTE, help="Compile the network (backend torch)."),
    ] = False
    batch_size: Annotated[
        int,
        typer.Option("-b", "--batch-size", metavar="INTEGER", min=1, rich_help_panel=Panel.COMPUTE, help="Batch size."),
    ] = 64
    device: Device = "auto"


def predict(
    *,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL IMAGE|FOLDER",
            help="A run, weights file, exported graph or name (left out with --model), then images, folders, patterns, "
            ".tar shards or a .csv file of paths; - reads standard input: paths, or one image.",
        ),
    ],
    model: ModelOptions,
    output: PredictionOutput,
    prediction: PredictionOptions,
    inference: InferenceOptions,
    image_size: ImageSize = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Predict the classes, values, masks or boxes of images, by the task of the network.

    Unreadable files get an error row; exit code 1 if no file could be read.
    """
    output.check()
    prediction.check()
    choice, images = model.choose(inputs)
    if not images:
        raise invalid("a model and at least one image", str(choice), next_step="reslab predict MODEL IMAGE")
    from reslab.data.decode_limits import DecodeLimits
    from reslab.deploy.inputs import list_inputs
    from reslab.deploy.outputs import check_output_path
    from reslab.deploy.predict import PredictOptions

    if output.output is not None:
        check_output_path(output.output, output.resume)
    items = list_inputs(images)
    network = _open_network(choice, image_size)
    options = PredictOptions(
        **vars(prediction),
        **vars(inference),
        calibration_images=_calibration_images(choice, network, inference.precision),
        limits=DecodeLimits() if max_pixels is None else DecodeLimits(max_pixels=max_pixels),
    )
    file = None
    if output.output is not None:
        metadata = _file_metadata(choice, network, options, image_size)
        file = _open_file(output, items, choice, network, metadata)
    _report(_predict_items(network, items, options, file), network, options, output)


def _open_network(choice: ModelChoice, image_size: int | None) -> "Model":
    from reslab.training.image_size import with_image_size
    from reslab.training.model_source import open_model

    network = open_model(choice.source, weights=choice.weights, allow_code=choice.allow_code)
    return network if image_size is None else with_image_size(network, image_size)


def _file_metadata(
    choice: ModelChoice, network: "Model", options: "PredictOptions", image_size: int | None
) -> dict[str, Any]:
    """Return what the rows of a file depend on; `--resume` requires that none of it changes."""
    from reslab.deploy.predictor import saved_temperature

    return {
        "weights": _weights_fingerprint(choice),
        "top_k": options.top_k,
        "temperature": saved_temperature(network) if options.use_temperature else None,
        "embeddings": options.embeddings,
        "precision": options.precision,
        **({} if image_size is None else {"image_size": image_size}),
        **({"min_score": options.min_score} if _has_boxes(network) else {}),
    }


def _has_boxes(network: "Model") -> bool:
    from reslab.deploy.predictor import model_task
    from reslab.spec.task import TargetKind

    return model_task(network).spec.target is TargetKind.BOXES


def _open_file(
    output: PredictionOutput,
    items: "list[InputItem]",
    choice: ModelChoice,
    network: "Model",
    metadata: dict[str, Any],
) -> "PredictionFile":
    from reslab.deploy.outputs import PredictionFile, check_output_format, find_result_ids
    from reslab.deploy.predictor import model_task

    path, task = output.output, model_task(network)
    assert path is not None
    check_output_format(path, task.spec)
    return PredictionFile(path, items, metadata, output.resume, find_result_ids(path, choice.run, task.classes))


@dataclass(frozen=True)
class _Predicted:
    """The rows of all images, the backend (None if nothing was left to do), and the number of rows from before."""

    rows: "list[Prediction]"
    backend: str | None
    num_earlier: int = 0


def _predict_items(
    network: "Model", items: "list[InputItem]", options: "PredictOptions", file: "PredictionFile | None"
) -> _Predicted:
    """Predict the items; with a file, those that it lacks, and write it."""
    remaining = items if file is None else file.remaining
    rows, backend = _predict_remaining(network, remaining, options, file)
    if file is None:
        return _Predicted(rows, backend)
    rows = file.finish()
    return _Predicted(rows, backend, len(rows) - len(remaining))


def _predict_remaining(
    network: "Model", items: "list[InputItem]", options: "PredictOptions", file: "PredictionFile | None"
) -> "tuple[list[Prediction], str | None]":
    """Predict the items; return their rows, which with a file are added to it instead, and the backend."""
    from reslab.deploy.predict import start_predictions

    if not items:
        return [], None
    rows: list[Prediction] = []
    backend, stream = start_predictions(network, items, options)
    echo_err(str(backend))
    with _resume_hint(None if file is None else file.path):
        for prediction in _with_progress(stream, items):
            rows.append(prediction) if file is None else file.add(prediction)
    return rows, str(backend)


def _report(predicted: _Predicted, network: "Model", options: "PredictOptions", output: PredictionOutput) -> None:
    """Print the predictions and what there is to know of them. Exit code 1 if no image could be read."""
    from reslab.deploy.predictor import saved_temperature

    temperature = saved_temperature(network) if options.use_temperature else None
    if temperature is not None:
        echo_err(f"probabilities at temperature {format_number(temperature)}; --no-temperature turns it off")
    summary: dict[str, Any] = {"temperature": temperature, "backend": predicted.backend}
    if output.output is not None:
        summary["output"] = str(output.output)
        earlier = f", {predicted.num_earlier} of them from before" if output.resume else ""
        echo_err(f"{pluralize(len(predicted.rows), 'row')} in {output.output}{earlier}")
    if output.as_json:
        print_json({"predictions": [prediction.to_dict() for prediction in predicted.rows], **summary})
    elif output.as_csv:
        from reslab.deploy.prediction_formats import format_csv

        print(format_csv(predicted.rows), end="")
    elif output.output is None:
        print_prediction_table(_shown_in_table(predicted.rows, network, options.min_score), options.top_k)
    _report_unreadable(predicted.rows, output.as_json)


def _shown_in_table(predictions: "list[Prediction]", network: "Model", min_score: float | None) -> "list[Prediction]":
    """Return the rows without boxes of a low score, unless the user set a score."""
    from reslab.deploy.prediction import DEFAULT_MIN_SCORE

    if min_score is not None or not _has_boxes(network):
        return predictions
    return [_shown_boxes(prediction, DEFAULT_MIN_SCORE) for prediction in predictions]


def _shown_boxes(prediction: "Prediction", min_score: float) -> "Prediction":
    return replace(prediction, boxes=tuple(box for box in prediction.boxes or () if box.score >= min_score))


def _calibration_images(choice: ModelChoice, network: "Model", precision: str) -> "Tensor | None":
    """Return the images that int8 needs; an exported graph has its scales already."""
    from reslab.nn.module_network import GraphModel

    if precision != "int8" or isinstance(network, GraphModel):
        return None
    from reslab.deploy.export.verification import load_calibration_images

    return load_calibration_images(choice.run, network)


@contextlib.contextmanager
def _resume_hint(output: Path | None) -> Iterator[None]:
    """Tell how to resume after Ctrl-C; the rows written so far are kept."""
    try:
        yield
    except KeyboardInterrupt:
        if output is None:
            raise
        raise KeyboardInterrupt(f"stopped; resume with the same command and --resume ({output})") from None


def _report_unreadable(predictions: "list[Prediction]", as_json: bool) -> None:
    num_unreadable = sum(bool(prediction.error) for prediction in predictions)
    if num_unreadable and not as_json:
        echo_err(f"{num_unreadable} of {len(predictions)} files could not be read")
    with_warning = [prediction for prediction in predictions if prediction.warning]
    if with_warning and not as_json:
        echo_err(f"{len(with_warning)} of {len(predictions)} images are damaged, but were decoded:")
        for prediction in with_warning[:_MAX_WARNINGS]:
            echo_err(f"  {prediction.path}: {prediction.warning}")
        if len(with_warning) > _MAX_WARNINGS:
            echo_err(f"  and {len(with_warning) - _MAX_WARNINGS} more")
    if num_unreadable == len(predictions):
        raise typer.Exit(1)


def _with_progress(predictions: "Iterable[Prediction]", items: "list[InputItem]") -> "Iterator[Prediction]":
    """Yield the rows and show progress: a bar in a terminal, elsewhere a line every 30 seconds."""
    console = Console(stderr=True)
    if console.is_terminal and len(items) > 1:
        columns = (TextColumn("images"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=len(items))
            for prediction in predictions:
                bar.advance(task)
                yield prediction
        return
    last_report = time.monotonic()
    for num_done, prediction in enumerate(predictions, 1):
        if time.monotonic() - last_report > _PROGRESS_INTERVAL_SECONDS:
            last_report = time.monotonic()
            print(f"{num_done} of {len(items)} images", file=sys.stderr, flush=True)
        yield prediction


def _weights_fingerprint(choice: ModelChoice) -> str:
    """Return the first digits of the SHA-256 of the weights, or the names of published ones; others differ in it."""
    from reslab.nn.checkpoints.published import file_hash
    from reslab.training.run_weights import find_weights_path

    if not choice.run.exists():
        return str(choice)
    return file_hash(find_weights_path(choice.run))[:16]
