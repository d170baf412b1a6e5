"""What an order of words does to the signal that passes from unit to unit."""

from dataclasses import dataclass

import torch

from reslab.analysis.blocks import UnitRun
from reslab.analysis.subject import Subject
from reslab.analysis.unit_parts import network_of, runs_of, stages_of, take_apart
from reslab.nn.block import Unit


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
        units = tuple(unit for stage in stages_of(runs) for unit in _of_stage(stage))
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


def _of_stage(stage: list[UnitRun]) -> list[OrderUnit]:
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
