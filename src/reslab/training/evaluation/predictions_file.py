"""A network's answers, one a sample, written to a file: CSV to read, npz to compute with."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reslab.runtime.files import write_whole
from reslab.spec.errors import invalid
from reslab.training.evaluation.loop import Evaluation

SUFFIXES = (".csv", ".npz")


def check_answers_path(path: str | Path) -> Path:
    """The path, where its ending says how to write. Raises ValueError where it does not."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise invalid("a file ending in .csv or .npz for the predictions", str(path), nearest=f"{path.stem}.csv")
    return path


def save_answers(path: str | Path, found: Evaluation) -> None:
    """Write every sample's name, class, predicted class and probabilities, in the order of the split.

    CSV: `name,class,predicted,probability` and one column `p(CLASS)` a class. npz: `names` (N,), `labels` (N,) int64,
    `probabilities` (N, C) float32, `classes` (C,). Raises ValueError where the evaluation kept no probabilities or the
    ending is another; DiskFull.
    """
    path = check_answers_path(path)
    if found.probabilities is None or found.labels is None:
        raise invalid("an evaluation that kept its probabilities", "one that did not", "keep_probabilities=True")
    assert len(found.names) == found.num_samples, (len(found.names), found.num_samples)
    write = _csv if path.suffix.lower() == ".csv" else _npz
    write_whole(path, write(found.probabilities.numpy(), found.labels.numpy(), found.names, found.classes))


def _csv(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "class", "predicted", "probability", *(f"p({name})" for name in classes)])
    for name, label, row in zip(names, labels.tolist(), probabilities, strict=True):
        best = int(row.argmax())
        writer.writerow([name, classes[label], classes[best], *(f"{value:.7g}" for value in (row[best], *row))])
    return text.getvalue().encode()


def _npz(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, names=np.array(names), labels=labels, probabilities=probabilities, classes=np.array(classes)
    )
    return buffer.getvalue()
