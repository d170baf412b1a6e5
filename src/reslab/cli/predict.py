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

from reslab.cli.model_options import AllowCode, ModelChoice, NamedModel, WeightsOption, choose_model
from reslab.cli.options import (
    BatchSize,
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


@dataclass(frozen=True)
class PredictionExtras:
    """The options of what is computed or written beside the predictions, by the names of `PredictOptions`."""

    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Add the embedding, the input of the last linear layer.")
    ] = False
    grad_cam_dir: Annotated[
        Path | None,
        typer.Option(
            "--grad-cam",
            metavar="DIR",
            help="Write a Grad-CAM heatmap of the top class, or of the best box, of each image.",
        ),
    ] = None
    grad_cam_class: Annotated[
        str,
        typer.Option("--grad-cam-class", metavar="NAME", help="Write heatmaps of this class or target instead."),
    ] = ""
    masks_dir: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="DIR",
            help="Write the mask of each image, NAME.png, and its overlay (segmentation).",
        ),
    ] = None
    boxes_dir: Annotated[
        Path | None,
        typer.Option("--boxes", metavar="DIR", help="Write each image with its boxes, NAME_boxes.png (detection)."),
    ] = None


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
    model: NamedModel = None,
    weights: WeightsOption = None,
    allow_code: AllowCode = False,
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
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score",
            metavar="FLOAT",
            help="Leave out boxes with a lower score (default: 0.5 in the table and in images, none in files).",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        output_option(
            "FILE",
            "Write the predictions to a .json, .csv or .parquet file; boxes also as COCO's results (.coco.json) "
            "or a folder of VOC's (.voc).",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", rich_help_panel=Panel.OUTPUT, help="Resume --output: images already in it are not repeated."
        ),
    ] = False,
    extras: PredictionExtras,
    backend: InferenceBackend = "auto",
    precision: InferencePrecision = "float32",
    compiled: Annotated[
        bool,
        typer.Option("--compile", rich_help_panel=Panel.COMPUTE, help="Compile the network (backend torch)."),
    ] = False,
    batch_size: BatchSize = None,
    image_size: ImageSize = None,
    device: Device = "auto",
    use_temperature: Annotated[
        bool,
        typer.Option(
            "--temperature/--no-temperature",
            help="Divide the logits by the temperature saved with the weights, if any.",
        ),
    ] = True,
    max_pixels: MaxPixels = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", rich_help_panel=Panel.OUTPUT, help="Print CSV, one line per class.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Predict the classes, values, masks or boxes of images, by the task of the network.

    Unreadable files get an error row; exit code 1 if no file could be read.
    """
    _check_flags(as_json=as_json, as_csv=as_csv, output=output, resume=resume)
    if extras.grad_cam_class and extras.grad_cam_dir is None:
        raise invalid("--grad-cam DIR with --grad-cam-class", "--grad-cam-class alone", next_step="name the folder")
    choice, images = choose_model(inputs, model, weights)
    if not images:
        raise invalid("a model and at least one image", str(choice), next_step="reslab predict MODEL IMAGE")
    from reslab.data.decode_limits import DecodeLimits
    from reslab.deploy.inputs import list_inputs
    from reslab.deploy.outputs import check_output_path
    from reslab.deploy.predict import PredictOptions
    from reslab.deploy.predictor import saved_temperature
    from reslab.training.image_size import with_image_size
    from reslab.training.model_source import open_model

    if output is not None:
        check_output_path(output, resume)
    items = list_inputs(images)
    network = open_model(choice.source, weights=choice.weights, allow_code=allow_code)
    network = network if image_size is None else with_image_size(network, image_size)
    options = PredictOptions(
        top_k=top_k,
        min_score=min_score,
        batch_size=batch_size or 64,
        device=device,
        use_temperature=use_temperature,
        backend=backend,
        precision=precision,
        compiled=compiled,
        **vars(extras),
        calibration_images=_calibration_images(choice, network, precision),
        limits=DecodeLimits() if max_pixels is None else DecodeLimits(max_pixels=max_pixels),
    )
    prediction_file = None
    if output is not None:
        metadata = _file_metadata(choice, network, options, image_size)
        prediction_file = _open_file(output, items, choice, network, metadata, resume=resume)
    remaining = items if prediction_file is None else prediction_file.remaining
    predictions, backend_text = _predict_items(network, remaining, options, prediction_file)
    temperature = saved_temperature(network) if use_temperature else None
    if temperature is not None:
        echo_err(f"probabilities at temperature {format_number(temperature)}; --no-temperature turns it off")
    summary: dict[str, Any] = {"temperature": temperature, "backend": backend_text}
    if prediction_file is not None:
        predictions = _finish_file(prediction_file, len(remaining), resume=resume)
        summary["output"] = str(output)
    if output is None or as_json or as_csv:
        shown = predictions if as_json or as_csv else _shown_in_table(predictions, network, min_score)
        _print_predictions(shown, summary, as_json, as_csv, top_k)
    _report_unreadable(predictions, as_json)


def _check_flags(*, as_json: bool, as_csv: bool, output: Path | None, resume: bool) -> None:
    if as_json and as_csv:
        raise invalid("one of --json and --csv", "both", next_step="leave one of them out")
    if resume and output is None:
        raise invalid("--output FILE with --resume", "--resume alone", next_step="name the file to resume")


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
    output: Path,
    items: "list[InputItem]",
    choice: ModelChoice,
    network: "Model",
    metadata: dict[str, Any],
    *,
    resume: bool,
) -> "PredictionFile":
    from reslab.deploy.outputs import PredictionFile, check_output_format, find_result_ids
    from reslab.deploy.predictor import model_task

    task = model_task(network)
    check_output_format(output, task.spec)
    return PredictionFile(output, items, metadata, resume, find_result_ids(output, choice.run, task.classes))


def _predict_items(
    network: "Model", items: "list[InputItem]", options: "PredictOptions", prediction_file: "PredictionFile | None"
) -> "tuple[list[Prediction], str | None]":
    """Predict the items; return their rows and the backend, None if there was nothing to do.

    With a file the rows are added to it, and the list is empty.
    """
    from reslab.deploy.predict import start_predictions

    if not items:
        return [], None
    predictions: list[Prediction] = []
    backend, stream = start_predictions(network, items, options)
    echo_err(str(backend))
    with _resume_hint(None if prediction_file is None else prediction_file.path):
        for prediction in _with_progress(stream, items):
            predictions.append(prediction) if prediction_file is None else prediction_file.add(prediction)
    return predictions, str(backend)


def _finish_file(prediction_file: "PredictionFile", num_new: int, *, resume: bool) -> "list[Prediction]":
    """Write the file from its parts, tell how many rows it has, and return them."""
    predictions = prediction_file.finish()
    echo_err(
        f"{pluralize(len(predictions), 'row')} in {prediction_file.path}"
        + (f", {len(predictions) - num_new} of them from before" if resume else "")
    )
    return predictions


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
    from reslab.deploy.export.verify import load_calibration_images
    from reslab.nn.module_network import GraphModel

    if precision != "int8" or isinstance(network, GraphModel):
        return None
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


def _print_predictions(
    predictions: "list[Prediction]", summary: dict[str, Any], as_json: bool, as_csv: bool, top_k: int | None
) -> None:
    if as_json:
        print_json({"predictions": [prediction.to_dict() for prediction in predictions], **summary})
    elif as_csv:
        from reslab.deploy.outputs import format_csv

        print(format_csv(predictions), end="")
    else:
        print_prediction_table(predictions, top_k)


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
    from reslab.nn.checkpoints.download import file_hash
    from reslab.training.run_weights import find_weights_path

    if not choice.run.exists():
        return str(choice)
    return file_hash(find_weights_path(choice.run))[:16]
