"""Steps that are only tried, to see what memory they take.

`-b auto`: the parts of a global batch that fit the memory, from measured steps.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any

import torch

from reslab.runtime.device import exact_arithmetic, num_threads_for, threads
from reslab.runtime.distributed import ALONE, Ranks
from reslab.runtime.memory import Memory
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.training.batch_norm import batch_norms
from reslab.training.checkpoint import has_state
from reslab.training.loop import Steps
from reslab.training.options import AUTO, Asked
from reslab.training.setup import Prepared
from reslab.training.trainer import make_steps

HEADROOM = 0.1
SMALL_SIZES = (4, 16)

# The memory that a step on so many pictures takes at its peak, in bytes; None where there was too little.
Trial = Callable[[int], int | None]


@dataclass(frozen=True)
class MicroBatch:
    """A rank's share of the batch in `parts` of at most `size` pictures.

    `measured` are the pictures and bytes of the small steps that it follows from, `trial_bytes` those of the step of
    `size` that was tried, `room_bytes` what there was.
    """

    parts: int
    size: int
    room_bytes: int
    trial_bytes: int
    measured: tuple[tuple[int, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in run.json."""
        return asdict(self)

    def told(self, share: int, num_ranks: int, has_norms: bool) -> str:
        """What was chosen and why, in words."""
        memory = f"{_mib(self.trial_bytes)} of {_mib(self.room_bytes)} MiB free, measured"
        each = " on each rank" if num_ranks > 1 else ""
        if self.parts == 1:
            return f"the batch of {share}{each} fits as a whole ({memory})"
        norms = "; its BatchNorms see the parts, not the batch" if has_norms else ""
        return f"the batch of {share}{each} is taken in {self.parts} parts of up to {self.size} ({memory}){norms}"


def choose(share: int, room_bytes: int, trial: Trial, least_parts: int = 1, ranks: Ranks = ALONE) -> MicroBatch:
    """The fewest parts of a share whose steps fit the room, a tenth of it left free; the same on every rank.

    bytes(n) = a + b n through two small steps says which size that is; a step of it is tried before it is taken, and
    the next smaller one where it does not fit. Raises ValueError, on every rank, where the smallest does not.
    """
    usable = int(room_bytes * (1 - HEADROOM))
    measured = _measure(share, usable, trial)
    own = _parts(share, max(least_parts, math.ceil(share / _largest(share, usable, measured))))
    parts, refused = max(ranks.gather(own)), not all(ranks.gather(bool(measured)))
    while not refused:
        size = math.ceil(share / parts)
        used = trial(size)
        if all(ranks.gather(used is not None and used <= usable)):
            assert used is not None
            return MicroBatch(parts, size, room_bytes, used, tuple(measured))
        refused = size <= min(SMALL_SIZES)
        parts = _parts(share, parts + max(1, parts // 4))
    least = min(share, *SMALL_SIZES)
    raise invalid(
        f"memory for a step of {least} pictures",
        f"{_mib(room_bytes)} MiB free, of which {_mib(usable)} may be used",
        next_step="add --set activation_checkpointing=true, or take smaller pictures or a smaller network",
    )


def _measure(share: int, usable: int, trial: Trial) -> list[tuple[int, int]]:
    """Steps of the small sizes, as far as they may fit; the first is taken twice, as it sets up what stays."""
    first, second = (min(size, share) for size in SMALL_SIZES)
    trial(first)
    used = trial(first)
    if used is None or used > usable:
        return []
    found = [(first, used)]
    second = min(second, first * usable // max(used, 1))  # a larger one may end the process, not the trial alone
    if second > first:
        more = trial(second)
        found += [] if more is None else [(second, more)]
    return found


def _largest(share: int, usable: int, measured: list[tuple[int, int]]) -> int:
    """The pictures that fit, on the line through two measured steps; through zero and the one where there is one."""
    if not measured:
        return 1
    (low, low_bytes), (high, high_bytes) = (measured[0], measured[-1]) if len(measured) > 1 else ((0, 0), measured[0])
    slope = (high_bytes - low_bytes) / (high - low)
    if slope <= 0:
        return share
    return min(share, max(1, high + math.floor((usable - high_bytes) / slope)))


def _parts(share: int, at_least: int) -> int:
    """The next number of parts that are equal, where that is not far."""
    even = (parts for parts in range(at_least, min(share, 2 * at_least) + 1) if share % parts == 0)
    return next(even, min(share, at_least))


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f}"


_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


class StepTrial:
    """Steps on the first pictures of a rank's part of the first batch; afterwards the network is as it was.

    Called with a number of pictures it takes a step on them and tells the memory of its peak, None where there was too
    little. `room_bytes` is the memory there was before the first.
    """

    def __init__(self, steps: Steps) -> None:
        self.steps, self.device = steps, next(steps.model.parameters()).device
        self._weights = {
            name: tensor.detach().to("cpu", copy=True) for name, tensor in steps.model.state_dict().items()
        }
        self._stepping = replace(steps.stepping, accumulate=1, compiled=None, replica=None)
        self._x, self._y, _ = next(iter(steps.batches.iterate(0)))
        self._memory = Memory(self.device)
        self.room_bytes = self._memory.room_bytes(steps.ranks.place.num_local)

    @property
    def share(self) -> int:
        """A rank's pictures of a batch."""
        return len(self._x)

    def __call__(self, num_images: int) -> int | None:
        self._memory.forget_peak()
        try:
            self._take(num_images)
            used = self._memory.used_bytes()
        except RuntimeError as error:
            if not any(words in str(error).lower() for words in _NO_MEMORY):
                raise
            used = None
        finally:
            self.steps.optimizer.zero_grad(set_to_none=True)
        return None if used is None else used + self._shared_gradients()

    def _take(self, num_images: int) -> None:
        steps, gpus = self.steps, [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(gpus), steps.trained(0):
            steps.model.train()
            x, y = self._x[:num_images], self._y[:num_images]
            self._stepping.take(steps.model, steps.loss, steps.optimizer, x, y)

    def _shared_gradients(self) -> int:
        """Ranks that share gradients hold them a second time."""
        weights = self.steps.model.parameters() if self.steps.ranks.place.num_ranks > 1 else ()
        return sum(weight.numel() * weight.element_size() for weight in weights)

    def __enter__(self) -> "StepTrial":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.steps.model.load_state_dict(self._weights)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def fitted(prepared: Prepared, asked: Asked, ranks: Ranks) -> Prepared:
    """The run with the parts of its batch that fit the memory, where that was asked for; recorded, and told.

    Raises ValueError where nothing fits, or the system does not tell what there is; a run that began here is gone then.
    """
    run = prepared.run
    if run.facts.get("micro_batch") != AUTO:
        return prepared
    try:
        found, share = _chosen(prepared, asked, ranks)
    except ValueError:
        if ranks.first and not has_state(run.path / "state"):
            run.discard()
        raise
    recipe = replace(prepared.recipe, grad_accum_steps=found.parts)
    if ranks.first:
        run.update(recipe=to_dict(recipe), micro_batch={**found.to_dict(), "num_ranks": ranks.num})
    told = found.told(share, ranks.num, bool(batch_norms(prepared.model)))
    return replace(prepared, recipe=recipe, notes=(*prepared.notes, told))


def _chosen(prepared: Prepared, asked: Asked, ranks: Ranks) -> tuple[MicroBatch, int]:
    silent = Ranks(ranks.place, ranks.device)  # with its part of the batch, but nobody to share gradients with
    num_threads = num_threads_for(prepared.input_size, ranks.device)
    steps = make_steps(prepared, asked, silent, 0)
    with exact_arithmetic(), threads(num_threads), StepTrial(steps) as trial:
        rooms = ranks.gather(trial.room_bytes)
        room = rooms[ranks.rank]
        if room is None or None in rooms:
            required = "a system that tells its free memory, for a batch in fitting parts"
            raise invalid(required, str(ranks.device), next_step="set accumulate yourself: --set grad_accum_steps=4")
        return choose(trial.share, room, trial, prepared.recipe.grad_accum_steps, ranks), trial.share
