"""Per-sample predictions of an evaluation as a CSV, npz or JSON file, and predicted masks as PNG files beside it."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reslab.metrics.coco import encode_coco_results
from reslab.nn.checkpoints.read import check_zip
from reslab.report.format import encode_csv
from reslab.report.images import mask_image, unique_stems
from reslab.runtime.files import write_atomic
from reslab.spec.errors import invalid
from reslab.training.evaluation.evaluation import Evaluation

PREDICTION_SUFFIXES = (".csv", ".npz", ".json")


def check_predictions_path(path: str | Path) -> Path:
    """Return the path. Raises ValueError unless it ends in .csv, .npz or .json."""
    path = Path(path)
    if path.suffix.lower() not in PREDICTION_SUFFIXES:
        required = "a file ending in .csv or .npz for the predictions, in detection also .json"
        raise invalid(required, str(path), nearest=f"{path.stem}.csv")
    return path


def save_predictions(path: str | Path, evaluation: Evaluation) -> None:
    """Write the target and the prediction of every sample, in the order of the split.

    CSV: the columns of the task, in classification `name,class,predicted,probability` and `p(CLASS)` for each class;
    texts that a spreadsheet would read as formulas begin with an apostrophe. npz: `names` (N,), `classes` (C,) and the
    arrays of the task, in classification `labels` (N,) and `probabilities` (N, C). JSON: COCO's results, of detection
    alone. Raises ValueError if the evaluation kept no predictions or the path has another suffix; DiskFullError.

    Predicted masks are PNG files in the folder `PATH-masks` (without the suffix), of class numbers in the palette of
    PASCAL VOC and at the size of the evaluation; the column or array `mask` has their paths relative to the file.
    """
    path = check_predictions_path(path)
    if not evaluation.has_predictions:
        raise invalid("an evaluation that kept its predictions", "one that did not", "keep_predictions=True")
    assert len(evaluation.names) == evaluation.num_samples, (len(evaluation.names), evaluation.num_samples)
    if path.suffix.lower() == ".json":
        _save_coco_results(path, evaluation)
        return
    masks = _save_masks(path, evaluation)
    if path.suffix.lower() == ".csv":
        columns, rows = evaluation.prediction_table()
        if masks:
            columns, rows = [*columns, "mask"], [[*row, mask] for row, mask in zip(rows, masks, strict=True)]
        write_atomic(path, encode_csv(columns, rows).encode(errors="backslashreplace"))
    else:
        names = {"names": np.array(evaluation.names), "classes": np.array(evaluation.classes)}
        mask_names = {"mask": np.array(masks)} if masks else {}
        write_atomic(path, _encode_npz({**names, **evaluation.prediction_arrays(), **mask_names}))


def _save_coco_results(path: Path, evaluation: Evaluation) -> None:
    results = evaluation.coco_results()
    if results is None:
        required = f"a file ending in .csv or .npz for the predictions of the task {evaluation.spec.name}"
        raise invalid(required, str(path), nearest=f"{path.stem}.csv")
    write_atomic(path, encode_coco_results(results))


def _save_masks(path: Path, evaluation: Evaluation) -> list[str]:
    """Write the predicted masks into a folder beside `path`; return their paths relative to it, in order."""
    stems = unique_stems(evaluation.names)
    folder = path.with_name(f"{path.stem}-masks")
    written = []
    for name, mask in zip(evaluation.names, evaluation.predicted_masks(), strict=False):
        file = folder / f"{stems[name]}.png"
        buffer = io.BytesIO()
        mask_image(mask).save(buffer, "PNG")
        write_atomic(file, buffer.getvalue())
        written.append(f"{folder.name}/{file.name}")
    return written


def save_predicted_labels(path: Path, evaluation: Evaluation) -> None:
    """Write the targets and the predictions of an evaluation, for paired tests. Raises DiskFullError."""
    arrays = evaluation.prediction_arrays()
    write_atomic(path, _encode_npz({name: array for name, array in arrays.items() if name != "probabilities"}))


def _encode_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def load_correctness(path: Path) -> tuple[bool, ...]:
    """Return whether each image of the file of `save_predicted_labels` was classified correctly; empty if unreadable.

    Only comparisons need the file, so a missing or damaged one is no error.
    """
    try:
        check_zip(path)
        with np.load(path, allow_pickle=False) as arrays:
            labels, predicted = arrays["labels"], arrays["predicted"]
            return tuple((labels == predicted).tolist()) if labels.dtype == predicted.dtype == np.int32 else ()
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
        return ()
