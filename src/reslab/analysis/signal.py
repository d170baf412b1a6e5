"""What factors on the shortcuts do to the signal and to the gradient: they multiply from unit to unit.

Whether the output of a stage is its input plus what every branch adds: x_L = x_l + sum of F(x_i).

What an order of words does to the signal that passes from unit to unit.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.analysis.blocks import (
    UnitRun,
    as_asked,
    keeps_identity,
    network_of,
    runs_of,
    stages_of,
    take_apart,
    through_shortcut,
)
from reslab.analysis.gradients import backward, gradient_of
from reslab.analysis.subject import Subject
from reslab.nn.block import Unit
from reslab.spec.errors import refuse

RULE = (
    "P is the product of the shortcuts' factors from the first unit to the last, over the units that keep their shape. "
    "Exploding: P > 1. Vanishing: P < 1. Kept: P = 1, to one in a thousand."
)


@dataclass(frozen=True)
class ScalingOptions:
    """`statistics` of the norms: `batch` as in training, `running` as at test."""

    statistics: str = "batch"


@dataclass(frozen=True)
class ScaledUnit:
    """One run of a unit. `factor`: what multiplies the shortcut, for a gate the mean of 1 - g; `openness` the mean of
    the gate's sigmoid g, None without a gate. To the stage's end: `product` of the factors, which predicts `direct`,
    the part of the gradient's norm that comes back by the shortcuts alone; `total`, the whole gradient's, both over the
    norm at the stage's end. `carried`: the product of the later factors, which this branch carries. `error`: of
    x_L = product x_l + sum of carried branches, over ||x_L||. None where the unit changes the shape."""

    name: str
    label: str
    factor: float | None
    openness: float | None
    product: float | None
    direct: float | None
    total: float | None
    carried: float
    error: float | None


@dataclass(frozen=True)
class Scaling:
    """The units first to last, P over all of them, and the verdict: `exploding`, `vanishing` or `kept`."""

    subject: str
    step: int | None
    units: tuple[ScaledUnit, ...]
    product: float
    verdict: str
    rule: str = RULE


def ask_scaling(subject: Subject, options: ScalingOptions) -> Scaling:
    """Factors and gates of the shortcuts, what their product predicts and what the gradient does.

    x_(l+1) = k_l x_l + F(x_l) gives x_L = (prod k_i) x_l + sum (prod_(j>i) k_j) F(x_i), and dL/dx_l = dL/dx_L
    (prod k_i + ...): He et al. 2016, arXiv:1603.05027, Eqs. 6 to 8; gates: Sec. 3.1. Raises ValueError for a network
    without shortcuts, and a module of others that no network of the zoo equals.
    """
    network = network_of(subject)
    if all(unit.mix is None for _, unit in network.units()):
        raise refuse("a network with shortcuts", f"{subject.name}, whose mix is none", "mix=add")
    _, runs = backward(as_asked(network, options.statistics), subject.images, subject.labels)
    units = tuple(unit for stage in stages_of(runs) for unit in _of_stage(stage))
    product = math.prod(unit.factor for unit in units if unit.factor is not None)
    verdict = "exploding" if product > 1.001 else "vanishing" if product < 0.999 else "kept"
    return Scaling(subject.name, subject.step, units, product, verdict)


def _of_stage(stage: list[UnitRun]) -> list[ScaledUnit]:
    """From the last unit back: products, the telescoped sum of Eq. 7, the two gradients."""
    at_end, end = gradient_of(stage[-1].output), stage[-1].output.detach().double()
    direct, norm = at_end, float(at_end.norm())
    carrying, carried, total = torch.ones_like(end), 1.0, torch.zeros_like(end)
    found = []
    for run in reversed(stage):
        assert isinstance(run.unit, Unit)
        [direct] = through_shortcut(run.unit, run.input, direct)
        with torch.no_grad():
            total = total + carrying * take_apart(run.unit, run.input).branch.double()
            factor, openness = shortcut_factor(run)
        own = carried
        if factor is not None:
            carrying, carried = carrying * factor, carried * float(factor.mean())
        keeps = factor is not None and not run.unit.before_names
        found.append(
            ScaledUnit(
                run.name,
                run.label,
                None if factor is None else float(factor.mean()),
                openness,
                carried if keeps else None,
                float(direct.norm()) / norm if keeps and norm else None,
                float(gradient_of(run.input).norm()) / norm if keeps and norm else None,
                own,
                _error(end, carrying * run.input.detach().double() + total) if keeps else None,
            )
        )
    return found[::-1]


def shortcut_factor(run: UnitRun) -> tuple[Tensor | None, float | None]:
    """What multiplies the shortcut, and the mean openness of its gate; no factor where the shape is changed."""
    unit = run.unit
    assert isinstance(unit, Unit)
    if unit.mix is None:
        return torch.zeros(()), None
    fork = unit.before(run.input.detach())
    ones, nothing = torch.ones_like(run.output), torch.zeros_like(run.output)
    openness = float(unit.mix.openness(fork).mean()) if hasattr(unit.mix, "gate") else None
    if unit.plan.match != "identity":
        return None, openness
    return unit.mix(fork, ones, nothing).double(), openness


def _error(end: Tensor, told: Tensor) -> float:
    return float((end - told).norm() / end.norm().clamp_min(1e-300))


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
        units = tuple(unit for stage in stages for unit in _of_stage_telescope(stage))
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


def _of_stage_telescope(stage: list[UnitRun]) -> list[TelescopeUnit]:
    """From the last unit back, so that the branches are summed on the way."""
    end = stage[-1].output.double()
    total, exact = torch.zeros_like(end), True
    found = []
    for run in reversed(stage):
        assert isinstance(run.unit, Unit)
        parts = take_apart(run.unit, run.input)
        total, exact = total + parts.branch.double(), exact and keeps_identity(run.unit)
        error = _error_telescope(end, parts.fork, total) if parts.fork.shape == end.shape else None
        share = float(parts.branch.norm() / run.output.norm().clamp_min(1e-30))
        found.append(TelescopeUnit(run.name, run.label, error, exact, share))
        # Words ahead of the fork change the signal: units before this one do not reach through it.
        exact = exact and not run.unit.before_names
    return found[::-1]


def _error_telescope(end: Tensor, start: Tensor, total: Tensor) -> float:
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


@dataclass(frozen=True)
class OrderOptions:
    """`statistics` of the norms: `auto` is the batch's before any training, else the running ones."""

    statistics: str = "auto"


@dataclass(frozen=True)
class OrderUnit:
    """One run of a unit, a its shortcut and b its branch, y = after(a + b).

    `superposition` = ||after(a + b) - after(a) - after(b)|| / ||after(a + b)||, 0 where nothing comes after the
    addition. Of the branch b: `branch_min`, `branch_mean` and the share below zero. Of y: `mean`, `variance`, and
    `growth` of the variance over that of the stage's first output.
    """

    name: str
    label: str
    superposition: float
    branch_min: float
    branch_mean: float
    branch_negative: float
    mean: float
    variance: float
    growth: float


@dataclass(frozen=True)
class Orders:
    """The units first to last, the order and its sentence, and the extremes over all units."""

    subject: str
    step: int | None
    order: str
    sentence: str
    units: tuple[OrderUnit, ...]
    worst_superposition: float
    lowest_branch: float
    largest_growth: float


def ask_orders(subject: Subject, options: OrderOptions) -> Orders:
    """How far the words after the addition are from passing a sum on, what branches add, and how the signal grows.

    BN after the addition normalises and rectifies the shortcut's signal too: after(a + b) is not after(a) + after(b).
    ReLU before the addition makes every branch non-negative, so the signal only grows (He et al. 2016,
    arXiv:1603.05027, Sec. 4.1). With statistics of the batch each term is normalised by its own; with running ones
    their offsets count too. Raises ValueError for a module of others that no network of the zoo equals.
    """
    network = network_of(subject)
    with torch.no_grad():
        runs = runs_of(network, subject.images, options.statistics)
        units = tuple(unit for stage in stages_of(runs) for unit in _of_stage_orders(stage))
    return Orders(
        subject.name,
        subject.step,
        network.arch.order,
        network.arch.facts.sentence,
        units,
        max(unit.superposition for unit in units),
        min(unit.branch_min for unit in units),
        max(unit.growth for unit in units),
    )


def _of_stage_orders(stage: list[UnitRun]) -> list[OrderUnit]:
    first = _variance(stage[0])
    return [_of_unit(run, first) for run in stage]


def _of_unit(run: UnitRun, first: float) -> OrderUnit:
    assert isinstance(run.unit, Unit)
    parts = take_apart(run.unit, run.input)
    apart = run.unit.after(parts.shortcut) + run.unit.after(parts.branch) if run.unit.after_names else parts.output
    error = float((parts.output - apart).norm() / parts.output.norm().clamp_min(1e-30))
    branch, variance = parts.branch, _variance(run)
    return OrderUnit(
        run.name,
        run.label,
        error,
        float(branch.min()),
        float(branch.mean()),
        float((branch < 0).float().mean()),
        float(run.output.mean()),
        variance,
        variance / first if first else 0.0,
    )


def _variance(run: UnitRun) -> float:
    return float(run.output.double().var(correction=0))
