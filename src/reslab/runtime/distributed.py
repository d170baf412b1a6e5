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

from reslab.runtime.torchrun import Place, read_place
from reslab.spec.errors import invalid

T = TypeVar("T")

# Rank 0 may fetch data while the others wait; a rank that died is noticed by torchrun, not by this.
_PATIENCE = timedelta(hours=2)


class StoppedElsewhere(RuntimeError):
    """Another rank met an error, told there; this one has none of its own."""

    on_every_rank = True


class Ranks:
    """One process alone: whoever asks the others hears himself. `Joined` is several."""

    def __init__(self, place: Place | None = None, device: torch.device | None = None) -> None:
        self.place, self.device = place or Place(), device or torch.device("cpu")
        self.rank, self.num = self.place.rank, self.place.num_ranks

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on all of them."""
        return [value]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, raised where it is on any rank."""
        return flags

    def replica(self, model: nn.Module) -> nn.Module | None:
        """What runs in the model's place so that all ranks have the mean of their gradients; None for one alone."""
        return None

    def total(self, x: Tensor) -> Tensor:
        """The sum of x over the ranks; gradients are summed on their way back."""
        return x

    def share_buffers(self, model: nn.Module) -> None:
        """Give all ranks the buffers (the norms' running statistics) of rank 0."""

    def lead(self, do: Callable[[], T]) -> T | None:
        """What rank 0 does alone, the others wait: its value there, None elsewhere.

        Its error there is `StoppedElsewhere` on the others.
        """
        return do()

    def interleaved(self, values: Sequence[T]) -> list[T]:
        """The first values of every rank, then the second ones ...: what was dealt out in turn, in its order."""
        return list(values)


ALONE = Ranks()


class Joined(Ranks):
    """Several processes, joined by torch.distributed."""

    def __init__(self, place: Place, device: torch.device) -> None:
        super().__init__(place, device)
        import torch.distributed as dist

        self._dist: Any = dist
        self._talk: Any = None  # the group that ranks talk in
        if dist.is_initialized():
            self._talk = dist.new_group(backend="gloo")
        else:
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            # A restarted job finds torchrun's store as it was: without a prefix of its own a rank may read where
            # another was reached before the restart, and wait for it there.
            store, rank, num = next(self._dist.rendezvous("env://", timeout=_PATIENCE))
            store = self._dist.PrefixStore(f"restart {place.restarts}", store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=num, timeout=_PATIENCE)
            atexit.register(_leave)

    def gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.num
        self._dist.all_gather_object(found, value, group=self._talk)
        return found

    def any(self, *flags: bool) -> tuple[bool, ...]:
        raised = torch.tensor(flags, dtype=torch.int32)
        self._dist.all_reduce(raised, self._dist.ReduceOp.MAX, group=self._talk)
        return tuple(bool(flag) for flag in raised.tolist())

    def replica(self, model: nn.Module) -> nn.Module:
        # What is frozen now may learn later, and is to be shared then.
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(parameter.is_floating_point())
        # It orders its buckets anew after the first step it sees, and with more than two ranks sums are then taken in
        # another order: a resumed run would not be the uninterrupted one. It does not where it looks for unused
        # parameters; that there were none it warns of.
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
        indices = [self.device] if self.device.type == "cuda" else None
        found = nn.parallel.DistributedDataParallel(model, device_ids=indices, find_unused_parameters=True)
        for parameter in frozen:
            parameter.requires_grad_(False)
        return found

    def total(self, x: Tensor) -> Tensor:
        found: Tensor = _Total.apply(x)
        return found

    def share_buffers(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            self._dist.broadcast(buffer, 0)

    def lead(self, do: Callable[[], T]) -> T | None:
        value, error = None, None
        if self.first:
            try:
                value = do()
            except Exception as caught:
                error = caught
        told = self.gather(None if error is None else f"{type(error).__name__}: {error}")[0]
        if error is not None:
            raise error
        if told is not None:
            raise StoppedElsewhere(f"rank 0 stopped: {told}")
        return value

    def interleaved(self, values: Sequence[T]) -> list[T]:
        return list(_dealt(self.gather(list(values))))


def _dealt(hands: Sequence[Sequence[T]]) -> Iterator[T]:
    for place in range(max(len(hand) for hand in hands)):
        yield from (hand[place] for hand in hands if place < len(hand))


class _Total(torch.autograd.Function):
    """y = sum over ranks of x; where each rank's loss depends on y, so does the gradient of their sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(x: Tensor) -> Tensor:
    import torch.distributed as dist

    found = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(found)
    return found


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def join(device: torch.device, place: Place | None = None) -> Ranks:
    """The ranks of the job torchrun started, this process one of them; one alone where it started none."""
    place = place or read_place()
    return Joined(place, device) if place.num_ranks > 1 else Ranks(place, device)


def own_device(chosen: torch.device, place: Place) -> torch.device:
    """The device of this rank: of several GPUs the one of its number.

    Raises ValueError where a machine has fewer GPUs than ranks, one GPU was named for all, or the device cannot share.
    """
    if place.num_local == 1 and (place.num_ranks == 1 or chosen.type != "mps"):
        return chosen
    if chosen.type == "cuda":
        count = torch.cuda.device_count()
        if chosen.index is not None:
            got = f"{chosen} for {place.num_local} ranks"
            raise invalid("a GPU for each rank of a machine", got, nearest="cuda", next_step="use --device cuda")
        if count < place.num_local:
            got = f"{place.num_local} ranks on {count} GPUs"
            raise invalid("a GPU for each rank of a machine", got, f"--nproc-per-node={count}", "or add --device cpu")
        torch.cuda.set_device(place.local_rank)
        return torch.device("cuda", place.local_rank)
    if chosen.type == "mps":
        raise invalid("a device that ranks can share a job on", "mps", nearest="cpu", next_step="use --device cpu")
    return chosen
