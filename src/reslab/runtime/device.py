"""Devices: their choice, native bfloat16, threads, deterministic kernels, hardware metadata."""

import contextlib
import functools
import math
import os
import platform
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from reslab.spec.errors import invalid

_SMALL_IMAGE_PIXELS = 16 * 16


def available_devices() -> list[str]:
    """Return the device types of this machine, the preferred one first."""
    devices = ["cuda"] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Resolve a device; `auto` is the first available of cuda, mps and cpu. Raises ValueError for an absent one."""
    available = available_devices()
    if str(device) == "auto":
        return torch.device(available[0])
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise invalid("a device: auto, cuda, cuda:0, mps or cpu", repr(device), nearest=available[0]) from None
    is_unavailable = resolved.type not in available
    is_out_of_range = (
        resolved.type == "cuda" and not is_unavailable and (resolved.index or 0) >= torch.cuda.device_count()
    )
    if is_unavailable or is_out_of_range:
        raise invalid(
            "a device this machine has", repr(str(device)), nearest=", ".join(available), next_step="use --device auto"
        )
    return resolved


def has_fast_bf16(device: torch.device) -> bool:
    """Return True if the device computes faster in bfloat16 than in float32.

    Of the CPUs that is those with matrix tiles (AMX), and AMD's with AVX-512 in bfloat16. Intel's without AMX, such as
    those of some virtual machines, have these instructions too, but at half the rate: matrix products measured on one
    ran at 163 GFLOP/s in bfloat16 and 326 in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # torch has no public name for these checks.
    has_amx, has_avx512_bf16 = (
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return has_amx or (has_avx512_bf16 and "Intel" not in processor_name())


def choose_num_threads(input_size: Sequence[int], device: torch.device) -> int:
    """Choose the number of compute threads for images of shape `input_size` (C, H, W): one for small images on a CPU.

    On 8x8 images two threads gain a third on an idle machine, but lose a factor of ten on a busy one because they wait
    for each other. OMP_NUM_THREADS overrides the choice.
    """
    is_small = (
        device.type == "cpu"
        and math.prod(input_size[1:]) <= _SMALL_IMAGE_PIXELS
        and "OMP_NUM_THREADS" not in os.environ
    )
    return 1 if is_small else torch.get_num_threads()


@contextlib.contextmanager
def limit_threads(num_threads: int) -> Iterator[None]:
    """Use `num_threads` compute threads inside the context, then restore the previous number."""
    previous = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def hardware_info(device: torch.device, num_threads: int | None = None) -> dict[str, str | int]:
    """Return the hardware of a run: device, processor, number of cores and threads."""
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": str(device),
        "device_name": device_name,
        "processor": processor_name(),
        "num_cores": os.cpu_count() or 1,
        "num_threads": num_threads or torch.get_num_threads(),
    }


@functools.cache
def processor_name() -> str:
    """Return the processor's name, as `/proc/cpuinfo` has it where there is one."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class _DeterministicSettings:
    """Process-wide settings of deterministic arithmetic, reference-counted over threads.

    The first `acquire` changes them, the last `release` restores them. Without the count, two overlapping contexts in
    different threads would leave them changed: the second would save the first one's values as the originals.
    """

    def __init__(self) -> None:
        self.lock, self.num_active = threading.Lock(), 0
        self.previous: tuple[Any, ...] = ()

    def acquire(self) -> None:
        with self.lock:
            if not self.num_active:
                self.previous = _read_settings()
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                _write_settings((True, False, "ieee", "ieee"))
            self.num_active += 1

    def release(self) -> None:
        with self.lock:
            self.num_active -= 1
            if not self.num_active:
                _write_settings(self.previous)


_DETERMINISTIC_SETTINGS = _DeterministicSettings()


def _read_settings() -> tuple[Any, ...]:
    cudnn: Any = torch.backends.cudnn  # its annotations lag behind its attributes
    matmul = torch.backends.cuda.matmul
    return cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision, matmul.fp32_precision


def _write_settings(settings: tuple[Any, ...]) -> None:
    cudnn: Any = torch.backends.cudnn
    cudnn.deterministic, cudnn.benchmark = settings[:2]
    cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision = settings[2:]


@contextlib.contextmanager
def deterministic_mode() -> Iterator[None]:
    """Compute float32 without TF32 and with deterministic cuDNN kernels inside the context.

    The settings are process-wide, so they also apply to other threads until the context ends.
    """
    _DETERMINISTIC_SETTINGS.acquire()
    try:
        yield
    finally:
        _DETERMINISTIC_SETTINGS.release()
