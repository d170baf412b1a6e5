"""The units of any network, and what runs through them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from reslab.nn.network import Network
from reslab.nn.shortcut import DropPath, Survive
from reslab.spec.errors import refuse, unknown

STATISTICS = ("batch", "running", "auto")
WEIGHTED = (nn.Conv2d, nn.Linear)
_DRAWING = (nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, Survive, DropPath)


@dataclass(frozen=True, eq=False)
class UnitRun:
    """One run of a unit: `index` from 0 in the order they ran, `label` (`layer1.0`, or `layer1.0 (2)` of a second run
    of the same unit), its input and output (N, C, H, W)."""

    index: int
    name: str
    label: str
    unit: nn.Module
    input: Tensor
    output: Tensor


def units_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The units with their names, first to last: a `Network`'s, else the blocks of torchvision's and timm's networks.

    Of a foreign module: the blocks (modules with weights in parts, more than layers in a row) of the innermost
    Sequentials that hold any. Where there is no block (`book_net` has none of its own either), every child with weights
    of the outermost Sequential. A unit that is shared comes once.
    Raises ValueError where there are none.
    """
    found = blocks_of(model) or _layers(model)
    if not found:
        required = "a network of units: a reslab network, or blocks in an nn.Sequential"
        raise refuse(required, type(model).__name__, next_step="put the blocks into an nn.Sequential")
    return found


def blocks_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The units, or none where a network has none: `units_of` then takes its layers."""
    return list(model.units()) if isinstance(model, Network) else _blocks(model, "")


def _blocks(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """Composite children of Sequentials, the innermost such Sequentials first to be asked."""
    found = []
    for part, child in module.named_children():
        path = f"{name}.{part}" if name else part
        inner = _blocks(child, path)
        row = isinstance(module, nn.Sequential | nn.ModuleList)
        if inner:
            found += inner
        elif row and _is_block(child):
            found.append((path, child))
    return found


def _is_block(module: nn.Module) -> bool:
    """Weights in parts, and more than a convolution with its norm and activation in a row."""
    parts = list(module.children())
    row_of_layers = isinstance(module, nn.Sequential) and not any(list(part.children()) for part in parts)
    return bool(parts) and not row_of_layers and _weighs(module)


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    rows = [(name, row) for name, row in model.named_modules() if isinstance(row, nn.Sequential)]
    children = [(f"{name}.{part}".lstrip("."), child) for name, row in rows[:1] for part, child in row.named_children()]
    return [(name, child) for name, child in children if _weighs(child)]


def _weighs(module: nn.Module) -> bool:
    return any(isinstance(part, WEIGHTED) for part in module.modules())


def unit_named(model: nn.Module, name: str) -> nn.Module:
    """The unit of this name; ValueError with the nearest names where there is none."""
    units = dict(units_of(model))
    if name not in units:
        raise unknown("unit", name, units)
    return units[name]


@contextmanager
def unit_runs(model: nn.Module) -> Iterator[list[UnitRun]]:
    """A list that fills with every run of a unit while the model runs inside the block; the hooks go when it ends."""
    runs: list[UnitRun] = []
    handles = [unit.register_forward_hook(_keeper(name, runs)) for name, unit in units_of(model)]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def run_label(name: str, run: int) -> str:
    """What the run number `run`, from 0, of a module is called: `layer1.0`, `layer1.0 (2)`, ..."""
    return f"{name} ({run + 1})" if run else name


def _keeper(name: str, runs: list[UnitRun]) -> Any:
    def keep(unit: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        label = run_label(name, sum(run.name == name for run in runs))
        runs.append(UnitRun(len(runs), name, label, unit, arguments[0], output))

    return keep


def as_in_training(model: nn.Module) -> nn.Module:
    """The module with statistics of the batch, as in training, but nothing drawn: dropout and its kin as at test."""
    model.train()
    for module in model.modules():
        if isinstance(module, _DRAWING) or type(module).__name__ in ("DropPath", "StochasticDepth"):
            module.eval()
    return model


def as_asked(model: nn.Module, statistics: str) -> nn.Module:
    """A copy whose norms take the statistics of the `batch`, as in training, or the `running` ones, as at test.

    `auto` is the batch's where no training has been (running statistics would normalise nothing), else the running
    ones. Nothing is drawn either way. Raises ValueError for another word.
    """
    if statistics not in STATISTICS:
        raise unknown("statistics", statistics, STATISTICS)
    batch = statistics == "batch" or (statistics == "auto" and is_fresh(model))
    model = copy.deepcopy(model)
    return as_in_training(model) if batch else model.eval()


def is_fresh(model: nn.Module) -> bool:
    """Whether no batch has passed in training: every norm's running statistics are as they were made."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [norm for norm in norms if norm.running_mean is not None and norm.running_var is not None]
    return all(not norm.running_mean.any() and bool((norm.running_var == 1).all()) for norm in kept)  # type: ignore[union-attr]
