"""How the answers to `attribution` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reslab.report.analyses.result import Shown, ShownFigure, ShownTable
from reslab.report.format import percent
from reslab.report.plots.images import Row, grid_figure, over_picture, pixels_of

Answer = Mapping[str, Any]
_ROUNDING = 1e-4
_METHODS = (("grad_cam", "Grad-CAM"), ("integrated", "integrated gradients"), ("occlusion", "occlusion"))


def show(answers: Sequence[Answer]) -> Shown:
    """The pictures, and beside each what speaks for the class by three methods, one network after the other."""
    return Shown(
        "What in a picture speaks for its class",
        tuple(attribution_words(answer) for answer in answers),
        tuple(_figure(answer) for answer in answers),
        tuple(_table(answer) for answer in answers),
    )


def attribution_words(answer: Answer) -> str:
    """How many of the pictures are called right, and how complete the integrated gradients are."""
    pictures = answer["pictures"]
    right = sum(one["label"] == one["predicted"] for one in pictures)
    worst = max(abs(one["left_over"]) for one in pictures)
    gap = f"at most {percent(worst, 1)}" if worst >= _ROUNDING else "less than 0.01 %"
    return (
        f"{answer['subject']}: {right} of {len(pictures)} pictures are called right. The integrated gradients add up "
        f"to the rise of the class's score, but for {gap} of it. Grad-CAM: {answer['layer']}."
    )


def _figure(answer: Answer) -> ShownFigure:
    rows = []
    for one in answer["pictures"]:
        pixels = pixels_of(one["picture"])
        maps = [over_picture(pixels, one[key], smooth=key != "integrated") for key, _ in _METHODS]
        rows.append(Row(_name(one), [pixels, *maps]))
    label = f"{answer['subject']}: pictures, and what in them speaks for the class (vermilion) or against it (blue)."
    titles = ["", *(name for _, name in _METHODS)]
    side = answer["square"]
    caption = f"Vermilion: for the class. Blue: against it. Occlusion covers {side}×{side} pixels at a time."
    return ShownFigure(grid_figure(rows, titles, 1.35), label, f"Where {answer['subject']} looks", caption)


def _name(one: Answer) -> str:
    said = f"{one['target']}, {percent(one['probability'], 0)}"
    return said if one["label"] == one["target"] else f"{said}\n(is {one['label']})"


def _table(answer: Answer) -> ShownTable:
    rows = [
        [
            str(one["index"]),
            one["label"],
            one["predicted"],
            percent(one["probability"], 1),
            _centre(one["grad_cam"]),
            _centre(one["occlusion"]),
            percent(abs(one["left_over"]), 2),
        ]
        for one in answer["pictures"]
    ]
    columns = ["picture", "class", "called", "probability", "Grad-CAM's centre", "occlusion's centre", "left over"]
    return ShownTable(f"{answer['subject']}: the centres are in percent from the left and from the top", columns, rows)


def _centre(values: Sequence[Sequence[float]]) -> str:
    """The centre of what speaks for the class, in percent of width and height."""
    found = np.array(values, dtype=float).clip(min=0)
    if not found.sum():
        return "–"
    rows, columns = (np.arange(size) + 0.5 for size in found.shape)
    across = float((found.sum(0) * columns).sum() / found.sum() / found.shape[1])
    down = float((found.sum(1) * rows).sum() / found.sum() / found.shape[0])
    return f"{100 * across:.0f}, {100 * down:.0f}"
