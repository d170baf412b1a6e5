"""Process groups: collectives over the ranks of a job, and their single-process stand-in.

torch.distributed is imported only when there are several processes.
"""

import atexit
import contextlib
import itertools
import json
import os
import socket
import stat
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from reslab.runtime.torchrun import DistributedEnv, RankError, is_on_every_rank, read_distributed_env
from reslab.spec.errors import invalid

T = TypeVar("T")

# Long, because rank 0 may download data while the others wait; torchrun, not this timeout, notices a dead rank.
_TIMEOUT = timedelta(hours=2)
# Of a rank that failed: others may wait for it elsewhere, in a collective of the user's own.
_ERROR_TIMEOUT = timedelta(minutes=1)

_job_stores: list[Any] = []  # the key-value store of this job, once it is joined
_job_sockets: dict[int, tuple[int, int]] = {}  # of the groups made here, as of `_open_sockets`
_group_numbers = itertools.count()


class ProcessGroup:
    """A single process: collectives return the local value. `DistributedProcessGroup` is the version for several."""

    def __init__(self, env: DistributedEnv | None = None, device: torch.device | None = None) -> None:
        self.env, self.device = env or DistributedEnv(), device or torch.device("cpu")
        self.rank, self.world_size = self.env.rank, self.env.world_size

    @property
    def is_main(self) -> bool:
        """Return True on rank 0, the only one that writes files."""
        return self.rank == 0

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in rank order, on every rank."""
        return [value]

    def all_reduce_any(self, *flags: bool) -> tuple[bool, ...]:
        """Return each flag's logical or over the ranks."""
        return flags

    def wrap_ddp(self, model: nn.Module) -> nn.Module | None:
        """Return a DistributedDataParallel wrapper that averages gradients over the ranks; None for one process."""
        return None

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """Return the sum of x over the ranks; the backward pass sums the gradients too."""
        return x

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the buffers of rank 0 (the running statistics of the norms) to all ranks."""

    def run_on_main(self, function: Callable[[], T]) -> T | None:
        """Call `function` on rank 0 while the others wait; return its value there and None elsewhere.

        An error on rank 0 is raised there, and as `RankError` on the other ranks.
        """
        return function()

    def shared_errors(self) -> AbstractContextManager[None]:
        """Return a context in which an error of one rank ends the block of all: it is raised as `RankError` on others.

        All ranks must enter it together, and the block should not communicate. Every rank can do so afterwards.
        """
        return contextlib.nullcontext()

    def abort(self, error: Exception) -> None:
        """Close the connections to other ranks after an error that they do not have, so that none waits for this one.

        Their next collective, or the one they wait in, fails at once. Afterwards only `exchange` works.
        """

    def exchange(self, name: str, value: T, seconds: float, is_cancelled: Callable[[], bool]) -> list[T] | None:
        """Return the values of all ranks, which JSON can hold, after `abort`; None if one is missing in the end.

        `name` is new in each call. It ends after `seconds`, or if `is_cancelled()` becomes True.
        """
        return [value]

    def explained_errors(self) -> AbstractContextManager[None]:
        """Return a context that names the rank that failed first, where a lost connection is all that others notice."""
        return contextlib.nullcontext()

    def merge_interleaved(self, values: Sequence[T]) -> list[T]:
        """Merge the values of all ranks round-robin, which restores the order of a round-robin split."""
        return list(values)


SINGLE_PROCESS = ProcessGroup()


class DistributedProcessGroup(ProcessGroup):
    """Several processes, connected by torch.distributed."""

    def __init__(self, env: DistributedEnv, device: torch.device) -> None:
        super().__init__(env, device)
        import torch.distributed as dist

        self._dist: Any = dist
        self._object_group: Any = None  # the gloo group for Python objects
        self._error_key = f"error in group {next(_group_numbers)}"
        sockets_before = _open_sockets()
        if dist.is_initialized():
            self._object_group = dist.new_group(backend="gloo")
        else:
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            # A restarted job finds torchrun's store with the old entries: without a prefix of its own a rank may read
            # an address from before the restart and wait there for ever.
            store, rank, world_size = next(self._dist.rendezvous("env://", timeout=_TIMEOUT))
            store = self._dist.PrefixStore(f"restart {env.restart_count}", store)
            _job_stores.append(store)
            sockets_before = _open_sockets()
            dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=_TIMEOUT)
            atexit.register(_destroy_process_group)
        _job_sockets.update(_open_sockets().items() - sockets_before.items())

    def all_gather(self, value: T) -> list[T]:
        gathered: list[Any] = [None] * self.world_size
        self._dist.all_gather_object(gathered, value, group=self._object_group)
        return gathered

    def all_reduce_any(self, *flags: bool) -> tuple[bool, ...]:
        flag_tensor = torch.tensor(flags, dtype=torch.int32)
        self._dist.all_reduce(flag_tensor, self._dist.ReduceOp.MAX, group=self._object_group)
        return tuple(bool(flag) for flag in flag_tensor.tolist())

    def wrap_ddp(self, model: nn.Module) -> nn.Module:
        # Frozen parameters may be unfrozen later; DDP only averages those that require a gradient when it is built.
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(parameter.is_floating_point())
        # DDP rebuilds its buckets after the first step, and with more than two ranks that changes the order of the
        # sums, so that a resumed run would differ from an uninterrupted one. It does not rebuild them when it searches
        # for unused parameters; it then warns that there were none.
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
        device_ids = [self.device] if self.device.type == "cuda" else None
        ddp_model = nn.parallel.DistributedDataParallel(model, device_ids=device_ids, find_unused_parameters=True)
        for parameter in frozen:
            parameter.requires_grad_(False)
        return ddp_model

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        result: Tensor = _AllReduceSum.apply(x)
        return result

    def broadcast_buffers(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            self._dist.broadcast(buffer, 0)

    def run_on_main(self, function: Callable[[], T]) -> T | None:
        value, error = None, None
        if self.is_main:
            try:
                value = function()
            except Exception as caught:
                error = caught
        self._raise_together(error)
        return value

    @contextlib.contextmanager
    def shared_errors(self) -> Iterator[None]:
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        if error is not None and not self._announce_error():
            raise error
        if error is not None or any(self.all_reduce_any(False)):
            self._raise_together(error)

    def _announce_error(self) -> bool:
        """Join the `all_reduce_any` at the end of a block; return False if other ranks do not come to it in time."""
        flag = torch.ones(1, dtype=torch.int32)
        try:
            self._dist.all_reduce(flag, self._dist.ReduceOp.MAX, group=self._object_group, async_op=True).wait(
                _ERROR_TIMEOUT
            )
        except RuntimeError:
            return False
        return True

    def _raise_together(self, error: Exception | None) -> None:
        """Raise the error of this rank, or else `RankError` with that of the first rank that has one."""
        texts = self.all_gather(None if error is None else _describe(error))
        if error is not None:
            error.on_every_rank = True  # type: ignore[attr-defined]
            raise error
        for rank, text in enumerate(texts):
            if text is not None:
                raise RankError(rank, text)

    def abort(self, error: Exception) -> None:
        self._first_error(error)  # before the others notice and record their own
        for fd, identity in _job_sockets.items():
            _shut_down_socket(fd, identity)

    def exchange(self, name: str, value: T, seconds: float, is_cancelled: Callable[[], bool]) -> list[T] | None:
        keys = [f"{self._error_key}: {name} of rank {rank}" for rank in range(self.world_size)]
        end_time = time.monotonic() + seconds
        with contextlib.suppress(RuntimeError):  # without torchrun rank 0 keeps the store, until it ends
            for store in _job_stores[:1]:
                store.set(keys[self.rank], json.dumps(value))
                while time.monotonic() < end_time and not is_cancelled():
                    if store.check(keys):
                        return [json.loads(store.get(key)) for key in keys]
                    time.sleep(0.02)
        return None

    @contextlib.contextmanager
    def explained_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_on_every_rank(error):
                raise
            self.abort(error)
            first = self._first_error(error)
            if first is error:
                raise
            for note in getattr(error, "__notes__", []):
                first.add_note(note)
            raise first from error

    def _first_error(self, error: Exception) -> Exception:
        """Record the error of this rank, unless another was first: then return it if it explains this one."""
        if not _job_stores:  # a group that the user's own script has made
            return error
        own = json.dumps([self.rank, _describe(error)])
        try:
            first = _job_stores[0].compare_set(self._error_key, "", own).decode()
        except RuntimeError:  # without torchrun rank 0 keeps the store, until it ends
            return error
        # The backends report a lost connection as a RuntimeError.
        return RankError(*json.loads(first)) if first != own and isinstance(error, RuntimeError) else error

    def merge_interleaved(self, values: Sequence[T]) -> list[T]:
        return list(_interleave(self.all_gather(list(values))))


def _open_sockets() -> dict[int, tuple[int, int]]:
    """Return device and inode of every open socket of this process by its descriptor; none on Windows."""
    sockets = {}
    for name in os.listdir("/dev/fd") if os.path.isdir("/dev/fd") else ():
        with contextlib.suppress(OSError):
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                sockets[int(name)] = (status.st_dev, status.st_ino)
    return sockets


def _shut_down_socket(fd: int, identity: tuple[int, int]) -> None:
    """Shut down a connection, unless it is closed already; processes that inherited the socket do not keep it open.

    A listening socket is left alone: gloo ends the process if it cannot accept.
    """
    with contextlib.suppress(OSError):
        copy = os.dup(fd)  # gloo may close its own at any time
        try:
            status = os.fstat(copy)
            if (status.st_dev, status.st_ino) == identity:
                with socket.socket(fileno=os.dup(copy)) as connection:
                    if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        connection.shutdown(socket.SHUT_RDWR)
        finally:
            os.close(copy)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _interleave(sequences: Sequence[Sequence[T]]) -> Iterator[T]:
    for index in range(max(len(sequence) for sequence in sequences)):
        yield from (sequence[index] for sequence in sequences if index < len(sequence))


class _AllReduceSum(torch.autograd.Function):
    """y = sum of x over the ranks, differentiable: the gradient of the sum of all ranks' losses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _all_reduce_sum(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _all_reduce_sum(gradients[0])


def _all_reduce_sum(x: Tensor) -> Tensor:
    import torch.distributed as dist

    result = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result)
    return result


def _destroy_process_group() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def init_process_group(device: torch.device, env: DistributedEnv | None = None) -> ProcessGroup:
    """Join the process group of the job that torchrun started; a single-process group without one."""
    env = env or read_distributed_env()
    return DistributedProcessGroup(env, device) if env.world_size > 1 else ProcessGroup(env, device)


def rank_device(device: torch.device, env: DistributedEnv) -> torch.device:
    """Return the device of this rank: the GPU whose index is the local rank, or `device` for one process or the CPU.

    Raises ValueError if a machine has fewer GPUs than ranks, if one GPU is named for several ranks, or for mps.
    """
    if env.local_world_size == 1 and (env.world_size == 1 or device.type != "mps"):
        return device
    if device.type == "cuda":
        num_gpus = torch.cuda.device_count()
        if device.index is not None:
            got = f"{device} for {env.local_world_size} ranks"
            raise invalid("a GPU for each rank of a machine", got, nearest="cuda", next_step="use --device cuda")
        if num_gpus < env.local_world_size:
            got = f"{env.local_world_size} ranks on {num_gpus} GPUs"
            raise invalid(
                "a GPU for each rank of a machine", got, f"--nproc-per-node={num_gpus}", "or add --device cpu"
            )
        torch.cuda.set_device(env.local_rank)
        return torch.device("cuda", env.local_rank)
    if device.type == "mps":
        raise invalid("a device that supports several ranks", "mps", nearest="cpu", next_step="use --device cpu")
    return device
