"""The range test of learning rates: a few steps at rising rates, on a copy that is thrown away."""

import copy
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from reslab.runtime.device import exact_arithmetic
from reslab.runtime.distributed import Ranks
from reslab.spec.errors import invalid
from reslab.training.loop import fit
from reslab.training.meters import Tally
from reslab.training.options import Asked
from reslab.training.setup import begin
from reslab.training.trainer import make_course

LOWEST_RATE, HIGHEST_RATE = 1e-5, 10.0
NUM_STEPS = 100
_SMOOTHING = 0.9
_DIVERGED = 4.0
_CEILING = 1.5
_WINDOW = 1 / 15


@dataclass(frozen=True)
class RateSearch:
    """The loss at rising rates. `smoothed` has a value a step; `suggestion` is the rate where it falls steepest,
    `lowest` where it is lowest; None where the loss never fell. `stopped_early`: it diverged before the last rate."""

    model: str
    data: str
    recipe: str
    batch: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    lowest: float | None
    stopped_early: bool


def search_rate(
    asked: Asked,
    device: torch.device,
    *,
    lowest: float = LOWEST_RATE,
    highest: float = HIGHEST_RATE,
    num_steps: int = NUM_STEPS,
    workers: int | None = None,
) -> RateSearch:
    """Smith 2017, arXiv:1506.01186, Sec. 3.3: lr(t) = lowest (highest / lowest)^(t / (num_steps - 1)), a step each.

    Network, data, batches and steps are those that `train` would take; nothing of it stays, no run is written, the
    random numbers of others are as they were. Ends where the smoothed loss is above 4 times its least or not finite.
    The rise is exponential, Smith's is linear. Raises ValueError for rates or steps that mean nothing.
    """
    _check(lowest, highest, num_steps)
    gpus = [device] if device.type == "cuda" else []
    with tempfile.TemporaryDirectory() as folder, exact_arithmetic(), torch.random.fork_rng(gpus):
        prepared = begin(own_copy(asked), Path(folder) / "run", device)
        course = make_course(prepared, asked, Ranks(device=device), workers, lambda line: None, math.inf)
        rates = [lowest * (highest / lowest) ** (step / (num_steps - 1)) for step in range(num_steps)]
        climb = _Climb()
        steps = course.steps
        with steps.trained(0):
            fit(
                steps.model,
                steps.batches,
                steps.loss,
                steps.optimizer,
                lambda step: rates[step],
                climb.between,
                climb.next_tally,
                start=0,
                stop=num_steps,
                seed=steps.seed,
                stepping=steps.stepping,
            )
    losses = [loss for loss in climb.losses if math.isfinite(loss)]
    rates = rates[: len(losses)]
    smoothed = centred_means(clipped(losses))
    place = steepest(rates, smoothed)
    least = None if place is None else rates[min(range(len(smoothed)), key=smoothed.__getitem__)]
    return RateSearch(
        prepared.run.facts["model"]["name"],
        prepared.data.name,
        course.recipe.name,
        course.recipe.batch_size,
        tuple(rates),
        tuple(losses),
        tuple(smoothed),
        None if place is None else rates[place],
        least,
        climb.diverged,
    )


def own_copy(asked: Asked) -> Asked:
    """What was asked, a module of the user's own copied, so that the steps do not move it."""
    return replace(asked, model=copy.deepcopy(asked.model)) if isinstance(asked.model, nn.Module) else asked


def _check(lowest: float, highest: float, num_steps: int) -> None:
    if not 0 < lowest < highest < math.inf:
        got = f"{lowest:g} to {highest:g}"
        raise invalid("rates that rise from above 0", got, nearest=f"{LOWEST_RATE:g} to {HIGHEST_RATE:g}")
    if num_steps < 10:
        raise invalid("at least 10 steps to see a slope", num_steps, nearest=str(NUM_STEPS))


class _Climb:
    """The losses so far, and whether they have left for good."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.diverged = False
        self._tally = Tally()
        self._mean, self._least = 0.0, math.inf

    def next_tally(self) -> Tally:
        self._tally = Tally()
        return self._tally

    def between(self, step: int) -> bool:
        """Take in the last step's loss; True where it diverged."""
        loss = float(self._tally.losses[-1])
        self.losses.append(loss)
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * loss
        mean = self._mean / (1 - _SMOOTHING**step)
        self._least = min(self._least, mean)
        self.diverged = not math.isfinite(loss) or mean > _DIVERGED * self._least
        return self.diverged


def clipped(losses: Sequence[float]) -> list[float]:
    """The losses, none above 1.5 times their mean at the start: one spike would move the means of all around it."""
    first = losses[: max(1, len(losses) // 20)]
    ceiling = _CEILING * sum(first) / len(first) if first else 0.0
    return [min(loss, ceiling) for loss in losses]


def centred_means(values: Sequence[float], share: float = _WINDOW) -> list[float]:
    """Each value's mean with its neighbours on both sides (fewer at the ends), which moves no slope sideways."""
    reach = max(1, round(share * len(values)))
    means = []
    for place in range(len(values)):
        side = min(reach, place, len(values) - 1 - place)
        near = values[place - side : place + side + 1]
        means.append(sum(near) / len(near))
    return means


def steepest(rates: Sequence[float], smoothed: Sequence[float]) -> int | None:
    """The place where the smoothed loss falls most for a step of log rate, before its least; None where it never
    falls."""
    if len(rates) < 3:
        return None
    least = min(range(len(smoothed)), key=smoothed.__getitem__)

    def slope(k: int) -> float:
        return (smoothed[k + 1] - smoothed[k - 1]) / math.log(rates[k + 1] / rates[k - 1])

    places = range(1, min(least, len(rates) - 2) + 1)
    found = min(places, key=slope, default=None)
    return None if found is None or slope(found) >= 0 else found
