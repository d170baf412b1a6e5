"""The one loop: from a step number to another, on any device, in any precision.

    for each step t:   x, y = sample(seed, t)      noise ~ (seed, t, rank)
                       w <- optimizer(w, grad loss(network(x), y), lr(t))

Nothing random has to be remembered: a loop that starts at step t is the loop that came to step t.

From a batch to a step: the gradient, whole or in parts, in any precision, clipped.

What the steps of a run are made of, and how they are taken.

How long the steps wait for their data.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from reslab.data.rng import key
from reslab.runtime.distributed import ALONE, Ranks
from reslab.spec.recipe import Recipe
from reslab.training.activation_checkpointing import recomputed_units
from reslab.training.batch_norm import precise_statistics, synchronised_norms
from reslab.training.freezing import Freezing
from reslab.training.losses import Distillation, size_penalty
from reslab.training.meters import Tally
from reslab.training.optim.factory import set_rate

Loss = Callable[[Tensor, Tensor], Tensor]
Forward = Callable[[Tensor], Tensor]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Stepping:
    """How a batch becomes a step.

    `precision` `float32`, or `bf16` or `fp16` under autocast; `accumulate` parts of a batch, one after another, with
    the gradient of their mean; `clip_norm` above 0 bounds the norm of the whole gradient (Pascanu et al. 2013, Alg. 1);
    `scaler` keeps fp16's small gradients above zero; `compiled` runs in the model's place where there is one; `l1` and
    `l2` above 0 add the size of the weights to the loss. `replica` runs in the model's place where ranks share the
    batch, and makes the gradient the mean of theirs (torch's DistributedDataParallel).
    """

    precision: str = "float32"
    channels_last: bool = False
    accumulate: int = 1
    clip_norm: float = 0.0
    scaler: GradScaler | None = None
    compiled: Forward | None = None
    l1: float = 0.0
    l2: float = 0.0
    replica: nn.Module | None = None

    def take(
        self, model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take one step; the loss before it, and the outputs (N, C)."""
        optimizer.zero_grad(set_to_none=True)
        value, outputs = self.gradient(model, loss, x, y)
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)  # not where a gradient overflowed; the scale falls then
            self.scaler.update()
        return value, outputs

    def gradient(self, model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Add the gradient of the mean loss over the batch to the parameters'; the loss and the outputs."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        run = next(run for run in (self.compiled, self.replica, model) if run is not None)
        values: list[Tensor] = []
        outputs: list[Tensor] = []
        for part, targets in zip(x.tensor_split(self.accumulate), y.tensor_split(self.accumulate), strict=True):
            with self._shared(last=len(values) == self.accumulate - 1):
                value, found = self.forward(run, loss, part, targets)
                if self.l1 or self.l2:
                    value = value + size_penalty(model, self.l1, self.l2)
                if self.accumulate > 1:
                    value = value * (len(part) / len(x))
                (value if self.scaler is None else self.scaler.scale(value)).backward()
            values.append(value.detach())
            outputs.append(found.detach())
        return (values[0], outputs[0]) if len(values) == 1 else (torch.stack(values).sum(), torch.cat(outputs))

    def _shared(self, last: bool) -> AbstractContextManager[None]:
        """Ranks share their gradients once a batch, after its last part."""
        found: AbstractContextManager[None] = contextlib.nullcontext()
        if self.replica is not None and not last:
            assert isinstance(self.replica, nn.parallel.DistributedDataParallel)
            found = self.replica.no_sync()
        return found

    def forward(self, run: Forward, loss: Loss, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch and the outputs, in the precision."""
        dtype = AUTOCAST.get(self.precision)
        with torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            outputs = run(x)
            return (loss(outputs, y, x) if isinstance(loss, Distillation) else loss(outputs, y)), outputs


def make_scaler(precision: str, device: torch.device) -> GradScaler | None:
    """fp16's scaler of the loss (Micikevicius et al. 2018, Sec. 3.2); None in other precisions."""
    return GradScaler(device.type) if precision == "fp16" else None


def scaler_state(scaler: GradScaler | None) -> dict[str, Any] | None:
    """What the scaler remembers, for the state."""
    return None if scaler is None else scaler.state_dict()


class Batches(Protocol):
    """Training batches as a function of the step: x float32 (N, C, H, W), y and indices int64 (N,).

    Mixed, y are shares of classes, float32 (N, classes).
    """

    num_steps_per_epoch: int

    def iterate(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]: ...


def noise_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of the noise inside the network (dropout, survival) at one step: 63 bits of hash(seed, step, rank)."""
    return key(seed, step, rank) & (1 << 63) - 1


def fit(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    between: Callable[[int], bool],
    tally: Callable[[], Tally],
    *,
    start: int,
    stop: int,
    seed: int,
    rank: int = 0,
    stepping: Stepping | None = None,
) -> None:
    """Take the steps `start` .. `stop` - 1 on `model`, in place.

    `rate(step)` is the learning rate of a step; `between(n)` is called when n steps are done and ends the loop by True;
    each step's loss and hits are added to `tally()`; `stepping` is how a batch becomes a step. Where ranks share each
    batch, `batches` are the parts of `rank`.
    """
    stepping = stepping or Stepping()
    stream = batches.iterate(start)
    model.train()
    for step in range(start, stop):
        x, y, _ = next(stream)
        torch.manual_seed(noise_seed(seed, step, rank))
        set_rate(optimizer, rate(step))
        value, outputs = stepping.take(model, loss, optimizer, x, y)
        tally().add(value, outputs, y)
        if between(step + 1):
            return


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


class Awaited:
    """The same batches; `seconds` grows by what each `next` takes: reading, decoding, augmenting where no worker does.

    On a GPU what is only queued there is not waited for, and not counted.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.num_steps_per_epoch = batches.num_steps_per_epoch
        self.seconds = 0.0

    def iterate(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The batches from `start_step` on."""
        begun = time.perf_counter()
        for batch in self.batches.iterate(start_step):
            self.seconds += time.perf_counter() - begun
            yield batch
            begun = time.perf_counter()
