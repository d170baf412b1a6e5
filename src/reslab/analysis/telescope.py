"""Whether the output of a stage is its input plus what every branch adds: x_L = x_l + sum of F(x_i)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.analysis.blocks import UnitRun
from reslab.analysis.subject import Subject
from reslab.analysis.unit_parts import keeps_identity, network_of, runs_of, stages_of, take_apart
from reslab.nn.block import Unit

# Ten units of float32 sums stay below a few times 1e-7 of their result.
ROUNDING = 1e-5


@dataclass(frozen=True)
class TelescopeOptions:
    """`statistics` of the norms: `auto` is the batch's before any training, else the running ones."""

    statistics: str = "auto"


@dataclass(frozen=True)
class TelescopeUnit:
    """From unit l to its stage's end L: `error` = ||x_L - (x_l + sum of branches)|| / ||x_L||; None where the unit
    changes the shape. x_l is what shortcut and branch both read. `exact`: all units between are x + F(x).
    `share` = ||F(x_l)|| / ||x_(l+1)|| of the one unit."""

    name: str
    label: str
    error: float | None
    exact: bool
    share: float


@dataclass(frozen=True)
class Telescope:
    """The units first to last; the largest error where the sum should hold and where not (None where there is no such
    unit), what stands in its way, and the verdict: `holds`, `fails`, `holds in part`, `no unit keeps its shape`."""

    subject: str
    step: int | None
    units: tuple[TelescopeUnit, ...]
    worst_exact: float | None
    worst: float | None
    obstacle: str
    verdict: str


def ask_telescope(subject: Subject, options: TelescopeOptions) -> Telescope:
    """The error of x_L = x_l + sum_{i=l}^{L-1} F(x_i) inside each stage (He et al. 2016, arXiv:1603.05027, Eq. 4).

    It holds where shortcut and the words after the addition are identities; sums are taken in float64 of what the
    network computed. Raises ValueError for a module of others that no network of the zoo equals.
    """
    with torch.no_grad():
        stages = stages_of(runs_of(network_of(subject), subject.images, options.statistics))
        units = tuple(unit for stage in stages for unit in _of_stage(stage))
    exact = [unit.error for unit in units if unit.error is not None and unit.exact]
    broken = [unit.error for unit in units if unit.error is not None and not unit.exact]
    return Telescope(
        subject.name,
        subject.step,
        units,
        max(exact, default=None),
        max(broken, default=None),
        obstacle(stages[-1][-1].unit),
        _verdict(exact, broken),
    )


def _of_stage(stage: list[UnitRun]) -> list[TelescopeUnit]:
    """From the last unit back, so that the branches are summed on the way."""
    end = stage[-1].output.double()
    total, exact = torch.zeros_like(end), True
    found = []
    for run in reversed(stage):
        assert isinstance(run.unit, Unit)
        parts = take_apart(run.unit, run.input)
        total, exact = total + parts.branch.double(), exact and keeps_identity(run.unit)
        error = _error(end, parts.fork, total) if parts.fork.shape == end.shape else None
        share = float(parts.branch.norm() / run.output.norm().clamp_min(1e-30))
        found.append(TelescopeUnit(run.name, run.label, error, exact, share))
        # Words ahead of the fork change the signal: units before this one do not reach through it.
        exact = exact and not run.unit.before_names
    return found[::-1]


def _error(end: Tensor, start: Tensor, total: Tensor) -> float:
    return float((end - start.double() - total).norm() / end.norm().clamp_min(1e-300))


def obstacle(unit: object) -> str:
    """What keeps a unit that does not change the shape from being x + F(x); empty where it is."""
    assert isinstance(unit, Unit)
    if unit.mix is None:
        return "there is no shortcut"
    if not unit.mix.plain_sum:
        return "the shortcut is changed before the addition"
    if unit.after_names:
        words = " ".join("norm" if name.startswith("bn") else name.rstrip("0123456789") for name in unit.after_names)
        return f"after the addition comes {words}"
    if unit.plan.match != "identity":
        return f"the shortcut is {unit.plan.match}"
    return ""


def _verdict(exact: list[float], broken: list[float]) -> str:
    holds = bool(exact) and max(exact) <= ROUNDING
    if not exact and not broken:
        return "no unit keeps its shape"
    if not broken or max(broken) <= ROUNDING:
        return "holds" if holds or not exact else "fails"
    return "holds in part" if holds else "fails"
