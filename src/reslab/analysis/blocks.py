"""The units of any network, and what runs through them.

A unit taken apart: what the shortcut and what the branch bring to its output, and to its input's gradient.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.progress import check_room, tell
from reslab.analysis.subject import Subject
from reslab.nn.block import Unit
from reslab.nn.network import Network
from reslab.nn.shortcut import DropPath, Survive
from reslab.nn.third_party import as_network
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


_PROVED_ON = 8
# What of all layers' outputs stays without gradients: those of the units.
_HELD = 0.3


@dataclass(frozen=True, eq=False)
class Parts:
    """y = after(shortcut + branch), each (N, C, H, W) with factors and gates applied; `fork` is what both read.

    The shortcut of a plain twin is zeros.
    """

    fork: Tensor
    shortcut: Tensor
    branch: Tensor
    output: Tensor


def take_apart(unit: Unit, x: Tensor) -> Parts:
    """The parts of a unit's output for the input x: what meets is linear in both, so each is the sum without the other.

    For one mode of the unit: with dropped elements or branches drawn anew each time the parts would not add up.
    """
    fork = unit.before(x)
    branch = unit.branch(fork)
    shortcut = torch.zeros_like(branch)
    if unit.mix is not None and unit.downsample is not None:
        matched = unit.downsample(fork)
        branch, shortcut = unit.mix(fork, shortcut, branch), unit.mix(fork, matched, torch.zeros_like(branch))
    return Parts(fork, shortcut, branch, unit.after(shortcut + branch))


def through_shortcut(unit: Unit, x: Tensor, *gradients: Tensor) -> list[Tensor]:
    """Of gradients at the unit's output, what comes back to its input x by the shortcut alone.

    The branch and the openness of a gate are taken as constants: dL/dx = J_shortcut^T J_after^T dL/dy. Zeros in a plain
    twin.
    """
    if unit.mix is None or unit.downsample is None:
        return [torch.zeros_like(x) for _ in gradients]
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        fork = unit.before(x)
        branch = unit.branch(fork.detach()).detach()
        output = unit.after(unit.mix(fork.detach(), unit.downsample(fork), branch))
    return [torch.autograd.grad(output, x, gradient, retain_graph=True)[0] for gradient in gradients]


def keeps_identity(unit: Unit) -> bool:
    """Whether x + F(x) is all the unit does from its fork on: shortcut and the words after are identities, and they are
    added (He et al. 2016, Eq. 3)."""
    bare = not unit.after_names and unit.plan.match == "identity"
    return bare and unit.mix is not None and unit.mix.plain_sum


def stages_of(runs: list[UnitRun]) -> list[list[UnitRun]]:
    """The runs, in order, by the stage in which they stand: `layer1.0` and `layer1.1` are of one."""
    found: list[list[UnitRun]] = []
    for run in runs:
        stage = run.name.rpartition(".")[0]
        if not found or found[-1][-1].name.rpartition(".")[0] != stage:
            found.append([])
        found[-1].append(run)
    return found


def runs_of(network: Network, images: Tensor, statistics: str) -> list[UnitRun]:
    """The runs of the network's units on the images, without gradients."""
    check_room(network, images, share=_HELD)
    model = as_asked(network, statistics)
    with torch.no_grad(), unit_runs(model) as runs:
        model(images)
    return runs


def network_of(subject: Subject) -> Network:
    """The subject's network, whose units can be taken apart; a module of others read into the zoo's network that
    computes the same on the first pictures (see `reslab.nn.third_party.as_network`).

    Raises ValueError where there is none, and for a network without units.
    """
    network = as_network(subject.model, subject.images[:_PROVED_ON])
    if not network.arch.depths:
        raise refuse("a network of units", f"{subject.name}, which has none", nearest="book_res")
    if network is not subject.model:
        tell(f"{subject.name} computes what {network.arch.name} does, and is asked as it")
    return network
