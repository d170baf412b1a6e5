"""How fast this machine takes training steps: images a second, memory, and the share of its matrix rate."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.runtime.device import exact_arithmetic, quick_bf16
from reslab.runtime.memory import Memory
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.recipe import Recipe
from reslab.spec.recipes import get_recipe
from reslab.training.loop import AUTOCAST, Stepping, make_scaler
from reslab.training.optim.factory import build_optimizer

LEAST_SECONDS = 0.4
WARM_UP_STEPS = 3
_MATRIX_SIDE = {"cuda": 8192}


@dataclass(frozen=True)
class StepSpeed:
    """What one training step costs: medians over `repeats` timings of `steps_a_timing` steps, warm-up left out.

    `images_per_second_range` is the slowest and the quickest timing. `memory_bytes` is what the steps had at most above
    what was there before the network (on CUDA allocated, elsewhere resident; None where the system does not tell).
    `step_flops` is 6 x multiply-adds x batch: 2 each forward, 4 backward. `share` is step_flops x steps a second over
    `matrix_flops_per_second`, the rate of a square matrix product in the same precision, measured beside it.
    """

    engine: str
    precision: str
    channels_last: bool
    batch: int
    images_per_second: float
    images_per_second_range: tuple[float, float]
    latency_ms_p50: float
    memory_bytes: int | None
    step_flops: int
    matrix_flops_per_second: float
    share: float
    repeats: int
    steps_a_timing: int


def fast_recipe(device: torch.device) -> Recipe:
    """The recipe for speed on this kind of device: `fast-gpu` on CUDA, `fast-cpu` elsewhere."""
    return get_recipe("fast-gpu" if device.type == "cuda" else "fast-cpu")


def quick_settings(device: torch.device, precision: str = "auto", compiled: bool | None = None) -> Recipe:
    """`fast_recipe` with its precision settled for this device, or the one asked for; `compiled` replaces its choice.

    Raises ValueError for an unknown precision.
    """
    recipe = replace(fast_recipe(device), precision=precision, teacher="", loss="cross-entropy")
    if recipe.precision == "auto":
        recipe = replace(recipe, precision="bf16" if quick_bf16(device) else "float32")
    return recipe if compiled is None else replace(recipe, compile=compiled)


def measure_step(
    arch: Arch,
    input_size: tuple[int, int, int],
    batch: int,
    recipe: Recipe,
    device: torch.device,
    repeats: int = 5,
) -> StepSpeed:
    """Time training steps of a fresh network on random images, N C H W = (batch, *input_size), already on `device`.

    Precision, channels-last, compilation, clipping and optimizer are the recipe's. Raises ValueError for a batch or
    repeats below 1 and for images the network cannot take.
    """
    for name, value in (("batch", batch), ("repeats", repeats)):
        if value < 1:
            raise invalid(f"{name} of at least 1", value, nearest="1")
    with torch.device("meta"):
        step_flops = 6 * batch * sum(layer.macs for layer in layer_table(create_model(arch), input_size))
    rate = matrix_rate(recipe.precision, device)
    with exact_arithmetic(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        memory = Memory(device)
        take = _stepper(arch, input_size, batch, recipe, device)
        take()
        memory.forget_peak()  # a compiler's memory is not the step's
        seconds, num_steps = time_steps(take, device, repeats)
        used = memory.used_bytes()
    step = statistics.median(seconds)
    return StepSpeed(
        engine="torch.compile" if recipe.compile else "torch",
        precision=recipe.precision,
        channels_last=recipe.channels_last,
        batch=batch,
        images_per_second=batch / step,
        images_per_second_range=(batch / max(seconds), batch / min(seconds)),
        latency_ms_p50=1e3 * step,
        memory_bytes=used,
        step_flops=step_flops,
        matrix_flops_per_second=rate,
        share=step_flops / step / rate,
        repeats=repeats,
        steps_a_timing=num_steps,
    )


def _stepper(
    arch: Arch, input_size: tuple[int, int, int], batch: int, recipe: Recipe, device: torch.device
) -> Callable[[], object]:
    """One training step as the loop takes it, again and again on one batch of noise."""
    torch.manual_seed(0)
    model = create_model(arch).to(device).train()
    x = torch.randn(batch, *input_size, device=device)
    y = torch.randint(arch.num_classes, (batch,), device=device)
    if recipe.channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, recipe.optimizer)
    compiled = torch.compile(model) if recipe.compile else None
    scaler = make_scaler(recipe.precision, device)
    stepping = Stepping(
        recipe.precision, recipe.channels_last, clip_norm=recipe.clip_grad_norm, scaler=scaler, compiled=compiled
    )
    return lambda: stepping.take(model, functional.cross_entropy, optimizer, x, y)


def time_steps(take: Callable[[], object], device: torch.device, repeats: int) -> tuple[list[float], int]:
    """Seconds a step of `repeats` timings, each of as many steps as fill LEAST_SECONDS; the warm-up is not among
    them. And how many steps a timing had."""
    for _ in range(WARM_UP_STEPS):
        take()
    once = _timed(take, 1, device)
    num_steps = max(1, min(1000, round(LEAST_SECONDS / max(once, 1e-6))))
    return [_timed(take, num_steps, device) / num_steps for _ in range(repeats)], num_steps


def _timed(take: Callable[[], object], num_steps: int, device: torch.device) -> float:
    _finish(device)
    begun = time.perf_counter()
    for _ in range(num_steps):
        take()
    _finish(device)
    return time.perf_counter() - begun


def _finish(device: torch.device) -> None:
    """Wait for what was only queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def matrix_rate(precision: str, device: torch.device, side: int | None = None) -> float:
    """Operations a second of an n x n matrix product, 2 n^3 over the quickest of a few timings, in this precision.

    The quicker of two ways: `torch.mm`, and the same product as a 1x1 convolution (on an AMD processor torch's float32
    `mm` is the slower by far).
    """
    side = side or _MATRIX_SIDE.get(device.type, 2048)
    dtype = AUTOCAST.get(precision, torch.float32)
    with torch.no_grad(), exact_arithmetic(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = left @ right
        image = left.view(1, side, 1, side).permute(0, 3, 2, 1)  # N C H W in memory as channels-last
        weight = right.view(side, side, 1, 1)
        ways = (lambda: torch.mm(left, right, out=out), lambda: functional.conv2d(image, weight))
        seconds = [time_steps(way, device, 3)[0] for way in ways]
    return 2 * side**3 / min(map(min, seconds))
