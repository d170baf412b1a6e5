"""Shapes, receptive fields and costs of all layers and blocks."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.layers import call_label, find_composite_blocks
from reslab.analysis.target import AnalysisTarget
from reslab.nn.cost import LayerSummary, layer_table
from reslab.nn.dense import DenseNetwork
from reslab.spec.errors import invalid, unknown_name

_BYTES_PER_VALUE = 4
_REST = "rest"


@dataclass(frozen=True)
class LayerOptions:
    """The `block` whose layers are listed, such as `layer1.0`; all if empty."""

    block: str = ""


@dataclass(frozen=True)
class CostOptions:
    """The `block` whose layers are listed, all if empty, and how often the parts are timed: `runs` (0: not at all).

    Parts are those of networks for segmentation and detection.
    """

    block: str = ""
    runs: int = 3


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
class PartCost:
    """The cost of a part of a network for segmentation or detection, and the `seconds` that it takes for one image.

    The time is the median of several runs; None where it was not measured. The part `rest` has no layers: resizing,
    anchors, pooling and selection of regions.
    """

    name: str
    params: int
    macs: int
    activation_bytes: int
    seconds: float | None = None


@dataclass(frozen=True)
class CostResult:
    """The costs of all layers, of all blocks (with `stem` and `head` around them), and in total.

    `parts` are the backbone, the pyramid and the heads of a network for segmentation or detection, none of others.
    """

    model: str
    input_shape: tuple[int, ...]
    layers: tuple[ModuleCost, ...]
    blocks: tuple[ModuleCost, ...]
    total: ModuleCost
    parts: tuple[PartCost, ...] = ()


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


def analyze_cost(target: AnalysisTarget, options: CostOptions) -> CostResult:
    """List the parameters, multiply-adds and activation memory of every layer, block and part.

    Multiply-adds are those of convolutions and linear layers. The memory is that of all layer outputs together, an
    upper bound on what training keeps. A detector is counted with as many regions as it evaluates at most; the time is
    that of the first image, whose regions are fewer. Raises ValueError for an unknown block.
    """
    if options.runs < 0:
        raise invalid("runs from 0", options.runs, "0")
    rows = [(layer, _module_cost(name, [layer])) for name, layer in _selected_layers(target, options)]
    groups: dict[str, list[LayerSummary]] = {}
    block_names = _block_names(target.model)
    for layer, _ in rows:
        groups.setdefault(_group_name(layer, block_names, groups), []).append(layer)
    block_costs = tuple(_module_cost(name, layers) for name, layers in groups.items())
    layers, total = tuple(cost for _, cost in rows), _module_cost("all", [layer for layer, _ in rows])
    parts = _part_costs(target, [layer for layer, _ in rows], options.runs) if not options.block else ()
    return CostResult(target.name, tuple(target.images.shape[1:]), layers, block_costs, total, parts)


def _part_costs(target: AnalysisTarget, layers: list[LayerSummary], runs: int) -> tuple[PartCost, ...]:
    """Return the cost of each part that the network has, and with `runs` its time."""
    network = target.model
    if not isinstance(network, DenseNetwork):
        return ()
    by_part: dict[str, list[LayerSummary]] = {}
    for layer in layers:
        by_part.setdefault(network.part_of(layer.name), []).append(layer)
    seconds = time_parts(network, target.images[:1], runs) if runs else {}
    names = [name for name in network.part_modules if name in by_part]
    costs = [_module_cost(name, by_part[name]) for name in names]
    parts = [
        PartCost(cost.name, cost.params, cost.macs, cost.activation_bytes, seconds.get(cost.name)) for cost in costs
    ]
    return (*parts, PartCost(_REST, 0, 0, 0, seconds[_REST])) if seconds else tuple(parts)


@torch.no_grad()
def time_parts(network: DenseNetwork, images: Tensor, runs: int) -> dict[str, float]:
    """Return the seconds of each part of a network for the images, the medians of `runs` after one that is not timed.

    `rest` is what remains of the whole: the resizing of the images, and the selection of regions.
    """
    recorded: dict[str, list[float]] = {}
    current: dict[str, float] = {}
    with _timed_parts(network, current):
        for _ in range(runs + 1):
            current.clear()
            start = _clock(images)
            network(images)
            current[_REST] = _clock(images) - start - sum(current.values())
            for name, seconds in current.items():
                recorded.setdefault(name, []).append(seconds)
    return {name: median(seconds[1:]) for name, seconds in recorded.items()}


@contextmanager
def _timed_parts(network: DenseNetwork, seconds: dict[str, float]) -> Iterator[None]:
    """Add the time of every part to `seconds` while the network runs."""
    starts: dict[nn.Module, float] = {}

    def begin(module: nn.Module, inputs: Any) -> None:
        starts[module] = _clock(next(module.parameters()))

    def end(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        seconds[name] = seconds.get(name, 0.0) + _clock(next(module.parameters())) - starts.pop(module)

    handles = []
    for name, module in network.parts():
        handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(partial(end, name))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _clock(tensor: Tensor) -> float:
    """Return the time in seconds, after all that was begun on the tensor's device."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()


def _group_name(layer: LayerSummary, block_names: list[str], groups: Mapping[str, Any]) -> str:
    """Return the block that contains a layer, else `stem` or `head`; in a network without blocks, the layer itself."""
    if not block_names:
        return layer.name
    block = next((block for block in block_names if layer.name.startswith(f"{block}.")), None)
    return block or ("head" if groups.keys() & set(block_names) else "stem")


def _selected_layers(target: AnalysisTarget, options: LayerOptions | CostOptions) -> list[tuple[str, LayerSummary]]:
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
        activation_bytes=_BYTES_PER_VALUE * sum(layer.num_rows * prod(layer.output_shape) for layer in layers),
    )
