"""The small runs that one rank and two are compared on, and a script that torchrun starts.

Its arguments: OUTPUT, the step at which rank 1 is killed, seconds a step, the rank whose backward pass fails instead.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.training import run_report
from reslab.training.evaluation import evaluate as exam
from reslab.training.run import Run
from reslab.training.train import train

DIGITS = {
    "model.depths": "1,1,1",
    "model.widths": "8,16,32",
    "model.stem": "conv3(8) norm act",
    "model.order": "wide",
    "model.drop_rate": 0.2,
    "ema.decay": 0.9,
    "grad_accum_steps": 2,
    "precise_bn_batches": 3,
    "sync_bn": True,
}
NUM_STEPS = 34

# Several batches, of which two ranks have unequally many.
small_batches = patch.object(exam, "EVAL_BATCH_SIZE", 25)
# Each process would import matplotlib for a report that nobody reads.
empty_report = patch.object(run_report, "render_page", lambda page: "")


class Double(nn.Module):
    """A network that computes in float64."""

    def __init__(self, norms: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        norm = nn.BatchNorm2d(6) if norms else nn.Identity()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(216, 3)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.double())


def float64_data() -> tuple[Tensor, Tensor]:
    """96 random images of three classes."""
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (96, 1, 8, 8), dtype=torch.uint8, generator=generator), torch.arange(96) % 3


@small_batches
@empty_report
def float64_run(output: Path, norms: bool) -> Run:
    """Ten steps, each an epoch of its own so that the log has a line of it; with `norms`, else in parts and clipped."""
    settings = {"sync_bn": True} if norms else {"grad_accum_steps": 2, "clip_grad_norm": 0.05}
    settings |= {"batch_size": 48, "duration": "10 epochs", "optimizer.lr": 0.1, "optimizer.weight_decay": 1e-3}
    return train(
        Double(norms), float64_data(), "digits", overrides=settings, output=output, val_fraction=0.25, on_log=silent
    )


UNFREEZING = {"model.depths": "1,1,1", "model.widths": "8,16,32", "model.stem": "conv3(8) norm act", "sync_bn": True}
UNFREEZING |= {"unfreeze": "head: 0 epochs, layer3: 3 steps, all: 6 steps", "duration": "10 steps", "batch_size": 48}


@empty_report
def unfreezing_run(output: Path, **options: Any) -> Run:
    """Ten steps: the head alone, from step 3 on the last stage too, from step 6 on all."""
    options = {"overrides": dict(UNFREEZING), "seed": 3, "val_fraction": 0.2, "on_log": silent, **options}
    return train(output=output, device="cpu", snapshot_every="1 step", **options)


def stopped_at(step: int) -> dict[str, Any]:
    """Return a callback that interrupts a run after a step, on every rank."""

    def look(now: int, model: nn.Module) -> dict[str, Any]:
        if now == step:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    return {"on_step_end": look, "hook_every_steps": step}


def silent(line: dict[str, Any]) -> None:
    """Nobody looks."""


class Deadly:
    """Cross-entropy; in its first life rank 1 does not survive the step `at`. Slow where `seconds` are given."""

    def __init__(self, at: int = -1, seconds: float = 0.0) -> None:
        self.at, self.seconds, self.calls = at, seconds, 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            time.sleep(self.seconds)
            self.calls += 1
            first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
            if self.calls == 2 * self.at and first_life and os.environ.get("RANK") == "1":
                os.kill(os.getpid(), signal.SIGKILL)
        return functional.cross_entropy(outputs, targets)


class FailingBackward(Deadly):
    """Cross-entropy; in its first life the backward pass of a rank fails at the step `at`."""

    def __init__(self, at: int, rank: str) -> None:
        super().__init__()
        self.fails_at, self.rank = at, rank

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = super().__call__(outputs, targets)
        first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if (
            self.calls == 2 * self.fails_at
            and first_life
            and os.environ.get("RANK") == self.rank
            and loss.requires_grad
        ):
            outputs.register_hook(self._fail)
        return loss

    def _fail(self, gradient: Tensor) -> None:
        raise OSError("no gradient")


class WrongOnOne:
    """Cross-entropy that is infinite on rank 1 where five of its sixteen samples are of class 3."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        bad = os.environ.get("RANK") == "1" and len(targets) == 16 and int((targets == 3).sum()) >= 5
        return functional.cross_entropy(outputs * float("inf") if bad else outputs, targets)


@small_batches
@empty_report
def digits_run(output: Path, loss: Callable[[Tensor, Tensor], Tensor] | None = None, **options: Any) -> Run:
    """Two epochs on the digits with all that a state has to hold: averages, parts, noise, the best so far."""
    options = {"overrides": dict(DIGITS), "epochs": 2, "seed": 3, "val_fraction": 0.2, "on_log": silent, **options}
    return train(output=output, loss=loss or Deadly(), device="cpu", **{"save_every_seconds": 0.0, **options})


if __name__ == "__main__":
    if len(sys.argv) > 4:
        digits_run(Path(sys.argv[1]), FailingBackward(int(sys.argv[2]), sys.argv[4]), save_every_seconds=600.0)
    else:
        digits_run(Path(sys.argv[1]), Deadly(int(sys.argv[2]), float(sys.argv[3])))
