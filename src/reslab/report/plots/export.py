"""A figure as SVG that lives inside a page: it takes the page's font and its colours, light or dark.

A figure as an SVG file of its own, for Markdown: on a light ground, legible wherever it is shown.
"""

import io
import re
from xml.etree import ElementTree

from matplotlib.figure import Figure

from reslab.report.plots import style
from reslab.report.plots.style import styled

_VARIABLES = {
    style.INK: "ink",
    style.MUTED: "muted",
    style.GRID: "line",
    style.BLUE: "one",
    style.VERMILION: "two",
    style.GREEN: "three",
    style.PURPLE: "four",
}
_FAMILY = re.compile(r"font-family: [^;]*;? ?")
_SHORTHAND = re.compile(r"font: ([\d.]+px) [^;]*")
_DECIMALS = re.compile(r"(\d+\.\d\d)\d+")


def svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an inline <svg>: its ids begin with `name`, `label` tells in words what it shows.

    The same figure gives the same text; nothing in it names another host.
    """
    stream = io.BytesIO()
    with styled():
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(stream.getvalue())
    for parent in root.iter():
        for child in [child for child in parent if _bare(child.tag) in ("metadata", "style")]:
            parent.remove(child)
    for element in root.iter():
        _adopt(element, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    _drop_unused_ids(root)
    return ElementTree.tostring(root, encoding="unicode")


def _bare(tag: str) -> str:
    return tag.rpartition("}")[2]


def _adopt(element: ElementTree.Element, name: str) -> None:
    """Drops the name spaces, which HTML does not need, and keeps ids apart from those of the page's other figures."""
    element.tag = _bare(element.tag)
    element.tail = None
    if element.tag not in ("text", "tspan"):
        element.text = None
    attributes = {_bare(key): value for key, value in element.attrib.items()}
    if "id" in attributes:
        attributes["id"] = f"{name}-{attributes['id']}"
    if attributes.get("href", "").startswith("#"):
        attributes["href"] = f"#{name}-{attributes['href'][1:]}"
    if "clip-path" in attributes:
        attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{name}-")
    if "style" in attributes:
        attributes["style"] = _at_home(attributes["style"])
    if "d" in attributes:
        attributes["d"] = _DECIMALS.sub(r"\1", attributes["d"])
    element.attrib = attributes


def _drop_unused_ids(root: ElementTree.Element) -> None:
    """Leaves the ids of shared shapes and clips; those of groups (`axes_1`, `line2d_7`) say nothing to a reader."""
    used = {value[1:] for element in root.iter() for key, value in element.attrib.items() if key == "href"}
    used |= {found for element in root.iter() for found in re.findall(r"url\(#([^)]*)\)", element.get("clip-path", ""))}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)


def _at_home(text: str) -> str:
    """The page's font, and its variables instead of the palette's colours."""
    text = _FAMILY.sub("", _SHORTHAND.sub(r"font-size: \1", text))
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text


_SPACE = "http://www.w3.org/2000/svg"
_LINK = "http://www.w3.org/1999/xlink"
_GROUND = "#ffffff"
_FAMILY_svg_file = re.compile(r"font-family: [^;]*|(?<=px )'[^;]*")
_DECIMALS_svg_file = re.compile(r"(\d+\.\d\d)\d+")
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
        element.set("d", _DECIMALS_svg_file.sub(r"\1", element.attrib["d"]))
    if "style" in element.attrib:
        element.set("style", _FAMILY_svg_file.sub(_family, element.attrib["style"]))
    if not element.tag.endswith(("}text", "}tspan", "}style", "}title")):
        element.text = None
    element.tail = None


def _family(found: re.Match[str]) -> str:
    return f"font-family: {_FONTS}" if found[0].startswith("font-family") else _FONTS
