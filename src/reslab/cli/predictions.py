"""The work of `reslab predict`: predictions computed with progress, written to a file, and printed.

They are printed as CSV, as JSON, or as a table of classes, labels, values, shares or boxes. This module imports torch.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from reslab.cli.option_groups import ModelChoice
from reslab.cli.output import echo_err, print_json, print_table
from reslab.data.decode_limits import DecodeLimits
from reslab.deploy.inputs import InputItem, list_inputs
from reslab.deploy.outputs import PredictionFile, check_output_format, check_output_path, find_result_ids
from reslab.deploy.predict import PredictOptions, start_predictions
from reslab.deploy.prediction import DEFAULT_MIN_SCORE, Prediction
from reslab.deploy.prediction_formats import choose_layout, format_csv
from reslab.deploy.predictor import model_task, saved_temperature
from reslab.nn.checkpoints.published import file_hash
from reslab.nn.module_network import GraphModel, Model
from reslab.report.format import format_number, format_percent, pluralize
from reslab.spec.task import TargetKind
from reslab.training.checkpoint import find_weights_path
from reslab.training.image_size import with_image_size
from reslab.training.model_source import open_model

_PROGRESS_INTERVAL_SECONDS = 30.0
_MAX_WARNINGS = 5


def predict_images(
    choice: ModelChoice,
    images: Sequence[str],
    prediction: Mapping[str, Any],
    *,
    image_size: int | None,
    max_pixels: int | None,
    output: Path | None,
    resume: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Predict the images, write the file `output` and print what is asked for; exit code 1 if none could be read.

    `prediction` has options of `PredictOptions` by name.
    """
    if output is not None:
        check_output_path(output, resume)
    items = list_inputs(images)
    network = _open_network(choice, image_size)
    options = PredictOptions(
        **prediction,
        calibration_images=_calibration_images(choice, network, prediction["precision"]),
        limits=DecodeLimits() if max_pixels is None else DecodeLimits(max_pixels=max_pixels),
    )
    file = None
    if output is not None:
        metadata = _file_metadata(choice, network, options, image_size)
        file = _open_file(output, items, choice, network, resume=resume, metadata=metadata)
    predicted = _predict_items(network, items, options, file)
    temperature = saved_temperature(network) if options.use_temperature else None
    if temperature is not None:
        echo_err(f"probabilities at temperature {format_number(temperature)}; --no-temperature turns it off")
    if output is not None:
        earlier = f", {predicted.num_earlier} of them from before" if resume else ""
        echo_err(f"{pluralize(len(predicted.rows), 'row')} in {output}{earlier}")
    if as_json:
        summary = {"temperature": temperature, "backend": predicted.backend}
        summary |= {} if output is None else {"output": str(output)}
        print_json({"predictions": [row.to_dict() for row in predicted.rows], **summary})
    elif as_csv:
        print(format_csv(predicted.rows), end="")
    elif output is None:
        print_prediction_table(_shown_in_table(predicted.rows, network, options.min_score), options.top_k)
    _report_unreadable(predicted.rows, as_json)


def _open_network(choice: ModelChoice, image_size: int | None) -> Model:
    network = open_model(choice.source, weights=choice.weights, allow_code=choice.allow_code)
    return network if image_size is None else with_image_size(network, image_size)


def _file_metadata(
    choice: ModelChoice, network: Model, options: PredictOptions, image_size: int | None
) -> dict[str, Any]:
    """Return what the rows of a file depend on; `--resume` requires that none of it changes."""
    return {
        "weights": _weights_fingerprint(choice),
        "top_k": options.top_k,
        "temperature": saved_temperature(network) if options.use_temperature else None,
        "embeddings": options.embeddings,
        "precision": options.precision,
        **({} if image_size is None else {"image_size": image_size}),
        **({"min_score": options.min_score} if _has_boxes(network) else {}),
    }


def _weights_fingerprint(choice: ModelChoice) -> str:
    """Return the first digits of the SHA-256 of the weights, or the names of published ones; others differ in it."""
    if not choice.run.exists():
        return str(choice)
    return file_hash(find_weights_path(choice.run))[:16]


def _has_boxes(network: Model) -> bool:
    return model_task(network).spec.target is TargetKind.BOXES


def _open_file(
    path: Path,
    items: list[InputItem],
    choice: ModelChoice,
    network: Model,
    *,
    resume: bool,
    metadata: dict[str, Any],
) -> PredictionFile:
    task = model_task(network)
    check_output_format(path, task.spec)
    return PredictionFile(path, items, metadata, resume, find_result_ids(path, choice.run, task.classes))


def _calibration_images(choice: ModelChoice, network: Model, precision: str) -> Tensor | None:
    """Return the images that int8 needs; an exported graph has its scales already."""
    if precision != "int8" or isinstance(network, GraphModel):
        return None
    from reslab.deploy.export.verification import load_calibration_images  # imports torchvision

    return load_calibration_images(choice.run, network)


@dataclass(frozen=True)
class _Predicted:
    """The rows of all images, the backend (None if nothing was left to do), and the number of rows from before."""

    rows: list[Prediction]
    backend: str | None
    num_earlier: int = 0


def _predict_items(
    network: Model, items: list[InputItem], options: PredictOptions, file: PredictionFile | None
) -> _Predicted:
    """Predict the items; with a file, those that it lacks, and write it."""
    remaining = items if file is None else file.remaining
    rows, backend = _predict_remaining(network, remaining, options, file)
    if file is None:
        return _Predicted(rows, backend)
    rows = file.finish()
    return _Predicted(rows, backend, len(rows) - len(remaining))


def _predict_remaining(
    network: Model, items: list[InputItem], options: PredictOptions, file: PredictionFile | None
) -> tuple[list[Prediction], str | None]:
    """Predict the items; return their rows, which with a file are added to it instead, and the backend."""
    if not items:
        return [], None
    rows: list[Prediction] = []
    backend, stream = start_predictions(network, items, options)
    echo_err(str(backend))
    with _resume_hint(None if file is None else file.path):
        for prediction in _with_progress(stream, items):
            rows.append(prediction) if file is None else file.add(prediction)
    return rows, str(backend)


@contextlib.contextmanager
def _resume_hint(output: Path | None) -> Iterator[None]:
    """Tell how to resume after Ctrl-C; the rows written so far are kept."""
    try:
        yield
    except KeyboardInterrupt:
        if output is None:
            raise
        raise KeyboardInterrupt(f"stopped; resume with the same command and --resume ({output})") from None


def _with_progress(predictions: Iterable[Prediction], items: list[InputItem]) -> Iterator[Prediction]:
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


def _report_unreadable(predictions: list[Prediction], as_json: bool) -> None:
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


def _shown_in_table(predictions: list[Prediction], network: Model, min_score: float | None) -> list[Prediction]:
    """Return the rows without boxes of a low score, unless the user set a score."""
    if min_score is not None or not _has_boxes(network):
        return predictions
    return [_shown_boxes(prediction, DEFAULT_MIN_SCORE) for prediction in predictions]


def _shown_boxes(prediction: Prediction, min_score: float) -> Prediction:
    return replace(prediction, boxes=tuple(box for box in prediction.boxes or () if box.score >= min_score))


_MAX_CLASSES, _MAX_BOXES = 3, 10
_Cells = Callable[[Prediction], Sequence[str]]
_Lines = Callable[[Prediction], Sequence[Sequence[str]]]


def print_prediction_table(predictions: Sequence[Prediction], max_shown: int | None = None) -> None:
    """Print one row per image, of boxes one a box; of ranked classes the first 3, of boxes 10, or `max_shown`."""
    columns, lines = _TABLES[choose_layout(predictions).name](predictions, max_shown)
    rows: list[Sequence[str]] = []
    for prediction in predictions:
        rows += [(prediction.path if i == 0 else "", *line) for i, line in enumerate(lines(prediction))]
    print_table(["image", *columns], rows)


def _one_line(columns: list[str], cells: _Cells) -> tuple[list[str], _Lines]:
    """Return a table with one line per image, whose last cell is the error of an image that could not be read."""
    blank = [""] * (len(columns) - 1)
    return columns, lambda prediction: [[*blank, prediction.error] if prediction.error else cells(prediction)]


def _box_table(predictions: Sequence[Prediction], max_boxes: int | None) -> tuple[list[str], _Lines]:
    max_boxes = max_boxes or _MAX_BOXES

    def lines(prediction: Prediction) -> list[list[str]]:
        boxes = prediction.boxes or ()
        rows = [[box.name, f"{box.score:.3f}", *(f"{side:.1f}" for side in box.box)] for box in boxes[:max_boxes]]
        if not boxes or len(boxes) > max_boxes:
            rest = f"and {len(boxes) - max_boxes} more" if boxes else prediction.error or "no box"
            rows.append([rest, *[""] * 5])
        return rows

    return ["class", "score", "x1", "y1", "x2", "y2"], lines


def _class_table(predictions: Sequence[Prediction], max_classes: int | None) -> tuple[list[str], _Lines]:
    def cells(prediction: Prediction) -> tuple[str, str]:
        if not prediction.classes:  # in multi-label tasks, where no image shows a class
            return "none", ""
        first, *others = prediction.classes[: max_classes or _MAX_CLASSES]
        others_text = "".join(f", {score.name} {format_percent(score.probability, 1)}" for score in others)
        return first.name, format_percent(first.probability, 1) + others_text

    return _one_line(["class", "probability"], cells)


def _label_table(predictions: Sequence[Prediction], max_classes: int | None) -> tuple[list[str], _Lines]:
    def cells(prediction: Prediction) -> tuple[str, str]:
        pairs = {(score.name, score.probability): score.is_predicted for score in prediction.classes}
        above, below = ([pair for pair, is_above in pairs.items() if is_above is side] for side in (True, False))
        return _list_fractions(above), _list_fractions(below)

    if all(score.is_predicted for row in predictions for score in row.classes):
        return _one_line(["classes"], lambda prediction: cells(prediction)[:1])
    return _one_line(["classes", "below their thresholds"], cells)


def _value_table(predictions: Sequence[Prediction], max_classes: int | None) -> tuple[list[str], _Lines]:
    names = list(dict.fromkeys(name for row in predictions for name in row.values or {})) or ["value"]
    return _one_line(names, lambda prediction: [format_number((prediction.values or {})[name]) for name in names])


def _share_table(predictions: Sequence[Prediction], max_classes: int | None) -> tuple[list[str], _Lines]:
    return _one_line(["share of the pixels"], lambda row: [_list_fractions(list((row.shares or {}).items()))])


def _list_fractions(fractions: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {format_percent(fraction, 1)}" for name, fraction in fractions) or "none"


_TABLES: dict[str, Callable[[Sequence[Prediction], int | None], tuple[list[str], _Lines]]] = {
    "boxes": _box_table,
    "classes": _class_table,
    "labels": _label_table,
    "values": _value_table,
    "shares": _share_table,
}
