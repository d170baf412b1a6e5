"""Figures as one PNG, on white, to be sent and pasted."""

import io
import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from reslab.report.analyses.result import ShownFigure
from reslab.report.plots.style import styled
from reslab.spec.errors import refuse

_DOTS_PER_INCH = 160
_WIDE_INCHES = 7.0
_CAPTION_POINTS = 8.0
_CHARACTERS_AN_INCH = 15


def png(figures: Sequence[ShownFigure], title: str = "") -> bytes:
    """The figures with their titles and captions, under one `title`: two abreast where there are three or more, wide
    ones alone.

    Raises ValueError where there is none.
    """
    if not figures:
        raise refuse("at least one figure", "none", next_step="this question is answered by its table alone")
    pictures = [_drawn(each) for each in figures]
    rows = _rows(pictures) if len(pictures) > 2 else [[each] for each in pictures]
    if title:
        rows.insert(0, [_heading(title, max(picture.width for picture in pictures), 13, "bold")])
    sheet = _pasted([_pasted(row, beside=True) for row in rows])
    stream = io.BytesIO()
    sheet.save(stream, "PNG", dpi=(_DOTS_PER_INCH, _DOTS_PER_INCH))
    return stream.getvalue()


def _rows(pictures: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """Two abreast, as they come; a wide one has a row of its own."""
    rows: list[list[Image.Image]] = []
    for picture in pictures:
        wide = picture.width > _WIDE_INCHES * _DOTS_PER_INCH
        beside = rows and len(rows[-1]) == 1 and rows[-1][0].width <= _WIDE_INCHES * _DOTS_PER_INCH
        if beside and not wide:
            rows[-1].append(picture)
        else:
            rows.append([picture])
    return rows


def _pasted(pictures: Sequence[Image.Image], beside: bool = False) -> Image.Image:
    widths, heights = [picture.width for picture in pictures], [picture.height for picture in pictures]
    size = (sum(widths), max(heights)) if beside else (max(widths), sum(heights))
    sheet, at = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        sheet.paste(picture, (at, 0) if beside else (0, at))
        at += picture.width if beside else picture.height
    return sheet


def _heading(title: str, width: int, size: float, weight: str = "normal") -> Image.Image:
    with styled():
        height = size / 31
        figure = Figure(figsize=(width / _DOTS_PER_INCH, height))
        figure.text(0.1 / figure.get_figwidth(), 0.4, title, fontsize=size, fontweight=weight, va="center")
        return _picture(figure)


def _caption(text: str, width: int) -> Image.Image:
    """The words below a figure, broken to its width."""
    lines = textwrap.wrap(text, int(width / _DOTS_PER_INCH * _CHARACTERS_AN_INCH))
    with styled():
        figure = Figure(figsize=(width / _DOTS_PER_INCH, (len(lines) + 1) * _CAPTION_POINTS / 50))
        left = 0.1 / figure.get_figwidth()
        figure.text(left, 1, "\n".join(lines), fontsize=_CAPTION_POINTS, va="top", color="dimgrey", linespacing=1.3)
        return _picture(figure)


def _drawn(shown: ShownFigure) -> Image.Image:
    """The figure under its title and over its caption; the figure itself stays without."""
    with styled():
        drawn = _picture(shown.figure)
    above = [_heading(shown.title, drawn.width, 10.5)] if shown.title else []
    return _pasted([*above, drawn, *([_caption(shown.caption, drawn.width)] if shown.caption else [])])


def _picture(figure: Figure) -> Image.Image:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
    stream.seek(0)
    return Image.open(stream).convert("RGB")
