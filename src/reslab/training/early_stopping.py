"""Early stopping: the end of a run whose score on the validation split has stopped getting better.

A series of evaluations, watched: how long is it since the value last fell.
"""

import math
from collections.abc import Mapping
from typing import Any

from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe
from reslab.training.evaluation.loop import Evaluation


class PatienceCounter:
    """The least value of a series of evaluations, and how many have passed since it was reached.

    What watches for `patience` evaluations in vain (the schedule `plateau`, early stopping) acts on it.
    """

    def __init__(self, patience: int) -> None:
        assert patience >= 1, patience
        self.patience = patience
        self.best = math.inf
        self.num_bad = 0

    def update(self, value: float) -> bool:
        """Take in the value of the next evaluation; True where `patience` of them in a row were not below the least."""
        if value < self.best:
            self.best, self.num_bad = value, 0
        else:
            self.num_bad += 1
        return self.num_bad >= self.patience

    def reset(self) -> None:
        """Count anew from here; the least value stays."""
        self.num_bad = 0

    def state_dict(self) -> dict[str, Any]:
        """What changes, for the state."""
        return {"best": self.best, "num_bad": self.num_bad}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.best, self.num_bad = float(state["best"]), int(state["num_bad"])


class EarlyStopping:
    """Ends a run when the error (or the loss) of `patience` evaluations in a row was not below the least before.

    Prechelt 1998, "Early stopping, but when?", the criterion UP without its strips. An evaluation is at the end of each
    epoch; a patience between two of them counts up to the next. Never where the recipe's patience is 0.
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        self.metric = recipe.patience_on
        num_steps = parse_duration(recipe.patience, "patience").num_steps(steps_per_epoch)
        self._patience_counter = PatienceCounter(math.ceil(num_steps / steps_per_epoch)) if num_steps else None
        self._best_step = 0
        self.should_stop = False

    def update(self, step: int, evaluation: Evaluation) -> None:
        """Take in the evaluation after `step` steps."""
        if self._patience_counter is None:
            return
        previous_best = self._patience_counter.best
        self.should_stop = self._patience_counter.update(
            evaluation.loss if self.metric == "loss" else 1 - evaluation.top1
        )
        if self._patience_counter.best < previous_best:
            self._best_step = step

    def stop_reason(self, step: int, total_steps: int) -> str:
        """Why a run ended after `step` steps of `total`."""
        if not self.should_stop or self._patience_counter is None:
            return f"all {total_steps} steps were taken"
        metric_name = {"loss": "loss", "top1": "accuracy"}[self.metric]
        count_text = f"{self._patience_counter.num_bad} evaluation{'s' * (self._patience_counter.num_bad != 1)}"
        since_text = f"was best after step {self._best_step}, and not better in {count_text} since"
        return (
            f"stopped early after step {step} of {total_steps}: the {metric_name} on the validation split {since_text}"
        )

    def state_dict(self) -> dict[str, Any] | None:
        """What changes, for the state."""
        if self._patience_counter is None:
            return None
        return {**self._patience_counter.state_dict(), "best_step": self._best_step, "should_stop": self.should_stop}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go back to a saved state."""
        if self._patience_counter is not None and state is not None:
            self._patience_counter.load_state_dict(state)
            self._best_step, self.should_stop = int(state["best_step"]), bool(state["should_stop"])
