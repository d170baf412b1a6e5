"""Figures as one PNG, on white, to be sent and pasted."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from reslab.report.figures.style import styled

_DOTS_PER_INCH = 160


def png(figures: Sequence[Figure], title: str = "") -> bytes:
    """The figures below each other, the first under `title`. Raises ValueError where there is none."""
    pictures = [_drawn(figure, title if place == 0 else "") for place, figure in enumerate(figures)]
    if not pictures:
        raise ValueError("required: at least one figure; got: none; this question is answered by a table alone")
    width = max(picture.width for picture in pictures)
    sheet = Image.new("RGB", (width, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, ((width - picture.width) // 2, top))
        top += picture.height
    stream = io.BytesIO()
    sheet.save(stream, "PNG", dpi=(_DOTS_PER_INCH, _DOTS_PER_INCH))
    return stream.getvalue()


def _drawn(figure: Figure, title: str) -> Image.Image:
    stream = io.BytesIO()
    heading = figure.suptitle(title, x=0.02, ha="left", fontsize=10.5) if title else None
    with styled():
        figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
    if heading is not None:
        figure.suptitle("")
    stream.seek(0)
    return Image.fromarray(np.asarray(Image.open(stream).convert("RGB")))
