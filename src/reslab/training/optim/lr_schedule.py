"""The learning rate as a function of the step, and of the steps where something was seen that moves it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reslab.spec.optim import ScheduleConfig, parse_duration, parse_warmup_error
from reslab.spec.recipe import Recipe
from reslab.training.early_stopping import Watch


def learning_rate(
    recipe: Recipe,
    step: int,
    total: int,
    steps_per_epoch: int,
    warmed: int | None = None,
    dropped: Sequence[int] = (),
) -> float:
    """The learning rate at `step` (0 .. `total` - 1).

    `warmed` is the step where a warm-up `until error` ended, None before; `dropped` those where the error had not
    fallen for long enough.
    """
    factor = rate_factor(recipe.schedule, step, total, steps_per_epoch, warmed, recipe.optimizer.lr, dropped)
    return recipe.optimizer.lr * factor


def rate_factor(
    schedule: ScheduleConfig,
    step: int,
    total: int,
    steps_per_epoch: int,
    warmed: int | None = None,
    lr: float = 1.0,
    dropped: Sequence[int] = (),
) -> float:
    """The factor on `optimizer.lr`, `lr`, at `step` (0 .. total - 1) of a run of `total` steps.

    Without warm-up these are torch's `MultiStepLR`, `CosineAnnealingLR(T_max=total)`, `LinearLR(1, end, total)`,
    `PolynomialLR(total, power)` and `OneCycleLR(div_factor=1 / start)`; with it the schedule's own clock starts where
    the warm-up ends.
    """
    if schedule.name == "one-cycle":
        return _one_cycle(schedule, step, total)
    warmup = _num_warmup_steps(schedule, total, steps_per_epoch, warmed)
    if step < warmup:
        start = min(1.0, schedule.warmup_lr / lr) if schedule.warmup_lr else schedule.warmup_factor
        return start if schedule.warmup_shape == "constant" else start + (1 - start) * step / warmup
    if schedule.name == "multistep":
        passed = sum(step >= parse_duration(when).num_steps(steps_per_epoch) for when in schedule.milestones)
        return schedule.gamma**passed
    if schedule.name == "plateau":
        return schedule.gamma ** sum(step >= at for at in dropped)
    clock = (step - warmup) / max(1, total - warmup)
    if schedule.name == "cosine":
        return _half_cosine(1.0, schedule.final_factor, clock)
    if schedule.name == "linear":
        return 1.0 + (schedule.final_factor - 1.0) * clock
    if schedule.name == "poly":
        return (1.0 - clock) ** schedule.power
    return 1.0


def _num_warmup_steps(schedule: ScheduleConfig, total: int, steps_per_epoch: int, warmed: int | None) -> int:
    if parse_warmup_error(schedule.warmup) is None:
        return parse_duration(schedule.warmup).num_steps(steps_per_epoch)
    return total if warmed is None else warmed


def warm_enough(schedule: ScheduleConfig, error: float) -> bool:
    """Whether a training error ends a warm-up `until error`."""
    bound = parse_warmup_error(schedule.warmup)
    return bound is not None and error < bound


class Plateau:
    """The steps at which the schedule `plateau` divided the rate, and the watch that decides; other schedules: none."""

    def __init__(self, schedule: ScheduleConfig) -> None:
        self.dropped: list[int] = []
        self._watch = Watch(schedule.patience) if schedule.name == "plateau" else None

    def see(self, step: int, error: float) -> bool:
        """Take in the error after `step` steps; True where the rate falls from there on."""
        if self._watch is None or not self._watch.see(error):
            return False
        self._watch.rest()
        self.dropped.append(step)
        return True

    def state(self) -> dict[str, Any] | None:
        """What changes, for the state."""
        return None if self._watch is None else {"dropped": list(self.dropped), **self._watch.state()}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Go back to a saved state."""
        if self._watch is not None and state is not None:
            self.dropped = list(state["dropped"])
            self._watch.load(state)


def _half_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _one_cycle(schedule: ScheduleConfig, step: int, total: int) -> float:
    top = max(1.0, schedule.pct_start * total - 1)
    if step <= top:
        return _half_cosine(schedule.warmup_factor, 1.0, step / top)
    return _half_cosine(1.0, schedule.final_factor, min(1.0, (step - top) / max(1.0, total - 1 - top)))


def idle_milestones(schedule: ScheduleConfig, total: int, steps_per_epoch: int) -> list[str]:
    """The milestones that a run of `total` steps ends before."""
    if schedule.name != "multistep":
        return []
    return [when for when in schedule.milestones if parse_duration(when).num_steps(steps_per_epoch) >= total]
