"""What the steps of a run are made of, and how they are taken."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from reslab.runtime.distributed import ALONE, Ranks
from reslab.spec.recipe import Recipe
from reslab.training.activation_checkpointing import recomputed_units
from reslab.training.batch_norm import precise_statistics
from reslab.training.freezing import Freezing
from reslab.training.gradient import Loss, Stepping
from reslab.training.loop import Batches, fit
from reslab.training.meters import Tally
from reslab.training.synchronised import synchronised_norms


@dataclass(frozen=True)
class Steps:
    """A network, what it learns from and how, on one of `ranks`; where it stands is in `model` and `optimizer`."""

    model: nn.Module
    batches: Batches
    loss: Loss
    optimizer: torch.optim.Optimizer
    stepping: Stepping
    freezing: Freezing
    recipe: Recipe
    seed: int
    ranks: Ranks = ALONE

    def take(
        self,
        start: int,
        stop: int,
        rate: Callable[[int], float],
        between: Callable[[int], bool],
        tally: Callable[[], Tally],
    ) -> None:
        """Take the steps `start` .. `stop` - 1 as `fit` does, parts of the network frozen until their step comes."""

        def after(step: int) -> bool:
            self.freezing.step_done(step)
            return between(step)

        with self.trained(start):
            fit(
                self.model,
                self.batches,
                self.loss,
                self.optimizer,
                rate,
                after,
                tally,
                start=start,
                stop=stop,
                seed=self.seed,
                rank=self.ranks.rank,
                stepping=self.stepping,
            )

    @contextlib.contextmanager
    def trained(self, step: int) -> Iterator[None]:
        """Inside, the network is as it is trained from `step` on."""
        recomputed = recomputed_units(self.model, self.recipe.activation_checkpointing)
        with recomputed, self.freezing.during(step), synchronised_norms(self.model, self.ranks, self.recipe.sync_bn):
            yield

    def measure_statistics(self, step: int, num_batches: int) -> int:
        """Measure the BatchNorms on the batches from `step` on; of how many samples. Frozen ones stay."""
        stream = self.batches.iterate(step)
        inputs = (next(stream)[0] for _ in range(num_batches))
        frozen = self.freezing.frozen_norms(step - 1)
        self.ranks.share_buffers(self.model)
        with synchronised_norms(self.model, self.ranks, self.recipe.sync_bn):
            return precise_statistics(self.model, inputs, frozen, self.ranks)
