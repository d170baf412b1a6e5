"""Pictures in a grid: what a network sees, and where it looks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from reslab.report.plots.style import BLUE, INK, MUTED, VERMILION, styled

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
