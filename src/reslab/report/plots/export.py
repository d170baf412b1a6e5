"""A figure as SVG that lives inside a page: it takes the page's font and its colours, light or dark.

A figure as an SVG file of its own, for Markdown: on a light ground, legible wherever it is shown.
"""

import io
import re
from xml.etree import ElementTree

from matplotlib.figure import Figure

from reslab.report.plots import style
from reslab.report.plots.style import plot_style

_CSS_VARIABLES = {
    style.INK: "ink",
    style.MUTED: "muted",
    style.GRID: "line",
    style.BLUE: "one",
    style.VERMILION: "two",
    style.GREEN: "three",
    style.PURPLE: "four",
}
_FONT_FAMILY = re.compile(r"font-family: [^;]*;? ?")
_FONT_SHORTHAND = re.compile(r"font: ([\d.]+px) [^;]*")
_LONG_DECIMALS = re.compile(r"(\d+\.\d\d)\d+")


def render_inline_svg(figure: Figure, id_prefix: str, alt_text: str) -> str:
    """The figure as an inline <svg>: its ids begin with `name`, `label` tells in words what it shows.

    The same figure gives the same text; nothing in it names another host.
    """
    stream = io.BytesIO()
    with plot_style():
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(stream.getvalue())
    for parent in root.iter():
        for child in [child for child in parent if _local_name(child.tag) in ("metadata", "style")]:
            parent.remove(child)
    for element in root.iter():
        _inline_element(element, id_prefix)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt_text}
    _drop_unused_ids(root)
    return ElementTree.tostring(root, encoding="unicode")


def _local_name(tag: str) -> str:
    return tag.rpartition("}")[2]


def _inline_element(element: ElementTree.Element, id_prefix: str) -> None:
    """Drops the name spaces, which HTML does not need, and keeps ids apart from those of the page's other figures."""
    element.tag = _local_name(element.tag)
    element.tail = None
    if element.tag not in ("text", "tspan"):
        element.text = None
    attributes = {_local_name(key): value for key, value in element.attrib.items()}
    if "id" in attributes:
        attributes["id"] = f"{id_prefix}-{attributes['id']}"
    if attributes.get("href", "").startswith("#"):
        attributes["href"] = f"#{id_prefix}-{attributes['href'][1:]}"
    if "clip-path" in attributes:
        attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{id_prefix}-")
    if "style" in attributes:
        attributes["style"] = _inline_style(attributes["style"])
    if "d" in attributes:
        attributes["d"] = _LONG_DECIMALS.sub(r"\1", attributes["d"])
    element.attrib = attributes


def _drop_unused_ids(root: ElementTree.Element) -> None:
    """Leaves the ids of shared shapes and clips; those of groups (`axes_1`, `line2d_7`) say nothing to a reader."""
    used_ids = {value[1:] for element in root.iter() for key, value in element.attrib.items() if key == "href"}
    used_ids |= {
        clip_id for element in root.iter() for clip_id in re.findall(r"url\(#([^)]*)\)", element.get("clip-path", ""))
    }
    for element in root.iter():
        if element.get("id") not in used_ids:
            element.attrib.pop("id", None)


def _inline_style(text: str) -> str:
    """The page's font, and its variables instead of the palette's colours."""
    text = _FONT_FAMILY.sub("", _FONT_SHORTHAND.sub(r"font-size: \1", text))
    for color, variable in _CSS_VARIABLES.items():
        text = text.replace(color, f"var(--{variable})")
    return text


_SVG_NAMESPACE = "http://www.w3.org/2000/svg"
_XLINK_NAMESPACE = "http://www.w3.org/1999/xlink"
_BACKGROUND = "#ffffff"
_FILE_FONT_FAMILY = re.compile(r"font-family: [^;]*|(?<=px )'[^;]*")
_FILE_LONG_DECIMALS = re.compile(r"(\d+\.\d\d)\d+")
_FONT_STACK = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def render_svg_file(figure: Figure, alt_text: str) -> str:
    """The figure as a whole SVG document; `label` tells in words what it shows. The same figure gives the same text."""
    stream = io.BytesIO()
    with plot_style():
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", _SVG_NAMESPACE)
    ElementTree.register_namespace("xlink", _XLINK_NAMESPACE)
    root = ElementTree.fromstring(stream.getvalue())
    for child in [child for child in root if child.tag.endswith("metadata")]:
        root.remove(child)
    for element in root.iter():
        _simplify_element(element)
    _, _, width, height = root.attrib["viewBox"].split()
    background = ElementTree.Element(
        f"{{{_SVG_NAMESPACE}}}rect", {"width": width, "height": height, "fill": _BACKGROUND}
    )
    title = ElementTree.Element(f"{{{_SVG_NAMESPACE}}}title")
    title.text = alt_text
    root.insert(0, background)
    root.insert(0, title)
    root.set("role", "img")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _simplify_element(element: ElementTree.Element) -> None:
    """Two decimals are enough, and any sans-serif font will do."""
    if "d" in element.attrib:
        element.set("d", _FILE_LONG_DECIMALS.sub(r"\1", element.attrib["d"]))
    if "style" in element.attrib:
        element.set("style", _FILE_FONT_FAMILY.sub(_replace_font_family, element.attrib["style"]))
    if not element.tag.endswith(("}text", "}tspan", "}style", "}title")):
        element.text = None
    element.tail = None


def _replace_font_family(match: re.Match[str]) -> str:
    return f"font-family: {_FONT_STACK}" if match[0].startswith("font-family") else _FONT_STACK
