"""Figures as one PNG, on white, to be sent and pasted."""

import io
from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from reslab.report.figures.style import styled
from reslab.spec.errors import refuse

_DOTS_PER_INCH = 160


def png(figures: Sequence[tuple[str, Figure]], title: str = "") -> bytes:
    """The figures with their titles, two abreast where there are three or more, under one `title`.

    Raises ValueError where there is none.
    """
    if not figures:
        raise refuse("at least one figure", "none", next_step="this question is answered by its table alone")
    pictures = [_drawn(figure, name) for name, figure in figures]
    rows = (
        [pictures[place : place + 2] for place in range(0, len(pictures), 2)]
        if len(pictures) > 2
        else [[each] for each in pictures]
    )
    if title:
        rows.insert(0, [_heading(title, max(picture.width for picture in pictures))])
    sheet = _pasted([_pasted(row, beside=True) for row in rows])
    stream = io.BytesIO()
    sheet.save(stream, "PNG", dpi=(_DOTS_PER_INCH, _DOTS_PER_INCH))
    return stream.getvalue()


def _pasted(pictures: Sequence[Image.Image], beside: bool = False) -> Image.Image:
    widths, heights = [picture.width for picture in pictures], [picture.height for picture in pictures]
    size = (sum(widths), max(heights)) if beside else (max(widths), sum(heights))
    sheet, at = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        sheet.paste(picture, (at, 0) if beside else (0, at))
        at += picture.width if beside else picture.height
    return sheet


def _heading(title: str, width: int) -> Image.Image:
    with styled():
        figure = Figure(figsize=(width / _DOTS_PER_INCH, 0.42))
        figure.text(0.02, 0.4, title, fontsize=13, fontweight="bold", va="center")
        return _picture(figure)


def _drawn(figure: Figure, title: str) -> Image.Image:
    """The figure under its title; the figure itself stays without."""
    with styled():
        if title:
            figure.suptitle(title, x=0.02, ha="left", fontsize=10.5)
        drawn = _picture(figure)
        figure.suptitle("")
    return drawn


def _picture(figure: Figure) -> Image.Image:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
    stream.seek(0)
    return Image.open(stream).convert("RGB")
