"""How much memory is taken, and how much there is."""

import contextlib
import ctypes
import gc
from pathlib import Path

import torch

_PEAK = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_MACHINE = Path("/proc/meminfo")
# A container's limit and what it uses, of the second and the first version of Linux' control groups.
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


class Memory:
    """The most memory in use since `forget_peak`, above what was in use when this was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        _give_back_memory()
        on_gpu = device.type == "cuda"
        self._before = torch.cuda.memory_allocated(device) if on_gpu else _resident("VmRSS:") or 0
        self.forget_peak()

    def forget_peak(self) -> None:
        """Let the high-water mark fall to what is in use now."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):
                _PEAK[0].write_text("5")  # Linux

    def room_bytes(self, num_sharing: int = 1) -> int | None:
        """Bytes that can still be had, of main memory the part of one of `num_sharing` processes; None if not told."""
        if self.device.type == "cuda":
            kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return torch.cuda.mem_get_info(self.device)[0] + kept
        free = _numbers(_MACHINE, "MemAvailable:")
        left = [limit - used for limit, used in map(_limit, _GROUPS) if limit is not None and used is not None]
        found = min([*([] if free is None else [free]), *left], default=None)
        return None if found is None or self.device.type != "cpu" else max(0, found) // num_sharing

    def used_bytes(self) -> int | None:
        """Bytes; None where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self._before
        peak = _resident("VmHWM:")
        return None if peak is None or self.device.type != "cpu" else max(0, peak - self._before)


def _give_back_memory() -> None:
    """Freed pages that the C library keeps would hide what the steps take; elsewhere than on glibc they do."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident(name: str) -> int | None:
    return _numbers(_PEAK[1], name)


def _numbers(path: Path, name: str) -> int | None:
    """The line `name: 1234 kB` of a file, in bytes."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return 1024 * int(line.split()[1])
    return None


def _limit(group: tuple[Path, Path]) -> tuple[int | None, int | None]:
    """The limit of a control group and what it uses; None where there is none."""
    found: list[int | None] = []
    for path in group:
        text = ""
        with contextlib.suppress(OSError):
            text = path.read_text().strip()
        found.append(int(text) if text.isdigit() else None)
    return found[0], found[1]
