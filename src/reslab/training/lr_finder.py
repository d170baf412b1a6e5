"""The learning rate range test: a few steps at rising learning rates, on a copy that is thrown away."""

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
from reslab.training.loop import TrainLoop
from reslab.training.meters import TrainMeter
from reslab.training.options import TrainOptions
from reslab.training.setup import setup_run

MIN_LR, MAX_LR = 1e-5, 10.0
DEFAULT_NUM_STEPS = 100
_SMOOTHING = 0.9
_DIVERGENCE_FACTOR = 4.0
_CLIP_FACTOR = 1.5
_WINDOW_FRACTION = 1 / 15


@dataclass(frozen=True)
class LRFinderResult:
    """The loss at rising learning rates, with a smoothed loss for each.

    `suggested_lr` is where the smoothed loss falls steepest, `lowest_loss_lr` where it is lowest; None if it never
    fell. `diverged` means that the test ended before the last rate.
    """

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
    """Run the range test: lr(t) = min_lr (max_lr / min_lr)^(t / (num_steps - 1)), one step each.

    Smith 2017, arXiv:1506.01186, Sec. 3.3, with an exponential rise where the paper's is linear. Network, data, batches
    and steps are those of `train`; nothing of them stays, no run is written, and the global random state is restored.
    Ends when the smoothed loss exceeds 4 times its minimum or is not finite. Raises ValueError for invalid rates or
    steps.
    """
    _check_range(min_lr, max_lr, num_steps)
    lrs = [min_lr * (max_lr / min_lr) ** (step / (num_steps - 1)) for step in range(num_steps)]
    cuda_devices = [device] if device.type == "cuda" else []
    with tempfile.TemporaryDirectory() as folder, deterministic_mode(), torch.random.fork_rng(cuda_devices):
        setup = setup_run(copy_options(options), Path(folder) / "run", ProcessGroup(device=device), workers)
        # Unfreezing a part in the middle of the test would change the loss for another reason than the rate.
        loop = replace(setup.loop.wrapped(setup.recipe.compile), freezing=setup.loop.freezing.fixed())
        all_losses, diverged = _losses_at(loop, lrs)
    losses = [loss for loss in all_losses if math.isfinite(loss)]
    lrs = lrs[: len(losses)]
    smoothed_losses = centered_means(clip_losses(losses))
    steepest_index = find_steepest(lrs, smoothed_losses)
    lowest_index = min(range(len(smoothed_losses)), key=smoothed_losses.__getitem__, default=None)
    return LRFinderResult(
        model=setup.run.metadata["model"]["name"],
        data=setup.data.name,
        recipe=setup.recipe.name,
        batch_size=setup.recipe.batch_size,
        lrs=tuple(lrs),
        losses=tuple(losses),
        smoothed_losses=tuple(smoothed_losses),
        suggested_lr=None if steepest_index is None else lrs[steepest_index],
        lowest_loss_lr=None if steepest_index is None or lowest_index is None else lrs[lowest_index],
        diverged=diverged,
    )


def _losses_at(loop: TrainLoop, lrs: Sequence[float]) -> tuple[list[float], bool]:
    """Take a step at each learning rate; return the losses and whether they diverged, which ends the test."""
    losses: list[float] = []
    meter = TrainMeter()
    mean, lowest_mean, diverged = 0.0, math.inf, False

    def after_step(step: int) -> bool:
        nonlocal mean, lowest_mean, diverged
        loss = float(meter.last("loss"))
        losses.append(loss)
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        corrected_mean = mean / (1 - _SMOOTHING**step)  # without the bias towards the initial 0, as in Adam
        lowest_mean = min(lowest_mean, corrected_mean)
        diverged = not math.isfinite(loss) or corrected_mean > _DIVERGENCE_FACTOR * lowest_mean
        return diverged

    loop.run(0, len(lrs), lr_at=lambda step: lrs[step], meter=meter, after_step=after_step)
    return losses, diverged


def copy_options(options: TrainOptions) -> TrainOptions:
    """Return the options with a copy of a user's own module, so that the test does not train it."""
    return replace(options, model=copy.deepcopy(options.model)) if isinstance(options.model, nn.Module) else options


def _check_range(min_lr: float, max_lr: float, num_steps: int) -> None:
    if not 0 < min_lr < max_lr < math.inf:
        got = f"{min_lr:g} to {max_lr:g}"
        raise invalid("learning rates that rise from above 0", got, nearest=f"{MIN_LR:g} to {MAX_LR:g}")
    if num_steps < 10:
        raise invalid("at least 10 steps to see a slope", num_steps, nearest=str(DEFAULT_NUM_STEPS))


def clip_losses(losses: Sequence[float]) -> list[float]:
    """Return the losses clipped at 1.5 times their initial mean, so that a spike does not move the means around it."""
    initial_losses = losses[: max(1, len(losses) // 20)]
    ceiling = _CLIP_FACTOR * sum(initial_losses) / len(initial_losses) if initial_losses else 0.0
    return [min(loss, ceiling) for loss in losses]


def centered_means(values: Sequence[float], window_fraction: float = _WINDOW_FRACTION) -> list[float]:
    """Return centered moving averages (narrower at the ends), which do not shift a slope."""
    max_radius = max(1, round(window_fraction * len(values)))
    means = []
    for index in range(len(values)):
        radius = min(max_radius, index, len(values) - 1 - index)
        window = values[index - radius : index + radius + 1]
        means.append(sum(window) / len(window))
    return means


def find_steepest(lrs: Sequence[float], smoothed_losses: Sequence[float]) -> int | None:
    """Return the index where the smoothed loss falls fastest against the log rate, before its minimum.

    None if it never falls.
    """
    if len(lrs) < 3:
        return None
    lowest_index = min(range(len(smoothed_losses)), key=smoothed_losses.__getitem__)

    def slope(index: int) -> float:
        return (smoothed_losses[index + 1] - smoothed_losses[index - 1]) / math.log(lrs[index + 1] / lrs[index - 1])

    candidates = range(1, min(lowest_index, len(lrs) - 2) + 1)
    best = min(candidates, key=slope, default=None)
    return None if best is None or slope(best) >= 0 else best
