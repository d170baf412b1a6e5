"""A drawing as a PNG image, on white."""

import io
import math
from functools import cache

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle as CirclePatch
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as MatplotlibPath
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from reslab.report.drawings.canvas import (
    MARGIN,
    PAPER,
    Circle,
    Drawing,
    Element,
    Line,
    PathPart,
    Rect,
    Text,
    arrow_head,
    box_colors,
    line_color,
    rounded_path,
)
from reslab.report.plots.style import plot_style

_PIXELS_PER_UNIT = 2
_POINTS_PER_INCH = 72
# DejaVu Sans, which matplotlib brings, is wider than Helvetica.
_FONT_SCALE = 0.9


def render_png(drawing: Drawing) -> bytes:
    """Return the drawing as a PNG of two pixels a unit; text is no wider than in the font Helvetica."""
    left, top, right, bottom = drawing.bounds
    width, height = math.ceil(right - left + 2 * MARGIN), math.ceil(bottom - top + 2 * MARGIN)
    with plot_style():
        figure = Figure(figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH), facecolor=PAPER)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for number, element in enumerate(drawing.moved_to(MARGIN, MARGIN)):
            for patch in _patches(element):
                patch.set_zorder(number)
                axes.add_artist(patch)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=_POINTS_PER_INCH * _PIXELS_PER_UNIT, metadata={"Software": None})
    return stream.getvalue()


def _patches(element: Element) -> list[PathPatch | FancyBboxPatch | CirclePatch | Polygon]:
    if isinstance(element, Text):
        return [_text_patch(element)]
    if isinstance(element, Rect):
        fill, line = box_colors(element.style)
        style = f"round,pad=0,rounding_size={element.radius or 1e-6}"
        corner = (element.x, element.y)
        return [FancyBboxPatch(corner, element.width, element.height, style, facecolor=fill, edgecolor=line)]
    if isinstance(element, Circle):
        fill, line = (line_color(element.style),) * 2 if element.is_dot else box_colors(element.style)
        return [CirclePatch((element.x, element.y), element.radius, facecolor=fill, edgecolor=line)]
    return _line_patches(element)


def _line_patches(line: Line) -> list[PathPatch | FancyBboxPatch | CirclePatch | Polygon]:
    color, points, heads = line_color(line.style), line.points, []
    if line.has_arrow:
        base, left, right = arrow_head(points[-2], points[-1])
        heads = [Polygon([points[-1], left, right], closed=True, facecolor=color, linewidth=0)]
        points = (*points[:-1], base)
    vertices, codes = [], []
    for curve, *curve_points in rounded_path(points):
        vertices += curve_points
        codes += [_CODES[curve]] * len(curve_points)
    path = MatplotlibPath(vertices, codes)
    return [PathPatch(path, facecolor="none", edgecolor=color, linewidth=1.5, capstyle="butt"), *heads]


_CODES = {
    PathPart.MOVE: MatplotlibPath.MOVETO,
    PathPart.LINE: MatplotlibPath.LINETO,
    PathPart.BEND: MatplotlibPath.CURVE3,
}


def _text_patch(text: Text) -> PathPatch:
    """Return the outlines of a text within its box."""
    path = _outline(text.text, text.size, text.is_bold)
    extent = path.get_extents().x1
    scale = min(_FONT_SCALE, text.width / extent) if extent > 0 else 1
    shift = (text.width - scale * extent) * {"start": 0.0, "middle": 0.5, "end": 1.0}[text.anchor]
    transform = Affine2D().scale(scale, -scale).translate(text.bounds[0] + shift, text.y)
    return PathPatch(transform.transform_path(path), facecolor=line_color(text.style), linewidth=0)


@cache
def _outline(text: str, size: float, is_bold: bool) -> TextPath:
    return TextPath((0, 0), text, size=size, prop=FontProperties(weight="bold" if is_bold else "normal"))
