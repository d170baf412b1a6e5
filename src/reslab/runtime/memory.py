"""How much memory is taken, and how much there is."""

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


class MemoryTracker:
    """The most memory in use since `forget_peak`, above what was in use when this was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        _release_memory()
        on_cuda = device.type == "cuda"
        self._baseline = torch.cuda.memory_allocated(device) if on_cuda else _process_memory("VmRSS:") or 0
        self.reset_peak()

    def reset_peak(self) -> None:
        """Let the high-water mark fall to what is in use now."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):
                _PROCESS_FILES[0].write_text("5")  # Linux

    def free_bytes(self, num_processes: int = 1) -> int | None:
        """Bytes that can still be had, of main memory the part of one of `num_sharing` processes; None if not told."""
        if self.device.type == "cuda":
            cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return torch.cuda.mem_get_info(self.device)[0] + cached
        available = _read_memory_field(_MEMINFO_FILE, "MemAvailable:")
        remaining = [
            limit - used
            for limit, used in map(_cgroup_limit_and_usage, _CGROUP_FILES)
            if limit is not None and used is not None
        ]
        smallest = min([*([] if available is None else [available]), *remaining], default=None)
        return None if smallest is None or self.device.type != "cpu" else max(0, smallest) // num_processes

    def peak_bytes(self) -> int | None:
        """Bytes; None where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self._baseline
        peak = _process_memory("VmHWM:")
        return None if peak is None or self.device.type != "cpu" else max(0, peak - self._baseline)


def _release_memory() -> None:
    """Freed pages that the C library keeps would hide what the steps take; elsewhere than on glibc they do."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _process_memory(field: str) -> int | None:
    return _read_memory_field(_PROCESS_FILES[1], field)


def _read_memory_field(path: Path, field: str) -> int | None:
    """The line `name: 1234 kB` of a file, in bytes."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(field):
                return 1024 * int(line.split()[1])
    return None


def _cgroup_limit_and_usage(files: tuple[Path, Path]) -> tuple[int | None, int | None]:
    """The limit of a control group and what it uses; None where there is none."""
    values: list[int | None] = []
    for path in files:
        text = ""
        with contextlib.suppress(OSError):
            text = path.read_text().strip()
        values.append(int(text) if text.isdigit() else None)
    return values[0], values[1]
