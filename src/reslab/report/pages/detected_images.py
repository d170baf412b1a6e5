"""Images of a detection on a page: true and predicted boxes, drawn by their outcome, with a legend."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from reslab.data.mask_colors import Color, format_color
from reslab.metrics.detection import DetectionPrediction, DetectionTarget, ImageOutcomes, Outcome
from reslab.report.format import format_percent, pluralize
from reslab.report.images import MAX_TINY_SIDE, MarkedBox, box_text, make_thumbnail, mark_boxes

IMAGE_SIDE = 560  # the longer side of an image on the page
MAX_LABELED = 24  # with more boxes than that, correct ones have no label
# Blue, vermilion and yellow of Okabe and Ito, which differ in lightness too; gray for what does not count.
CORRECT_COLOR, WRONG_COLOR, MISSED_COLOR, IGNORED_COLOR = (0, 114, 178), (213, 94, 0), (240, 228, 66), (150, 150, 150)
NO_ERROR = (Outcome.CORRECT, Outcome.IGNORED)


@dataclass(frozen=True)
class BoxImage:
    """An image to draw boxes on: uint8 pixels (H, W) or (H, W, 3), its name, and the scale from boxes to pixels.

    A scale of 0.5 says that the image has every second pixel of that in which the boxes are.
    """

    pixels: np.ndarray
    name: str = ""
    scale: float = 1.0


@dataclass(frozen=True)
class ErrorImage:
    """An image with its objects, its predictions, and the outcome of each of them (`metrics.detection`)."""

    image: BoxImage
    target: DetectionTarget
    prediction: DetectionPrediction
    outcomes: ImageOutcomes


def image_f1(target: DetectionTarget, outcomes: ImageOutcomes) -> float:
    """Return 2 TP / (predictions + objects) of an image, 1 without either; what is ignored does not count."""
    counts = Counter(outcomes.outcomes)
    total = sum(counts.values()) - counts[Outcome.IGNORED] + int((~target.is_ignored).sum())
    return 2 * counts[Outcome.CORRECT] / total if total else 1.0


def images_context(images: Sequence[ErrorImage], classes: Sequence[str]) -> dict[str, Any]:
    """Return each image with its boxes, what is wrong in it, and the legend of all the boxes."""
    kinds = {kind for image in images for kind, _ in _marks(image, classes)}
    return {
        "worst_images": [_image_item(image, classes) for image in images],
        "box_legend": [{"name": kind.name, "swatch": format_color(kind.color), "style": kind.style}
                       for kind in _KINDS if kind in kinds],
    }  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    """A kind of box, with its name in the legend."""

    name: str
    color: Color
    is_dashed: bool

    @property
    def style(self) -> str:
        return "dashed" if self.is_dashed else "solid"


_CORRECT, _WRONG = _Kind("correct prediction", CORRECT_COLOR, False), _Kind("wrong prediction", WRONG_COLOR, False)
_FOUND, _MISSED = _Kind("object, found", CORRECT_COLOR, True), _Kind("object, not found", MISSED_COLOR, True)
_IGNORED = _Kind("crowd or difficult: does not count", IGNORED_COLOR, True)
# In the order in which they are drawn: the last is on top.
_KINDS = (_IGNORED, _FOUND, _CORRECT, _WRONG, _MISSED)


def _image_item(image: ErrorImage, classes: Sequence[str]) -> dict[str, Any]:
    drawn = draw_outcomes(image, classes)
    errors = _error_text(image)
    f1 = format_percent(image_f1(image.target, image.outcomes), 1)
    name = image.image.name
    return {
        "image": make_thumbnail(np.asarray(drawn), IMAGE_SIDE),
        "name": name,
        "f1": f1,
        "errors": errors,
        "alt_text": f"{name or 'Image'} with boxes: {errors}",
    }


def draw_outcomes(image: ErrorImage, classes: Sequence[str]) -> Image.Image:
    """Return the image, its longer side of `IMAGE_SIDE` pixels, with the boxes of its objects and predictions."""
    pixels = Image.fromarray(np.ascontiguousarray(image.image.pixels)).convert("RGB")
    factor = IMAGE_SIDE / max(pixels.size)
    size = (max(1, round(pixels.width * factor)), max(1, round(pixels.height * factor)))
    is_tiny = max(pixels.size) <= MAX_TINY_SIDE
    pixels = pixels.resize(size, Image.Resampling.NEAREST if is_tiny else Image.Resampling.LANCZOS)
    marks = sorted(_marks(image, classes), key=lambda pair: _KINDS.index(pair[0]))
    is_crowded = len(marks) > MAX_LABELED
    scale = factor * image.image.scale
    return mark_boxes(
        pixels,
        [
            MarkedBox(
                [scale * side for side in mark.box],
                mark.color,
                "" if is_crowded and kind is _CORRECT else mark.label,
                mark.is_dashed,
            )
            for kind, mark in marks
        ],
    )


def _marks(image: ErrorImage, classes: Sequence[str]) -> list[tuple[_Kind, MarkedBox]]:
    """Return the boxes of an image by kind, in its pixels, predictions by rising score."""
    target, prediction, outcomes = image.target, image.prediction, image.outcomes
    pairs = list(zip(outcomes.indices, outcomes.outcomes, outcomes.objects, strict=True))
    correct = {index for _, outcome, index in pairs if outcome is Outcome.CORRECT}
    marks = []
    for i, label in enumerate(target.labels.tolist()):
        kind = _IGNORED if target.is_ignored[i] else _FOUND if i in correct else _MISSED
        marks.append((kind, _mark(kind, target.boxes[i], "" if kind is _FOUND else classes[label])))
    for i, outcome, _ in reversed(pairs):
        kind = {Outcome.CORRECT: _CORRECT, Outcome.IGNORED: _IGNORED}.get(outcome, _WRONG)
        text = box_text(classes[int(prediction.labels[i])], float(prediction.scores[i]))
        marks.append((kind, _mark(kind, prediction.boxes[i], text)))
    return marks


def _mark(kind: _Kind, box: Tensor, label: str) -> MarkedBox:
    return MarkedBox(box.tolist(), kind.color, label, kind.is_dashed)


def _error_text(image: ErrorImage) -> str:
    """Return what is right and wrong in an image: `3 of 5 objects found; wrong: 1 duplicate, 1 background`."""
    counts = Counter(image.outcomes.outcomes)
    num_objects = int((~image.target.is_ignored).sum())
    text = f"{counts[Outcome.CORRECT]} of {pluralize(num_objects, 'object')} found" if num_objects else "no object"
    wrong = [outcome for outcome in Outcome if counts[outcome] and outcome not in NO_ERROR]
    errors = ", ".join(f"{counts[outcome]} {outcome}" for outcome in wrong)
    return f"{text}; wrong: {errors}" if errors else text
