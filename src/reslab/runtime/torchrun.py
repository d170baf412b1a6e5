"""The environment that torchrun sets for each process: rank, world size, restarts; the errors of other ranks."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from reslab.spec.errors import invalid

_EXAMPLE_COMMAND = "torchrun --nproc-per-node=N -m reslab train ..."


@dataclass(frozen=True)
class DistributedEnv:
    """The rank of this process in the job and on its machine.

    `restart_count` is the number of times torchrun has restarted the job, `max_restarts` its limit.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    restart_count: int = 0
    max_restarts: int = 0

    @property
    def is_main(self) -> bool:
        """Return True on rank 0, which writes files and messages."""
        return self.rank == 0


class RankError(RuntimeError):
    """Another rank failed; the message says which, and with what error."""

    on_every_rank = True

    def __init__(self, rank: int, text: str) -> None:
        super().__init__(f"rank {rank} stopped: {text}")
        self.rank = rank


def is_on_every_rank(error: BaseException) -> bool:
    """Return True if every rank raises this error, or a `RankError` that quotes it."""
    return bool(getattr(error, "on_every_rank", False))


def read_distributed_env(environment: Mapping[str, str] | None = None) -> DistributedEnv:
    """Read the environment that torchrun set; a single process if WORLD_SIZE is not set.

    Raises ValueError if WORLD_SIZE is set without the other variables, or a value is not a number.
    """
    environment = os.environ if environment is None else environment
    if "WORLD_SIZE" not in environment:
        return DistributedEnv()
    world_size = _read_int(environment, "WORLD_SIZE")
    if world_size == 1:
        rank, local_rank, local_world_size = 0, 0, 1
    else:
        rank = _read_int(environment, "RANK")
        local_rank = _read_int(environment, "LOCAL_RANK", rank)
        local_world_size = _read_int(environment, "LOCAL_WORLD_SIZE", world_size)
    restart_count = _read_int(environment, "TORCHELASTIC_RESTART_COUNT", 0)
    return DistributedEnv(
        rank,
        world_size,
        local_rank,
        local_world_size,
        restart_count,
        _read_int(environment, "TORCHELASTIC_MAX_RESTARTS", 0),
    )


def _read_int(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.strip().isdigit():
        got = "nothing" if text is None else repr(text)
        raise invalid(f"a number in the environment variable {name}", got, next_step=f"start with `{_EXAMPLE_COMMAND}`")
    return int(text)
