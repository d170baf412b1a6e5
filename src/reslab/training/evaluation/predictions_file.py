"""Per-sample predictions of an evaluation as a CSV or npz file."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reslab.nn.checkpoints.read import check_zip
from reslab.report.csv_file import encode_csv
from reslab.runtime.files import write_atomic
from reslab.spec.errors import invalid
from reslab.training.evaluation.loop import Evaluation

PREDICTION_SUFFIXES = (".csv", ".npz")


def check_predictions_path(path: str | Path) -> Path:
    """Return the path. Raises ValueError unless it ends in .csv or .npz."""
    path = Path(path)
    if path.suffix.lower() not in PREDICTION_SUFFIXES:
        raise invalid("a file ending in .csv or .npz for the predictions", str(path), nearest=f"{path.stem}.csv")
    return path


def save_predictions(path: str | Path, evaluation: Evaluation) -> None:
    """Write every sample's name, class, predicted class and probabilities, in the order of the split.

    CSV: `name,class,predicted,probability` and a column `p(CLASS)` for each class; texts that a spreadsheet would read
    as formulas begin with an apostrophe. npz: `names` (N,), `labels` (N,)
    int64, `probabilities` (N, C) float32, `classes` (C,). Raises ValueError if the evaluation kept no probabilities or
    the path has another suffix; DiskFullError.
    """
    path = check_predictions_path(path)
    if evaluation.probabilities is None or evaluation.labels is None:
        raise invalid("an evaluation that kept its probabilities", "one that did not", "keep_probabilities=True")
    assert len(evaluation.names) == evaluation.num_samples, (len(evaluation.names), evaluation.num_samples)
    encode = _encode_csv if path.suffix.lower() == ".csv" else _encode_npz
    write_atomic(
        path, encode(evaluation.probabilities.numpy(), evaluation.labels.numpy(), evaluation.names, evaluation.classes)
    )


def save_predicted_classes(path: Path, evaluation: Evaluation) -> None:
    """Write the labels and the predicted classes (N,) of an evaluation, for paired tests. Raises DiskFullError."""
    assert evaluation.probabilities is not None, "keep_probabilities=True"
    assert evaluation.labels is not None, "keep_probabilities=True"
    buffer = io.BytesIO()
    labels, predicted = evaluation.labels.numpy(), evaluation.probabilities.argmax(1).numpy()
    np.savez_compressed(buffer, labels=labels.astype(np.int32), predicted=predicted.astype(np.int32))
    write_atomic(path, buffer.getvalue())


def load_correctness(path: Path) -> tuple[bool, ...]:
    """Return whether each image of the file of `save_predicted_classes` was classified correctly; empty if unreadable.

    Only comparisons need the file, so a missing or damaged one is no error.
    """
    try:
        check_zip(path)
        with np.load(path, allow_pickle=False) as arrays:
            return tuple((arrays["labels"] == arrays["predicted"]).tolist())
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
        return ()


def _encode_csv(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> bytes:
    header = ["name", "class", "predicted", "probability", *(f"p({name})" for name in classes)]
    rows = []
    for name, label, row in zip(names, labels.tolist(), probabilities, strict=True):
        predicted = int(row.argmax())
        rows.append([name, classes[label], classes[predicted], *(f"{value:.7g}" for value in (row[predicted], *row))])
    return encode_csv(header, rows).encode()


def _encode_npz(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, names=np.array(names), labels=labels, probabilities=probabilities, classes=np.array(classes)
    )
    return buffer.getvalue()
