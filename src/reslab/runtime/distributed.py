"""The processes that train one network together, and what they tell each other.

torch.distributed is imported where there are several, and nowhere else.
"""

import atexit
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from reslab.runtime.torchrun import DistributedEnv, read_distributed_env
from reslab.spec.errors import invalid

T = TypeVar("T")

# Rank 0 may fetch data while the others wait; a rank that died is noticed by torchrun, not by this.
_TIMEOUT = timedelta(hours=2)


class MainRankError(RuntimeError):
    """Another rank met an error, told there; this one has none of its own."""

    on_every_rank = True


class ProcessGroup:
    """One process alone: whoever asks the others hears himself. `Joined` is several."""

    def __init__(self, env: DistributedEnv | None = None, device: torch.device | None = None) -> None:
        self.env, self.device = env or DistributedEnv(), device or torch.device("cpu")
        self.rank, self.world_size = self.env.rank, self.env.world_size

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes."""
        return self.rank == 0

    def all_gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on all of them."""
        return [value]

    def all_reduce_any(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, raised where it is on any rank."""
        return flags

    def wrap_ddp(self, model: nn.Module) -> nn.Module | None:
        """What runs in the model's place so that all ranks have the mean of their gradients; None for one alone."""
        return None

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """The sum of x over the ranks; gradients are summed on their way back."""
        return x

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give all ranks the buffers (the norms' running statistics) of rank 0."""

    def run_on_main(self, function: Callable[[], T]) -> T | None:
        """What rank 0 does alone, the others wait: its value there, None elsewhere.

        Its error there is `StoppedElsewhere` on the others.
        """
        return function()

    def merge_interleaved(self, values: Sequence[T]) -> list[T]:
        """The first values of every rank, then the second ones ...: what was dealt out in turn, in its order."""
        return list(values)


SINGLE_PROCESS = ProcessGroup()


class DistributedProcessGroup(ProcessGroup):
    """Several processes, joined by torch.distributed."""

    def __init__(self, env: DistributedEnv, device: torch.device) -> None:
        super().__init__(env, device)
        import torch.distributed as dist

        self._dist: Any = dist
        self._object_group: Any = None  # the group that ranks talk in
        if dist.is_initialized():
            self._object_group = dist.new_group(backend="gloo")
        else:
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            # A restarted job finds torchrun's store as it was: without a prefix of its own a rank may read where
            # another was reached before the restart, and wait for it there.
            store, rank, world_size = next(self._dist.rendezvous("env://", timeout=_TIMEOUT))
            store = self._dist.PrefixStore(f"restart {env.restart_count}", store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=_TIMEOUT)
            atexit.register(_destroy_process_group)

    def all_gather(self, value: T) -> list[T]:
        gathered: list[Any] = [None] * self.world_size
        self._dist.all_gather_object(gathered, value, group=self._object_group)
        return gathered

    def all_reduce_any(self, *flags: bool) -> tuple[bool, ...]:
        flag_tensor = torch.tensor(flags, dtype=torch.int32)
        self._dist.all_reduce(flag_tensor, self._dist.ReduceOp.MAX, group=self._object_group)
        return tuple(bool(flag) for flag in flag_tensor.tolist())

    def wrap_ddp(self, model: nn.Module) -> nn.Module:
        # What is frozen now may learn later, and is to be shared then.
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(parameter.is_floating_point())
        # It orders its buckets anew after the first step it sees, and with more than two ranks sums are then taken in
        # another order: a resumed run would not be the uninterrupted one. It does not where it looks for unused
        # parameters; that there were none it warns of.
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
        message = self.all_gather(None if error is None else f"{type(error).__name__}: {error}")[0]
        if error is not None:
            raise error
        if message is not None:
            raise MainRankError(f"rank 0 stopped: {message}")
        return value

    def merge_interleaved(self, values: Sequence[T]) -> list[T]:
        return list(_interleave(self.all_gather(list(values))))


def _interleave(sequences: Sequence[Sequence[T]]) -> Iterator[T]:
    for index in range(max(len(sequence) for sequence in sequences)):
        yield from (sequence[index] for sequence in sequences if index < len(sequence))


class _AllReduceSum(torch.autograd.Function):
    """y = sum over ranks of x; where each rank's loss depends on y, so does the gradient of their sum."""

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
    """The ranks of the job torchrun started, this process one of them; one alone where it started none."""
    env = env or read_distributed_env()
    return DistributedProcessGroup(env, device) if env.world_size > 1 else ProcessGroup(env, device)


def rank_device(device: torch.device, env: DistributedEnv) -> torch.device:
    """The device of this rank: of several GPUs the one of its number.

    Raises ValueError where a machine has fewer GPUs than ranks, one GPU was named for all, or the device cannot share.
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
        raise invalid("a device that ranks can share a job on", "mps", nearest="cpu", next_step="use --device cpu")
    return device
