"""Parts that several pages share, as values for their templates: tiles, plot panels, the results of a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from markupsafe import Markup

from reslab.report.format import format_int, format_metric, format_number, format_split
from reslab.report.images import make_thumbnail
from reslab.spec.task import TaskByName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS_PER_INCH = 72
_MIN_TEXT_PX = 9.0
_MAX_PX_PER_POINT = 1.6


def make_tile(name: str, value: str, *notes: str, css_class: str = "") -> dict[str, Any]:
    """Return a tile: a large value with its name above and notes below."""
    return {"name": name, "value": value, "notes": [note for note in notes if note], "css_class": css_class}


def make_panel(figure: "Figure", anchor: str, *, title: str, alt_text: str, caption: str = "") -> dict[str, Any]:
    """Return a plot as inline SVG with its title and caption, and the range of widths at which its text is legible.

    `anchor` starts the ids inside the SVG, so that two plots of a page do not share one.
    """
    # Imported here, as the pages' dataclasses are imported where nothing is drawn, and matplotlib is slow to import.
    from reslab.report.plots.export import min_font_points, render_inline_svg

    width_points = _POINTS_PER_INCH * figure.get_figwidth()
    return {
        "title": title,
        "caption": caption,
        "svg": Markup(render_inline_svg(figure, anchor, alt_text)),
        "min_width": round(width_points * _MIN_TEXT_PX / min_font_points(figure)),
        "max_width": round(width_points * _MAX_PX_PER_POINT),
        "is_wide": figure.get_figwidth() > 7,
    }


def gallery_item(image: np.ndarray, name: str, captions: Sequence[tuple[str, str, str]], note: str) -> dict[str, Any]:
    """Return an image of a gallery with lines of (label, text, CSS class of the text) and a note below."""
    alt_text = f"{name or 'Image'}: " + "; ".join(f"{label} {text}" for label, text, _ in captions)
    return {"image": make_thumbnail(image), "name": name, "captions": captions, "note": note, "alt_text": alt_text}


def metric_panel(figure: "Figure", anchor: str, title: str, caption: str) -> dict[str, Any]:
    """Return the panel of a metric against epochs; the caption is part of its alternative text."""
    return make_panel(figure, anchor, title=title, alt_text=f"{title} against epochs. {caption}", caption=caption)


@dataclass(frozen=True, kw_only=True)
class TaskResults:
    """The results of an evaluation for a page; one subclass per task.

    `template` is included in the page with the values of `context`. `sections` are the anchor, the key of the context
    that decides whether there is such a section, and the title of each. Percentages have as many `decimals`.
    """

    task: ClassVar[TaskByName]
    template: ClassVar[str] = ""
    decimals: ClassVar[int] = 2
    sections: ClassVar[tuple[tuple[str, str, str], ...]] = ()

    def context(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the template."""
        return {}

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Return one sentence with the metric that selects the weights."""
        metric, split = self.task.selection_metric, format_split(metrics.get("split"))
        images = f"{format_int(int(metrics['num_samples']))} {split} images"
        title = metric.title[:1].upper() + metric.title[1:]
        return f"{title} {format_metric(metric, metrics.get(metric.name), self.decimals)} on {images}."

    def tiles(self, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the tiles of the metrics that are defined, and of the loss if the task evaluates one."""
        split = format_split(metrics.get("split"))
        images = f"on {format_int(int(metrics['num_samples']))} {split} images"
        tiles = [
            make_tile(
                metric.title, format_metric(metric, metrics[metric.name], self.decimals), images if index == 0 else ""
            )
            for index, metric in enumerate(self.task.metrics)
            if metrics.get(metric.name) is not None
        ]
        if metrics.get("loss") is not None:
            tiles.append(make_tile("loss", format_number(metrics["loss"]), f"mean over the {split} images"))
        return tiles
