"""A figure as an SVG file of its own, for Markdown: on a light ground, legible wherever it is shown."""

import io
import re
from xml.etree import ElementTree

from matplotlib.figure import Figure

from reslab.report.plots.style import styled

_SPACE = "http://www.w3.org/2000/svg"
_LINK = "http://www.w3.org/1999/xlink"
_GROUND = "#ffffff"
_FAMILY = re.compile(r"font-family: [^;]*|(?<=px )'[^;]*")
_DECIMALS = re.compile(r"(\d+\.\d\d)\d+")
_FONTS = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def svg_file(figure: Figure, label: str) -> str:
    """The figure as a whole SVG document; `label` tells in words what it shows. The same figure gives the same text."""
    stream = io.BytesIO()
    with styled():
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", _SPACE)
    ElementTree.register_namespace("xlink", _LINK)
    root = ElementTree.fromstring(stream.getvalue())
    for child in [child for child in root if child.tag.endswith("metadata")]:
        root.remove(child)
    for element in root.iter():
        _slim(element)
    _, _, wide, high = root.attrib["viewBox"].split()
    ground = ElementTree.Element(f"{{{_SPACE}}}rect", {"width": wide, "height": high, "fill": _GROUND})
    told = ElementTree.Element(f"{{{_SPACE}}}title")
    told.text = label
    root.insert(0, ground)
    root.insert(0, told)
    root.set("role", "img")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _slim(element: ElementTree.Element) -> None:
    """Two decimals are enough, and any sans-serif font will do."""
    if "d" in element.attrib:
        element.set("d", _DECIMALS.sub(r"\1", element.attrib["d"]))
    if "style" in element.attrib:
        element.set("style", _FAMILY.sub(_family, element.attrib["style"]))
    if not element.tag.endswith(("}text", "}tspan", "}style", "}title")):
        element.text = None
    element.tail = None


def _family(found: re.Match[str]) -> str:
    return f"font-family: {_FONTS}" if found[0].startswith("font-family") else _FONTS
