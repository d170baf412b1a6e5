"""Draw a network or one of its blocks into a file."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from reslab.report.drawings.block import draw_block
from reslab.report.drawings.canvas import Drawing
from reslab.report.drawings.network import draw_network
from reslab.report.drawings.svg import render_svg
from reslab.runtime.files import write_atomic
from reslab.spec.arch import Arch
from reslab.spec.dense import DenseArch
from reslab.spec.errors import invalid
from reslab.spec.shapes import network_layers
from reslab.spec.zoo.dense import find_dense_arch
from reslab.spec.zoo.resolve import get_arch

SUFFIXES = (".svg", ".png")


def draw(model: str | Arch | Any, path: str | os.PathLike[str] | None = None, *, block: str = "") -> str:
    """Draw a network, or its block of this name (`layer2.0`); return the drawing as SVG.

    `model`: a name or TOML file, an `Arch`, or a network that has one (`arch`); of a network for segmentation or
    detection, the backbone. With a `path` ending in .svg or .png
    the drawing is written there. The SVG follows the reader's light or dark mode; the same network gives the same text.
    Raises ValueError for an unknown model or block, with the nearest ones, and for another suffix.
    """
    drawing = make_drawing(_drawn_arch(getattr(model, "arch", model)), block)
    if path is not None:
        write_drawing(drawing, Path(path))
    return render_svg(drawing)


def _drawn_arch(model: str | Arch | DenseArch) -> Arch:
    dense = find_dense_arch(model)
    if dense is not None:
        return replace(dense.backbone_arch, name=f"{dense.name}, backbone", head="", image_size=dense.image_size)
    assert not isinstance(model, DenseArch)
    return get_arch(model)


def make_drawing(arch: Arch, block: str = "") -> Drawing:
    """Return the drawing of a network, or of its block of this name."""
    if not block:
        return draw_network(arch)
    return draw_block(network_layers(arch).block(block), arch, f"{arch.name} {block}")


def write_drawing(drawing: Drawing, path: Path) -> None:
    """Write a drawing to a file ending in .svg or .png. Raises ValueError for another suffix."""
    check_path(path)
    if path.suffix.lower() == ".svg":
        write_atomic(path, render_svg(drawing).encode())
        return
    from reslab.report.drawings.png import render_png  # matplotlib is slow to import, and an SVG needs none

    write_atomic(path, render_png(drawing))


def check_path(path: Path) -> None:
    """Raise ValueError for a path that is a folder, or does not end in .svg or .png."""
    if path.suffix.lower() not in SUFFIXES:
        raise invalid("a file ending in .svg or .png", path, str(path.with_suffix(".svg")))
    if path.is_dir():
        raise invalid("a file", f"{path}, a folder", str(path / "network.svg"))
