"""What a confusion matrix says: the scores of each class, the pairs most confused, the interval of an accuracy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reslab.spec.errors import refuse

Confusion = Sequence[Sequence[int]]


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall, F1 of one class as fractions (NaN where nothing defines them), and its number of samples."""

    index: int
    name: str
    precision: float
    recall: float
    f1: float
    num_samples: int


@dataclass(frozen=True)
class Confused:
    """How often samples of class `true` were taken for class `predicted`: `count` of `num_samples`."""

    true: str
    predicted: str
    count: int
    num_samples: int


def class_scores(confusion: Confusion, classes: Sequence[str]) -> list[ClassScore]:
    """Each class's precision TP/(TP+FP), recall TP/(TP+FN), F1 2TP/(2TP+FP+FN), from confusion[true][predicted].

    A fraction of nothing is NaN (scikit-learn's `zero_division=nan`). Raises ValueError unless the matrix is square
    and has one row a class.
    """
    check_confusion(confusion, classes)
    columns = [sum(row[index] for row in confusion) for index in range(len(classes))]
    scores = []
    for index, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        right, num_true = row[index], sum(row)
        precision, recall = _ratio(right, columns[index]), _ratio(right, num_true)
        f1 = _ratio(2 * right, columns[index] + num_true)
        scores.append(ClassScore(index, name, precision, recall, f1, num_true))
    return scores


def check_confusion(confusion: Confusion, classes: Sequence[str]) -> None:
    """Raises ValueError unless `confusion` has one row and one column a class."""
    sizes = {len(confusion), *(len(row) for row in confusion)}
    if sizes != {len(classes)}:
        raise refuse(f"a confusion matrix of {len(classes)} rows and columns, one a class", f"sizes {sorted(sizes)}")


def class_mean(values: Sequence[float]) -> float:
    """The unweighted (macro) mean over the classes that have a value; NaN where none has."""
    known = [value for value in values if not math.isnan(value)]
    return _ratio(sum(known), len(known))


def most_confused(confusion: Confusion, classes: Sequence[str], at_most: int = 6) -> list[Confused]:
    """The pairs of classes confused most often, by count, then by share of the true class, then in class order."""
    pairs = [
        Confused(classes[i], classes[j], number, sum(row))
        for i, row in enumerate(confusion)
        for j, number in enumerate(row)
        if i != j and number > 0
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, pair.num_samples))[:at_most]


def wilson_interval(num_correct: int, num_samples: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927, JASA 22: 209-212), by default at 95 %, as fractions."""
    share, weight = num_correct / num_samples, z * z / num_samples
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / num_samples + weight / num_samples / 4) / (1 + weight)
    return max(0.0, round(centre - half, 12)), min(1.0, round(centre + half, 12))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
