"""The range test of learning rates: a few steps at rising rates, on a copy that is thrown away."""

import copy
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from reslab.runtime.device import deterministic_mode
from reslab.runtime.distributed import ProcessGroup
from reslab.spec.errors import invalid
from reslab.training.loop import run_train_loop
from reslab.training.meters import TrainMeter
from reslab.training.options import TrainOptions
from reslab.training.setup import setup_run
from reslab.training.trainer import build_trainer

MIN_LR, MAX_LR = 1e-5, 10.0
DEFAULT_NUM_STEPS = 100
_SMOOTHING = 0.9
_DIVERGENCE_FACTOR = 4.0
_CLIP_FACTOR = 1.5
_WINDOW_FRACTION = 1 / 15


@dataclass(frozen=True)
class LRFinderResult:
    """The loss at rising rates. `smoothed` has a value a step; `suggestion` is the rate where it falls steepest,
    `lowest` where it is lowest; None where the loss never fell. `stopped_early`: it diverged before the last rate."""

    model: str
    data: str
    recipe: str
    batch_size: int
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed_losses: tuple[float, ...]
    suggested_lr: float | None
    lowest_loss_lr: float | None
    diverged: bool


def find_lr(
    options: TrainOptions,
    device: torch.device,
    *,
    min_lr: float = MIN_LR,
    max_lr: float = MAX_LR,
    num_steps: int = DEFAULT_NUM_STEPS,
    workers: int | None = None,
) -> LRFinderResult:
    """Smith 2017, arXiv:1506.01186, Sec. 3.3: lr(t) = lowest (highest / lowest)^(t / (num_steps - 1)), a step each.

    Network, data, batches and steps are those that `train` would take; nothing of it stays, no run is written, the
    random numbers of others are as they were. Ends where the smoothed loss is above 4 times its least or not finite.
    The rise is exponential, Smith's is linear. Raises ValueError for rates or steps that mean nothing.
    """
    _check_range(min_lr, max_lr, num_steps)
    cuda_devices = [device] if device.type == "cuda" else []
    with tempfile.TemporaryDirectory() as folder, deterministic_mode(), torch.random.fork_rng(cuda_devices):
        setup = setup_run(copy_options(options), Path(folder) / "run", device)
        trainer = build_trainer(setup, options, ProcessGroup(device=device), workers, lambda record: None, math.inf)
        lrs = [min_lr * (max_lr / min_lr) ** (step / (num_steps - 1)) for step in range(num_steps)]
        tracker = _LossTracker()
        context = trainer.context
        with context.training_mode(0):
            run_train_loop(
                context.model,
                context.loader,
                context.loss,
                context.optimizer,
                lambda step: lrs[step],
                tracker.after_step,
                tracker.next_meter,
                start=0,
                stop=num_steps,
                seed=context.seed,
                train_step=context.train_step,
            )
    losses = [loss for loss in tracker.losses if math.isfinite(loss)]
    lrs = lrs[: len(losses)]
    smoothed_losses = centered_means(clip_losses(losses))
    steepest_index = find_steepest(lrs, smoothed_losses)
    lowest_loss_lr = (
        None if steepest_index is None else lrs[min(range(len(smoothed_losses)), key=smoothed_losses.__getitem__)]
    )
    return LRFinderResult(
        setup.run.metadata["model"]["name"],
        setup.data.name,
        trainer.recipe.name,
        trainer.recipe.batch_size,
        tuple(lrs),
        tuple(losses),
        tuple(smoothed_losses),
        None if steepest_index is None else lrs[steepest_index],
        lowest_loss_lr,
        tracker.diverged,
    )


def copy_options(options: TrainOptions) -> TrainOptions:
    """What was asked, a module of the user's own copied, so that the steps do not move it."""
    return replace(options, model=copy.deepcopy(options.model)) if isinstance(options.model, nn.Module) else options


def _check_range(min_lr: float, max_lr: float, num_steps: int) -> None:
    if not 0 < min_lr < max_lr < math.inf:
        got = f"{min_lr:g} to {max_lr:g}"
        raise invalid("rates that rise from above 0", got, nearest=f"{MIN_LR:g} to {MAX_LR:g}")
    if num_steps < 10:
        raise invalid("at least 10 steps to see a slope", num_steps, nearest=str(DEFAULT_NUM_STEPS))


class _LossTracker:
    """The losses so far, and whether they have left for good."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.diverged = False
        self._meter = TrainMeter()
        self._mean, self._lowest_mean = 0.0, math.inf

    def next_meter(self) -> TrainMeter:
        self._meter = TrainMeter()
        return self._meter

    def after_step(self, step: int) -> bool:
        """Take in the last step's loss; True where it diverged."""
        loss = float(self._meter.losses[-1])
        self.losses.append(loss)
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * loss
        mean = self._mean / (1 - _SMOOTHING**step)
        self._lowest_mean = min(self._lowest_mean, mean)
        self.diverged = not math.isfinite(loss) or mean > _DIVERGENCE_FACTOR * self._lowest_mean
        return self.diverged


def clip_losses(losses: Sequence[float]) -> list[float]:
    """The losses, none above 1.5 times their mean at the start: one spike would move the means of all around it."""
    initial_losses = losses[: max(1, len(losses) // 20)]
    ceiling = _CLIP_FACTOR * sum(initial_losses) / len(initial_losses) if initial_losses else 0.0
    return [min(loss, ceiling) for loss in losses]


def centered_means(values: Sequence[float], window_fraction: float = _WINDOW_FRACTION) -> list[float]:
    """Each value's mean with its neighbours on both sides (fewer at the ends), which moves no slope sideways."""
    max_radius = max(1, round(window_fraction * len(values)))
    means = []
    for index in range(len(values)):
        radius = min(max_radius, index, len(values) - 1 - index)
        window = values[index - radius : index + radius + 1]
        means.append(sum(window) / len(window))
    return means


def find_steepest(lrs: Sequence[float], smoothed_losses: Sequence[float]) -> int | None:
    """The place where the smoothed loss falls most for a step of log rate, before its least; None where it never
    falls."""
    if len(lrs) < 3:
        return None
    lowest_index = min(range(len(smoothed_losses)), key=smoothed_losses.__getitem__)

    def slope(index: int) -> float:
        return (smoothed_losses[index + 1] - smoothed_losses[index - 1]) / math.log(lrs[index + 1] / lrs[index - 1])

    candidates = range(1, min(lowest_index, len(lrs) - 2) + 1)
    best = min(candidates, key=slope, default=None)
    return None if best is None or slope(best) >= 0 else best
