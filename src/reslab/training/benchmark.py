"""Benchmark training steps on this machine: images a second, memory, and the share of its matrix product rate."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.runtime.device import deterministic_mode
from reslab.runtime.memory import MemoryTracker
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.recipe import DistillConfig, Recipe
from reslab.spec.recipes import find_recipe
from reslab.training.cuda_graph import GraphedStep
from reslab.training.loop import AUTOCAST_DTYPES, TrainStep, make_grad_scaler
from reslab.training.optim.factory import build_optimizer
from reslab.training.setup_recipe import resolve_precision

MIN_TIMING_SECONDS = 0.4
WARMUP_STEPS = 3
_MATMUL_SIZE = {"cuda": 8192}


@dataclass(frozen=True)
class TrainStepBenchmark:
    """The cost of one training step: medians over `repeats` timings of `steps_per_timing` steps, after a warmup.

    `images_per_second_range` is the slowest and the fastest timing. `memory_bytes` is the peak above what was in use
    before the network (allocated on CUDA, resident elsewhere; None if the system does not report it). `step_flops` is
    6 x multiply-adds x batch size: 2 forward, 4 backward. `matmul_utilization` is step_flops x steps a second over
    `matmul_flops_per_second`, the measured rate of a square matrix product in the same precision.
    """

    backend: str
    precision: str
    channels_last: bool
    batch_size: int
    images_per_second: float
    images_per_second_range: tuple[float, float]
    latency_ms_p50: float
    memory_bytes: int | None
    step_flops: int
    matmul_flops_per_second: float
    matmul_utilization: float
    repeats: int
    steps_per_timing: int


def fast_recipe(device: torch.device) -> Recipe:
    """Return the fastest recipe for this kind of device: `fast-gpu` on CUDA, `fast-cpu` elsewhere."""
    return find_recipe("fast-gpu" if device.type == "cuda" else "fast-cpu")


def resolve_fast_recipe(device: torch.device, precision: str = "auto", compiled: bool | None = None) -> Recipe:
    """Return `fast_recipe` with the given precision, or the best for the device; `compiled` overrides its compilation.

    The optimizer is SGD on every device: Muon's matrix products would count as training of the network. Raises
    ValueError for an unknown precision.
    """
    recipe = fast_recipe(device)
    has_graph = recipe.cuda_graph and precision != "fp16"  # the scaler of fp16 waits for the GPU
    recipe = replace(recipe, precision=precision, cuda_graph=has_graph, distill=DistillConfig(), loss="cross-entropy")
    recipe = resolve_precision(replace(recipe, optimizer=find_recipe("cifar").optimizer), device)
    return recipe if compiled is None else replace(recipe, compile=compiled)


def benchmark_train_step(
    arch: Arch,
    input_size: tuple[int, ...],
    batch_size: int,
    recipe: Recipe,
    device: torch.device,
    repeats: int = 5,
) -> TrainStepBenchmark:
    """Time training steps of a new network on random images (batch_size, *input_size) that are already on `device`.

    Precision, memory format, compilation, clipping and optimizer are the recipe's. Raises ValueError for a batch size
    or repeats below 1 and for images that do not fit the network.
    """
    for name, value in (("batch size", batch_size), ("repeats", repeats)):
        if value < 1:
            raise invalid(f"{name} of at least 1", value, nearest="1")
    with torch.device("meta"):
        step_flops = 6 * batch_size * sum(layer.macs for layer in layer_table(create_model(arch), input_size))
    matmul_flops = measure_matmul_flops(recipe.precision, device)
    with deterministic_mode(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        memory_tracker = MemoryTracker(device)
        run_step = _make_step_fn(arch, input_size, batch_size, recipe, device)
        run_step()
        memory_tracker.reset_peak()  # without the compiler's memory
        timings, num_steps = time_steps(run_step, device, repeats)
        peak_bytes = memory_tracker.peak_bytes()
    step_seconds = statistics.median(timings)
    return TrainStepBenchmark(
        backend="torch.compile" if recipe.compile else "torch",
        precision=recipe.precision,
        channels_last=recipe.channels_last,
        batch_size=batch_size,
        images_per_second=batch_size / step_seconds,
        images_per_second_range=(batch_size / max(timings), batch_size / min(timings)),
        latency_ms_p50=1e3 * step_seconds,
        memory_bytes=peak_bytes,
        step_flops=step_flops,
        matmul_flops_per_second=matmul_flops,
        matmul_utilization=step_flops / step_seconds / matmul_flops,
        repeats=repeats,
        steps_per_timing=num_steps,
    )


def _make_step_fn(
    arch: Arch, input_size: tuple[int, ...], batch_size: int, recipe: Recipe, device: torch.device
) -> Callable[[], object]:
    """Return a function that takes one training step on a fixed batch of noise."""
    torch.manual_seed(0)
    model = create_model(arch).to(device).train()
    x = torch.randn(batch_size, *input_size, device=device)
    y = torch.randint(arch.num_classes, (batch_size,), device=device)
    if recipe.channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, recipe.optimizer)
    compiled_model = torch.compile(model) if recipe.compile else None
    scaler = make_grad_scaler(recipe.precision, device)
    train_step = TrainStep(
        precision=recipe.precision,
        channels_last=recipe.channels_last,
        clip_grad_norm=recipe.clip_grad_norm,
        scaler=scaler,
        compiled_model=compiled_model,
    )
    step: Callable[[Tensor, Tensor], dict[str, Tensor]] = partial(
        train_step.run, model, functional.cross_entropy, optimizer
    )
    if recipe.cuda_graph and device.type == "cuda":
        step = GraphedStep(step, optimizer, device)
    return partial(step, x, y)


def time_steps(run_step: Callable[[], object], device: torch.device, repeats: int) -> tuple[list[float], int]:
    """Return the seconds a step of `repeats` timings, and the steps in each, enough for MIN_TIMING_SECONDS."""
    for _ in range(WARMUP_STEPS):
        run_step()
    first_seconds = _measure_seconds(run_step, 1, device)
    num_steps = max(1, min(1000, round(MIN_TIMING_SECONDS / max(first_seconds, 1e-6))))
    return [_measure_seconds(run_step, num_steps, device) / num_steps for _ in range(repeats)], num_steps


def _measure_seconds(run_step: Callable[[], object], num_steps: int, device: torch.device) -> float:
    _synchronize(device)
    start_time = time.perf_counter()
    for _ in range(num_steps):
        run_step()
    _synchronize(device)
    return time.perf_counter() - start_time


def _synchronize(device: torch.device) -> None:
    """Wait for the device to finish its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def measure_matmul_flops(precision: str, device: torch.device, size: int | None = None) -> float:
    """Return the FLOP/s of an n x n matrix product: 2 n^3 over the fastest of a few timings, in this precision.

    The faster of two implementations counts: `torch.mm`, and the same product as a 1x1 convolution (on an AMD processor
    torch's float32 `mm` is far slower).
    """
    size = size or _MATMUL_SIZE.get(device.type, 2048)
    dtype = AUTOCAST_DTYPES.get(precision, torch.float32)
    with torch.no_grad(), deterministic_mode(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = left @ right
        image = left.view(1, size, 1, size).permute(0, 3, 2, 1)  # N C H W in memory as channels-last
        weight = right.view(size, size, 1, 1)
        implementations = (lambda: torch.mm(left, right, out=out), lambda: functional.conv2d(image, weight))
        timings = [time_steps(implementation, device, 3)[0] for implementation in implementations]
    return 2 * size**3 / min(map(min, timings))
