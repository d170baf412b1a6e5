"""Shapes, receptive fields and costs of all layers and blocks."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

from reslab.analysis.blocks import call_label, find_composite_blocks
from reslab.analysis.target import AnalysisTarget
from reslab.nn.cost import LayerSummary, layer_table
from reslab.spec.errors import unknown_name

_BYTES_PER_VALUE = 4


@dataclass(frozen=True)
class LayerOptions:
    """The `block` whose layers are listed, such as `layer1.0`; all if empty."""

    block: str = ""


@dataclass(frozen=True)
class LayerShape:
    """One call of a layer: its output shape without the batch, and the receptive field of one output position.

    `receptive_field` is in input pixels along a side; None means the whole image.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    receptive_field: int | None


@dataclass(frozen=True)
class ShapeResult:
    """The layers in the order they run, for images of `input_shape` (C, H, W)."""

    model: str
    input_shape: tuple[int, ...]
    layers: tuple[LayerShape, ...]


@dataclass(frozen=True)
class ModuleCost:
    """The cost of a layer, a block or the whole network.

    `weights` are the parameters without norms and biases, `macs` the multiply-adds for one image, and
    `activation_bytes` the memory of all layer outputs for one image in float32.
    """

    name: str
    params: int
    weights: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class CostResult:
    """The costs of all layers, of all blocks (with `stem` and `head` around them), and in total."""

    model: str
    input_shape: tuple[int, ...]
    layers: tuple[ModuleCost, ...]
    blocks: tuple[ModuleCost, ...]
    total: ModuleCost


def analyze_shapes(target: AnalysisTarget, options: LayerOptions) -> ShapeResult:
    """List the output shape and receptive field of every layer, traced on the meta device without any computation.

    r = 1 + sum of (kernel - 1) * dilation * (product of the strides before), on the widest path: Araujo, Norris and
    Sim 2019, Eq. 2. Raises ValueError for an unknown block.
    """
    rows = tuple(
        LayerShape(name, layer.kind, layer.output_shape, layer.receptive_field)
        for name, layer in _selected_layers(target, options)
    )
    return ShapeResult(target.name, tuple(target.images.shape[1:]), rows)


def analyze_cost(target: AnalysisTarget, options: LayerOptions) -> CostResult:
    """List the parameters, multiply-adds and activation memory of every layer and block.

    Multiply-adds are those of convolutions and linear layers. The memory is that of all layer outputs together, an
    upper bound on what training keeps. Raises ValueError for an unknown block.
    """
    rows = [(layer, _module_cost(name, [layer])) for name, layer in _selected_layers(target, options)]
    groups: dict[str, list[LayerSummary]] = {}
    block_names = _block_names(target.model)
    for layer, _ in rows:
        groups.setdefault(_group_name(layer, block_names, groups), []).append(layer)
    block_costs = tuple(_module_cost(name, layers) for name, layers in groups.items())
    layers, total = tuple(cost for _, cost in rows), _module_cost("all", [layer for layer, _ in rows])
    return CostResult(target.name, tuple(target.images.shape[1:]), layers, block_costs, total)


def _group_name(layer: LayerSummary, block_names: list[str], groups: Mapping[str, Any]) -> str:
    """Return the block that contains a layer, else `stem` or `head`; in a network without blocks, the layer itself."""
    if not block_names:
        return layer.name
    block = next((block for block in block_names if layer.name.startswith(f"{block}.")), None)
    return block or ("head" if groups.keys() & set(block_names) else "stem")


def _selected_layers(target: AnalysisTarget, options: LayerOptions) -> list[tuple[str, LayerSummary]]:
    """Return the selected layers with their labels; repeated calls of a layer are numbered."""
    table = layer_table(target.model, tuple(target.images.shape[1:]))
    call_counts: Counter[str] = Counter()
    rows = []
    for layer in table:
        rows.append((call_label(layer.name, call_counts[layer.name]), layer))
        call_counts[layer.name] += 1
    if not options.block:
        return rows
    if options.block not in _block_names(target.model):
        raise unknown_name(f"block of {target.name}", options.block, _block_names(target.model))
    return [(name, layer) for name, layer in rows if layer.name.startswith(f"{options.block}.")]


def _block_names(model: nn.Module) -> list[str]:
    return [name for name, _ in find_composite_blocks(model)]


def _module_cost(name: str, layers: list[LayerSummary]) -> ModuleCost:
    return ModuleCost(
        name=name,
        params=sum(layer.params for layer in layers),
        weights=sum(layer.weights for layer in layers),
        macs=sum(layer.macs for layer in layers),
        activation_bytes=_BYTES_PER_VALUE * sum(prod(layer.output_shape) for layer in layers),
    )
