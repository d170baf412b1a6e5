"""What every layer gives and sees, and what it costs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

from reslab.analysis.blocks import call_label, find_composite_blocks
from reslab.analysis.subject import AnalysisTarget
from reslab.nn.cost import LayerSummary, layer_table
from reslab.spec.errors import unknown_name

_BYTES_PER_VALUE = 4


@dataclass(frozen=True)
class LayerOptions:
    """`unit`: only the layers of this one, such as `layer1.0`; all where empty."""

    block: str = ""


@dataclass(frozen=True)
class LayerShape:
    """One run of a layer: `output_shape` without the batch; `receptive_field` input pixels along a side that one of its
    places depends on, None for all of them."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    receptive_field: int | None


@dataclass(frozen=True)
class ShapeResult:
    """The layers in the order they run, for pictures of `input_shape` (C, H, W)."""

    model: str
    input_shape: tuple[int, ...]
    layers: tuple[LayerShape, ...]


@dataclass(frozen=True)
class ModuleCost:
    """A layer, a unit or the whole: `params`, of them `weights` (not those of norms and biases), multiply-adds for one
    image, bytes of all outputs for one image in float32."""

    name: str
    params: int
    weights: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class CostResult:
    """What each layer costs, each unit (with `stem` and `head` for what stands around them), and all together."""

    model: str
    input_shape: tuple[int, ...]
    layers: tuple[ModuleCost, ...]
    blocks: tuple[ModuleCost, ...]
    total: ModuleCost


def analyze_shapes(target: AnalysisTarget, options: LayerOptions) -> ShapeResult:
    """Output shape and receptive field of every layer, followed on the meta device: nothing is computed.

    r = 1 + sum of (kernel - 1) * dilation * (product of strides before), on the widest way: Araujo, Norris and Sim
    2019, Eq. 2. Raises ValueError for a unit that is not there.
    """
    rows = tuple(
        LayerShape(name, layer.kind, layer.output_shape, layer.receptive_field)
        for name, layer in _selected_layers(target, options)
    )
    return ShapeResult(target.name, tuple(target.images.shape[1:]), rows)


def analyze_cost(target: AnalysisTarget, options: LayerOptions) -> CostResult:
    """Parameters, multiply-adds and activation memory of every layer and unit.

    Multiply-adds are those of convolutions and linear layers; memory is what the outputs of all layers take together,
    which is what training keeps at most. Raises ValueError for a unit that is not there.
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
    """The unit a layer is in, else `stem` or `head`; of a network without units the layer itself."""
    if not block_names:
        return layer.name
    block = next((block for block in block_names if layer.name.startswith(f"{block}.")), None)
    return block or ("head" if groups.keys() & set(block_names) else "stem")


def _selected_layers(target: AnalysisTarget, options: LayerOptions) -> list[tuple[str, LayerSummary]]:
    """The layers asked for, a further run of the same one marked with its number."""
    table = layer_table(target.model, tuple(target.images.shape[1:]))
    call_counts: Counter[str] = Counter()
    rows = []
    for layer in table:
        rows.append((call_label(layer.name, call_counts[layer.name]), layer))
        call_counts[layer.name] += 1
    if not options.block:
        return rows
    if options.block not in _block_names(target.model):
        raise unknown_name(f"unit of {target.name}", options.block, _block_names(target.model))
    return [(name, layer) for name, layer in rows if layer.name.startswith(f"{options.block}.")]


def _block_names(model: nn.Module) -> list[str]:
    return [name for name, _ in find_composite_blocks(model)]


def _module_cost(name: str, layers: list[LayerSummary]) -> ModuleCost:
    return ModuleCost(
        name,
        sum(layer.params for layer in layers),
        sum(layer.weights for layer in layers),
        sum(layer.macs for layer in layers),
        _BYTES_PER_VALUE * sum(prod(layer.output_shape) for layer in layers),
    )
