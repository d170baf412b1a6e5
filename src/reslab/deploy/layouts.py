"""The layouts of prediction files: lines of CSV and lists of Parquet, by the fields of a prediction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reslab.deploy.prediction import Prediction

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
