"""What `reslab eval` says of an evaluation: rows for a person, keys for a script."""

from typing import TYPE_CHECKING, Any

from reslab.metrics.classification import class_mean
from reslab.report.format import count, number, percent

if TYPE_CHECKING:
    from reslab.training.evaluation.loop import Evaluation


def scores(found: "Evaluation") -> list[tuple[str, str]]:
    """Split, accuracy, loss."""
    right = f"{count(found.num_correct)} of {count(found.num_samples)} right"
    rows = [("split", found.split), ("accuracy", f"{percent(found.top1)} ({right})")]
    rows += [("in the first five", percent(found.top5))] if found.top5 is not None else []
    return [*rows, ("loss", number(found.loss))]


def told(calibration: dict[str, Any]) -> list[tuple[str, str]]:
    """The calibration error, and what a temperature makes of it; nothing where none was asked for."""
    if not calibration:
        return []
    rows = [("calibration error", percent(calibration["ece"]))]
    if "temperature" not in calibration:
        why = (
            "none: it is fitted on validation images with a mistake among them (--val-fraction), never on the test set"
        )
        return [*rows, ("temperature", why)]
    images = f"{count(calibration['fitted_images'])} images of {calibration['fitted_on']}"
    rows.append(("temperature", f"{number(calibration['temperature'])}, fitted on {images}"))
    if "ece_scaled" in calibration:
        how = ", each half judged with the other's temperature" if calibration["in_halves"] else ""
        scaled = f"calibration error {percent(calibration['ece_scaled'])}, loss {number(calibration['loss_scaled'])}"
        rows.append(("with it", scaled + how))
    return rows


def class_facts(found: "Evaluation") -> dict[str, Any]:
    """`classes`: name, precision, recall, f1 (null where nothing defines one), num_samples; `confusion`, a row a true
    class."""
    names = ("name", "precision", "recall", "f1", "num_samples")
    classes = [{name: getattr(score, name) for name in names} for score in found.class_scores()]
    return {"classes": classes, "confusion": found.confusion}


def class_table(found: "Evaluation") -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns and rows: each class, and the mean of the classes."""
    every = found.class_scores()
    rows = [
        (
            score.name,
            *(percent(value, 1) for value in (score.precision, score.recall, score.f1)),
            count(score.num_samples),
        )
        for score in every
    ]
    means = [
        percent(class_mean([getattr(score, name) for score in every]), 1) for name in ("precision", "recall", "f1")
    ]
    return ["class", "precision", "recall", "F1", "images"], [*rows, ("mean", *means, count(found.num_samples))]
