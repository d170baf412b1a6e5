"""The curves of a run, each with the sentence that says what it shows."""

from statistics import median
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from reslab.report.format import count, seconds
from reslab.report.pages.run_text import accuracy_words, loss_words, lost_words, rate_words, split_words
from reslab.report.parts.scores import tile
from reslab.report.plots.curves import Curve, accuracy_figure, loss_figure, rate_figure
from reslab.report.plots.export import svg
from reslab.report.series import Log, eval_series, splits, train_series


def training_parts(log: Log) -> dict[str, Any]:
    """Loss, accuracy and learning rate against epochs, where the log has them, and warnings of what diverged."""
    panels = []
    losses, accuracies, rate = _curves(log, "loss"), _curves(log, "top1"), train_series(log, "lr")
    if losses:
        panels.append(panel("Loss", loss_figure(losses), loss_words(log), "loss"))
    if accuracies:
        panels.append(panel("Accuracy", accuracy_figure(accuracies), accuracy_words(log), "accuracy"))
    if rate:
        panels.append(panel("Learning rate", rate_figure(rate), rate_words(rate), "rate"))
    return {"curves": panels, "pace": _pace(log), "warnings": lost_words(log)}


def _pace(log: Log) -> list[dict[str, Any]]:
    """How long and how fast the training went, as far as its last line and the median of its speeds tell."""
    lines = [line for line in log if line.get("kind") == "train"]
    if not lines:
        return []
    last, speeds = lines[-1], train_series(log, "images_per_second").y
    figures = [("epochs", "epoch", lambda value: f"{value:.4g}"), ("steps", "step", lambda value: count(round(value)))]
    tiles = [tile(name, write(float(last[key]))) for name, key, write in figures if last.get(key) is not None]
    if last.get("seconds") is not None:
        tiles.append(tile("training time", seconds(float(last["seconds"]))))
    if speeds:
        tiles.append(tile("images per second", count(round(median(speeds))), "median"))
    return tiles


def panel(title: str, figure: Figure, words: str, anchor: str) -> dict[str, Any]:
    """A figure with its title and its sentence; the sentence is its text for those who cannot see it, too."""
    return {"title": title, "words": words, "svg": Markup(svg(figure, anchor, f"{title} against epochs. {words}"))}


def _curves(log: Log, value: str) -> list[Curve]:
    """What was held out in solid lines, the training in a dashed one where there is both."""
    held_out = [
        Curve(eval_series(log, split, value), split_words(split), place) for place, split in enumerate(splits(log))
    ]
    held_out = [curve for curve in held_out if curve.line]
    training = train_series(log, value)
    if not training:
        return held_out
    return [*held_out, Curve(training, "training", len(held_out) if held_out else 0, dashed=bool(held_out))]
