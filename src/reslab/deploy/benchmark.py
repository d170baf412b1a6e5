"""Inference speed of every backend and precision, measured on the same images in alternating rounds."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from reslab.deploy.backends.backend import Backend
from reslab.deploy.backends.registry import BACKENDS, PRECISIONS, BackendInfo, open_backend
from reslab.nn.module_network import Model
from reslab.runtime.device import has_fast_bf16
from reslab.runtime.extras import has_extra
from reslab.runtime.memory import MemoryTracker
from reslab.spec.errors import invalid, unknown_name

NUM_WARMUP_CALLS = 3
SECONDS_PER_ROUND = 1.0
_NUM_CALIBRATION_IMAGES = 32


@dataclass(frozen=True)
class InferenceSpeed:
    """The speed of one backend: latencies of `num_calls` calls with one batch each, measured in alternating rounds.

    `images_per_second` is the median over the rounds of batch size / median latency, `images_per_second_range` the
    slowest and the fastest round; percentiles are over all calls. `memory_bytes` is the peak above the memory in use
    before the backend was opened (None if the system does not report it), `prepare_seconds` the time to open it.
    """

    backend: str
    precision: str
    batch_size: int
    images_per_second: float
    images_per_second_range: tuple[float, float]
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    memory_bytes: int | None
    prepare_seconds: float
    num_calls: int


@dataclass
class _BenchmarkCase:
    backend: Backend
    x: Tensor
    memory_bytes: int | None
    prepare_seconds: float
    round_seconds: list[list[float]] = field(default_factory=list)

    def run_round(self) -> None:
        """Call the backend for SECONDS_PER_ROUND, at least once, and record the seconds of each call."""
        seconds: list[float] = []
        deadline = time.perf_counter() + SECONDS_PER_ROUND
        while not seconds or time.perf_counter() < deadline:
            started = time.perf_counter()
            self.backend(self.x)
            seconds.append(time.perf_counter() - started)
        self.round_seconds.append(seconds)

    def summarize(self) -> InferenceSpeed:
        """Return the speed over all rounds."""
        batch_size, all_seconds = len(self.x), sorted(value for seconds in self.round_seconds for value in seconds)
        throughputs = [batch_size / statistics.median(seconds) for seconds in self.round_seconds]
        p50, p95, p99 = (1e3 * quantile(all_seconds, fraction) for fraction in (0.5, 0.95, 0.99))
        return InferenceSpeed(
            backend=self.backend.name + ", compiled" * self.backend.compiled,
            precision=self.backend.precision,
            batch_size=batch_size,
            images_per_second=statistics.median(throughputs),
            images_per_second_range=(min(throughputs), max(throughputs)),
            latency_ms_p50=p50,
            latency_ms_p95=p95,
            latency_ms_p99=p99,
            memory_bytes=self.memory_bytes,
            prepare_seconds=self.prepare_seconds,
            num_calls=len(all_seconds),
        )


def quantile(sorted_values: Sequence[float], fraction: float) -> float:
    """Return the quantile of sorted values by the nearest-rank method."""
    assert sorted_values
    return sorted_values[min(len(sorted_values) - 1, max(0, -int(-fraction * len(sorted_values) // 1) - 1))]


def benchmark_backends(
    network: Model,
    input_size: tuple[int, ...],
    batch_sizes: Sequence[int],
    *,
    backends: Sequence[str],
    precisions: Sequence[str],
    device: torch.device,
    rounds: int = 5,
    compiled: bool = False,
) -> list[InferenceSpeed]:
    """Measure every backend in every supported precision with every batch size, on random images of `input_size`.

    Each case runs once per round; torch runs uncompiled and, with `compiled`, compiled too. Times include copying the
    outputs to the CPU, but not normalization. The int8 scales come from the random images: the speed is that of real
    images, the outputs are not. Raises ValueError for a batch size or rounds below 1, unknown backends and precisions,
    and if no backend supports a precision; MissingExtraError.
    """
    for name, value in (("batch_size", min(batch_sizes)), ("rounds", rounds)):
        if value < 1:
            raise invalid(f"{name} of at least 1", value, nearest="1")
    x = torch.randn(max(*batch_sizes, _NUM_CALIBRATION_IMAGES), *input_size, generator=torch.Generator().manual_seed(0))
    cases: list[_BenchmarkCase] = []
    for backend, precision in backend_precision_pairs(backends, precisions, device):
        for is_compiled in (False, True) if compiled and backend == "torch" else (False,):
            open_case = partial(open_backend, network, backend, precision, device, compiled=is_compiled)
            cases += _make_cases(open_case, x, batch_sizes, MemoryTracker(device))
    for _ in range(rounds):
        for case in cases:
            case.run_round()
    return [case.summarize() for case in cases]


def _make_cases(
    open_case: Callable[..., Backend], x: Tensor, batch_sizes: Iterable[int], memory: MemoryTracker
) -> list[_BenchmarkCase]:
    """Open one backend and return a case per batch size; `memory` has begun before anything else is allocated."""
    started = time.perf_counter()
    opened_backend = open_case(calibration_images=x[:_NUM_CALIBRATION_IMAGES])
    prepare_seconds = time.perf_counter() - started
    cases = []
    for batch_size in batch_sizes:
        opened_backend(x[:batch_size])
        memory.reset_peak()  # what making and compiling took is not what answering takes
        for _ in range(NUM_WARMUP_CALLS):
            opened_backend(x[:batch_size])
        cases.append(_BenchmarkCase(opened_backend, x[:batch_size].clone(), memory.peak_bytes(), prepare_seconds))
    return cases


def default_backends(device: torch.device) -> list[str]:
    """The backends that are installed and run on this kind of device."""
    return [info.name for info in BACKENDS.values() if device.type in info.devices and has_extra(info.extra)]


def default_precisions(device: torch.device) -> list[str]:
    """Those that the device is quick at."""
    return [
        "float32",
        *(["bf16"] if has_fast_bf16(device) else []),
        *(["fp16"] if device.type == "cuda" else []),
        "int8",
    ]


def backend_precision_pairs(
    backends: Sequence[str], precisions: Sequence[str], device: torch.device
) -> list[tuple[str, str]]:
    """Return each backend with each precision that it supports; ValueError if there is none."""
    for name in backends:
        if name not in BACKENDS:
            raise unknown_name("backend", name, BACKENDS)
    for name in precisions:
        if name not in PRECISIONS:
            raise unknown_name("precision", name, PRECISIONS)
    supported = [
        (backend, precision)
        for backend in backends
        for precision in precisions
        if _supports(BACKENDS[backend], precision)
    ]
    if not supported:
        step = "; ".join(f"{name}: {', '.join(BACKENDS[name].precisions)}" for name in backends)
        raise invalid(f"a precision that {', '.join(backends)} supports", ", ".join(precisions), next_step=step)
    return supported


def _supports(info: BackendInfo, precision: str) -> bool:
    return precision in info.precisions and (precision != "int8" or has_extra("onnx"))
