"""The drawing of a network, stem, stages and head in a row with each kind of block beneath; and drawings as files."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reslab.report.drawings.block import DETAIL_SIZE, NAME_SIZE, changes_shape, draw_block
from reslab.report.drawings.canvas import Drawing, Line, Rect, Style, Text, render_svg, text_width, wrap_text
from reslab.report.drawings.labels import SHORTCUT_LABELS, layer_label
from reslab.report.format import format_shape, pluralize
from reslab.runtime.files import write_atomic
from reslab.spec.arch import Arch
from reslab.spec.dense import DenseArch
from reslab.spec.errors import invalid
from reslab.spec.shapes import BlockLayers, Layer, NetworkLayers, Shape, StageLayers, network_layers
from reslab.spec.zoo.dense import find_dense_arch
from reslab.spec.zoo.resolve import get_arch

_MAX_ROW_WIDTH = 1160
_BLOCK_GAP, _ROW_GAP, _HEADING_GAP = 44, 40, 22
_NOTE_SIZE, _NOTE_WIDTH = 12, 620
_LINE_HEIGHT, _PART_PADDING, _STAGE_HEIGHTS = 17, 16, (64, 148)
SHAPE_WORDS = {
    1: "channels × length",
    2: "channels × height × width",
    3: "channels × depth × height × width",
}
"""What the shapes of maps of 1, 2 and 3 dimensions are."""


@dataclass(frozen=True)
class BlockKind:
    """Blocks that differ only in their widths, sizes and depth: a letter, the first of them, and all their names."""

    letter: str
    example: BlockLayers
    names: tuple[str, ...]


def block_kinds(network: NetworkLayers) -> list[BlockKind]:
    """Return the kinds of blocks of a network, in the order they first occur."""
    kinds: dict[tuple[object, ...], list[BlockLayers]] = {}
    for block in network.blocks:
        kinds.setdefault(_kind_key(block), []).append(block)
    return [
        BlockKind(_letter(i), blocks[0], tuple(block.spec.name for block in blocks))
        for i, blocks in enumerate(kinds.values())
    ]


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"A{index - 25}"


def _kind_key(block: BlockLayers) -> tuple[object, ...]:
    """Return what two blocks of a kind share: everything but widths, numbers of groups, sizes and depth."""

    def ops(layers: Sequence[Layer] | None) -> object:
        return None if layers is None else tuple(_op_key(layer) for layer in layers)

    merge = block.spec.merge
    return (ops(block.pre), ops(block.branch), ops(block.shortcut), ops(block.post), merge)


def _op_key(layer: Layer) -> tuple[object, ...]:
    conv = layer.conv
    if conv is None:
        op = replace(layer.op, args=()) if layer.op.name in SHORTCUT_LABELS else layer.op
        return op, layer.size, layer.stride
    groups = 0 if conv.groups == 1 else 2 if conv.groups == conv.in_channels else 1
    return layer.op, conv.kernel, conv.stride, conv.dilation, groups


def draw_network(arch: Arch) -> Drawing:
    """Return the drawing of a network: the row of its parts, and a block of each kind.

    Raises ValueError for an invalid architecture, and for images that are too small.
    """
    network = network_layers(arch)
    kinds = block_kinds(network)
    drawing = Drawing(arch.name, describe_network(network))
    drawing.add(Text(0, 0, arch.name, 18, "start", Style.INK, is_bold=True))
    shapes = f"Shapes are {SHAPE_WORDS[arch.dims]}"
    y = 4.0
    for line in [*wrap_text(arch.reference.split(), _NOTE_SIZE, _NOTE_WIDTH), shapes]:
        y += _LINE_HEIGHT
        drawing.add(Text(0, y, line, _NOTE_SIZE, "start", Style.MUTED))
    y += _HEADING_GAP
    strip = draw_strip(network, kinds)
    drawing.add(*strip.moved_to(0, y))
    y += strip.size[1] + _ROW_GAP
    for row in _rows([draw_kind(kind, arch) for kind in kinds]):
        x = 0.0
        for block in row:
            drawing.add(*block.moved_to(x, y))
            x += block.size[0] + _BLOCK_GAP
        y += max(block.size[1] for block in row) + _ROW_GAP
    return drawing


def draw_kind(kind: BlockKind, arch: Arch) -> Drawing:
    """Return the drawing of the first block of a kind, with the names of the others beneath its title."""
    others = kind.names[1:]
    subtitle = f"also {_name_list(others)}" if others else ""
    return draw_block(kind.example, arch, f"{kind.letter}: {kind.names[0]}", (subtitle,) if subtitle else ())


def _name_list(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]}, {names[1]} and {len(names) - 2} others"


def describe_network(network: NetworkLayers) -> str:
    """Return the parts of a network in words."""
    parts = [
        f"{stage.name}: {pluralize(len(stage.blocks), 'block')}, {format_shape(stage.out_shape)}"
        for stage in network.stages
    ]
    return f"Input {format_shape(network.arch.input_size)}. {'; '.join(parts)}. {network.arch.num_classes} outputs."


def _rows(drawings: Sequence[Drawing]) -> list[list[Drawing]]:
    rows: list[list[Drawing]] = []
    width = math.inf
    for drawing in drawings:
        width += _BLOCK_GAP + drawing.size[0]
        if width > _MAX_ROW_WIDTH:
            rows.append([])
            width = drawing.size[0]
        rows[-1].append(drawing)
    return rows


@dataclass(frozen=True)
class _Part:
    """A box of the row: its lines of text (bold or muted), and what it gives."""

    name: str
    lines: tuple[tuple[str, bool], ...]
    out_shape: Shape
    style: Style
    height: float = 0

    @property
    def width(self) -> float:
        widths = [text_width(text, NAME_SIZE if is_main else DETAIL_SIZE) for text, is_main in self.lines]
        return max([*widths, text_width(self.name, NAME_SIZE, True)]) + 2 * _PART_PADDING


def draw_strip(network: NetworkLayers, kinds: Sequence[BlockKind]) -> Drawing:
    """Return the parts of the network in a row, with the shapes between them; stages are as tall as their maps are."""
    drawing = Drawing(network.arch.name, describe_network(network))
    shape, top = network.arch.input_size, 0.0
    for row in _part_rows(_parts(network, kinds)):
        middle = top + max(_part_height(part) for part in row) / 2
        x = _shape_arrow(drawing, 0, middle, shape)
        for part in row:
            height = _part_height(part)
            drawing.add(Rect(x, middle - height / 2, part.width, height, part.style, 4))
            _part_text(drawing, part, x + part.width / 2, middle)
            shape = part.out_shape
            x = _shape_arrow(drawing, x + part.width, middle, shape)
        top = 2 * middle - top + _ROW_GAP / 2
    return drawing


def _part_rows(parts: Sequence[_Part]) -> list[list[_Part]]:
    rows: list[list[_Part]] = []
    width = math.inf
    for part in parts:
        width += part.width + _arrow_width(part.out_shape)
        if width > _MAX_ROW_WIDTH:
            rows.append([])
            width = part.width + 2 * _arrow_width(part.out_shape)
        rows[-1].append(part)
    return rows


def _part_height(part: _Part) -> float:
    return max(part.height, _LINE_HEIGHT * (len(part.lines) + 1) + 2 * _PART_PADDING)


def _part_text(drawing: Drawing, part: _Part, x: float, middle: float) -> None:
    y = middle - _LINE_HEIGHT * (len(part.lines) + 1) / 2 + 13
    drawing.add(Text(x, y, part.name, NAME_SIZE, "middle", Style.INK, is_bold=True))
    for text, is_main in part.lines:
        y += _LINE_HEIGHT
        size, style = (NAME_SIZE, Style.INK) if is_main else (DETAIL_SIZE, Style.MUTED)
        drawing.add(Text(x, y, text, size, "middle", style))


def _arrow_width(shape: Shape) -> float:
    return max(text_width(format_shape(shape), DETAIL_SIZE) * 1.2 + 12, 40)


def _shape_arrow(drawing: Drawing, x: float, y: float, shape: Shape) -> float:
    """Draw an arrow to the right with a shape above it; return where it ends."""
    width = _arrow_width(shape)
    drawing.add(Line(((x, y), (x + width, y)), has_arrow=True))
    drawing.add(Text(x + width / 2 - 3, y - 7, format_shape(shape), DETAIL_SIZE, "middle", Style.MUTED))
    return x + width


def _parts(network: NetworkLayers, kinds: Sequence[BlockKind]) -> list[_Part]:
    arch = network.arch
    parts = _outer_part("stem", network.stem, arch)
    sides = [max(stage.out_shape[1:]) for stage in network.stages]
    for stage in network.stages:
        parts += _outer_part("transition", stage.transition, arch)
        parts.append(_stage_part(stage, kinds, max(sides), min(sides)))
    return parts + _outer_part("head", (*network.final, *network.head), arch)


def _outer_part(name: str, layers: Sequence[Layer], arch: Arch) -> list[_Part]:
    if not layers:
        return []
    lines: list[tuple[str, bool]] = []
    continues = False
    for layer in layers:
        label = layer_label(layer, arch)
        if changes_shape(layer) and layer.op.name != "flatten":
            lines += [(label.name, True), *((detail, False) for detail in label.details)]
            continues = False
        else:
            lines[len(lines) - continues :] = [(f"{lines[-1][0]}, {label.name}" if continues else label.name, False)]
            continues = True
    return [_Part(name, tuple(lines), layers[-1].out_shape, Style.PLAIN)]


def _stage_part(stage: StageLayers, kinds: Sequence[BlockKind], max_side: int, min_side: int) -> _Part:
    low, high = _STAGE_HEIGHTS
    share = math.log(max(stage.out_shape[1:]) / min_side) / math.log(max_side / min_side) if max_side > min_side else 0
    letters = {name: kind.letter for kind in kinds for name in kind.names}
    counts = Counter(letters[block.spec.name] for block in stage.blocks)
    text = " + ".join(letter if count == 1 else f"{count} {letter}" for letter, count in counts.items())
    lines = ((pluralize(len(stage.blocks), "block"), True), (text, False))
    return _Part(stage.name, lines, stage.out_shape, Style.WEIGHTED, low + share * (high - low))


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
