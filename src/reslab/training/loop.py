"""The training loop, on any device, in any precision, on one process or several.

    for each step t:   x, y = batch(seed, t)      noise ~ (seed, t, rank)
                       w <- optimizer(w, grad loss(network(x), y), lr(t))

Everything random is a function of the seed and the step, so no random state is saved: a loop that starts at step t
equals one that came to step t.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils._pytree import tree_map

from reslab.data.rng import step_seed
from reslab.nn.dense import DenseNetwork
from reslab.nn.inplace import inplace_ops
from reslab.nn.matmul_convs import float32_convs, patch_convs, tap_convs
from reslab.nn.network import ResidualNetwork
from reslab.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from reslab.spec.errors import invalid
from reslab.training.batch_norm import sync_batch_norm, update_bn_stats
from reslab.training.cuda_graph import GraphedStep
from reslab.training.evaluation.loop import check_loss
from reslab.training.freezing import Freezing
from reslab.training.losses import DistillationLoss, LossFn, weight_penalty
from reslab.training.meters import TrainMeter
from reslab.training.optim.factory import set_lr
from reslab.training.tasks.task_type import check_output_type

TensorFn = Callable[[Tensor], Tensor]
BatchMetrics = Callable[[Any, Any], dict[str, Tensor]]
"""From the outputs and targets of a batch to metrics by name, as of `TaskType.batch_metrics`."""

TrainingForward = Callable[[Callable[..., Any], Any, Any], Any]
"""From the network, the images and the targets of a batch to what the loss gets, as `TaskType.training_forward`."""

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TrainStep:
    """Turns a batch into one optimizer step.

    `precision` is `float32`, or `bf16` or `fp16` under autocast. The gradient is that of the mean over
    `grad_accum_steps` micro-batches, clipped to the norm `clip_grad_norm` if that is above 0 (Pascanu et al. 2013,
    Alg. 1); `l1` and `l2` above 0 penalize the weights. `scaler` keeps fp16's small gradients above zero.
    `compiled_model` or else `ddp_model` runs in place of the model; `ddp_model` averages the gradients over the ranks
    (torch's DistributedDataParallel). `batch_metrics` are measured beside the loss, of the network's `main_output`.
    `forward` calls the network: detectors take the targets too. A batch is two tensors or, in detection, two lists.
    With `channels_last` on a CPU, not compiled, convolutions of tiny maps run as products of matrices (`tap_convs`),
    and compiled on a GPU those of few channels (`patch_convs`). In bf16 on a CPU, those of maps no wider than their
    stride run in float32 where bfloat16 is wrong (`float32_convs`). Not compiled, activations and sums work in
    place where only they read their input (`inplace_ops`).
    An error of the network or the loss on one rank ends the step on every rank of `process_group`. With `sync_bn` the
    ranks communicate within the network, so this holds for the loss alone.
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
    batch_metrics: BatchMetrics | None = None
    main_output: Callable[[Any], Any] = check_output_type
    forward: TrainingForward = lambda model, x, y: model(x)
    process_group: ProcessGroup = SINGLE_PROCESS
    sync_bn: bool = False

    def run(
        self, model: nn.Module, loss: LossFn, optimizer: torch.optim.Optimizer, x: Any, y: Any
    ) -> dict[str, Tensor]:
        """Take one step; return the metrics before it: the mean `loss`, and those of `batch_metrics`."""
        optimizer.zero_grad(set_to_none=True)
        loss_value, outputs = self.backward(model, loss, x, y)
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        if self.clip_grad_norm:
            nn.utils.clip_grad_norm_(model.parameters(), self.clip_grad_norm)
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)  # skipped if a gradient overflowed; `update` then lowers the scale
            self.scaler.update()
        return {"loss": loss_value, **(self.batch_metrics(outputs, y) if self.batch_metrics else {})}

    def backward(self, model: nn.Module, loss: LossFn, x: Any, y: Any) -> tuple[Tensor, Any]:
        """Add the gradient of the mean loss over the batch to the parameters'; return the loss and the main outputs."""
        if self.channels_last and isinstance(x, Tensor):
            x = x.contiguous(memory_format=torch.channels_last)
        forward_fn = next(
            forward_fn for forward_fn in (self.compiled_model, self.ddp_model, model) if forward_fn is not None
        )
        losses: list[Tensor] = []
        outputs: list[Any] = []
        is_compiled, device_type = self.compiled_model is not None, x[0].device.type
        with (
            tap_convs(model, device_type == "cpu" and not is_compiled and self.channels_last),
            patch_convs(model, device_type == "cuda" and is_compiled and self.channels_last),
            float32_convs(model, device_type == "cpu" and self.precision == "bf16"),
            inplace_ops(model, not is_compiled),
        ):
            for micro_x, micro_y in zip(*(_split_batch(part, self.grad_accum_steps) for part in (x, y)), strict=True):
                is_last = len(losses) == self.grad_accum_steps - 1
                with self._no_sync_context(is_last):
                    loss_value, micro_outputs = self.compute_loss(forward_fn, loss, micro_x, micro_y)
                    if self.l1 or self.l2:
                        loss_value = loss_value + weight_penalty(model, self.l1, self.l2)
                    if self.grad_accum_steps > 1:
                        # Micro-batches may differ in size by one: weighted by size their losses sum to the mean.
                        loss_value = loss_value * (len(micro_x) / len(x))
                    (loss_value if self.scaler is None else self.scaler.scale(loss_value)).backward()
                losses.append(loss_value.detach())
                outputs.append(tree_map(torch.detach, micro_outputs))
        return (losses[0], outputs[0]) if len(losses) == 1 else (torch.stack(losses).sum(), _join_outputs(outputs))

    def _no_sync_context(self, is_last: bool) -> AbstractContextManager[None]:
        """Average the gradients over the ranks once a batch, after its last micro-batch."""
        context: AbstractContextManager[None] = contextlib.nullcontext()
        if self.ddp_model is not None and not is_last:
            assert isinstance(self.ddp_model, nn.parallel.DistributedDataParallel)
            context = self.ddp_model.no_sync()
        return context

    def compute_loss(self, forward_fn: TensorFn, loss: LossFn, x: Any, y: Any) -> tuple[Tensor, Any]:
        """Return the loss of a batch and its main output, in the precision of the step."""
        dtype = AUTOCAST_DTYPES.get(self.precision)
        shared_errors = self.process_group.shared_errors()
        with (
            torch.autocast(x[0].device.type, dtype or torch.bfloat16, enabled=dtype is not None),
            contextlib.nullcontext() if self.sync_bn else shared_errors,
        ):
            outputs = self.forward(forward_fn, x, y)
            with shared_errors if self.sync_bn else contextlib.nullcontext():
                main_output = self.main_output(outputs)
                value = loss(outputs, y, x) if isinstance(loss, DistillationLoss) else loss(outputs, y)
                return check_loss(value), main_output


def _split_batch(part: Any, num_parts: int) -> Sequence[Any]:
    """Return a tensor or a list in parts, whose lengths differ by one at most, the longer ones first."""
    if isinstance(part, Tensor):
        return part.tensor_split(num_parts)
    chunks = torch.arange(len(part)).tensor_split(num_parts)
    return [[part[i] for i in chunk.tolist()] for chunk in chunks]


def _join_outputs(outputs: Sequence[Any]) -> Any:
    """Return the outputs of the micro-batches together: tensors joined, numbers by name stacked."""
    if isinstance(outputs[0], Mapping):
        return {name: torch.stack([part[name] for part in outputs]) for name in outputs[0]}
    return torch.cat(list(outputs))


def make_grad_scaler(precision: str, device: torch.device) -> GradScaler | None:
    """Return the loss scaler of fp16 (Micikevicius et al. 2018, Sec. 3.2); None in other precisions."""
    return GradScaler(device.type) if precision == "fp16" else None


def grad_scaler_state(scaler: GradScaler | None) -> dict[str, Any] | None:
    """Return the scaler's state for a checkpoint."""
    return None if scaler is None else scaler.state_dict()


class BatchLoader(Protocol):
    """Training batches as a function of the step: x float32 (N, C, H, W), y the targets, indices int64 (N,).

    In detection x is a list of images of any sizes, y a list of dictionaries.

    In classification y is int64 (N,), or with mixup or cutmix class probabilities, float32 (N, classes).
    """

    num_steps_per_epoch: int

    def iter_from(self, start_step: int) -> Iterator[tuple[Any, Any, Tensor]]:
        """Yield (x, y, indices) of each step from `start_step` on."""


@dataclass(frozen=True)
class TrainLoop:
    """A network with its data, loss, optimizer and options; its state is in `model` and `optimizer`.

    With several ranks the loader yields this rank's part of each batch. With `cuda_graph` the steps are replays of one
    CUDA graph.
    """

    model: nn.Module
    loader: BatchLoader
    loss: LossFn
    optimizer: torch.optim.Optimizer
    train_step: TrainStep
    freezing: Freezing
    seed: int
    activation_checkpointing: bool = False
    sync_bn: bool = False
    process_group: ProcessGroup = SINGLE_PROCESS
    cuda_graph: bool = False

    def wrapped(self, compile: bool = False) -> "TrainLoop":
        """Return the loop with gradients averaged over the ranks (DDP), and compiled if requested.

        All ranks must call it together.
        """
        ddp_model = self.process_group.wrap_ddp(self.model)
        compiled_model = torch.compile(ddp_model or self.model) if compile else None
        train_step = replace(
            self.train_step,
            ddp_model=ddp_model,
            compiled_model=compiled_model,
            process_group=self.process_group,
            sync_bn=self.sync_bn,
        )
        return replace(self, train_step=train_step)

    def run(
        self,
        start: int,
        stop: int,
        *,
        lr_at: Callable[[int], float],
        meter: TrainMeter,
        after_step: Callable[[int], bool],
    ) -> None:
        """Take the steps `start` .. `stop` - 1 on the model, in place.

        `lr_at(step)` is the learning rate of a step; `meter` collects the metrics of each; `after_step(n)` is called
        when n steps are done and ends the loop if it returns True. Frozen parts are unfrozen at their step.
        """
        with self.training_mode(start):
            batches, take_step = self.loader.iter_from(start), self._step_function()
            self.model.train()
            for step in range(start, stop):
                with self.process_group.shared_errors():
                    x, y, _ = next(batches)
                torch.manual_seed(step_seed(self.seed, step, self.process_group.rank))
                set_lr(self.optimizer, lr_at(step))
                meter.update(take_step(x, y), len(x))
                self.freezing.on_step_end(step + 1)
                if after_step(step + 1):
                    return

    def _step_function(self) -> Callable[[Any, Any], dict[str, Tensor]]:
        step = partial(self.train_step.run, self.model, self.loss, self.optimizer)
        return GraphedStep(step, self.optimizer, self.process_group.device) if self.cuda_graph else step

    @contextlib.contextmanager
    def training_mode(self, step: int) -> Iterator[None]:
        """Inside, the network is frozen, checkpointed and synchronized as it is trained from `step` on."""
        with (
            checkpoint_activations(self.model, self.activation_checkpointing),
            self.freezing.active(step),
            sync_batch_norm(self.model, self.process_group, self.sync_bn),
        ):
            yield

    def update_bn_stats(self, step: int, num_batches: int) -> int:
        """Recompute the BatchNorm statistics on the batches from `step` on; frozen ones stay.

        Return the number of samples.
        """
        batches = self.loader.iter_from(step)
        inputs = (next(batches)[0] for _ in range(num_batches))
        frozen = self.freezing.frozen_norms(step - 1)
        self.process_group.broadcast_buffers(self.model)
        with sync_batch_norm(self.model, self.process_group, self.sync_bn):
            return update_bn_stats(self.model, inputs, frozen, self.process_group)


class StepBackup:
    """The buffers of a network after its last whole step, so that a step that fails can be undone.

    Until the optimizer updates the weights, a step changes nothing else (running statistics, mostly); once the update
    has begun, it cannot be undone.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.is_valid = False
        self._copies: list[Tensor] = []
        optimizer.register_step_pre_hook(self._on_update)

    @torch.no_grad()
    def take(self) -> None:
        """Copy the buffers, before a step."""
        buffers = list(self.model.buffers())
        if _specs(buffers) == _specs(self._copies):
            if buffers:
                torch._foreach_copy_(self._copies, buffers)
        else:
            self._copies = [buffer.clone() for buffer in buffers]
        self.is_valid = True

    @torch.no_grad()
    def restore(self) -> bool:
        """Undo the step that failed and free its gradients; return False if its update had begun."""
        buffers = list(self.model.buffers())
        if not self.is_valid or _specs(buffers) != _specs(self._copies):
            return False
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, copy in zip(buffers, self._copies, strict=True):
            buffer.copy_(copy)
        return True

    def _on_update(self, *_: Any) -> None:
        self.is_valid = False


def _specs(tensors: list[Tensor]) -> list[tuple[torch.Size, torch.dtype, torch.device]]:
    return [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]


class TimedLoader:
    """The same batches; `wait_seconds` adds up the time that each `next` takes.

    That is reading, decoding and augmentation unless workers do it. Work that is only queued on a GPU is not counted.
    `is_step_underway` is True from the time that a batch is given out until the trainer resets it: the state of the
    network may then be that of half a step. `on_batch` is called before a batch is given out.
    """

    def __init__(self, loader: BatchLoader, on_batch: Callable[[], None] | None = None) -> None:
        self.loader, self.on_batch = loader, on_batch
        self.num_steps_per_epoch = loader.num_steps_per_epoch
        self.wait_seconds = 0.0
        self.is_step_underway = False

    def iter_from(self, start_step: int) -> Iterator[tuple[Any, Any, Tensor]]:
        """Yield the batches from `start_step` on."""
        start_time = time.perf_counter()
        for batch in self.loader.iter_from(start_step):
            self.wait_seconds += time.perf_counter() - start_time
            if self.on_batch is not None:
                self.on_batch()
            self.is_step_underway = True
            yield batch
            start_time = time.perf_counter()


def require_blocks(model: nn.Module) -> ResidualNetwork:
    """Return the network of residual blocks, of one for segmentation the backbone. Raises ValueError for another."""
    if isinstance(model, DenseNetwork):
        return model.residual_network
    if not isinstance(model, ResidualNetwork):
        got = f"the module {type(model).__name__}"
        raise invalid("a network of the zoo, by name", got, "activation_checkpointing=false")
    return model


@contextlib.contextmanager
def checkpoint_activations(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Keep only the inputs of the residual blocks for the backward pass, which recomputes each block.

    Chen et al. 2016, arXiv:1604.06174, Sec. 4. Losses, gradients and running statistics do not change: the
    recomputation draws the same random numbers and does not update running statistics. Raises ValueError for a
    network without residual blocks.
    """
    if not enabled:
        yield
        return
    blocks = [block for _, block in require_blocks(model).blocks()]
    recomputed = [block for block in blocks if not block.recomputes]
    for block in recomputed:
        block.recomputes = True
    try:
        yield
    finally:
        for block in recomputed:
            block.recomputes = False
