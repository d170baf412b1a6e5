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

from reslab.report.plots.style import BLUE, INK, MUTED, VERMILION, styled
from reslab.spec.errors import refuse

_SIDE = 120
_CELL_INCHES = 0.86


@dataclass(frozen=True)
class Row:
    """Pictures uint8 (H, W, 3) beside each other, None for a place left free; `name` stands before them."""

    name: str
    pictures: Sequence[np.ndarray | None]
    captions: Sequence[str] = ()


def grid_figure(rows: Sequence[Row], titles: Sequence[str] = (), cell_inches: float = _CELL_INCHES) -> Figure:
    """Rows of pictures under `titles`, with small captions below them."""
    with styled():
        columns = max(len(row.pictures) for row in rows)
        captioned = any(any(row.captions) for row in rows)
        longest = max(len(line) for row in rows for line in (row.name or " ").split("\n"))
        margin = 0.3 + 0.072 * longest
        indent = 0.08  # as far in as the headings of a picture stand
        height = cell_inches * (1.27 if captioned else 1.1)
        top = 0.34 if titles else 0.08
        width, tall = margin + columns * cell_inches * 1.08, top + len(rows) * height + 0.08
        figure = Figure(figsize=(max(width, 3.0), tall))
        for j, row in enumerate(rows):
            bottom = tall - top - j * height - cell_inches
            figure.text(
                indent / width, (bottom + cell_inches / 2) / tall, row.name, fontsize=8.5, color=INK, va="center"
            )
            for i, pixels in enumerate(row.pictures):
                left = margin + i * cell_inches * 1.08
                axes = figure.add_axes((left / width, bottom / tall, cell_inches / width, cell_inches / tall))
                _place(axes, pixels, row.captions[i] if i < len(row.captions) else "")
                if j == 0 and i < len(titles) and titles[i]:
                    axes.set_title(titles[i], fontsize=8.5, color=MUTED, loc="left", pad=4)
        return figure


def _place(axes: Axes, pixels: np.ndarray | None, caption: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    if pixels is None:
        axes.set_axis_off()
        return
    axes.imshow(enlarged(pixels), interpolation="none")
    if caption:
        axes.set_xlabel(caption, fontsize=7.5, color=MUTED, labelpad=2)


def enlarged(pixels: np.ndarray, side: int = _SIDE) -> np.ndarray:
    """Tiny pictures with every pixel a square, so that no viewer blurs them."""
    factor = max(1, side // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def over_picture(pixels: np.ndarray, values: Sequence[Sequence[float]], smooth: bool = True) -> np.ndarray:
    """The picture in pale grey, with what speaks for the class in vermilion and what speaks against it in blue."""
    side = max(_SIDE, *pixels.shape[:2])
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.NEAREST), dtype=float)
    base = (0.7 + 0.3 * grey / 255)[..., None].repeat(3, axis=2)
    found = np.array(values, dtype=np.float32)
    strongest = max(float(np.quantile(np.abs(found), 0.995)), 1e-12)
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    spread = np.asarray(Image.fromarray(found / strongest).resize((side, side), how))
    depth = (np.abs(spread).clip(0, 1) ** 0.7 * 0.92)[..., None]
    colour = np.where(spread[..., None] > 0, to_rgb(VERMILION), to_rgb(BLUE))
    return np.asarray((base * (1 - depth) + colour * depth) * 255).round().astype(np.uint8)


def signed(values: Sequence[Sequence[float]], strongest: float) -> np.ndarray:
    """Numbers as colours on white: vermilion above zero, blue below, full at `strongest`."""
    found = np.array(values, dtype=float) / max(strongest, 1e-12)
    depth = np.abs(found).clip(0, 1)[..., None]
    colour = np.where(found[..., None] > 0, to_rgb(VERMILION), to_rgb(BLUE))
    return np.asarray(((1 - depth) + colour * depth) * 255).round().astype(np.uint8)


def coloured(channels: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """A kernel of three input channels as a picture: grey where it is zero, each channel around that."""
    found = np.array(channels, dtype=float).transpose(1, 2, 0)
    return np.asarray(127.5 + 127.5 * found / max(float(np.abs(found).max()), 1e-12)).round().astype(np.uint8)


def lit(values: Sequence[Sequence[float]]) -> np.ndarray:
    """A map from its least (dark) to its most (bright); one that is the same everywhere is dark."""
    found = np.array(values, dtype=float)
    span = float(found.max() - found.min())
    return (
        np.asarray(colormaps["viridis"]((found - found.min()) / (span or 1.0))[..., :3] * 255).round().astype(np.uint8)
    )


LARGEST_SIDE = 192
TINY_SIDE = 64


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI; `tiny` ones are to be shown enlarged with their pixels kept square."""

    uri: str
    width: int
    height: int
    tiny: bool


def thumbnail(pixels: np.ndarray) -> Thumbnail:
    """uint8 pixels (H, W), (H, W, 1) or (H, W, 3), shrunk to LARGEST_SIDE, as PNG or JPEG, whichever is smaller.

    Raises ValueError for any other type or shape.
    """
    image = Image.fromarray(_checked(pixels))
    tiny = max(image.size) <= TINY_SIDE
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    kinds = [_data_uri(image, "PNG", optimize=True)]
    if not tiny:
        kinds.append(_data_uri(image, "JPEG", quality=85))
    return Thumbnail(min(kinds, key=len), image.width, image.height, tiny)


def _checked(pixels: np.ndarray) -> np.ndarray:
    pixels = np.asarray(pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    right_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not right_shape or pixels.size == 0:
        raise refuse("uint8 pixels of shape (H, W) or (H, W, 3)", f"{pixels.dtype} of shape {pixels.shape}")
    return np.ascontiguousarray(pixels)


def _data_uri(image: Image.Image, kind: str, **options: object) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def pixels_of(uri: str) -> np.ndarray:
    """The uint8 pixels (H, W, 3) of an image that `thumbnail` put into a data URI."""
    content = base64.b64decode(uri.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
