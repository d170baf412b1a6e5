"""glibc keeps freed memory, and the numbers stay the same."""

import ctypes
import os
import subprocess
import sys

import pytest

from reslab.runtime.allocator import Allocator

SCRIPT = """
import ctypes, sys
from reslab.runtime.allocator import keep_freed_memory
if sys.argv[1] == "tuned":
    keep_freed_memory()
import torch
class MallInfo(ctypes.Structure):  # of glibc's malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = MallInfo
torch.manual_seed(0)
torch.set_num_threads(1)
def step():
    tensors = [torch.randn(30 * 2**18) for _ in range(8)]  # 30 MiB each, below the largest threshold of 32 MiB
    return sum(tensor.sum().item() for tensor in tensors)
total = step()
print(mallinfo().fordblks, total)
"""
MIB = 2**20


def run(argument: str) -> tuple[int, str]:
    outcome = subprocess.run([sys.executable, "-c", SCRIPT, argument], capture_output=True, text=True, check=True)
    free_bytes, total = outcome.stdout.split()
    return int(free_bytes), total


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc 2.33 or later"
)
def test_freed_tensors_stay_with_the_process_and_results_are_equal() -> None:
    # The free memory of the heap, not page faults, which some kernels do not count.
    (default, first), (tuned, second) = run("default"), run("tuned")
    assert first == second
    assert tuned >= 8 * 30 * MIB > 32 * MIB > default


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "1000000", Allocator.BY_ENVIRONMENT),
        ("NOTHING", "", Allocator.TUNED),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_what_the_user_set_is_left_alone(variable: str, value: str, expected: Allocator) -> None:
    code = "from reslab.runtime.allocator import keep_freed_memory; print(keep_freed_memory().value)"
    environment = {**os.environ, variable: value}
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert outcome.stdout.strip() == expected.value
