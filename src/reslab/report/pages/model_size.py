"""The section of a run's page on its network: a drawing, and parameters and multiply-adds by stage and layer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reslab.report.drawings.network import SHAPE_WORDS, block_kinds, draw_kind, draw_strip
from reslab.report.drawings.svg import render_inline_svg, style_sheet
from reslab.report.format import format_int, format_percent, format_shape, format_si, pluralize
from reslab.report.pages.components import make_tile
from reslab.spec.arch import Arch
from reslab.spec.shapes import network_layers

MAX_LAYER_ROWS, MAX_BLOCK_KINDS = 600, 4
_STAGE_PATTERN = re.compile(r"(layer|stage|stages|block|blocks)[._]?\d+")
_BLOCK_PATTERN = re.compile(r"(layer|stage|stages|block|blocks)[._]?\d+\.\d+")


@dataclass(frozen=True)
class LayerGroup:
    """Consecutive layers together: their parameters, multiply-adds for one image, and the last one's output shape."""

    name: str
    output_shape: Any
    num_layers: int
    params: int
    macs: int


def model_size_context(layers: Sequence[Mapping[str, Any]], *, depth: int, params: int, macs: int) -> dict[str, Any]:
    """Return tiles of the totals, a row for each stage, and one for each layer (each block, above 600 layers)."""
    tiles = []
    if depth:
        tiles.append(make_tile("depth", format_int(depth), "weighted layers, without projections"))
    if params:
        tiles.append(
            make_tile("parameters", format_si(params), f"{format_int(params)}: {_file_size_text(params)} in float32")
        )
    if macs:
        tiles.append(make_tile("multiply-adds", format_si(macs), "forward pass of one image"))
    return {
        "size_tiles": tiles,
        "stage_rows": _group_rows(group_layers_by_stage(layers)),
        "layer_rows": _group_rows(group_by_layer(layers)),
        "layers_caption": _layers_caption(len(layers)),
    }


def drawing_context(arch: Arch | None) -> dict[str, Any]:
    """Return the drawings of a network: the row of its parts, and a block of each kind; empty without an `arch`."""
    if arch is None:
        return {"network_drawing": "", "block_drawings": [], "drawing_style": "", "drawing_caption": ""}
    network = network_layers(arch)
    kinds = block_kinds(network)
    others = f"; {len(kinds) - MAX_BLOCK_KINDS} more kinds are not drawn" if len(kinds) > MAX_BLOCK_KINDS else ""
    return {
        "network_drawing": render_inline_svg(draw_strip(network, kinds)),
        "block_drawings": [render_inline_svg(draw_kind(kind, arch)) for kind in kinds[:MAX_BLOCK_KINDS]],
        "drawing_style": style_sheet(),
        "drawing_caption": f"{arch.name}: stages, and a block of each kind with its shortcut beside the branch. Shapes "
        f"are {SHAPE_WORDS[arch.dims]}{others}.",
    }


def group_layers_by_stage(layers: Sequence[Mapping[str, Any]]) -> list[LayerGroup]:
    """Sum the layers by stage; those before the first stage are the stem, those after the last one the head."""
    names = [_match_prefix(_STAGE_PATTERN, layer["name"]) for layer in layers]
    stage_indices = [index for index, name in enumerate(names) if name]
    if stage_indices:
        names[: stage_indices[0]] = ["stem"] * stage_indices[0]
        names[stage_indices[-1] + 1 :] = ["head"] * (len(names) - stage_indices[-1] - 1)
    group_names = [name or layer["name"].split(".")[0] for name, layer in zip(names, layers, strict=True)]
    return _group(layers, group_names)


def group_by_layer(layers: Sequence[Mapping[str, Any]]) -> list[LayerGroup]:
    """Return one group for each layer; for each block where there are more than 600 layers."""
    names = [str(layer["name"]) for layer in layers]
    if len(layers) > MAX_LAYER_ROWS:
        names = [_match_prefix(_BLOCK_PATTERN, name) or name for name in names]
    return _group(layers, names)


def _match_prefix(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.match(name)
    return match[0] if match else ""


def _group(layers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[LayerGroup]:
    groups: list[tuple[str, list[Mapping[str, Any]]]] = []
    for name, layer in zip(names, layers, strict=True):
        if not groups or groups[-1][0] != name:
            groups.append((name, []))
        groups[-1][1].append(layer)
    return [
        LayerGroup(
            name=name,
            output_shape=group[-1]["output_shape"],
            num_layers=len(group),
            params=sum(int(layer.get("params") or 0) for layer in group),
            macs=sum(int(layer.get("macs") or 0) for layer in group),
        )
        for name, group in groups
    ]


def _file_size_text(params: int) -> str:
    return f"{4 * params / 1e6:,.1f} MB" if params >= 25_000 else f"{4 * params / 1e3:,.1f} kB"


def _layers_caption(num_layers: int) -> str:
    if num_layers > MAX_LAYER_ROWS:
        return f"All {format_int(num_layers)} layers, summed by block"
    return f"All {pluralize(num_layers, 'layer')}"


def _group_rows(groups: Sequence[LayerGroup]) -> list[dict[str, Any]]:
    max_macs, total_macs = max((group.macs for group in groups), default=0), sum(group.macs for group in groups)
    return [
        {
            "name": group.name,
            "shape": format_shape(group.output_shape),
            "num_layers": format_int(group.num_layers),
            "params": format_int(group.params),
            "macs": format_int(group.macs),
            "width": round(100 * group.macs / max_macs, 1) if max_macs else 0,
            "share": format_percent(group.macs / total_macs, 1) if total_macs and group.macs else "–",
        }
        for group in groups
    ]
