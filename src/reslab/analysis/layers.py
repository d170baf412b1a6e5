"""Named layers of any module, and what they hand out."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.blocks import run_label, units_of
from reslab.spec.errors import refuse, unknown

# A layer, or one of its runs.
_LABEL = re.compile(r"(.+?)(?: \(\d+\))?")


def layer_named(model: nn.Module, name: str) -> nn.Module:
    """The module of this name; ValueError with the nearest names where there is none."""
    known = {found: module for found, module in model.named_modules() if found}
    if name not in known:
        raise unknown("layer", name, known)
    return known[name]


def default_layers(model: nn.Module) -> tuple[str, ...]:
    """The first convolution, and the last unit of every stage; linear layers have no maps and are left out."""
    last = {name.rpartition(".")[0]: name for name, unit in units_of(model) if not isinstance(unit, nn.Linear)}
    return tuple(dict.fromkeys((first_convolution(model), *last.values())))


def layers_by_depth(model: nn.Module) -> tuple[str, ...]:
    """The first convolution and every unit, first to last; a unit that is that convolution comes once."""
    return tuple(dict.fromkeys((first_convolution(model), *unit_layers(model))))


def unit_layers(model: nn.Module) -> tuple[str, ...]:
    """Every unit, first to last."""
    return tuple(name for name, _ in units_of(model))


def first_convolution(model: nn.Module) -> str:
    """The name of the first convolution; ValueError where there is none."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name
    raise refuse("a network with a convolution", type(model).__name__)


@contextmanager
def watched(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """A dictionary that fills with each layer's outputs, one a run, while the model runs inside the block.

    ValueError for an unknown layer.
    """
    found: dict[str, list[Tensor]] = {}

    def keeper(name: str) -> Any:
        def keep(module: nn.Module, given: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found.setdefault(name, []).append(output.clone())  # what comes next may change it in place

        return keep

    modules = {name: layer_named(model, name) for name in names}
    handles = [module.register_forward_hook(keeper(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def outputs_of(model: nn.Module, names: Sequence[str], images: Tensor, batch: int = 64) -> dict[str, Tensor]:
    """Each layer's output for all images, (N, ...), in float32 on the images' device.

    A layer that runs several times has an entry a run, `layer1.0`, `layer1.0 (2)`, ...; such a name asks for one of
    them. ValueError for an unknown layer or run.
    """
    layers = {name: _LABEL.fullmatch(name)[1] for name in names}  # type: ignore[index]
    parts: dict[str, list[Tensor]] = {}
    for x in images.split(batch):
        with watched(model, list(layers.values())) as found:
            model(x)
        runs: dict[str, Tensor] = {}  # one a label: a layer and one of its runs may both be asked for
        for name, layer in layers.items():
            runs |= _runs(found.get(layer, []), name, layer)
        for label, output in runs.items():
            parts.setdefault(label, []).append(output.float())
    return {label: torch.cat(part) for label, part in parts.items()}


def _runs(outputs: list[Tensor], name: str, layer: str) -> dict[str, Tensor]:
    """All runs of a layer by their labels, or the one that `name` asks for."""
    if not outputs:
        raise refuse("a layer that runs and hands out a tensor", name)
    runs = {run_label(layer, run): output for run, output in enumerate(outputs)}
    if name != layer and name not in runs:
        raise unknown("run of a layer", name, runs)
    return runs if name == layer else {name: runs[name]}


def pooled(maps: Tensor) -> Tensor:
    """(N, C, H, W) as (N, C), the mean of each map; other shapes flattened to (N, features)."""
    return maps.mean((2, 3)) if maps.ndim == 4 else maps.flatten(1)
