"""The stages of networks side by side, as Table 1 of He et al. 2015: text of 80 columns, Markdown, or HTML.

A block is a pair of brackets around its convolutions, kernel and width, with the number of such blocks after it.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Any

from reslab.report.drawings.labels import POOL_NAMES
from reslab.report.format import format_shape, markdown_table, pluralize
from reslab.spec.arch import Arch, ConvSpec
from reslab.spec.grammar import Op, format_arg
from reslab.spec.order import ATTENTION
from reslab.spec.shapes import BlockLayers, Layer, NetworkLayers, Shape, network_layers

_MAX_BRACKETS = 3


@dataclass(frozen=True)
class Bracket:
    """The layers of a block, one a line, and the number of consecutive blocks that have them."""

    lines: tuple[str, ...]
    count: int


Part = str | Bracket
"""A line of a cell alone, such as a pool, or blocks."""


def _part_value(part: Part) -> str | dict[str, Any]:
    return part if isinstance(part, str) else {"layers": list(part.lines), "blocks": part.count}


@dataclass(frozen=True)
class StageRow:
    """A row: the layer's name, the size of its output, the parts that all networks have, and those of each one."""

    name: str
    output: str
    shared: tuple[str, ...]
    cells: tuple[tuple[Part, ...], ...]


@dataclass(frozen=True)
class StageTable:
    """Rows from the first convolution to the head, and what the networks cost: multiply-adds, if given."""

    archs: tuple[Arch, ...]
    rows: tuple[StageRow, ...]
    macs: tuple[int, ...] = ()

    @property
    def networks(self) -> list[str]:
        """The names of the networks."""
        return [arch.name for arch in self.archs]

    def select(self, start: int, end: int) -> "StageTable":
        """Return the table of some of the networks."""
        return stage_table(self.archs[start:end], self.macs[start:end])

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return each network as JSON has it: name, macs, and its stages with name, output and parts."""
        return [
            {"name": arch.name, "macs": self.macs[i] if self.macs else None, "stages": self._stage_dicts(i)}
            for i, arch in enumerate(self.archs)
        ]

    def _stage_dicts(self, column: int) -> list[dict[str, Any]]:
        rows = self.select(column, column + 1).rows  # alone, each of its rows has one size
        return [
            {"name": row.name, "output": row.output, "parts": [*row.shared, *map(_part_value, row.cells[0])]}
            for row in rows
        ]

    @property
    def note(self) -> str:
        """The note on reading the table."""
        return (
            "[kernel, width] × blocks; C: groups, d: depthwise. The first block of a stage has its stride. "
            "FLOPs are multiply-adds of convolutions and linear layers, for one image."
        )


def stage_table(archs: Sequence[Arch], macs: Sequence[int] = ()) -> StageTable:
    """Return the table of networks; `macs` are the multiply-adds of each, and make the row of FLOPs."""
    networks = [network_layers(arch) for arch in archs]
    columns = [list(_sections(network)) for network in networks]
    num_stages = max(len(column) for column in columns) - 2
    # A network of fewer stages has nothing in the rows of the others.
    columns = [[*column[:-1], *[_Section()] * (num_stages + 2 - len(column)), column[-1]] for column in columns]
    names = ["conv1", *(f"conv{k}_x" for k in range(2, num_stages + 2)), "head"]
    rows = [_row(name, sections) for name, sections in zip(names, zip(*columns, strict=True), strict=True)]
    return StageTable(tuple(archs), tuple(row for row in rows if row is not None), tuple(macs))


@dataclass(frozen=True)
class _Section:
    """The parts of one network in one row."""

    parts: tuple[Part, ...] = ()
    out_shape: Shape = ()


def _row(name: str, sections: Sequence[_Section]) -> StageRow | None:
    if not any(section.parts for section in sections):
        return None
    leading = [
        tuple(part for part in section.parts[: _num_leading_lines(section.parts)] if isinstance(part, str))
        for section in sections
    ]
    shared = leading[0] if len(set(leading)) == 1 else ()
    outputs = [format_shape(section.out_shape[1:] or (1,)) for section in sections if section.parts]
    is_same = len(set(outputs)) == 1
    cells = []
    for section in sections:
        size = () if is_same or not section.parts else (f"{format_shape(section.out_shape[1:])}:",)
        cells.append((*size, *section.parts[len(shared) :]))
    return StageRow(name, outputs[0] if is_same else "", shared, tuple(cells))


def _num_leading_lines(parts: Sequence[Part]) -> int:
    return next((i for i, part in enumerate(parts) if not isinstance(part, str)), len(parts))


def _sections(network: NetworkLayers) -> Iterator[_Section]:
    """Yield the parts of conv1, of each stage, and of the head; pools after the last convolution are the stage's."""
    conv_indices = [i for i, layer in enumerate(network.stem) if layer.conv]
    end = conv_indices[-1] + 1 if conv_indices else 0
    stem, pools = network.stem[:end], _lines(network.stem[end:])
    yield _Section(_lines(stem), stem[-1].out_shape if stem else network.arch.input_size)
    for stage in network.stages:
        yield _Section((*pools, *_lines(stage.transition), *_brackets(stage.blocks)), stage.out_shape)
        pools = ()
    head = (*network.final, *network.head)
    maps = [layer for layer in head if len(layer.out_shape) > 1]
    out_shape = maps[-1].out_shape if maps else network.arch.input_size
    yield _Section((", ".join(_lines(head)),) if _lines(head) else (), out_shape)


def _brackets(blocks: Sequence[BlockLayers]) -> list[Part]:
    groups = [Bracket(lines, len(list(group))) for lines, group in groupby(blocks, _block_lines)]
    if len(groups) > _MAX_BRACKETS:  # a width law: the first and the last block
        return [groups[0], "...", groups[-1]]
    return [*groups]


def _block_lines(block: BlockLayers) -> tuple[str, ...]:
    lines = []
    for layer in block.branch:
        if layer.conv is not None:
            lines.append(_conv_text(layer.op, layer.conv, with_stride=False))
        elif layer.op.name in ATTENTION:
            lines.append(layer.op.name.upper())
    lines += [f"{block.spec.branches} branches"] if block.spec.branches > 1 else []
    return tuple(lines)


def _conv_text(op: Op, conv: ConvSpec, *, with_stride: bool) -> str:
    is_depthwise = 1 < conv.groups == conv.in_channels == conv.out_channels
    kernel = format_shape(conv.kernels or (conv.kernel,) * 2)
    parts = [f"{'d' if is_depthwise else ''}{kernel}", str(conv.out_channels)]
    parts += [f"C={conv.groups}"] if conv.groups > 1 and not is_depthwise else []
    parts += [format_arg(op.args[0])] if op.args and isinstance(op.args[0], str) else []
    parts += [f"stride {format_shape(conv.strides or (conv.stride,))}"] if with_stride and conv.stride > 1 else []
    return ", ".join(parts)


def _lines(layers: Iterable[Layer]) -> tuple[str, ...]:
    """Return the lines of the convolutions, pools and linear layers outside blocks."""
    return tuple(text for layer in layers if (text := _outer_text(layer)))


def _outer_text(layer: Layer) -> str:
    if layer.conv is not None:
        return _conv_text(layer.op, layer.conv, with_stride=True)
    if layer.op.name == "fc":
        return f"{layer.out_shape[0]}-d fc"
    if layer.op.name not in POOL_NAMES:
        return ""
    size = f"{format_shape((layer.size,) * (len(layer.in_shape) - 1))} " if layer.size else ""
    return f"{size}{POOL_NAMES[layer.op.name]}" + (f", stride {layer.stride}" if layer.stride > 1 else "")


def flops_text(macs: int) -> str:
    """Return multiply-adds as the paper writes them: `3.86×10⁹`."""
    exponent = 9 if macs >= 10**8 else 6
    return f"{macs / 10**exponent:.2f}×10{'⁹' if exponent == 9 else '⁶'}"


def cell_lines(parts: Sequence[Part], comma: str = ", ") -> list[str]:
    """Return the lines of a cell, with brackets that span several of them."""
    lines: list[str] = []
    for part in parts:
        lines += [part.replace(", ", comma)] if isinstance(part, str) else _bracket_lines(part, comma)
    return lines


def _bracket_lines(bracket: Bracket, comma: str) -> list[str]:
    texts = [line.replace(", ", comma) for line in bracket.lines]
    width, last = max(map(len, texts)), len(texts) - 1
    if not last:
        return [f"[{texts[0]}]×{bracket.count}"]
    lefts, rights = f"⎡{'⎢' * (last - 1)}⎣", f"⎤{'⎥' * (last - 1)}⎦"
    lines = [f"{left}{text.ljust(width)}{right}" for left, text, right in zip(lefts, texts, rights, strict=True)]
    lines[last // 2 + last % 2] += f"×{bracket.count}"
    return lines


def render_text(table: StageTable, max_width: int = 80) -> str:
    """Return the table as text; networks that do not fit side by side follow in further tables."""
    for comma, gap in ((", ", 2), (",", 1)):
        lines = _text_table(table, comma, gap)
        if max(map(len, lines)) <= max_width:
            return _with_note(lines, table, max_width)
    lines, start = [], 0
    while start < len(table.archs):
        end = len(table.archs)
        while end > start + 1 and max(map(len, _text_table(table.select(start, end)))) > max_width:
            end -= 1
        lines += [*_text_table(table.select(start, end)), ""]
        start = end
    return _with_note(lines[:-1], table, max_width)


def _with_note(lines: Sequence[str], table: StageTable, max_width: int) -> str:
    return "\n".join([*lines, "", *textwrap.wrap(table.note, max_width)]) + "\n"


def _text_table(table: StageTable, comma: str = ", ", gap: int = 2) -> list[str]:
    cells = [[cell_lines(cell, comma) for cell in row.cells] for row in table.rows]
    flops = [flops_text(macs) for macs in table.macs] or [""] * len(table.archs)
    widths = [
        max(map(len, ["layer", *(row.name for row in table.rows)])),
        max(map(len, ["output", *(row.output for row in table.rows)])),
    ]
    for i, name in enumerate(table.networks):
        widths.append(max(map(len, [name, flops[i], *(line for row in cells for line in row[i])])))
    separator = " " * gap

    def line(*texts: str) -> str:
        return separator.join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()

    result = [line("layer", "output", *table.networks), separator.join("─" * width for width in widths)]
    span = sum(widths[2:]) + gap * (len(table.archs) - 1)
    for row, row_cells in zip(table.rows, cells, strict=True):
        heads = [f"{row.name.ljust(widths[0])}{separator}{row.output.ljust(widths[1])}", " " * (sum(widths[:2]) + gap)]
        body = [separator + text for shared in row.shared for text in textwrap.wrap(shared, max(span, 20))]
        body += [
            separator + separator.join(text.ljust(width) for text, width in zip(texts, widths[2:], strict=True))
            for texts in zip_longest(*row_cells, fillvalue="")
        ]
        result += [(heads[min(i, 1)] + text).rstrip() for i, text in enumerate(body)]
        result.append("")
    return [*result, line("FLOPs", "", *flops)] if table.macs else result[:-1]


def render_markdown(table: StageTable) -> str:
    """Return the table in Markdown; lines within a cell are separated by <br>."""
    rows: list[list[str]] = []
    for row in table.rows:
        cells = ["<br>".join([*row.shared, *cell_lines(cell)]) for cell in row.cells]
        rows.append([row.name, row.output, *cells])
    if table.macs:
        rows.append(["FLOPs", "", *map(flops_text, table.macs)])
    return f"{markdown_table(['layer', 'output', *table.networks], rows)}\n{table.note}\n"


@dataclass(frozen=True)
class StageTablePage:
    """The values of the page: the table itself."""

    table: StageTable


def stage_table_context(page: StageTablePage) -> dict[str, Any]:
    """Return the values of `stage_table.html`."""
    table = page.table
    return {
        "title": ", ".join(table.networks) if len(table.archs) <= 3 else pluralize(len(table.archs), "network"),
        "summary": "Layers, output sizes and blocks, stage by stage.",
        "metadata": {},
        "networks": table.networks,
        "rows": [
            {
                "name": row.name,
                "output": row.output,
                "shared": row.shared,
                "cells": [_cell(parts) for parts in row.cells] if any(row.cells) else [],
            }
            for row in table.rows
        ],
        "flops": [flops_text(macs) for macs in table.macs],
        "note": table.note,
    }


def _cell(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [
        {"lines": part.lines, "count": part.count} if isinstance(part, Bracket) else {"lines": (part,), "count": 0}
        for part in parts
    ]
