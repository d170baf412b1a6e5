"""Named layers of any module, and what they hand out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from reslab.analysis.units import units_of
from reslab.spec.errors import refuse, unknown


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
def watched(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """A dictionary that fills with each layer's output while the model runs inside the block.

    Of a layer that runs several times the last output stays. ValueError for an unknown layer.
    """
    found: dict[str, Tensor] = {}

    def keeper(name: str) -> object:
        # A copy: what comes next may change the output in place.
        return lambda module, given, output: found.__setitem__(name, output.clone())

    modules = {name: layer_named(model, name) for name in names}
    handles = [module.register_forward_hook(keeper(name)) for name, module in modules.items()]  # type: ignore[arg-type]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def outputs_of(model: nn.Module, names: Sequence[str], images: Tensor, batch: int = 64) -> dict[str, Tensor]:
    """Each layer's output for all images, (N, ...), in float32 on the images' device."""
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    with watched(model, list(parts)) as found:
        for x in images.split(batch):
            model(x)
            for name in parts:
                parts[name].append(_output(found, name).float())
    return {name: torch.cat(part) for name, part in parts.items()}


def _output(found: dict[str, Tensor], name: str) -> Tensor:
    if not isinstance(found.get(name), Tensor):
        raise refuse("a layer that runs and hands out a tensor", name)
    return found[name]


def pooled(maps: Tensor) -> Tensor:
    """(N, C, H, W) as (N, C), the mean of each map; other shapes flattened to (N, features)."""
    return maps.mean((2, 3)) if maps.ndim == 4 else maps.flatten(1)
