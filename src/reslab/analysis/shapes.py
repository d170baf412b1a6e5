"""What every layer gives and sees, and what it costs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

from reslab.analysis.blocks import blocks_of, run_label
from reslab.analysis.subject import Subject
from reslab.nn.cost import Layer, layer_table
from reslab.spec.errors import unknown

_BYTES = 4


@dataclass(frozen=True)
class LayerOptions:
    """`unit`: only the layers of this one, such as `layer1.0`; all where empty."""

    unit: str = ""


@dataclass(frozen=True)
class LayerShape:
    """One run of a layer: `output_shape` without the batch; `receptive_field` input pixels along a side that one of its
    places depends on, None for all of them."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    receptive_field: int | None


@dataclass(frozen=True)
class Shapes:
    """The layers in the order they run, for pictures of `input_shape` (C, H, W)."""

    subject: str
    input_shape: tuple[int, ...]
    layers: tuple[LayerShape, ...]


@dataclass(frozen=True)
class Part:
    """A layer, a unit or the whole: `params`, of them `weights` (not those of norms and biases), multiply-adds for one
    image, bytes of all outputs for one image in float32."""

    name: str
    params: int
    weights: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class Cost:
    """What each layer costs, each unit (with `stem` and `head` for what stands around them), and all together."""

    subject: str
    input_shape: tuple[int, ...]
    layers: tuple[Part, ...]
    parts: tuple[Part, ...]
    total: Part


def ask_shapes(subject: Subject, options: LayerOptions) -> Shapes:
    """Output shape and receptive field of every layer, followed on the meta device: nothing is computed.

    r = 1 + sum of (kernel - 1) * dilation * (product of strides before), on the widest way: Araujo, Norris and Sim
    2019, Eq. 2. Raises ValueError for a unit that is not there.
    """
    rows = tuple(
        LayerShape(name, layer.kind, layer.output_shape, layer.receptive_field)
        for name, layer in _layers(subject, options)
    )
    return Shapes(subject.name, tuple(subject.images.shape[1:]), rows)


def ask_cost(subject: Subject, options: LayerOptions) -> Cost:
    """Parameters, multiply-adds and activation memory of every layer and unit.

    Multiply-adds are those of convolutions and linear layers; memory is what the outputs of all layers take together,
    which is what training keeps at most. Raises ValueError for a unit that is not there.
    """
    rows = [(layer, _part(name, [layer])) for name, layer in _layers(subject, options)]
    groups: dict[str, list[Layer]] = {}
    units = _unit_names(subject.model)
    for layer, _ in rows:
        groups.setdefault(_group(layer, units, groups), []).append(layer)
    parts = tuple(_part(name, layers) for name, layers in groups.items())
    layers, total = tuple(part for _, part in rows), _part("all", [layer for layer, _ in rows])
    return Cost(subject.name, tuple(subject.images.shape[1:]), layers, parts, total)


def _group(layer: Layer, units: list[str], before: Mapping[str, Any]) -> str:
    """The unit a layer is in, else `stem` or `head`; of a network without units the layer itself."""
    if not units:
        return layer.name
    unit = next((unit for unit in units if layer.name.startswith(f"{unit}.")), None)
    return unit or ("head" if before.keys() & set(units) else "stem")


def _layers(subject: Subject, options: LayerOptions) -> list[tuple[str, Layer]]:
    """The layers asked for, a further run of the same one marked with its number."""
    table = layer_table(subject.model, tuple(subject.images.shape[1:]))
    seen: Counter[str] = Counter()
    found = []
    for layer in table:
        found.append((run_label(layer.name, seen[layer.name]), layer))
        seen[layer.name] += 1
    if not options.unit:
        return found
    if options.unit not in _unit_names(subject.model):
        raise unknown(f"unit of {subject.name}", options.unit, _unit_names(subject.model))
    return [(name, layer) for name, layer in found if layer.name.startswith(f"{options.unit}.")]


def _unit_names(model: nn.Module) -> list[str]:
    return [name for name, _ in blocks_of(model)]


def _part(name: str, layers: list[Layer]) -> Part:
    return Part(
        name,
        sum(layer.params for layer in layers),
        sum(layer.weights for layer in layers),
        sum(layer.macs for layer in layers),
        _BYTES * sum(prod(layer.output_shape) for layer in layers),
    )
