"""`-b auto`: the parts of a global batch that fit the memory, from measured steps."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from reslab.runtime.distributed import ALONE, Ranks
from reslab.spec.errors import refuse

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
    raise refuse(
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
