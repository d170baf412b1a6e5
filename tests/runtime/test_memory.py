"""The memory of the process and the machine."""

from pathlib import Path

import pytest
import torch

from reslab.runtime import memory
from reslab.runtime.memory import MemoryTracker, read_free_bytes

CPU = torch.device("cpu")
MIB = 2**20


def test_memory_is_what_was_taken_since() -> None:
    tracker = MemoryTracker(CPU)
    if tracker.peak_bytes() is None:
        pytest.skip("this system does not tell what is resident")
    held = torch.ones(16 * 2**20)
    assert 0.9 * 64 * 2**20 < (tracker.peak_bytes() or 0) < 4 * 64 * 2**20
    assert len(held)


def test_available_memory_is_the_machines_within_the_limit_of_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"meminfo": f"MemTotal: 9 kB\nMemAvailable: {900 * 1024} kB\n", "max": f"{700 * MIB}"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "used").write_text(f"{300 * MIB}\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "_MEMINFO_FILE", tmp_path / "meminfo")
    group, unlimited = (tmp_path / "max", tmp_path / "used"), (tmp_path / "none", tmp_path / "used")
    for groups, free_mib in (((group,), 400), ((unlimited, group), 400), ((unlimited,), 900), ((), 900)):
        monkeypatch.setattr(memory, "_CGROUP_FILES", groups)
        assert read_free_bytes(CPU) == free_mib * MIB
    assert read_free_bytes(CPU, num_processes=2) == 450 * MIB
    monkeypatch.setattr(memory, "_MEMINFO_FILE", tmp_path / "no such file")
    assert read_free_bytes(CPU) is None
