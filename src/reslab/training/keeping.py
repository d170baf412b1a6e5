"""Which weights of a run are judged and kept: its own, their moving average, or their mean over epochs."""

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from reslab.spec.recipe import Recipe
from reslab.training.evaluation.loop import Evaluation
from reslab.training.state import Best, State
from reslab.training.weight_averaging import MeanOfWeights, MovingAverage, wearing, weights_of

MEAN_STATISTICS_BATCHES = 100


class Keeping:
    """The weights that a run is judged by, and in the end keeps.

    They are those of the step, with `recipe.ema` their moving average; the best of them on a validation split are kept,
    else the last; with `recipe.average_epochs` their mean over the ends of the last epochs.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, total: int, steps_per_epoch: int) -> None:
        self.model, self.recipe = model, recipe
        self.average = MovingAverage(model, recipe.ema, recipe.ema_every, recipe.ema_warmup) if recipe.ema else None
        self.mean = MeanOfWeights() if recipe.average_epochs else None
        self.best: Best | None = None
        self._mean_after = total - recipe.average_epochs * steps_per_epoch

    def step_done(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        if self.average is not None:
            self.average.update(self.model, step)

    def epoch_done(self, step: int) -> None:
        """Take in the weights at the end of an epoch."""
        if self.mean is not None and step > self._mean_after:
            self.mean.add(self.model.state_dict())

    def judged(self) -> AbstractContextManager[None]:
        """Inside, the network has the weights that are judged."""
        return contextlib.nullcontext() if self.average is None else wearing(self.model, self.average.weights)

    def consider(self, step: int, found: Evaluation) -> None:
        """Remember the judged weights where none did better on the validation split."""
        if self.best is None or self.best.beaten_by(found.num_correct, found.loss):
            with self.judged():
                self.best = Best(step, found.num_correct, found.loss, weights_of(self.model))

    def choose(self) -> str:
        """Give the network the weights that are kept, and say which they are."""
        what = "weights" if self.average is None else f"moving average of the weights (decay {self.recipe.ema:g})"
        if self.mean is not None and self.mean.count:
            self.model.load_state_dict(self.mean.mean())
            return f"the mean of the weights at the ends of the last {self.mean.count} epochs"
        if self.best is not None:
            self.model.load_state_dict(self.best.weights)
            best = "the best" if self.average is None else f"the {what}, the best"
            return f"{best} of the validation split, of step {self.best.step}"
        if self.average is not None:
            self.model.load_state_dict(self.average.weights)
        return f"the last {what}"

    def num_statistics_batches(self) -> int:
        """How many batches measure the BatchNorms of the kept weights; a mean over epochs has none of its own."""
        return self.recipe.precise_bn or (MEAN_STATISTICS_BATCHES if self.mean is not None and self.mean.count else 0)

    def state(self) -> dict[str, Any]:
        """What changes, for the state."""
        return {
            "best": None if self.best is None else vars(self.best),
            "average": None if self.average is None else self.average.weights,
            "epoch_mean": None if self.mean is None else {"after": self._mean_after, **self.mean.state()},
        }

    def load(self, state: State, device: torch.device) -> None:
        """Go back to a saved state."""
        self.best = Best(**state.best) if state.best else None
        if self.average is not None and state.average is not None:
            self.average.load(state.average)
        # A run that was made longer has other last epochs.
        if self.mean is not None and state.epoch_mean and state.epoch_mean["after"] == self._mean_after:
            self.mean.load(state.epoch_mean, device)
