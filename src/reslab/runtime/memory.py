"""Memory of a device: what is free, and the peak of this process."""

import contextlib
import ctypes
import gc
from pathlib import Path

import torch

_PROCESS_FILES = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_MEMINFO_FILE = Path("/proc/meminfo")
# A container's limit and what it uses, of the second and the first version of Linux' control groups.
_CGROUP_FILES = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def read_free_bytes(device: torch.device, num_processes: int = 1) -> int | None:
    """Return the free bytes (on a CPU divided by `num_processes`); None if the system does not report them.

    On a CPU, memory that this process has freed counts only after `release_memory`.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    available = _read_memory_field(_MEMINFO_FILE, "MemAvailable:")
    remaining = [
        limit - used
        for limit, used in map(_cgroup_limit_and_usage, _CGROUP_FILES)
        if limit is not None and used is not None
    ]
    smallest = min([*([] if available is None else [available]), *remaining], default=None)
    return None if smallest is None or device.type != "cpu" else max(0, smallest) // num_processes


def release_memory() -> None:
    """Return freed pages to the system; glibc keeps them, and they would hide what the next steps allocate.

    Takes 0.2 s in a process that has imported torch and more, because it visits every Python object.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class MemoryTracker:
    """Peak memory since `reset_peak`, above what was in use at construction."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        release_memory()
        on_cuda = device.type == "cuda"
        self._baseline = torch.cuda.memory_allocated(device) if on_cuda else _process_memory("VmRSS:") or 0
        self.reset_peak()

    def reset_peak(self) -> None:
        """Reset the peak to the current use."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):
                _PROCESS_FILES[0].write_text("5")  # Linux

    def peak_bytes(self) -> int | None:
        """Return the peak in bytes; None if the system does not report it."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self._baseline
        peak = _process_memory("VmHWM:")
        return None if peak is None or self.device.type != "cpu" else max(0, peak - self._baseline)


def _process_memory(field: str) -> int | None:
    return _read_memory_field(_PROCESS_FILES[1], field)


def _read_memory_field(path: Path, field: str) -> int | None:
    """Read the line `field: 1234 kB` of a file and return it in bytes; None if absent."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(field):
                return 1024 * int(line.split()[1])
    return None


def _cgroup_limit_and_usage(files: tuple[Path, Path]) -> tuple[int | None, int | None]:
    """Return the memory limit and use of a control group, in bytes; None for what it does not set."""
    values: list[int | None] = []
    for path in files:
        text = ""
        with contextlib.suppress(OSError):
            text = path.read_text().strip()
        values.append(int(text) if text.isdigit() else None)
    return values[0], values[1]
