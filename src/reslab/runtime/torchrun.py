"""What torchrun tells a process about its place in a job, read from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from reslab.spec.errors import invalid

_COMMAND = "torchrun --nproc-per-node=N -m reslab train ..."


@dataclass(frozen=True)
class Place:
    """Rank `rank` of `num_ranks`, on its machine `local_rank` of `num_local`.

    `restarts` is how often torchrun started the job again so far, `max_restarts` how often it would.
    """

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0
    num_local: int = 1
    restarts: int = 0
    max_restarts: int = 0

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the one that writes and speaks."""
        return self.rank == 0


def read_place(environment: Mapping[str, str] | None = None) -> Place:
    """This process's place; alone where WORLD_SIZE is not set.

    Raises ValueError where WORLD_SIZE is set without what belongs to it, or a value is no number.
    """
    environment = os.environ if environment is None else environment
    if "WORLD_SIZE" not in environment:
        return Place()
    num_ranks = _number(environment, "WORLD_SIZE")
    if num_ranks == 1:
        rank, local_rank, num_local = 0, 0, 1
    else:
        rank = _number(environment, "RANK")
        local_rank = _number(environment, "LOCAL_RANK", rank)
        num_local = _number(environment, "LOCAL_WORLD_SIZE", num_ranks)
    restarts = _number(environment, "TORCHELASTIC_RESTART_COUNT", 0)
    return Place(rank, num_ranks, local_rank, num_local, restarts, _number(environment, "TORCHELASTIC_MAX_RESTARTS", 0))


def _number(environment: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = environment.get(name)
    if text is None and otherwise is not None:
        return otherwise
    if text is None or not text.strip().isdigit():
        got = "nothing" if text is None else repr(text)
        raise invalid(f"the environment of torchrun, {name} a number in it", got, next_step=f"start by `{_COMMAND}`")
    return int(text)
