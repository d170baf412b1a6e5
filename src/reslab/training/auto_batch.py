"""Steps that are only tried, to see what memory they take.

`-b auto`: the parts of a global batch that fit the memory, from measured steps.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any

import torch

from reslab.runtime.device import choose_num_threads, deterministic_mode, limit_threads
from reslab.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from reslab.runtime.memory import MemoryTracker
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.training.batch_norm import batch_norms
from reslab.training.checkpoint import has_train_checkpoint
from reslab.training.loop import TrainContext
from reslab.training.options import AUTO, TrainOptions
from reslab.training.setup import TrainSetup
from reslab.training.trainer import build_train_context

MEMORY_HEADROOM = 0.1
PROBE_SIZES = (4, 16)

# The memory that a step on so many pictures takes at its peak, in bytes; None where there was too little.
MemoryProbeFn = Callable[[int], int | None]


@dataclass(frozen=True)
class MicroBatchPlan:
    """A rank's share of the batch in `parts` of at most `size` pictures.

    `measured` are the pictures and bytes of the small steps that it follows from, `trial_bytes` those of the step of
    `size` that was tried, `room_bytes` what there was.
    """

    grad_accum_steps: int
    size: int
    free_bytes: int
    peak_bytes: int
    measurements: tuple[tuple[int, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in run.json."""
        return asdict(self)

    def describe(self, local_batch_size: int, world_size: int, has_batch_norm: bool) -> str:
        """What was chosen and why, in words."""
        memory = f"{_format_mib(self.peak_bytes)} of {_format_mib(self.free_bytes)} MiB free, measured"
        per_rank_text = " on each rank" if world_size > 1 else ""
        if self.grad_accum_steps == 1:
            return f"the batch of {local_batch_size}{per_rank_text} fits as a whole ({memory})"
        batch_norm_text = "; its BatchNorms see the parts, not the batch" if has_batch_norm else ""
        return f"the batch of {local_batch_size}{per_rank_text} is taken in {self.grad_accum_steps} parts of up to {self.size} ({memory}){batch_norm_text}"


def choose_micro_batch(
    local_batch_size: int,
    free_bytes: int,
    probe: MemoryProbeFn,
    min_accum_steps: int = 1,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> MicroBatchPlan:
    """The fewest parts of a share whose steps fit the room, a tenth of it left free; the same on every rank.

    bytes(n) = a + b n through two small steps says which size that is; a step of it is tried before it is taken, and
    the next smaller one where it does not fit. Raises ValueError, on every rank, where the smallest does not.
    """
    usable_bytes = int(free_bytes * (1 - MEMORY_HEADROOM))
    measurements = _measure_small_steps(local_batch_size, usable_bytes, probe)
    local_accum_steps = _round_accum_steps(
        local_batch_size,
        max(
            min_accum_steps,
            math.ceil(local_batch_size / _largest_micro_batch(local_batch_size, usable_bytes, measurements)),
        ),
    )
    accum_steps, does_not_fit = (
        max(process_group.all_gather(local_accum_steps)),
        not all(process_group.all_gather(bool(measurements))),
    )
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
        f"memory for a step of {smallest} pictures",
        f"{_format_mib(free_bytes)} MiB free, of which {_format_mib(usable_bytes)} may be used",
        next_step="add --set activation_checkpointing=true, or take smaller pictures or a smaller network",
    )


def _measure_small_steps(local_batch_size: int, usable_bytes: int, probe: MemoryProbeFn) -> list[tuple[int, int]]:
    """Steps of the small sizes, as far as they may fit; the first is taken twice, as it sets up what stays."""
    first, second = (min(size, local_batch_size) for size in PROBE_SIZES)
    probe(first)
    used_bytes = probe(first)
    if used_bytes is None or used_bytes > usable_bytes:
        return []
    measurements = [(first, used_bytes)]
    second = min(
        second, first * usable_bytes // max(used_bytes, 1)
    )  # a larger one may end the process, not the trial alone
    if second > first:
        second_bytes = probe(second)
        measurements += [] if second_bytes is None else [(second, second_bytes)]
    return measurements


def _largest_micro_batch(local_batch_size: int, usable_bytes: int, measurements: list[tuple[int, int]]) -> int:
    """The pictures that fit, on the line through two measured steps; through zero and the one where there is one."""
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
    """The next number of parts that are equal, where that is not far."""
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
    """Steps on the first pictures of a rank's part of the first batch; afterwards the network is as it was.

    Called with a number of pictures it takes a step on them and tells the memory of its peak, None where there was too
    little. `room_bytes` is the memory there was before the first.
    """

    def __init__(self, context: TrainContext) -> None:
        self.context, self.device = context, next(context.model.parameters()).device
        self._initial_state = {
            name: tensor.detach().to("cpu", copy=True) for name, tensor in context.model.state_dict().items()
        }
        self._train_step = replace(context.train_step, grad_accum_steps=1, compiled_model=None, ddp_model=None)
        self._x, self._y, _ = next(iter(context.loader.iter_from(0)))
        self._memory_tracker = MemoryTracker(self.device)
        self.free_bytes = self._memory_tracker.free_bytes(context.process_group.env.local_world_size)

    @property
    def local_batch_size(self) -> int:
        """A rank's pictures of a batch."""
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
            self.context.optimizer.zero_grad(set_to_none=True)
        return None if used_bytes is None else used_bytes + self._ddp_gradient_bytes()

    def _run_step(self, num_images: int) -> None:
        context, cuda_devices = self.context, [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(cuda_devices), context.training_mode(0):
            context.model.train()
            x, y = self._x[:num_images], self._y[:num_images]
            self._train_step.run(context.model, context.loss, context.optimizer, x, y)

    def _ddp_gradient_bytes(self) -> int:
        """Ranks that share gradients hold them a second time."""
        parameters = self.context.model.parameters() if self.context.process_group.env.world_size > 1 else ()
        return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

    def __enter__(self) -> "MemoryProbe":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.context.model.load_state_dict(self._initial_state)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def with_auto_batch(setup: TrainSetup, options: TrainOptions, process_group: ProcessGroup) -> TrainSetup:
    """The run with the parts of its batch that fit the memory, where that was asked for; recorded, and told.

    Raises ValueError where nothing fits, or the system does not tell what there is; a run that began here is gone then.
    """
    run = setup.run
    if run.metadata.get("grad_accumulation") != AUTO:
        return setup
    try:
        micro_batch, local_batch_size = _probe_micro_batch(setup, options, process_group)
    except ValueError:
        if process_group.is_main and not has_train_checkpoint(run.path / "checkpoint"):
            run.discard()
        raise
    recipe = replace(setup.recipe, grad_accum_steps=micro_batch.grad_accum_steps)
    if process_group.is_main:
        run.update(
            recipe=to_dict(recipe), grad_accumulation={**micro_batch.to_dict(), "world_size": process_group.world_size}
        )
    message = micro_batch.describe(local_batch_size, process_group.world_size, bool(batch_norms(setup.model)))
    return replace(setup, recipe=recipe, messages=(*setup.messages, message))


def _probe_micro_batch(
    setup: TrainSetup, options: TrainOptions, process_group: ProcessGroup
) -> tuple[MicroBatchPlan, int]:
    local_group = ProcessGroup(
        process_group.env, process_group.device
    )  # with its part of the batch, but nobody to share gradients with
    num_threads = choose_num_threads(setup.input_size, process_group.device)
    context = build_train_context(setup, options, local_group, 0)
    with deterministic_mode(), limit_threads(num_threads), MemoryProbe(context) as probe:
        free_by_rank = process_group.all_gather(probe.free_bytes)
        free_bytes = free_by_rank[process_group.rank]
        if free_bytes is None or None in free_by_rank:
            required = "a system that tells its free memory, for a batch in fitting parts"
            raise invalid(
                required, str(process_group.device), next_step="set accumulate yourself: --set grad_accum_steps=4"
            )
        return choose_micro_batch(
            probe.local_batch_size, free_bytes, probe, setup.recipe.grad_accum_steps, process_group
        ), probe.local_batch_size
