"""Early stopping: end a run whose score on the validation split no longer improves."""

import enum
import math
from collections.abc import Mapping
from typing import Any

from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe
from reslab.spec.task import Task
from reslab.training.evaluation.evaluation import Evaluation


class StopReason(enum.StrEnum):
    """The reason why a run ended."""

    COMPLETED = "completed"
    EARLY_STOPPING = "early_stopping"


class PatienceCounter:
    """The lowest value of a series of evaluations and the number of evaluations since then.

    Shared by early stopping and the schedule `plateau`, which act after `patience` evaluations without improvement.
    """

    def __init__(self, patience: int) -> None:
        assert patience >= 1, patience
        self.patience = patience
        self.best = math.inf
        self.num_bad = 0

    def update(self, value: float) -> bool:
        """Add the value of the next evaluation; return True after `patience` values in a row without a new minimum."""
        if value < self.best:
            self.best, self.num_bad = value, 0
        else:
            self.num_bad += 1
        return self.num_bad >= self.patience

    def reset(self) -> None:
        """Reset the counter; the minimum stays."""
        self.num_bad = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"best": self.best, "num_bad": self.num_bad}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.best, self.num_bad = float(state["best"]), int(state["num_bad"])


class EarlyStopping:
    """Stops a run after `patience` evaluations in a row in which the recipe's metric was not better than before.

    Prechelt 1998, "Early stopping, but when?", criterion UP without its strips. The evaluations are at the end of each
    epoch; a patience between two of them is rounded up. Off if the recipe's patience is 0.
    """

    def __init__(self, recipe: Recipe, task: Task, steps_per_epoch: int) -> None:
        self.metric = task.metric(recipe.early_stopping.metric)
        num_steps = parse_duration(recipe.early_stopping.patience).num_steps(steps_per_epoch)
        interval = recipe.eval_interval * steps_per_epoch
        self._patience_counter = PatienceCounter(math.ceil(num_steps / interval)) if num_steps else None
        self._best_step = 0
        self.should_stop = False

    def update(self, step: int, evaluation: Evaluation) -> None:
        """Add the evaluation after `step` steps."""
        if self._patience_counter is None:
            return
        previous_best = self._patience_counter.best
        self.should_stop = self._patience_counter.update(-evaluation.score_of(self.metric))
        if self._patience_counter.best < previous_best:
            self._best_step = step

    @property
    def stop_reason(self) -> StopReason:
        """The reason why the run ended; None before."""
        return StopReason.EARLY_STOPPING if self.should_stop else StopReason.COMPLETED

    def describe(self, step: int, total_steps: int) -> str:
        """Return a description for people of why a run ended after `step` of `total_steps` steps."""
        if not self.should_stop or self._patience_counter is None:
            return f"completed all {total_steps} steps"
        count_text = f"{self._patience_counter.num_bad} evaluation{'s' * (self._patience_counter.num_bad != 1)}"
        return (
            f"stopped early after step {step} of {total_steps}: the {self.metric.title} on the validation split "
            f"was best after step {self._best_step} and did not improve in {count_text} since"
        )

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state for a checkpoint."""
        if self._patience_counter is None:
            return None
        return {**self._patience_counter.state_dict(), "best_step": self._best_step, "should_stop": self.should_stop}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Restore the state of a checkpoint."""
        if self._patience_counter is not None and state is not None:
            self._patience_counter.load_state_dict(state)
            self._best_step, self.should_stop = int(state["best_step"]), bool(state["should_stop"])
