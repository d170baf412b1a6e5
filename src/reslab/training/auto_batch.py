"""Automatic gradient accumulation (`--batch-size auto`): micro-batches that fit in memory, from measured steps."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any

import torch

from reslab.data.loader import TrainLoader
from reslab.nn.recompute import batch_norms
from reslab.runtime.device import choose_num_threads, deterministic_mode, limit_threads
from reslab.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from reslab.runtime.memory import MemoryTracker, read_free_bytes
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.training.checkpoint import has_train_checkpoint
from reslab.training.loop import TrainLoop, make_grad_scaler
from reslab.training.optim.factory import build_optimizer
from reslab.training.options import AUTO
from reslab.training.run_data import make_train_loader
from reslab.training.setup import TrainSetup

MEMORY_HEADROOM = 0.1
PROBE_SIZES = (4, 16)

# Returns the peak memory, in bytes, of a step on this many images; None if it ran out of memory.
MemoryProbeFn = Callable[[int], int | None]


@dataclass(frozen=True)
class MicroBatchPlan:
    """A rank's share of the batch in `grad_accum_steps` micro-batches of at most `size` images.

    `measurements` are the images and bytes of the small steps that it is extrapolated from, `peak_bytes` those of the
    step of `size` images that confirmed it, `free_bytes` the memory available.
    """

    grad_accum_steps: int
    size: int
    free_bytes: int
    peak_bytes: int
    measurements: tuple[tuple[int, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for run.json."""
        return asdict(self)

    def describe(self, local_batch_size: int, world_size: int, has_batch_norm: bool) -> str:
        """Return a description for people of what was chosen and why."""
        memory = f"{_format_mib(self.peak_bytes)} of {_format_mib(self.free_bytes)} MiB free, measured"
        batch_text = f"the batch of {local_batch_size}{' on each rank' if world_size > 1 else ''}"
        if self.grad_accum_steps == 1:
            return f"{batch_text} fits as a whole ({memory})"
        batch_norm_text = "; BatchNorm sees the micro-batches" if has_batch_norm else ""
        return (
            f"{batch_text} is split into {self.grad_accum_steps} micro-batches of up to {self.size} "
            f"({memory}){batch_norm_text}"
        )


def choose_micro_batch(
    local_batch_size: int,
    free_bytes: int,
    probe: MemoryProbeFn,
    min_accum_steps: int = 1,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> MicroBatchPlan:
    """Return the fewest micro-batches whose steps fit in memory with a tenth to spare; the same on every rank.

    The size is extrapolated from two small steps, bytes(n) = a + b n, and confirmed by a step of that size; if it does
    not fit, the next smaller size is tried. Raises ValueError, on every rank, if the smallest does not fit.
    """
    usable_bytes = int(free_bytes * (1 - MEMORY_HEADROOM))
    measurements = _measure_small_steps(local_batch_size, usable_bytes, probe)
    largest = _largest_micro_batch(local_batch_size, usable_bytes, measurements)
    local_accum_steps = _round_accum_steps(
        local_batch_size, max(min_accum_steps, math.ceil(local_batch_size / largest))
    )
    accum_steps = max(process_group.all_gather(local_accum_steps))
    does_not_fit = not all(process_group.all_gather(bool(measurements)))
    while not does_not_fit:
        size = math.ceil(local_batch_size / accum_steps)
        used_bytes = probe(size)
        if all(process_group.all_gather(used_bytes is not None and used_bytes <= usable_bytes)):
            assert used_bytes is not None
            return MicroBatchPlan(accum_steps, size, free_bytes, used_bytes, tuple(measurements))
        does_not_fit = size <= min(PROBE_SIZES)
        accum_steps = _round_accum_steps(local_batch_size, accum_steps + max(1, accum_steps // 4))
    smallest = min(local_batch_size, *PROBE_SIZES)
    raise invalid(
        f"memory for a step of {smallest} images",
        f"{_format_mib(free_bytes)} MiB free, of which {_format_mib(usable_bytes)} may be used",
        next_step="add --set activation_checkpointing=true, or use smaller images or a smaller network",
    )


def _measure_small_steps(local_batch_size: int, usable_bytes: int, probe: MemoryProbeFn) -> list[tuple[int, int]]:
    """Return images and bytes of steps of the small sizes that fit; the first runs twice because it allocates state."""
    first, second = (min(size, local_batch_size) for size in PROBE_SIZES)
    probe(first)
    used_bytes = probe(first)
    if used_bytes is None or used_bytes > usable_bytes:
        return []
    measurements = [(first, used_bytes)]
    # On a CPU a step that is too large ends the whole process, not only the probe, so stay below the proportional size.
    second = min(second, first * usable_bytes // max(used_bytes, 1))
    if second > first:
        second_bytes = probe(second)
        measurements += [] if second_bytes is None else [(second, second_bytes)]
    return measurements


def _largest_micro_batch(local_batch_size: int, usable_bytes: int, measurements: list[tuple[int, int]]) -> int:
    """Return the size that fits on the line through two measurements, or through zero and one."""
    if not measurements:
        return 1
    (low, low_bytes), (high, high_bytes) = (
        (measurements[0], measurements[-1]) if len(measurements) > 1 else ((0, 0), measurements[0])
    )
    slope = (high_bytes - low_bytes) / (high - low)
    if slope <= 0:
        return local_batch_size
    return min(local_batch_size, max(1, high + math.floor((usable_bytes - high_bytes) / slope)))


def _round_accum_steps(local_batch_size: int, minimum: int) -> int:
    """Return the next number of micro-batches that divides the batch evenly, if that is at most twice the minimum."""
    divisors = (
        accum_steps
        for accum_steps in range(minimum, min(local_batch_size, 2 * minimum) + 1)
        if local_batch_size % accum_steps == 0
    )
    return next(divisors, min(local_batch_size, minimum))


def _format_mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f}"


_OUT_OF_MEMORY_PHRASES = ("out of memory", "can't allocate memory", "cannot allocate memory")


class MemoryProbe:
    """Measures the memory of steps on the first images of the first batch; afterwards the network is as before.

    Called with a number of images it takes a step on them and returns the peak memory, None if it ran out.
    `free_bytes` is the memory that was available at first. The loop's optimizer and scaler are changed: give it copies.
    """

    def __init__(self, loop: TrainLoop) -> None:
        self.loop, self.device = loop, next(loop.model.parameters()).device
        self._initial_state = {
            name: tensor.detach().to("cpu", copy=True) for name, tensor in loop.model.state_dict().items()
        }
        self._train_step = replace(loop.train_step, grad_accum_steps=1)
        self._x, self._y, _ = next(iter(loop.loader.iter_from(0)))
        self._memory_tracker = MemoryTracker(self.device)
        self.free_bytes = read_free_bytes(self.device, loop.process_group.env.local_world_size)

    @property
    def local_batch_size(self) -> int:
        """The number of images of a batch on this rank."""
        return len(self._x)

    def __call__(self, num_images: int) -> int | None:
        self._memory_tracker.reset_peak()
        try:
            self._run_step(num_images)
            used_bytes = self._memory_tracker.peak_bytes()
        except RuntimeError as error:
            if not any(phrase in str(error).lower() for phrase in _OUT_OF_MEMORY_PHRASES):
                raise
            used_bytes = None
        finally:
            self.loop.optimizer.zero_grad(set_to_none=True)
        return None if used_bytes is None else used_bytes + self._ddp_gradient_bytes()

    def _run_step(self, num_images: int) -> None:
        loop, cuda_devices = self.loop, [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(cuda_devices), loop.training_mode(0):
            loop.model.train()
            x, y = self._x[:num_images], self._y[:num_images]
            self._train_step.run(loop.model, loop.loss, loop.optimizer, x, y)

    def _ddp_gradient_bytes(self) -> int:
        """Return the size of DistributedDataParallel's second copy of the gradients."""
        parameters = self.loop.model.parameters() if self.loop.process_group.env.world_size > 1 else ()
        return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

    def __enter__(self) -> "MemoryProbe":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.loop.model.load_state_dict(self._initial_state)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def with_auto_batch(setup: TrainSetup) -> TrainSetup:
    """Return the setup with micro-batches that fit in memory, if the run wants it and none are chosen yet.

    The choice is recorded in run.json. Raises ValueError if nothing fits, or if the system does not report its free
    memory; a new run's folder is then removed.
    """
    run, process_group = setup.run, setup.loop.process_group
    if run.metadata.get("grad_accumulation") != AUTO:
        return setup
    try:
        micro_batch, local_batch_size = _probe_micro_batch(setup)
    except ValueError:
        if process_group.is_main and not has_train_checkpoint(run.path / "checkpoint"):
            run.discard()
        raise
    recipe = replace(setup.recipe, grad_accum_steps=micro_batch.grad_accum_steps)
    if process_group.is_main:
        run.update(
            recipe=to_dict(recipe), grad_accumulation={**micro_batch.to_dict(), "world_size": process_group.world_size}
        )
    train_step = replace(setup.loop.train_step, grad_accum_steps=micro_batch.grad_accum_steps)
    message = micro_batch.describe(local_batch_size, process_group.world_size, bool(batch_norms(setup.loop.model)))
    return replace(
        setup,
        recipe=recipe,
        loop=replace(setup.loop, train_step=train_step),
        messages=(*setup.messages, message),
    )


def _probe_micro_batch(setup: TrainSetup) -> tuple[MicroBatchPlan, int]:
    loop, recipe, process_group = setup.loop, setup.recipe, setup.loop.process_group
    # The probe has this rank's part of the batch, but exchanges nothing with the other ranks, which may try other
    # sizes. It reads without workers, whose memory is not the step's, and steps with an optimizer of its own.
    probe_loop = replace(
        loop,
        loader=make_train_loader(
            recipe,
            setup.data,
            loop.seed,
            process_group.device,
            env=process_group.env,
            transform_functions=loop.loader.transform_functions if isinstance(loop.loader, TrainLoader) else None,
        ),
        optimizer=build_optimizer(loop.model, recipe.optimizer),
        train_step=replace(loop.train_step, scaler=make_grad_scaler(recipe.precision, process_group.device)),
        process_group=ProcessGroup(process_group.env, process_group.device),
    )
    num_threads = choose_num_threads(setup.input_size, process_group.device)
    with deterministic_mode(), limit_threads(num_threads), MemoryProbe(probe_loop) as probe:
        free_by_rank = process_group.all_gather(probe.free_bytes)
        free_bytes = free_by_rank[process_group.rank]
        if free_bytes is None or None in free_by_rank:
            required = "a system that reports its free memory, for automatic micro-batches"
            next_step = "set the number of micro-batches: --set grad_accum_steps=4"
            raise invalid(required, str(process_group.device), next_step=next_step)
        plan = choose_micro_batch(probe.local_batch_size, free_bytes, probe, recipe.grad_accum_steps, process_group)
        return plan, probe.local_batch_size
