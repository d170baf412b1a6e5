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

from reslab.data.rng import step_seed
from reslab.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from reslab.spec.recipe import Recipe
from reslab.training.activation_checkpointing import checkpoint_activations
from reslab.training.batch_norm import sync_batch_norm, update_bn_stats
from reslab.training.freezing import Freezing
from reslab.training.losses import DistillationLoss, weight_penalty
from reslab.training.meters import TrainMeter
from reslab.training.optim.factory import set_lr

LossFn = Callable[[Tensor, Tensor], Tensor]
TensorFn = Callable[[Tensor], Tensor]

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TrainStep:
    """How a batch becomes a step.

    `precision` `float32`, or `bf16` or `fp16` under autocast; `accumulate` parts of a batch, one after another, with
    the gradient of their mean; `clip_norm` above 0 bounds the norm of the whole gradient (Pascanu et al. 2013, Alg. 1);
    `scaler` keeps fp16's small gradients above zero; `compiled` runs in the model's place where there is one; `l1` and
    `l2` above 0 add the size of the weights to the loss. `replica` runs in the model's place where ranks share the
    batch, and makes the gradient the mean of theirs (torch's DistributedDataParallel).
    """

    precision: str = "float32"
    channels_last: bool = False
    grad_accum_steps: int = 1
    clip_grad_norm: float = 0.0
    scaler: GradScaler | None = None
    compiled_model: TensorFn | None = None
    l1: float = 0.0
    l2: float = 0.0
    ddp_model: nn.Module | None = None

    def run(
        self, model: nn.Module, loss: LossFn, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take one step; the loss before it, and the outputs (N, C)."""
        optimizer.zero_grad(set_to_none=True)
        loss_value, outputs = self.backward(model, loss, x, y)
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        if self.clip_grad_norm:
            nn.utils.clip_grad_norm_(model.parameters(), self.clip_grad_norm)
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)  # not where a gradient overflowed; the scale falls then
            self.scaler.update()
        return loss_value, outputs

    def backward(self, model: nn.Module, loss: LossFn, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Add the gradient of the mean loss over the batch to the parameters'; the loss and the outputs."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        forward_fn = next(
            forward_fn for forward_fn in (self.compiled_model, self.ddp_model, model) if forward_fn is not None
        )
        losses: list[Tensor] = []
        outputs: list[Tensor] = []
        for micro_x, micro_y in zip(
            x.tensor_split(self.grad_accum_steps), y.tensor_split(self.grad_accum_steps), strict=True
        ):
            with self._no_sync_context(is_last=len(losses) == self.grad_accum_steps - 1):
                loss_value, micro_outputs = self.compute_loss(forward_fn, loss, micro_x, micro_y)
                if self.l1 or self.l2:
                    loss_value = loss_value + weight_penalty(model, self.l1, self.l2)
                if self.grad_accum_steps > 1:
                    loss_value = loss_value * (len(micro_x) / len(x))
                (loss_value if self.scaler is None else self.scaler.scale(loss_value)).backward()
            losses.append(loss_value.detach())
            outputs.append(micro_outputs.detach())
        return (losses[0], outputs[0]) if len(losses) == 1 else (torch.stack(losses).sum(), torch.cat(outputs))

    def _no_sync_context(self, is_last: bool) -> AbstractContextManager[None]:
        """Ranks share their gradients once a batch, after its last part."""
        context: AbstractContextManager[None] = contextlib.nullcontext()
        if self.ddp_model is not None and not is_last:
            assert isinstance(self.ddp_model, nn.parallel.DistributedDataParallel)
            context = self.ddp_model.no_sync()
        return context

    def compute_loss(self, forward_fn: TensorFn, loss: LossFn, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch and the outputs, in the precision."""
        dtype = AUTOCAST_DTYPES.get(self.precision)
        with torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            outputs = forward_fn(x)
            return (loss(outputs, y, x) if isinstance(loss, DistillationLoss) else loss(outputs, y)), outputs


def make_grad_scaler(precision: str, device: torch.device) -> GradScaler | None:
    """fp16's scaler of the loss (Micikevicius et al. 2018, Sec. 3.2); None in other precisions."""
    return GradScaler(device.type) if precision == "fp16" else None


def grad_scaler_state(scaler: GradScaler | None) -> dict[str, Any] | None:
    """What the scaler remembers, for the state."""
    return None if scaler is None else scaler.state_dict()


class BatchLoader(Protocol):
    """Training batches as a function of the step: x float32 (N, C, H, W), y and indices int64 (N,).

    Mixed, y are shares of classes, float32 (N, classes).
    """

    num_steps_per_epoch: int

    def iter_from(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]: ...


def run_train_loop(
    model: nn.Module,
    loader: BatchLoader,
    loss: LossFn,
    optimizer: torch.optim.Optimizer,
    lr_at: Callable[[int], float],
    after_step: Callable[[int], bool],
    get_meter: Callable[[], TrainMeter],
    *,
    start: int,
    stop: int,
    seed: int,
    rank: int = 0,
    train_step: TrainStep | None = None,
) -> None:
    """Take the steps `start` .. `stop` - 1 on `model`, in place.

    `rate(step)` is the learning rate of a step; `between(n)` is called when n steps are done and ends the loop by True;
    each step's loss and hits are added to `tally()`; `stepping` is how a batch becomes a step. Where ranks share each
    batch, `batches` are the parts of `rank`.
    """
    train_step = train_step or TrainStep()
    batch_iterator = loader.iter_from(start)
    model.train()
    for step in range(start, stop):
        x, y, _ = next(batch_iterator)
        torch.manual_seed(step_seed(seed, step, rank))
        set_lr(optimizer, lr_at(step))
        loss_value, outputs = train_step.run(model, loss, optimizer, x, y)
        get_meter().update(loss_value, outputs, y)
        if after_step(step + 1):
            return


@dataclass(frozen=True)
class TrainContext:
    """A network, what it learns from and how, on one of `ranks`; where it stands is in `model` and `optimizer`."""

    model: nn.Module
    loader: BatchLoader
    loss: LossFn
    optimizer: torch.optim.Optimizer
    train_step: TrainStep
    freezing: Freezing
    recipe: Recipe
    seed: int
    process_group: ProcessGroup = SINGLE_PROCESS

    def run_steps(
        self,
        start: int,
        stop: int,
        lr_at: Callable[[int], float],
        after_step: Callable[[int], bool],
        get_meter: Callable[[], TrainMeter],
    ) -> None:
        """Take the steps `start` .. `stop` - 1 as `fit` does, parts of the network frozen until their step comes."""

        def unfreeze_then_call(step: int) -> bool:
            self.freezing.on_step_end(step)
            return after_step(step)

        with self.training_mode(start):
            run_train_loop(
                self.model,
                self.loader,
                self.loss,
                self.optimizer,
                lr_at,
                unfreeze_then_call,
                get_meter,
                start=start,
                stop=stop,
                seed=self.seed,
                rank=self.process_group.rank,
                train_step=self.train_step,
            )

    @contextlib.contextmanager
    def training_mode(self, step: int) -> Iterator[None]:
        """Inside, the network is as it is trained from `step` on."""
        checkpointing = checkpoint_activations(self.model, self.recipe.activation_checkpointing)
        with (
            checkpointing,
            self.freezing.active(step),
            sync_batch_norm(self.model, self.process_group, self.recipe.sync_bn),
        ):
            yield

    def update_bn_stats(self, step: int, num_batches: int) -> int:
        """Measure the BatchNorms on the batches from `step` on; of how many samples. Frozen ones stay."""
        batch_iterator = self.loader.iter_from(step)
        inputs = (next(batch_iterator)[0] for _ in range(num_batches))
        frozen = self.freezing.frozen_norms(step - 1)
        self.process_group.broadcast_buffers(self.model)
        with sync_batch_norm(self.model, self.process_group, self.recipe.sync_bn):
            return update_bn_stats(self.model, inputs, frozen, self.process_group)


class TimedLoader:
    """The same batches; `seconds` grows by what each `next` takes: reading, decoding, augmenting where no worker does.

    On a GPU what is only queued there is not waited for, and not counted.
    """

    def __init__(self, loader: BatchLoader) -> None:
        self.loader = loader
        self.num_steps_per_epoch = loader.num_steps_per_epoch
        self.wait_seconds = 0.0

    def iter_from(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The batches from `start_step` on."""
        start_time = time.perf_counter()
        for batch in self.loader.iter_from(start_step):
            self.wait_seconds += time.perf_counter() - start_time
            yield batch
            start_time = time.perf_counter()
