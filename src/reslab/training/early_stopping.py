"""Early stopping: the end of a run whose score on the validation split has stopped getting better.

A series of evaluations, watched: how long is it since the value last fell.
"""

import math
from collections.abc import Mapping
from typing import Any

from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe
from reslab.training.evaluation.loop import Evaluation


class Watch:
    """The least value of a series of evaluations, and how many have passed since it was reached.

    What watches for `patience` evaluations in vain (the schedule `plateau`, early stopping) acts on it.
    """

    def __init__(self, patience: int) -> None:
        assert patience >= 1, patience
        self.patience = patience
        self.least = math.inf
        self.since = 0

    def see(self, value: float) -> bool:
        """Take in the value of the next evaluation; True where `patience` of them in a row were not below the least."""
        if value < self.least:
            self.least, self.since = value, 0
        else:
            self.since += 1
        return self.since >= self.patience

    def rest(self) -> None:
        """Count anew from here; the least value stays."""
        self.since = 0

    def state(self) -> dict[str, Any]:
        """What changes, for the state."""
        return {"least": self.least, "since": self.since}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.least, self.since = float(state["least"]), int(state["since"])


class Stopping:
    """Ends a run when the error (or the loss) of `patience` evaluations in a row was not below the least before.

    Prechelt 1998, "Early stopping, but when?", the criterion UP without its strips. An evaluation is at the end of each
    epoch; a patience between two of them counts up to the next. Never where the recipe's patience is 0.
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        self.watches = recipe.patience_on
        num_steps = parse_duration(recipe.patience, "patience").num_steps(steps_per_epoch)
        self._watch = Watch(math.ceil(num_steps / steps_per_epoch)) if num_steps else None
        self._best_step = 0
        self.over = False

    def see(self, step: int, found: Evaluation) -> None:
        """Take in the evaluation after `step` steps."""
        if self._watch is None:
            return
        before = self._watch.least
        self.over = self._watch.see(found.loss if self.watches == "loss" else 1 - found.top1)
        if self._watch.least < before:
            self._best_step = step

    def told(self, step: int, total: int) -> str:
        """Why a run ended after `step` steps of `total`."""
        if not self.over or self._watch is None:
            return f"all {total} steps were taken"
        what = {"loss": "loss", "top1": "accuracy"}[self.watches]
        count = f"{self._watch.since} evaluation{'s' * (self._watch.since != 1)}"
        since = f"was best after step {self._best_step}, and not better in {count} since"
        return f"stopped early after step {step} of {total}: the {what} on the validation split {since}"

    def state(self) -> dict[str, Any] | None:
        """What changes, for the state."""
        if self._watch is None:
            return None
        return {**self._watch.state(), "best_step": self._best_step, "over": self.over}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Go back to a saved state."""
        if self._watch is not None and state is not None:
            self._watch.load(state)
            self._best_step, self.over = int(state["best_step"]), bool(state["over"])
