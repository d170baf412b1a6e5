"""Figures as SVG, inside a page, where they take its font and colors, and as files for Markdown; and as one PNG."""

import io
import re
import textwrap
from collections.abc import Sequence
from xml.etree import ElementTree

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from reslab.report.analyses.result import RenderedFigure
from reslab.report.colors import CSS_VARIABLES
from reslab.report.plots.style import MIN_FONT_POINTS, plot_style
from reslab.spec.errors import invalid

_DOTS_PER_INCH = 160
_WIDE_INCHES = 7.0
_CAPTION_POINTS = 8.0
_CHARACTERS_PER_INCH = 15


def render_png(figures: Sequence[RenderedFigure], title: str = "") -> bytes:
    """Return the figures with their titles and captions on one sheet.

    Three or more are arranged in two columns; wide ones have a row of their own. Raises ValueError where there is none.
    """
    if not figures:
        raise invalid("at least one figure", "none", next_step="this analysis has only a table")
    images = [_draw_figure(figure) for figure in figures]
    rows = _arrange_rows(images) if len(images) > 2 else [[figure] for figure in images]
    if title:
        rows.insert(0, [_draw_heading(title, max(image.width for image in images), 13, "bold")])
    sheet = _paste_images([_paste_images(row, horizontal=True) for row in rows])
    stream = io.BytesIO()
    sheet.save(stream, "PNG", dpi=(_DOTS_PER_INCH, _DOTS_PER_INCH))
    return stream.getvalue()


def _arrange_rows(images: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """Return rows of two images in their order; a wide image has its own row."""
    rows: list[list[Image.Image]] = []
    for image in images:
        is_wide = image.width > _WIDE_INCHES * _DOTS_PER_INCH
        fits_beside = rows and len(rows[-1]) == 1 and rows[-1][0].width <= _WIDE_INCHES * _DOTS_PER_INCH
        if fits_beside and not is_wide:
            rows[-1].append(image)
        else:
            rows.append([image])
    return rows


def _paste_images(images: Sequence[Image.Image], horizontal: bool = False) -> Image.Image:
    widths, heights = [image.width for image in images], [image.height for image in images]
    size = (sum(widths), max(heights)) if horizontal else (max(widths), sum(heights))
    sheet, offset = Image.new("RGB", size, "white"), 0
    for image in images:
        sheet.paste(image, (offset, 0) if horizontal else (0, offset))
        offset += image.width if horizontal else image.height
    return sheet


def _draw_heading(title: str, width: int, size: float, weight: str = "normal") -> Image.Image:
    with plot_style():
        height = size / 31
        figure = Figure(figsize=(width / _DOTS_PER_INCH, height))
        figure.text(0.1 / figure.get_figwidth(), 0.4, title, fontsize=size, fontweight=weight, va="center")
        return _figure_to_image(figure)


def _draw_caption(text: str, width: int) -> Image.Image:
    """Return a caption, wrapped to the width of its figure."""
    lines = textwrap.wrap(text, int(width / _DOTS_PER_INCH * _CHARACTERS_PER_INCH))
    with plot_style():
        figure = Figure(figsize=(width / _DOTS_PER_INCH, (len(lines) + 1) * _CAPTION_POINTS / 50))
        left = 0.1 / figure.get_figwidth()
        figure.text(left, 1, "\n".join(lines), fontsize=_CAPTION_POINTS, va="top", color="dimgrey", linespacing=1.3)
        return _figure_to_image(figure)


def _draw_figure(rendered: RenderedFigure) -> Image.Image:
    """Return the figure with its title above and its caption below, leaving the figure itself unchanged."""
    with plot_style():
        image = _figure_to_image(rendered.figure)
    heading = [_draw_heading(rendered.title, image.width, 10.5)] if rendered.title else []
    return _paste_images(
        [*heading, image, *([_draw_caption(rendered.caption, image.width)] if rendered.caption else [])]
    )


def _figure_to_image(figure: Figure) -> Image.Image:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
    stream.seek(0)
    return Image.open(stream).convert("RGB")


_LONG_DECIMALS = re.compile(r"(\d+\.\d\d)\d+")
_FONT_FAMILY = re.compile(r"font-family: [^;]*;? ?")
_FONT_SHORTHAND = re.compile(r"font: ([\d.]+px) [^;]*")
_ANY_FONT_FAMILY = re.compile(r"font-family: [^;]*|(?<=px )'[^;]*")
_SVG_NAMESPACE = "http://www.w3.org/2000/svg"
_XLINK_NAMESPACE = "http://www.w3.org/1999/xlink"
_BACKGROUND = "#ffffff"
_FONT_STACK = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def min_font_points(figure: Figure) -> float:
    """Return the size of the smallest text of a figure; 9 points where it has none."""
    texts = [artist for artist in figure.findobj(Text) if isinstance(artist, Text)]
    sizes = [float(text.get_fontsize()) for text in texts if text.get_visible() and text.get_text().strip()]
    return min(sizes, default=MIN_FONT_POINTS)


def render_inline_svg(figure: Figure, id_prefix: str, alt_text: str) -> str:
    """Return the figure as an inline <svg> whose ids start with `id_prefix`.

    The same figure gives the same text, and nothing in it names another host.
    """
    root = _figure_to_svg(figure)
    for parent in root.iter():
        for child in [child for child in parent if _local_name(child.tag) in ("metadata", "style")]:
            parent.remove(child)
    for element in root.iter():
        _inline_element(element, id_prefix)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt_text}
    _drop_unused_ids(root)
    return ElementTree.tostring(root, encoding="unicode")


def render_svg_file(figure: Figure, alt_text: str) -> str:
    """Return the figure as an SVG document on a white background; the same figure gives the same text."""
    root = _figure_to_svg(figure)
    ElementTree.register_namespace("", _SVG_NAMESPACE)
    ElementTree.register_namespace("xlink", _XLINK_NAMESPACE)
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


def _figure_to_svg(figure: Figure) -> ElementTree.Element:
    stream = io.BytesIO()
    with plot_style():
        # `savefig` gives the same text, but draws the figure once more before, for its layout.
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None})
    return ElementTree.fromstring(stream.getvalue())


def _local_name(tag: str) -> str:
    return tag.rpartition("}")[2]


def _inline_element(element: ElementTree.Element, id_prefix: str) -> None:
    """Drop the namespaces, which HTML does not need, and prefix the ids, which several figures would share."""
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
    """Keep the ids that are referenced (shared markers, clip paths); those of groups (`axes_1`) only add bytes."""
    used_ids = {value[1:] for element in root.iter() for key, value in element.attrib.items() if key == "href"}
    used_ids |= {
        clip_id for element in root.iter() for clip_id in re.findall(r"url\(#([^)]*)\)", element.get("clip-path", ""))
    }
    for element in root.iter():
        if element.get("id") not in used_ids:
            element.attrib.pop("id", None)


def _inline_style(text: str) -> str:
    """Remove the font, so that the page's applies, and replace colors by the page's CSS variables."""
    text = _FONT_FAMILY.sub("", _FONT_SHORTHAND.sub(r"font-size: \1", text))
    for color, variable in CSS_VARIABLES.items():
        text = text.replace(color, f"var(--{variable})")
    return text


def _simplify_element(element: ElementTree.Element) -> None:
    """Keep two decimals of coordinates, and allow any sans-serif font."""
    if "d" in element.attrib:
        element.set("d", _LONG_DECIMALS.sub(r"\1", element.attrib["d"]))
    if "style" in element.attrib:
        element.set("style", _ANY_FONT_FAMILY.sub(_replace_font_family, element.attrib["style"]))
    if not element.tag.endswith(("}text", "}tspan", "}style", "}title")):
        element.text = None
    element.tail = None


def _replace_font_family(match: re.Match[str]) -> str:
    return f"font-family: {_FONT_STACK}" if match[0].startswith("font-family") else _FONT_STACK
