"""The formats of prediction files: JSON, CSV and Parquet; for boxes also the result formats of COCO and PASCAL VOC.

CSV has lines, Parquet lists, with the columns of a layout, which depends on what the network predicts.
"""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reslab.data.boxes import BoxImageDataset
from reslab.deploy.prediction import Prediction, prediction_from_dict
from reslab.metrics.coco import coco_result, encode_coco_results
from reslab.metrics.detection import ImageId
from reslab.report.format import encode_csv, original_cell
from reslab.report.images import unique_stems
from reslab.runtime.extras import require_extra
from reslab.training.evaluation.prediction_files import VOC_RESULT_FILE
from reslab.training.run import Run
from reslab.training.run_data import reopen_data

Entry = tuple[Any, ...]


@dataclass(frozen=True)
class Column:
    """One value of an entry: its column in CSV, that of its lists in Parquet, and how it is read from a text."""

    name: str
    list_name: str
    parse: type[str] | type[float] = float


@dataclass(frozen=True)
class Layout:
    """The layout `name` of predictions for which `suits` is true: `entries(prediction)` are tuples of the `columns`.

    `fields(entries)` returns them as in `Prediction.to_dict`. With `has_rank`, CSV numbers the entries.
    """

    name: str
    columns: tuple[Column, ...]
    suits: Callable[[Prediction], bool]
    entries: Callable[[Prediction], list[Entry]]
    fields: Callable[[Sequence[Entry]], dict[str, Any]]
    has_rank: bool = False

    @property
    def csv_columns(self) -> tuple[str, ...]:
        """All columns of CSV but the optional ones."""
        return ("path", *(["rank"] if self.has_rank else []), *(column.name for column in self.columns), "error")

    @property
    def list_columns(self) -> tuple[str, ...]:
        """The columns of Parquet that hold a list an image."""
        return tuple(column.list_name for column in self.columns)


def _class_fields(entries: Sequence[Entry]) -> dict[str, Any]:
    keys = ("name", "probability", "threshold")
    return {"classes": [dict(zip(keys, entry, strict=False)) for entry in entries]}


_NAME, _PROBABILITY = Column("class", "classes", str), Column("probability", "probabilities")
_CLASSES = Layout(
    "classes",
    (_NAME, _PROBABILITY),
    lambda prediction: True,
    lambda prediction: [(score.name, score.probability) for score in prediction.classes],
    _class_fields,
    has_rank=True,
)
_LABELS = Layout(
    "labels",
    (_NAME, _PROBABILITY, Column("threshold", "thresholds")),
    lambda prediction: any(score.threshold is not None for score in prediction.classes),
    lambda prediction: [(score.name, score.probability, score.threshold) for score in prediction.classes],
    _class_fields,
    has_rank=True,
)
_VALUES = Layout(
    "values",
    (Column("target", "targets", str), Column("value", "values")),
    lambda prediction: prediction.values is not None,
    lambda prediction: list((prediction.values or {}).items()),
    lambda entries: {"values": dict(entries)},
)
_SHARES = Layout(
    "shares",
    (_NAME, Column("share", "shares")),
    lambda prediction: prediction.shares is not None,
    lambda prediction: list((prediction.shares or {}).items()),
    lambda entries: {"shares": dict(entries)},
)
_BOXES = Layout(
    "boxes",
    (_NAME, Column("score", "scores"), *(Column(side, side) for side in ("x1", "y1", "x2", "y2"))),
    lambda prediction: prediction.boxes is not None,
    lambda prediction: [(box.name, box.score, *box.box) for box in prediction.boxes or ()],
    lambda entries: {"boxes": [{"name": name, "score": score, "box": box} for name, score, *box in entries]},
    has_rank=True,
)
# The first that suits is used: one that has fewer columns comes later.
LAYOUTS = (_BOXES, _VALUES, _SHARES, _LABELS, _CLASSES)


def choose_layout(predictions: Sequence[Prediction]) -> Layout:
    """Return the layout of the predictions of one file."""
    return next(layout for layout in LAYOUTS if layout is _CLASSES or any(map(layout.suits, predictions)))


def encode_text(text: str) -> bytes:
    """Return UTF-8, with the bytes of a file name that is none as escapes `\\udcff`, which JSON has too."""
    return text.encode("utf-8", "backslashreplace")


def _original_path(path: str) -> str:
    """Return the path that `encode_text` has written."""
    return re.sub(r"\\udc[89a-f][0-9a-f]", lambda match: chr(int(match[0][2:], 16)), path)


PredictionMetadata = Mapping[str, Any]


# Further columns in files where they are not empty, with the fields of `Prediction` that they hold.
_OPTIONAL_COLUMNS = {
    "mask": "mask_path",
    "overlay": "overlay_path",
    "embedding": "embedding",
    "grad_cam": "grad_cam",
    "warning": "warning",
}


def format_csv(predictions: Iterable[Prediction]) -> str:
    """Return one line per class, target, share or box: path, rank, class, probability, error in classification.

    If any row has the file of a mask, an embedding, a Grad-CAM path or a warning, the first line of each image has them
    in further columns. Texts that a spreadsheet would read as formulas begin with an apostrophe.
    """
    rows = list(predictions)
    layout = choose_layout(rows)
    optional = [name for name, attribute in _OPTIONAL_COLUMNS.items() if any(getattr(row, attribute) for row in rows)]
    lines: list[list[object]] = []
    for row in rows:
        optional_cells = [_format_cell(getattr(row, _OPTIONAL_COLUMNS[name])) for name in optional]
        entries = layout.entries(row) or [("",) * len(layout.columns)]
        for rank, entry in enumerate(entries, 1):
            cells = [value if isinstance(value, str) else f"{value:.6g}" for value in entry]
            ranks = [rank if entry[0] else ""] if layout.has_rank else []
            further = optional_cells if rank == 1 else [""] * len(optional)
            lines.append([row.path, *ranks, *cells, row.error, *further])
    return encode_csv([*layout.csv_columns, *optional], lines)


def _format_cell(value: str | tuple[float, ...]) -> str:
    return value if isinstance(value, str) else " ".join(f"{number:.7g}" for number in value)


def format_json(predictions: Iterable[Prediction], metadata: PredictionMetadata) -> str:
    """Return one JSON object with `predictions` and `metadata`."""
    payload = {"predictions": [prediction.to_dict() for prediction in predictions], "metadata": dict(metadata)}
    return json.dumps(payload, ensure_ascii=False, allow_nan=False) + "\n"


def format_parquet(predictions: Iterable[Prediction], metadata: PredictionMetadata) -> bytes:
    """Return one row per image, with lists of classes and probabilities, targets and values, shares, or boxes.

    Further columns are embedding, the paths of mask, overlay and Grad-CAM, warning and error. The metadata is under the
    key `reslab`.
    """
    require_extra("parquet", "a .parquet file")
    import pyarrow
    import pyarrow.parquet

    rows = list(predictions)
    layout = choose_layout(rows)
    types = {str: pyarrow.string(), float: pyarrow.float64()}
    columns = {"path": pyarrow.array([encode_text(row.path) for row in rows], pyarrow.string())}
    for i, column in enumerate(layout.columns):
        lists = [[entry[i] for entry in layout.entries(row)] for row in rows]
        columns[column.list_name] = pyarrow.array(lists, _list_type(types[column.parse]))
    columns["embedding"] = pyarrow.array([list(row.embedding) for row in rows], _list_type(pyarrow.float32()))
    for name, attribute in {**_OPTIONAL_COLUMNS, "error": "error"}.items():
        if name != "embedding":
            columns[name] = pyarrow.array([encode_text(getattr(row, attribute)) for row in rows], pyarrow.string())
    table = pyarrow.table(columns).replace_schema_metadata({"reslab": json.dumps(dict(metadata))})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def _list_type(value_type: Any) -> Any:
    import pyarrow

    return pyarrow.list_(value_type)


def _read_csv(path: Path) -> tuple[list[Prediction], PredictionMetadata | None]:
    rows: dict[str, dict[str, Any]] = {}
    entries: dict[str, list[tuple[Any, ...]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or ()
        layout = next((layout for layout in LAYOUTS if set(layout.csv_columns) <= set(header)), None)
        if layout is None:
            raise ValueError(f"columns {', '.join(header)}")
        for line in reader:
            record = {name: original_cell(cell or "") for name, cell in line.items() if name is not None}
            record["path"] = _original_path(record["path"])
            row = rows.setdefault(record["path"], {"path": record["path"], "error": record["error"]})
            entry = [record[column.name] for column in layout.columns]
            image_entries = entries.setdefault(record["path"], [])
            if entry[0]:
                pairs = zip(layout.columns, entry, strict=True)
                image_entries.append(tuple(column.parse(cell) for column, cell in pairs))
            if record.get("embedding"):
                row["embedding"] = [float(number) for number in record["embedding"].split()]
            for name in _OPTIONAL_COLUMNS.keys() - {"embedding"}:
                row[name] = row.get(name) or record.get(name) or ""
    return [prediction_from_dict({**row, **layout.fields(entries[name])}) for name, row in rows.items()], None


def _read_json(path: Path) -> tuple[list[Prediction], PredictionMetadata | None]:
    payload = json.loads(path.read_text(encoding="utf-8"))
    return [prediction_from_dict(row) for row in payload["predictions"]], payload.get("metadata")


def _read_parquet(path: Path) -> tuple[list[Prediction], PredictionMetadata | None]:
    require_extra("parquet", "a .parquet file")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    metadata = (table.schema.metadata or {}).get(b"reslab")
    layout = next(layout for layout in LAYOUTS if set(layout.list_columns) <= set(table.column_names))
    rows = []
    for row in table.to_pylist():
        entries = list(zip(*(row.pop(name) for name in layout.list_columns), strict=True))
        row["path"] = _original_path(row["path"])
        rows.append(prediction_from_dict({**row, **layout.fields(entries)}))
    return rows, json.loads(metadata) if metadata else None


@dataclass(frozen=True)
class PredictionFormat:
    """A file format of predictions: `encode` returns the bytes of a file, `read` the rows and metadata of one."""

    encode: Callable[[Iterable[Prediction], PredictionMetadata], bytes]
    read: Callable[[Path], tuple[list[Prediction], PredictionMetadata | None]]


PREDICTION_FORMATS = {
    ".json": PredictionFormat(lambda rows, metadata: encode_text(format_json(rows, metadata)), _read_json),
    ".csv": PredictionFormat(lambda rows, metadata: encode_text(format_csv(rows)), _read_csv),
    ".parquet": PredictionFormat(format_parquet, _read_parquet),
}


@dataclass(frozen=True)
class ResultIds:
    """The `classes` of a detector in order, COCO's ids of them, and COCO's ids of images by file name.

    Classes without an id have their number from 1; images without one the name of their file without its ending, as a
    number if all names are digits, as COCO's own are.
    """

    classes: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    image_ids: Mapping[str, ImageId] = field(default_factory=dict)

    def category_id(self, name: str) -> int:
        """Return the id of a class."""
        index = self.classes.index(name)
        return self.category_ids[index] if self.category_ids else index + 1

    def of_images(self, paths: Sequence[str]) -> list[ImageId]:
        """Return the id of the image of each path."""
        names = [Path(path).name for path in paths]
        if len(set(names)) == len(names) and all(name in self.image_ids for name in names):
            return [self.image_ids[name] for name in names]
        unique = unique_stems(paths)
        stems = [unique[path] for path in paths]
        are_numbers = all(stem.isdecimal() and stem.isascii() for stem in stems)
        are_numbers = are_numbers and len({int(stem) for stem in stems}) == len(stems)  # 1 and 001 are two images
        return [int(stem) for stem in stems] if are_numbers else list(stems)


class ResultIdsWarning(UserWarning):
    """A file of results has ids of its own, which may differ from those of the annotations."""


def find_ids(source: Path, classes: Sequence[str]) -> ResultIds:
    """Return the ids of the data of a run's folder; those without data if it is none, or its data cannot be opened.

    In the second case COCO's ids of the classes may be others: it warns with a `ResultIdsWarning`.
    """
    plain = ResultIds(tuple(classes))
    if not (source / "run.json").is_file():
        return plain
    try:
        data = reopen_data(Run(source).metadata["data"])
    except (ValueError, OSError) as error:
        text = f"the ids of the classes are 1 to {len(classes)}, and those of the images their file names, because the"
        warnings.warn(f"{text} data of the run could not be opened: {error}", ResultIdsWarning, stacklevel=2)
        return plain
    splits = [split for split in data.splits.values() if isinstance(split, BoxImageDataset)]
    category_ids = next((split.category_ids for split in splits if split.category_ids), ())
    if not category_ids or tuple(data.classes) != plain.classes:
        return plain
    names = [(Path(split.name(i)).name, split.table.image_ids[i]) for split in splits for i in range(len(split))]
    counts = Counter(name for name, _ in names)
    return ResultIds(plain.classes, category_ids, {name: image_id for name, image_id in names if counts[name] == 1})


def encode_coco(predictions: Sequence[Prediction], ids: ResultIds) -> bytes:
    """Return COCO's results as JSON: `image_id`, `category_id`, `bbox` (x, y, width, height), `score`.

    A box with a mask also has `segmentation` in run-length encoding. Images that could not be read have none.
    """
    image_ids = ids.of_images([prediction.path for prediction in predictions])
    results = []
    for prediction, image_id in zip(predictions, image_ids, strict=True):
        for box in prediction.boxes or ():
            mask = None if box.segment is None else box.segment.to_dict()
            results.append(coco_result(image_id, ids.category_id(box.name), box.box, box.score, mask))
    return encode_coco_results(results)


def encode_voc(predictions: Sequence[Prediction], ids: ResultIds) -> dict[str, bytes]:
    """Return VOC's result file of each class by its name, with lines of image, score, xmin, ymin, xmax and ymax.

    VOC counts pixels from 1 and both ends belong to a box, so (x1, y1, x2, y2) is x1 + 1, y1 + 1, x2, y2.
    """
    stems = unique_stems([prediction.path for prediction in predictions])
    lines: dict[str, list[str]] = {name: [] for name in ids.classes}
    for prediction in predictions:
        for box in prediction.boxes or ():
            x1, y1, x2, y2 = box.box
            sides = " ".join(f"{side:.6f}" for side in (x1 + 1, y1 + 1, x2, y2))
            lines[box.name].append(f"{stems[prediction.path]} {box.score:.6f} {sides}\n")
    return {VOC_RESULT_FILE.format(name.replace("/", "_")): "".join(rows).encode() for name, rows in lines.items()}


@dataclass(frozen=True)
class BoxResultFormat:
    """A file format of boxes alone: `encode` returns the bytes of a file, or of a folder those of its files by name.

    With `has_ids` classes and images have the ids of the annotations in it, not only their names.
    """

    encode: Callable[[Sequence[Prediction], ResultIds], bytes | Mapping[str, bytes]]
    has_ids: bool = False


BOX_FORMATS = {".coco.json": BoxResultFormat(encode_coco, has_ids=True), ".voc": BoxResultFormat(encode_voc)}


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder with these files; it appears with all of them, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        folder.chmod(0o755)
        os.replace(folder, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
