"""Pictures in a grid: what a network sees, and where it looks.

Images small enough to live inside a page.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from reslab.report.plots.style import BLUE, INK, MUTED, VERMILION, plot_style
from reslab.spec.errors import invalid

_MIN_IMAGE_SIDE = 120
_CELL_INCHES = 0.86


@dataclass(frozen=True)
class ImageRow:
    """Pictures uint8 (H, W, 3) beside each other, None for a place left free; `name` stands before them."""

    name: str
    images: Sequence[np.ndarray | None]
    captions: Sequence[str] = ()


def plot_image_grid(rows: Sequence[ImageRow], titles: Sequence[str] = (), cell_inches: float = _CELL_INCHES) -> Figure:
    """Rows of pictures under `titles`, with small captions below them."""
    with plot_style():
        columns = max(len(row.images) for row in rows)
        has_captions = any(any(row.captions) for row in rows)
        max_label_length = max(len(line) for row in rows for line in (row.name or " ").split("\n"))
        margin = 0.3 + 0.072 * max_label_length
        indent = 0.08  # as far in as the headings of a picture stand
        row_height = cell_inches * (1.27 if has_captions else 1.1)
        top_margin = 0.34 if titles else 0.08
        total_width, total_height = margin + columns * cell_inches * 1.08, top_margin + len(rows) * row_height + 0.08
        figure = Figure(figsize=(max(total_width, 3.0), total_height))
        for j, row in enumerate(rows):
            bottom = total_height - top_margin - j * row_height - cell_inches
            figure.text(
                indent / total_width,
                (bottom + cell_inches / 2) / total_height,
                row.name,
                fontsize=8.5,
                color=INK,
                va="center",
            )
            for i, pixels in enumerate(row.images):
                left = margin + i * cell_inches * 1.08
                axes = figure.add_axes(
                    (left / total_width, bottom / total_height, cell_inches / total_width, cell_inches / total_height)
                )
                _draw_image(axes, pixels, row.captions[i] if i < len(row.captions) else "")
                if j == 0 and i < len(titles) and titles[i]:
                    axes.set_title(titles[i], fontsize=8.5, color=MUTED, loc="left", pad=4)
        return figure


def _draw_image(axes: Axes, pixels: np.ndarray | None, caption: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    if pixels is None:
        axes.set_axis_off()
        return
    axes.imshow(enlarge(pixels), interpolation="none")
    if caption:
        axes.set_xlabel(caption, fontsize=7.5, color=MUTED, labelpad=2)


def enlarge(pixels: np.ndarray, side: int = _MIN_IMAGE_SIDE) -> np.ndarray:
    """Tiny pictures with every pixel a square, so that no viewer blurs them."""
    factor = max(1, side // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def overlay_heatmap(pixels: np.ndarray, values: Sequence[Sequence[float]], smooth: bool = True) -> np.ndarray:
    """The picture in pale grey, with what speaks for the class in vermilion and what speaks against it in blue."""
    side = max(_MIN_IMAGE_SIDE, *pixels.shape[:2])
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.NEAREST), dtype=float)
    base = (0.7 + 0.3 * grey / 255)[..., None].repeat(3, axis=2)
    scores = np.array(values, dtype=np.float32)
    max_score = max(float(np.quantile(np.abs(scores), 0.995)), 1e-12)
    resampling = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    heatmap = np.asarray(Image.fromarray(scores / max_score).resize((side, side), resampling))
    alpha = (np.abs(heatmap).clip(0, 1) ** 0.7 * 0.92)[..., None]
    color = np.where(heatmap[..., None] > 0, to_rgb(VERMILION), to_rgb(BLUE))
    return np.asarray((base * (1 - alpha) + color * alpha) * 255).round().astype(np.uint8)


def signed_to_image(values: Sequence[Sequence[float]], max_value: float) -> np.ndarray:
    """Numbers as colours on white: vermilion above zero, blue below, full at `strongest`."""
    scaled = np.array(values, dtype=float) / max(max_value, 1e-12)
    alpha = np.abs(scaled).clip(0, 1)[..., None]
    color = np.where(scaled[..., None] > 0, to_rgb(VERMILION), to_rgb(BLUE))
    return np.asarray(((1 - alpha) + color * alpha) * 255).round().astype(np.uint8)


def kernel_to_image(channels: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """A kernel of three input channels as a picture: grey where it is zero, each channel around that."""
    kernel = np.array(channels, dtype=float).transpose(1, 2, 0)
    return np.asarray(127.5 + 127.5 * kernel / max(float(np.abs(kernel).max()), 1e-12)).round().astype(np.uint8)


def feature_map_to_image(values: Sequence[Sequence[float]]) -> np.ndarray:
    """A map from its least (dark) to its most (bright); one that is the same everywhere is dark."""
    feature_map = np.array(values, dtype=float)
    value_range = float(feature_map.max() - feature_map.min())
    return (
        np.asarray(colormaps["viridis"]((feature_map - feature_map.min()) / (value_range or 1.0))[..., :3] * 255)
        .round()
        .astype(np.uint8)
    )


MAX_THUMBNAIL_SIDE = 192
MAX_TINY_SIDE = 64


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI; `tiny` ones are to be shown enlarged with their pixels kept square."""

    uri: str
    width: int
    height: int
    is_tiny: bool


def make_thumbnail(pixels: np.ndarray) -> Thumbnail:
    """uint8 pixels (H, W), (H, W, 1) or (H, W, 3), shrunk to LARGEST_SIDE, as PNG or JPEG, whichever is smaller.

    Raises ValueError for any other type or shape.
    """
    image = Image.fromarray(_check_pixels(pixels))
    is_tiny = max(image.size) <= MAX_TINY_SIDE
    image.thumbnail((MAX_THUMBNAIL_SIDE, MAX_THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    data_uris = [_data_uri(image, "PNG", optimize=True)]
    if not is_tiny:
        data_uris.append(_data_uri(image, "JPEG", quality=85))
    return Thumbnail(min(data_uris, key=len), image.width, image.height, is_tiny)


def _check_pixels(pixels: np.ndarray) -> np.ndarray:
    pixels = np.asarray(pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    is_valid_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not is_valid_shape or pixels.size == 0:
        raise invalid("uint8 pixels of shape (H, W) or (H, W, 3)", f"{pixels.dtype} of shape {pixels.shape}")
    return np.ascontiguousarray(pixels)


def _data_uri(image: Image.Image, image_format: str, **options: object) -> str:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return f"data:image/{image_format.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def decode_data_uri(uri: str) -> np.ndarray:
    """The uint8 pixels (H, W, 3) of an image that `thumbnail` put into a data URI."""
    content = base64.b64decode(uri.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
