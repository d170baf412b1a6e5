"""A drawing as a list of shapes: boxes, text, lines and circles, in pixels, with y downward."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache

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
    """The kind of thing that a shape stands for; it decides the colors (`reslab.report.drawings.svg`)."""

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
