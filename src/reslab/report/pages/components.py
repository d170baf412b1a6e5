"""Parts that several pages share, as values for their templates: tiles and plot panels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from reslab.report.thumbnails import make_thumbnail

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
