"""Learning-rate schedules: the rate as a function of the step, and the state of `plateau`."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reslab.spec.optim import SCHEDULES, ScheduleConfig, parse_duration, parse_warmup_error
from reslab.spec.recipe import Recipe
from reslab.training.early_stopping import PatienceCounter


def compute_lr(
    recipe: Recipe,
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    warmup_end_step: int | None = None,
    drop_steps: Sequence[int] = (),
) -> float:
    """Return the learning rate at `step` (0 .. `total_steps` - 1).

    `warmup_end_step` is the step at which a warmup `until error` ended, None before; `drop_steps` are the steps at
    which `plateau` reduced the rate.
    """
    factor = lr_factor(
        recipe.schedule, step, total_steps, steps_per_epoch, warmup_end_step, recipe.optimizer.lr, drop_steps
    )
    return recipe.optimizer.lr * factor


def lr_factor(
    schedule: ScheduleConfig,
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    warmup_end_step: int | None = None,
    lr: float = 1.0,
    drop_steps: Sequence[int] = (),
) -> float:
    """Return the factor on `optimizer.lr` at `step` (0 .. `total_steps` - 1).

    Without warmup the schedules equal torch's `MultiStepLR`, `CosineAnnealingLR(T_max=total_steps)`,
    `LinearLR(1, final_factor, total_steps)`, `PolynomialLR(total_steps, power)` and
    `OneCycleLR(div_factor=1 / warmup_factor)`; with it the schedule starts when the warmup ends.
    """
    if schedule.name == "one-cycle":
        return _one_cycle(schedule, step, total_steps)
    warmup_steps = _count_warmup_steps(schedule, total_steps, steps_per_epoch, warmup_end_step)
    if step < warmup_steps:
        warmup_factor = min(1.0, schedule.warmup_lr / lr) if schedule.warmup_lr else schedule.warmup_factor
        return (
            warmup_factor
            if schedule.warmup_shape == "constant"
            else warmup_factor + (1 - warmup_factor) * step / warmup_steps
        )
    if schedule.name == "multistep":
        num_passed = sum(
            step >= parse_duration(milestone).num_steps(steps_per_epoch) for milestone in schedule.milestones
        )
        return schedule.gamma**num_passed
    if schedule.name == "plateau":
        return schedule.gamma ** sum(step >= drop_step for drop_step in drop_steps)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return CURVES[schedule.name](progress, schedule)


Curve = Callable[[float, ScheduleConfig], float]
CURVES: dict[str, Curve] = {
    "constant": lambda progress, schedule: 1.0,
    "cosine": lambda progress, schedule: _half_cosine(1.0, schedule.final_factor, progress),
    "linear": lambda progress, schedule: 1.0 + (schedule.final_factor - 1.0) * progress,
    "poly": lambda progress, schedule: (1.0 - progress) ** schedule.power,
}
"""The schedules that are functions of the share of the run that is over, from 0 to 1 after the warmup."""


def register_schedule(name: str) -> Callable[[Curve], Curve]:
    """Return a decorator that registers a learning-rate schedule for the recipe key `schedule`.

    The function takes the share of the run that is over (from 0 to 1 after the warmup) and the `ScheduleConfig`, and
    returns the factor on `optimizer.lr`. Raises ValueError for a name that is taken.
    """

    def register(curve: Curve) -> Curve:
        SCHEDULES.register(name, (curve.__doc__ or "").partition("\n")[0], curve)
        CURVES[name] = curve
        return curve

    return register


def _count_warmup_steps(
    schedule: ScheduleConfig, total_steps: int, steps_per_epoch: int, warmup_end_step: int | None
) -> int:
    if parse_warmup_error(schedule.warmup) is None:
        return parse_duration(schedule.warmup).num_steps(steps_per_epoch)
    return total_steps if warmup_end_step is None else warmup_end_step


def warmup_finished(schedule: ScheduleConfig, error: float) -> bool:
    """Return True if a training error ends a warmup `until error`."""
    threshold = parse_warmup_error(schedule.warmup)
    return threshold is not None and error < threshold


class ReduceOnPlateau:
    """State of the schedule `plateau`: the steps at which it reduced the rate; does nothing for other schedules."""

    def __init__(self, schedule: ScheduleConfig) -> None:
        self.drop_steps: list[int] = []
        self._patience_counter = PatienceCounter(schedule.patience) if schedule.name == "plateau" else None

    def update(self, step: int, error: float) -> bool:
        """Add the error after `step` steps; return True if the rate is reduced from there on.

        Any value for which lower is better can take the place of the error.
        """
        if self._patience_counter is None or not self._patience_counter.update(error):
            return False
        self._patience_counter.reset()
        self.drop_steps.append(step)
        return True

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state for a checkpoint."""
        return (
            None
            if self._patience_counter is None
            else {"drop_steps": list(self.drop_steps), **self._patience_counter.state_dict()}
        )

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Restore the state of a checkpoint."""
        if self._patience_counter is not None and state is not None:
            self.drop_steps = list(state["drop_steps"])
            self._patience_counter.load_state_dict(state)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _one_cycle(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    peak_step = max(1.0, schedule.pct_start * total_steps - 1)
    if step <= peak_step:
        return _half_cosine(schedule.warmup_factor, 1.0, step / peak_step)
    return _half_cosine(
        1.0, schedule.final_factor, min(1.0, (step - peak_step) / max(1.0, total_steps - 1 - peak_step))
    )


def unreached_milestones(schedule: ScheduleConfig, total_steps: int, steps_per_epoch: int) -> list[str]:
    """Return the milestones that lie beyond the end of a run of `total_steps` steps."""
    if schedule.name != "multistep":
        return []
    return [
        milestone
        for milestone in schedule.milestones
        if parse_duration(milestone).num_steps(steps_per_epoch) >= total_steps
    ]
