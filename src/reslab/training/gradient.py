"""From a batch to a step: the gradient, whole or in parts, in any precision, clipped."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from reslab.training.distillation import Distillation
from reslab.training.penalty import size_penalty

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
