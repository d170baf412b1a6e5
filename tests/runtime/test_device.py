"""Deterministic kernels, and the memory of the process and the machine."""

from pathlib import Path
from typing import Any

import pytest
import torch

from reslab.runtime import device
from reslab.runtime.device import MemoryTracker, deterministic_mode


def test_threads_that_overlap_leave_the_arithmetic_as_it_was() -> None:
    """The one that came first leaves first. A setting left behind would make torch's older flag unreadable, which
    torch.onnx reads."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, cudnn.deterministic, cudnn.allow_tf32
    first, second = deterministic_mode(), deterministic_mode()
    first.__enter__()
    second.__enter__()
    assert cudnn.conv.fp32_precision == "ieee"
    first.__exit__(None, None, None)
    assert cudnn.conv.fp32_precision == "ieee"
    second.__exit__(None, None, None)
    assert (cudnn.conv.fp32_precision, cudnn.deterministic, cudnn.allow_tf32) == before


CPU = torch.device("cpu")
MIB = 2**20


def test_memory_is_what_was_taken_since() -> None:
    memory = MemoryTracker(CPU)
    if memory.peak_bytes() is None:
        pytest.skip("this system does not tell what is resident")
    held = torch.ones(16 * 2**20)
    assert 0.9 * 64 * 2**20 < (memory.peak_bytes() or 0) < 4 * 64 * 2**20
    assert len(held)


def test_available_memory_is_the_machines_within_the_limit_of_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"meminfo": f"MemTotal: 9 kB\nMemAvailable: {900 * 1024} kB\n", "max": f"{700 * MIB}"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "used").write_text(f"{300 * MIB}\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(device, "_MEMINFO_FILE", tmp_path / "meminfo")
    group, unlimited = (tmp_path / "max", tmp_path / "used"), (tmp_path / "none", tmp_path / "used")
    for groups, free_mib in (((group,), 400), ((unlimited, group), 400), ((unlimited,), 900), ((), 900)):
        monkeypatch.setattr(device, "_CGROUP_FILES", groups)
        assert MemoryTracker(CPU).free_bytes() == free_mib * MIB
    assert MemoryTracker(CPU).free_bytes(num_processes=2) == 450 * MIB
    monkeypatch.setattr(device, "_MEMINFO_FILE", tmp_path / "no such file")
    assert MemoryTracker(CPU).free_bytes() is None
