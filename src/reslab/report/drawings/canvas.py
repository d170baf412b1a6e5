"""A drawing as a list of shapes (boxes, text, lines and circles, in pixels, with y downward), and as SVG text.

The same drawing gives the same text, alone in a file or inside a page.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from xml.sax.saxutils import escape, quoteattr

Point = tuple[float, float]
Bounds = tuple[float, float, float, float]
"""Left, top, right, bottom."""

# Advance widths of Helvetica in thousandths of the font size; Arial, Arimo and Liberation Sans have the same.
_ADVANCES = {
    222: "ijl",
    278: " !,./:;I[]\\ft·",
    333: "-()`r",
    355: '"',
    389: "*",
    500: "Jcksvxyz",
    556: "#$?0123456789L_abdeghnopquσ",
    584: "+<=>~×−",
    611: "FTZ",
    667: "&ABEKPSVXY",
    722: "CDHNRUw",
    778: "GOQ",
    833: "Mm",
    889: "%",
    944: "W",
    1000: "→…",
    1015: "@",
}
_ADVANCE = {character: width for width, characters in _ADVANCES.items() for character in characters}
_UNKNOWN_ADVANCE, _BOLD_FACTOR = 1000, 1.07
_ASCENT, _DESCENT = 0.74, 0.22


class Style(StrEnum):
    """The kind of thing that a shape stands for; it decides the colors (`LIGHT`)."""

    WEIGHTED = "weighted"
    """A convolution or linear layer."""
    PLAIN = "plain"
    """A norm or an activation."""
    OTHER = "other"
    """Any other operation: pools, attention, dropout."""
    SHORTCUT = "shortcut"
    """The shortcut, the merge, and what modifies either path."""
    WIRE = "wire"
    """A line of the branch, or outside blocks."""
    INK = "ink"
    MUTED = "muted"


@dataclass(frozen=True)
class Text:
    """One line of text; `x` is its left end, middle or right end by `anchor`, `y` its baseline."""

    x: float
    y: float
    text: str
    size: float = 13
    anchor: str = "middle"
    style: Style = Style.INK
    is_bold: bool = False

    @property
    def width(self) -> float:
        """The width in a font with the widths of Helvetica."""
        return text_width(self.text, self.size, self.is_bold)

    @property
    def bounds(self) -> Bounds:
        """The box around the text."""
        left = self.x - self.width * {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]
        return left, self.y - _ASCENT * self.size, left + self.width, self.y + _DESCENT * self.size


@dataclass(frozen=True)
class Rect:
    """A box with rounded corners."""

    x: float
    y: float
    width: float
    height: float
    style: Style
    radius: float = 0

    @property
    def bounds(self) -> Bounds:
        """The box itself."""
        return self.x, self.y, self.x + self.width, self.y + self.height


@dataclass(frozen=True)
class Line:
    """A line through points, with round corners, and with an arrow head at its end if `has_arrow`."""

    points: tuple[Point, ...]
    style: Style = Style.WIRE
    has_arrow: bool = False

    @property
    def bounds(self) -> Bounds:
        """The box around the points."""
        xs, ys = [x for x, _ in self.points], [y for _, y in self.points]
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True)
class Circle:
    """A circle; filled if `is_dot`."""

    x: float
    y: float
    radius: float
    style: Style = Style.WIRE
    is_dot: bool = False

    @property
    def bounds(self) -> Bounds:
        """The box around the circle."""
        return self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius


Element = Text | Rect | Line | Circle


@dataclass
class Drawing:
    """Shapes, back to front, with a title and a description for those who cannot see them."""

    title: str
    description: str
    elements: list[Element] = field(default_factory=list)

    def add(self, *elements: Element) -> None:
        """Add shapes in front of the others."""
        self.elements += elements

    @property
    def bounds(self) -> Bounds:
        """The box around all shapes."""
        boxes = [element.bounds for element in self.elements]
        return (
            min(box[0] for box in boxes),
            min(box[1] for box in boxes),
            max(box[2] for box in boxes),
            max(box[3] for box in boxes),
        )

    @property
    def size(self) -> Point:
        """Width and height."""
        left, top, right, bottom = self.bounds
        return right - left, bottom - top

    def moved_to(self, left: float, top: float) -> list[Element]:
        """Return the shapes, moved so that the box around them begins at this point."""
        own_left, own_top, _, _ = self.bounds
        return [_moved(element, left - own_left, top - own_top) for element in self.elements]


def _moved(element: Element, dx: float, dy: float) -> Element:
    if isinstance(element, Line):
        return replace(element, points=tuple((x + dx, y + dy) for x, y in element.points))
    return replace(element, x=element.x + dx, y=element.y + dy)


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, is_bold: bool = False) -> float:
    """Return the width of a text in a font with the widths of Helvetica."""
    units = sum(_ADVANCE.get(character, _UNKNOWN_ADVANCE) for character in text)
    return units * size / 1000 * (_BOLD_FACTOR if is_bold else 1)


def wrap_text(words: Sequence[str], size: float, max_width: float) -> list[str]:
    """Return lines of words, none wider than `max_width` if it has several."""
    lines: list[str] = []
    for word in words:
        if lines and text_width(f"{lines[-1]} {word}", size) <= max_width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


MARGIN = 16
_CORNER, _ARROW_LENGTH, _ARROW_WIDTH = 8, 8, 7
_FONTS = "Helvetica Neue,Helvetica,Arial,Liberation Sans,sans-serif"

PAPER, _DARK_PAPER = "#ffffff", "#14171b"
Colors = Mapping[Style, str | tuple[str, str]]
# The colors of each mode: fill and outline of boxes, then of lines and text.
LIGHT: Colors = {
    Style.WEIGHTED: ("#dbe3ec", "#46566a"),
    Style.PLAIN: ("#ffffff", "#7d8a97"),
    Style.OTHER: ("#f0f2f5", "#7d8a97"),
    Style.SHORTCUT: ("#efe9f9", "#6f4ea8"),
    Style.WIRE: "#3d4650",
    Style.INK: "#1d2126",
    Style.MUTED: "#5b6570",
}
_DARK: Colors = {
    Style.WEIGHTED: ("#34404e", "#93a5b8"),
    Style.PLAIN: ("#1b1f24", "#79848f"),
    Style.OTHER: ("#252b32", "#79848f"),
    Style.SHORTCUT: ("#322a45", "#b79cf0"),
    Style.WIRE: "#b6bfc8",
    Style.INK: "#e8eaed",
    Style.MUTED: "#a3adb7",
}


def render_svg(drawing: Drawing, *, has_background: bool = True) -> str:
    """Return the drawing as an SVG document with its colors, by default on a background of its own."""
    background = ['<rect class="paper" width="100%" height="100%"/>'] if has_background else []
    namespace = 'xmlns="http://www.w3.org/2000/svg" '
    return _render_svg(drawing, namespace, [f"<style>{style_sheet()}</style>", *background])


def render_inline_svg(drawing: Drawing) -> str:
    """Return the drawing as an <svg> for a page, which has its background, and `style_sheet` once."""
    return _render_svg(drawing, "", [])


def _render_svg(drawing: Drawing, namespace: str, first_elements: Sequence[str]) -> str:
    left, top, right, bottom = drawing.bounds
    width, height = math.ceil(right - left + 2 * MARGIN), math.ceil(bottom - top + 2 * MARGIN)
    root = (
        f'<svg {namespace}class="reslab-drawing" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label={quoteattr(drawing.title)}>'
    )
    texts = [f"<title>{escape(drawing.title)}</title>", f"<desc>{escape(drawing.description)}</desc>"]
    elements = [_render(element) for element in drawing.moved_to(MARGIN, MARGIN)]
    return "\n".join([root, *texts, *first_elements, *elements, "</svg>"]) + "\n"


def box_colors(style: Style, colors: Colors = LIGHT) -> tuple[str, str]:
    """Return fill and outline of a box."""
    value = colors[style]
    return value if isinstance(value, tuple) else ("none", value)


def line_color(style: Style, colors: Colors = LIGHT) -> str:
    """Return the color of a line or text."""
    return box_colors(style, colors)[1]


def style_sheet() -> str:
    """Return the colors of all drawings, in light and dark mode."""
    root = ".reslab-drawing"
    text = f"{root}{{font-family:{_FONTS}}}{root} .line{{fill:none;stroke-width:1.5}}{root} .b{{font-weight:600}}"
    return (
        text + _rules(root, PAPER, LIGHT) + f"@media (prefers-color-scheme:dark){{{_rules(root, _DARK_PAPER, _DARK)}}}"
    )


def _rules(root: str, paper: str, colors: Colors) -> str:
    """Return the rules of one mode: `-box` fills and outlines, `-line` strokes, `-fill` fills in the line's color."""
    rules = [f"{root} .paper{{fill:{paper}}}"]
    for style in Style:
        fill, line = box_colors(style, colors)
        rules.append(f"{root} .{style}-line{{stroke:{line}}}{root} .{style}-fill{{fill:{line}}}")
        if fill != "none":
            rules.append(f"{root} .{style}-box{{fill:{fill};stroke:{line}}}")
    return "".join(rules)


def _render(element: Element) -> str:
    if isinstance(element, Text):
        bold = " b" if element.is_bold else ""
        return (
            f'<text class="{element.style}-fill{bold}" x="{_number(element.x)}" y="{_number(element.y)}" '
            f'font-size="{_number(element.size)}" text-anchor="{element.anchor}">{escape(element.text)}</text>'
        )
    if isinstance(element, Rect):
        return (
            f'<rect class="{element.style}-box" x="{_number(element.x)}" y="{_number(element.y)}" '
            f'width="{_number(element.width)}" height="{_number(element.height)}" rx="{_number(element.radius)}"/>'
        )
    if isinstance(element, Circle):
        kind = f"{element.style}-fill" if element.is_dot else f"{element.style}-box"
        return (
            f'<circle class="{kind}" cx="{_number(element.x)}" cy="{_number(element.y)}" '
            f'r="{_number(element.radius)}"/>'
        )
    return _render_line(element)


def _render_line(line: Line) -> str:
    points = line.points
    head = ""
    if line.has_arrow:
        tip, before = points[-1], points[-2]
        base, left, right = arrow_head(before, tip)
        points = (*points[:-1], base)
        head = f'<path class="{line.style}-fill" d="M{_point(tip)}L{_point(left)}L{_point(right)}Z"/>'
    path = "".join(f"{curve}{' '.join(map(_point, ends))}" for curve, *ends in rounded_path(points))
    return f'<path class="line {line.style}-line" d="{path}"/>{head}'


def arrow_head(before: Point, tip: Point) -> tuple[Point, Point, Point]:
    """Return the middle of an arrow head's base and its two other corners, for a line from `before` to `tip`."""
    dx, dy = tip[0] - before[0], tip[1] - before[1]
    length = math.hypot(dx, dy)
    ux, uy = dx / length, dy / length
    base = (tip[0] - _ARROW_LENGTH * ux, tip[1] - _ARROW_LENGTH * uy)
    half = _ARROW_WIDTH / 2
    return base, (base[0] - half * uy, base[1] + half * ux), (base[0] + half * uy, base[1] - half * ux)


class PathPart(StrEnum):
    """A part of a path, by its letter in SVG."""

    MOVE = "M"
    LINE = "L"
    BEND = "Q"


def rounded_path(points: Sequence[Point]) -> Iterator[tuple[PathPart, *tuple[Point, ...]]]:
    """Yield the parts of a line with round corners: a kind, and its point (of a bend the corner and its end)."""
    yield PathPart.MOVE, points[0]
    for previous, corner, following in zip(points, points[1:], points[2:], strict=False):
        radius = min(_CORNER, math.dist(previous, corner) / 2, math.dist(corner, following) / 2)
        yield PathPart.LINE, _towards(corner, previous, radius)
        yield PathPart.BEND, corner, _towards(corner, following, radius)
    yield PathPart.LINE, points[-1]


def _towards(start: Point, end: Point, length: float) -> Point:
    share = length / math.dist(start, end)
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _point(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _number(value: float) -> str:
    """Return a coordinate with one decimal, without zeros at its end."""
    return f"{value:.1f}".rstrip("0").rstrip(".") if value else "0"
