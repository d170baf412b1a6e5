"""Files of predictions: those of an evaluation as CSV, npz, JSON or PNG, and files of detections to be read.

Detections come as COCO's results in JSON, VOC's text file of each class, or the CSV of `save_predictions`. Boxes are
read into the convention of `reslab.data.boxes`: COCO's [x, y, width, height] as (x, y, x + width, y + height), VOC's
pixels from 1 with both ends (Everingham et al. 2010) as (xmin - 1, ymin - 1, xmax, ymax).
"""

import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reslab.data.boxes import ImageId
from reslab.data.formats.box_files import instance_box
from reslab.data.formats.csv_table import read_csv_rows
from reslab.data.segments import RunLengths
from reslab.metrics.coco import encode_coco_results
from reslab.nn.checkpoints.read import check_zip
from reslab.report.format import encode_csv, original_cell
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


MAX_RESULT_BYTES = 256 << 20
"""The size of results beyond which they are refused: evaluating boxes takes about 35 times as much memory.

COCO's 5,000 validation images with 100 boxes each take about 75 MB, with masks 200 MB.
"""
VOC_RESULT_FILE = "comp4_det_test_{}.txt"
"""The name of VOC's results of a class, by a detector trained on any data (VOC2012 Devkit, Sec. 8.2)."""
_VOC_NAME = re.compile(r"comp\d+_det_[^_]+_(.+)\.txt", re.IGNORECASE)
_CSV_COLUMNS = ("class", "score", "x1", "y1", "x2", "y2")
_CSV_IMAGES = ("name", "path", "image")
_RESULT_KEYS = ("image_id", "category_id", "score")
Box = tuple[float, float, float, float]


class ResultRow(NamedTuple):
    """A detection as its file states it: image and category by COCO's id or name; `number` counts results or lines."""

    image: ImageId
    category: int | str
    score: float
    box: Box
    source: str
    number: int
    mask: RunLengths | None = None

    @property
    def location(self) -> str:
        """The position in the file, for errors: `detections.json, result 3`."""
        return f"{self.source} {self.number}"


@dataclass(frozen=True)
class ResultFile:
    """The detections of a file or folder. `categories` are those that VOC's folder has a file for."""

    path: Path
    rows: Sequence[ResultRow]
    categories: tuple[str, ...] | None = None


def read_results(path: Path) -> ResultFile:
    """Return the detections of a JSON or CSV file, or of a folder of VOC's text files.

    Raises ValueError for another file, one that is broken or too large, and with its location for a detection without
    image, category, score or box, with numbers that are not finite, or with a box of x2 < x1 or y2 < y1.
    """
    if not path.exists():
        raise invalid("a file or folder of detections", f"{path} (no such path)")
    if path.is_dir():
        return _read_voc_folder(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        required = "detections in COCO's JSON (.json), in CSV (.csv) or in a folder of VOC's text files"
        raise invalid(required, path, nearest=f"{path.stem}.json")
    _check_size(path, path.stat().st_size)
    return ResultFile(path, list(map(_check_row, read(path))))


def _check_size(path: Path, num_bytes: int) -> None:
    if num_bytes > MAX_RESULT_BYTES:
        required = f"results of at most {MAX_RESULT_BYTES >> 20} MiB, as evaluating takes up to 35 times as much memory"
        next_step = "keep the 100 detections of highest score of each image"
        raise invalid(required, f"{path} of {num_bytes >> 20:,} MiB", next_step=next_step)


def _read_coco(path: Path) -> Iterator[ResultRow]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, list):
        is_annotations = isinstance(content, dict) and "annotations" in content
        next_step = "this is a file of annotations: pass it as the data" if is_annotations else ""
        raise invalid(f"a list of results in {path}", f"a {type(content).__name__}", next_step=next_step)
    source = f"{path.name}, result"
    for number, record in enumerate(content):
        yield _coco_row(record, source, number)


def _coco_row(record: Any, source: str, number: int) -> ResultRow:
    location = f"{source} {number}"
    keys = (*_RESULT_KEYS, "segmentation" if isinstance(record, dict) and "segmentation" in record else "bbox")
    missing = [key for key in keys if not isinstance(record, dict) or key not in record]
    if missing:
        got = f"no {', '.join(missing)}" if isinstance(record, dict) else f"{record!r:.60}"
        raise invalid(f"{', '.join(keys)} in {location}", got)
    image, category = record["image_id"], record["category_id"]
    if not _is_integer(image) and not isinstance(image, str):
        raise invalid(f"an integer or a name as the image_id of {location}", f"{image!r:.60}")
    if not _is_integer(category):
        raise invalid(f"an integer as the category_id of {location}", f"{category!r:.60}")
    score = _number(record["score"], "score", location)
    mask = _read_mask(record["segmentation"], location) if "segmentation" in record else None
    if "bbox" not in record:
        assert mask is not None, location
        return ResultRow(image, category, score, _mask_box(mask), source, number, mask)
    box = record["bbox"]
    if not isinstance(box, list) or len(box) != 4:
        raise invalid(f"4 numbers as the bbox of {location}", f"{box!r:.60}")
    x, y, width, height = (_number(side, "bbox", location) for side in box)
    return ResultRow(image, category, score, (x, y, x + width, y + height), source, number, mask)


def _read_mask(value: Any, location: str) -> RunLengths:
    """Return a mask in run-length encoding, its runs checked: packages that evaluate masks read them unchecked."""
    size = value.get("size") if isinstance(value, dict) else None
    counts = value.get("counts") if isinstance(value, dict) else None
    is_text = isinstance(counts, str) and counts.isascii()
    is_list = isinstance(counts, list) and all(map(_is_integer, counts))
    if not isinstance(size, list) or len(size) != 2 or not all(map(_is_integer, size)) or not (is_text or is_list):
        raise invalid(f"a segmentation in run-length encoding, size and counts, in {location}", f"{value!r:.60}")
    assert isinstance(counts, str | list)
    mask = RunLengths(counts.encode() if isinstance(counts, str) else tuple(counts), *size)
    try:
        mask.runs(*size)
    except ValueError as error:
        raise ValueError(f"{location}: {error}") from None
    return mask


def _mask_box(mask: RunLengths) -> Box:
    pixels = mask.decode(mask.height, mask.width)
    if not pixels.any():
        return (0.0, 0.0, 0.0, 0.0)
    x1, y1, x2, y2 = instance_box(pixels)[0]
    return (float(x1), float(y1), float(x2), float(y2))


def _read_csv(path: Path) -> Iterator[ResultRow]:
    lines = iter(read_csv_rows(path))
    header = [cell.strip().lower() for cell in next(lines, (0, []))[1]]
    image_column = next((name for name in _CSV_IMAGES if name in header), "")
    missing = [name for name in _CSV_COLUMNS if name not in header]
    if missing or not image_column:
        required = f"the columns {', '.join((_CSV_IMAGES[0], *_CSV_COLUMNS))} in {path}"
        raise invalid(required, f"no {', '.join(missing or _CSV_IMAGES[:1])}", next_step="write it with --predictions")
    columns = [header.index(name) for name in (image_column, *_CSV_COLUMNS)]
    source = f"{path.name}, line"
    for line, cells in lines:
        padded = [*cells, *[""] * (len(header) - len(cells))]
        name, category, *numbers = (padded[column].strip() for column in columns)
        if not category and not any(numbers):
            continue  # an image without a detection
        if not name or not category:
            raise invalid(f"an image and a class in {source} {line}", ",".join(cells)[:60])
        yield _text_row(original_cell(name), original_cell(category), numbers, source, line)


def _text_row(image: str, category: str, numbers: Sequence[str], source: str, line: int) -> ResultRow:
    """Return the detection of a line with score, x1, y1, x2 and y2."""
    location = f"{source} {line}"
    score, x1, y1, x2, y2 = (
        _parse_number(text, name, location) for text, name in zip(numbers, _CSV_COLUMNS[1:], strict=True)
    )
    return ResultRow(image, category, score, (x1, y1, x2, y2), source, line)


def _read_voc_folder(folder: Path) -> ResultFile:
    files = {match[1]: path for path in sorted(folder.glob("*.txt")) if (match := _VOC_NAME.fullmatch(path.name))}
    if not files:
        required = f"VOC's results of each class in {folder}: {VOC_RESULT_FILE.format('CLASS')}"
        raise invalid(required, "no such file", next_step="name a .json or .csv file, or another folder")
    _check_size(folder, sum(path.stat().st_size for path in files.values()))
    rows = [_check_row(row) for category, path in files.items() for row in _read_voc(path, category)]
    return ResultFile(folder, rows, tuple(files))


def _read_voc(path: Path, category: str) -> Iterator[ResultRow]:
    source = f"{path.name}, line"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *numbers = line.strip().rsplit(maxsplit=5)
        if len(numbers) != 5:
            raise invalid(f"image, score, xmin, ymin, xmax, ymax in {source} {number}", f"{line!r:.60}")
        row = _text_row(name, category, numbers, source, number)
        x1, y1, x2, y2 = row.box
        yield row._replace(box=(x1 - 1, y1 - 1, x2, y2))


def _check_row(row: ResultRow) -> ResultRow:
    if not math.isfinite(row.score):
        raise invalid(f"a finite score in {row.location}", f"{row.score}")
    shown = ", ".join(f"{side:g}" for side in row.box)
    if not all(map(math.isfinite, row.box)):
        raise invalid(f"a box of finite numbers in {row.location}", shown)
    x1, y1, x2, y2 = row.box
    if x2 < x1 or y2 < y1:
        raise invalid(f"a box of width and height of at least 0 in {row.location}", f"corners {shown}")
    return row


def _number(value: Any, name: str, location: str) -> float:
    if not isinstance(value, float) and not _is_integer(value):
        raise invalid(f"a number as {name} of {location}", f"{value!r:.60}")
    return float(value)


def _parse_number(text: str, name: str, location: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise invalid(f"a number as {name} of {location}", repr(text[:60])) from None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


_READERS: Mapping[str, Callable[[Path], Iterator[ResultRow]]] = {".json": _read_coco, ".csv": _read_csv}
