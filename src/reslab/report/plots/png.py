"""Figures as one PNG on white."""

import io
import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from reslab.report.analyses.result import RenderedFigure
from reslab.report.plots.style import plot_style
from reslab.spec.errors import invalid

_DOTS_PER_INCH = 160
_WIDE_INCHES = 7.0
_CAPTION_POINTS = 8.0
_CHARACTERS_PER_INCH = 15


def render_png(figures: Sequence[RenderedFigure], title: str = "") -> bytes:
    """Return the figures with their titles and captions on one sheet.

    Three or more are arranged in two columns; wide ones have a row of their own. Raises ValueError where there is none.
    """
    if not figures:
        raise invalid("at least one figure", "none", next_step="this analysis has only a table")
    images = [_draw_figure(figure) for figure in figures]
    rows = _arrange_rows(images) if len(images) > 2 else [[figure] for figure in images]
    if title:
        rows.insert(0, [_draw_heading(title, max(image.width for image in images), 13, "bold")])
    sheet = _paste_images([_paste_images(row, horizontal=True) for row in rows])
    stream = io.BytesIO()
    sheet.save(stream, "PNG", dpi=(_DOTS_PER_INCH, _DOTS_PER_INCH))
    return stream.getvalue()


def _arrange_rows(images: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """Return rows of two images in their order; a wide image has its own row."""
    rows: list[list[Image.Image]] = []
    for image in images:
        is_wide = image.width > _WIDE_INCHES * _DOTS_PER_INCH
        fits_beside = rows and len(rows[-1]) == 1 and rows[-1][0].width <= _WIDE_INCHES * _DOTS_PER_INCH
        if fits_beside and not is_wide:
            rows[-1].append(image)
        else:
            rows.append([image])
    return rows


def _paste_images(images: Sequence[Image.Image], horizontal: bool = False) -> Image.Image:
    widths, heights = [image.width for image in images], [image.height for image in images]
    size = (sum(widths), max(heights)) if horizontal else (max(widths), sum(heights))
    sheet, offset = Image.new("RGB", size, "white"), 0
    for image in images:
        sheet.paste(image, (offset, 0) if horizontal else (0, offset))
        offset += image.width if horizontal else image.height
    return sheet


def _draw_heading(title: str, width: int, size: float, weight: str = "normal") -> Image.Image:
    with plot_style():
        height = size / 31
        figure = Figure(figsize=(width / _DOTS_PER_INCH, height))
        figure.text(0.1 / figure.get_figwidth(), 0.4, title, fontsize=size, fontweight=weight, va="center")
        return _figure_to_image(figure)


def _draw_caption(text: str, width: int) -> Image.Image:
    """Return a caption, wrapped to the width of its figure."""
    lines = textwrap.wrap(text, int(width / _DOTS_PER_INCH * _CHARACTERS_PER_INCH))
    with plot_style():
        figure = Figure(figsize=(width / _DOTS_PER_INCH, (len(lines) + 1) * _CAPTION_POINTS / 50))
        left = 0.1 / figure.get_figwidth()
        figure.text(left, 1, "\n".join(lines), fontsize=_CAPTION_POINTS, va="top", color="dimgrey", linespacing=1.3)
        return _figure_to_image(figure)


def _draw_figure(rendered: RenderedFigure) -> Image.Image:
    """Return the figure with its title above and its caption below, leaving the figure itself unchanged."""
    with plot_style():
        image = _figure_to_image(rendered.figure)
    heading = [_draw_heading(rendered.title, image.width, 10.5)] if rendered.title else []
    return _paste_images(
        [*heading, image, *([_draw_caption(rendered.caption, image.width)] if rendered.caption else [])]
    )


def _figure_to_image(figure: Figure) -> Image.Image:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
    stream.seek(0)
    return Image.open(stream).convert("RGB")
