"""The learning rate range test: a few steps at rising learning rates, on a copy that is thrown away."""

import copy
import enum
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from reslab.runtime.device import deterministic_mode
from reslab.runtime.distributed import ProcessGroup
from reslab.runtime.lazy_dynamo import lazy_dynamo
from reslab.spec.errors import invalid
from reslab.training.loop import TrainLoop
from reslab.training.meters import TrainMeter
from reslab.training.options import TrainOptions
from reslab.training.setup import setup_run

MIN_LR, MAX_LR = 1e-5, 10.0
DEFAULT_NUM_STEPS = 100
_SMOOTHING = 0.9
_DIVERGENCE_FACTOR = 4.0
_CLIP_FACTOR = 2.0
_WINDOW_FRACTION = 1 / 11
_START_FRACTION = 1 / 10
_MIN_STANDARD_ERRORS = 5.0
_MIN_FALL, _MIN_RISE = 0.02, 0.1
_RISE_FRACTION = 0.3
_FALL_FRACTION = 0.9


class LRVerdict(enum.StrEnum):
    """The result of a range test. Only `CLEAR` comes with a suggestion.

    `CLEAR`: the loss fell well above its noise and stopped falling, or rose again. `NO_FALL`: it did not fall before it
    rose or the test ended. `STILL_FALLING`: it fell up to the last learning rate. `STARTS_TOO_HIGH`: the first rates
    are too high already, so there is nothing to compare them with.
    """

    CLEAR = "clear"
    NO_FALL = "no-fall"
    STILL_FALLING = "still-falling"
    STARTS_TOO_HIGH = "starts-too-high"


@dataclass(frozen=True)
class LRSuggestion:
    """The learning rate that the losses of a range test suggest.

    `suggested_lr` is None unless the verdict is `CLEAR`. At `fall_lr` the loss has fallen by 0.9 of its total fall; it
    is lowest at `lowest_loss_lr` and rises from `rise_lr` on; None where it did not fall or rise.
    """

    verdict: LRVerdict
    suggested_lr: float | None = None
    fall_lr: float | None = None
    lowest_loss_lr: float | None = None
    rise_lr: float | None = None


@dataclass(frozen=True)
class LRFinderResult:
    """The loss at rising learning rates, with a smoothed loss for each, and what they suggest (see `LRSuggestion`).

    `recipe_lr` is the recipe's own learning rate. `diverged` means that the test ended before the last rate.
    """

    model: str
    data: str
    recipe: str
    batch_size: int
    recipe_lr: float
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed_losses: tuple[float, ...]
    verdict: LRVerdict
    suggested_lr: float | None
    fall_lr: float | None
    lowest_loss_lr: float | None
    rise_lr: float | None
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
    and steps are those of `train`; nothing is kept, no run is written, and the global random state is restored.
    Ends when the smoothed loss exceeds 4 times its minimum or is not finite. Raises ValueError for invalid rates or
    steps.
    """
    _check_range(min_lr, max_lr, num_steps)
    lrs = [min_lr * (max_lr / min_lr) ** (step / (num_steps - 1)) for step in range(num_steps)]
    cuda_devices = [device] if device.type == "cuda" else []
    rng = torch.random.fork_rng(cuda_devices)
    with tempfile.TemporaryDirectory() as folder, lazy_dynamo(), deterministic_mode(), rng:
        setup = setup_run(copy_options(options), Path(folder) / "run", ProcessGroup(device=device), workers)
        # Unfreezing a part in the middle of the test would change the loss for another reason than the rate.
        loop = replace(setup.loop.wrapped(setup.recipe.compile), freezing=setup.loop.freezing.fixed())
        all_losses, diverged = _losses_at(loop, lrs)
    losses = [loss for loss in all_losses if math.isfinite(loss)]
    lrs = lrs[: len(losses)]
    suggestion = suggest_lr(lrs, losses)
    return LRFinderResult(
        model=setup.run.metadata["model"]["name"],
        data=setup.data.name,
        recipe=setup.recipe.name,
        batch_size=setup.recipe.batch_size,
        recipe_lr=setup.recipe.optimizer.lr,
        lrs=tuple(lrs),
        losses=tuple(losses),
        smoothed_losses=tuple(smooth_losses(losses)),
        verdict=suggestion.verdict,
        suggested_lr=suggestion.suggested_lr,
        fall_lr=suggestion.fall_lr,
        lowest_loss_lr=suggestion.lowest_loss_lr,
        rise_lr=suggestion.rise_lr,
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


def suggest_lr(lrs: Sequence[float], losses: Sequence[float]) -> LRSuggestion:
    """Return the learning rate that finite losses at rising rates suggest, from their smoothed values.

    The losses at the first tenth of the rates give the level before the fall. A fall must exceed 5 standard errors of a
    smoothed loss and 2 % of the level. Once it does, the loss rises where it is 0.3 of the fall above its lowest
    value; before, where it is 10 % above the level. Later rates are ignored, as a network with batch normalization
    often recovers there. The suggestion is the last rate before the rise; if the loss does not rise, the first rate at
    which 0.9 of the fall is done.
    """
    window = _window(len(losses))
    if len(losses) < 2 * window + 1:
        return LRSuggestion(LRVerdict.STARTS_TOO_HIGH)
    means, start = smooth_losses(losses), losses[: max(window, round(_START_FRACTION * len(losses)))]
    level = statistics.median(start)
    min_change = _MIN_STANDARD_ERRORS * max(_step_noise(losses), _step_noise(start)) / math.sqrt(window)
    min_fall = max(min_change, _MIN_FALL * abs(level))
    rise = _find_rise(means, level, min_fall, max(min_change, _MIN_RISE * abs(level)))
    end = len(means) if rise is None else rise
    if end <= window:
        return LRSuggestion(LRVerdict.STARTS_TOO_HIGH, rise_lr=lrs[end])
    lowest = min(range(end), key=means.__getitem__)
    fall = level - means[lowest]
    rise_lr = None if rise is None else lrs[rise]
    if fall < min_fall:
        return LRSuggestion(LRVerdict.NO_FALL, rise_lr=rise_lr)
    if rise is None and means[-2 * window] - means[-1] > max(min_change, (1 - _FALL_FRACTION) * fall):
        return LRSuggestion(LRVerdict.STILL_FALLING, lowest_loss_lr=lrs[lowest])
    fall_lr = next(lr for lr, mean in zip(lrs, means, strict=True) if mean <= level - _FALL_FRACTION * fall)
    # A schedule with warmup tolerates higher rates than this test, and too low a rate costs more than too high a one.
    suggested_lr = fall_lr if rise is None else lrs[rise - 1]
    return LRSuggestion(LRVerdict.CLEAR, suggested_lr, fall_lr, lrs[lowest], rise_lr)


def _find_rise(means: Sequence[float], level: float, min_fall: float, min_rise: float) -> int | None:
    """Return the first index where the smoothed loss rises, or None."""
    lowest, margin = level, _window(len(means)) // 2  # at the ends, a mean of fewer losses is noisier
    for index in range(margin, len(means) - margin):
        lowest = min(lowest, means[index])
        fall = level - lowest
        if means[index] - lowest > (max(min_fall, _RISE_FRACTION * fall) if fall > min_fall else fall + min_rise):
            return index
    return None


def _step_noise(losses: Sequence[float]) -> float:
    """Return the standard deviation of the noise of a step, from the median second difference (normal noise).

    A second difference is free of a slope; a - 2 b + c has sqrt(6) times the deviation of a step, and the median of a
    normal's absolute value is 0.6745 of its deviation.
    """
    second_differences = [abs(a - 2 * b + c) for a, b, c in zip(losses, losses[1:], losses[2:], strict=False)]
    return statistics.median(second_differences) / (0.6745 * math.sqrt(6))


def smooth_losses(losses: Sequence[float]) -> list[float]:
    """Return centered means over an eleventh of the losses, after what spikes would do to them is removed.

    The losses are clipped at twice their initial median, and each replaced by the median of three.
    """
    if not losses:
        return []
    ceiling = _CLIP_FACTOR * statistics.median(losses[: _window(len(losses))])
    clipped = [min(loss, ceiling) for loss in losses]
    medians = [statistics.median(clipped[max(0, index - 1) : index + 2]) for index in range(len(clipped))]
    return _centered_means(medians, _window(len(losses)) // 2)


def _centered_means(values: Sequence[float], radius: int) -> list[float]:
    """Return the mean around each value, of those there are at the ends."""
    windows = (values[max(0, index - radius) : index + radius + 1] for index in range(len(values)))
    return [statistics.fmean(window) for window in windows]


def _window(num_values: int) -> int:
    """Return the number of values in a moving average, odd and at least 3."""
    return max(3, 2 * round(_WINDOW_FRACTION * num_values / 2) + 1)
