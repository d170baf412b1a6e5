"""A row of figures with a slider, for notebooks: the reader moves through the frames, and nothing moves by itself."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import matplotlib.pyplot
from matplotlib.figure import Figure

from reslab.spec.errors import invalid

MAX_FRAMES = 64
_SHOW_FRAME = (
    "const frames = this.closest('.reslab-frames'), images = frames.querySelectorAll('img');"
    "const index = this.valueAsNumber;"
    "images.forEach((image, number) => { image.hidden = number !== index; });"
    "frames.querySelector('output').textContent = images[index].dataset.label;"
)


@dataclass(frozen=True)
class Frames:
    """Figures of one size with a slider below them; the last value of a notebook's cell shows it.

    `figures`: figures of matplotlib, which are closed, or texts of SVG images. `labels`: one for each figure, read
    beside the slider. `alt`: what the figures show, for readers who do not see them. `start`: the index of the frame
    that is shown first. Raises ValueError for no figure, more than 64 of them, and labels or a start that do not fit.
    """

    figures: Sequence[Figure | str]
    labels: Sequence[str] = ()
    alt: str = ""
    start: int = 0

    def __post_init__(self) -> None:
        count = len(self.figures)
        if not 1 <= count <= MAX_FRAMES:
            raise invalid(f"from 1 to {MAX_FRAMES} figures", count)
        if self.labels and len(self.labels) != count:
            raise invalid(f"a label for each of {count} figures", len(self.labels))
        if not 0 <= self.start < count:
            raise invalid(f"a start from 0 to {count - 1}", self.start, nearest="0")
        for figure in self.figures:
            if isinstance(figure, Figure):  # a notebook would show it once more
                matplotlib.pyplot.close(figure)

    def _repr_html_(self) -> str:
        """Return the slider and the frames as HTML that needs no other file."""
        count = len(self.figures)
        labels = self.labels or [f"{index + 1} of {count}" for index in range(count)]
        images = [
            f'<img src="{_data_uri(figure)}" alt="{html.escape(f"{self.alt}: {label}" if self.alt else label)}" '
            f'data-label="{html.escape(label)}"{"" if index == self.start else " hidden"}>'
            for index, (figure, label) in enumerate(zip(self.figures, labels, strict=True))
        ]
        slider = (
            f'<input type="range" min="0" max="{count - 1}" value="{self.start}" '
            f'aria-label="{html.escape(self.alt or "frame")}" oninput="{html.escape(_SHOW_FRAME)}">'
        )
        output = f"<output>{html.escape(labels[self.start])}</output>"
        return f'<div class="reslab-frames">{"".join(images)}<div>{slider} {output}</div></div>'


def _data_uri(figure: Figure | str) -> str:
    if isinstance(figure, Figure):
        stream = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reslab"}):
            figure.savefig(stream, format="svg", facecolor="white", metadata={"Date": None})
        figure = stream.getvalue()
    return f"data:image/svg+xml;base64,{base64.b64encode(figure.encode('utf-8')).decode('ascii')}"
