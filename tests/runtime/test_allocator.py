"""glibc keeps freed memory: fewer page faults, the same numbers."""

import os
import subprocess
import sys

import pytest

from reslab.runtime.allocator import Allocator

SCRIPT = """
import resource, sys
from reslab.runtime.allocator import keep_freed_memory
if sys.argv[1] == "tuned":
    keep_freed_memory()
import torch
torch.manual_seed(0)
x, w = torch.randn(64, 256, 64), torch.randn(64, 64, 64)
def step():
    return sum((x @ w[i]).relu().sum() for i in range(4))
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
total = sum(step().item() for _ in range(10))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, total)
"""


def run(argument: str) -> tuple[int, str]:
    outcome = subprocess.run([sys.executable, "-c", SCRIPT, argument], capture_output=True, text=True, check=True)
    faults, total = outcome.stdout.split()
    return int(faults), total


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_steps_fault_less_and_compute_the_same() -> None:
    (default, first), (tuned, second) = run("default"), run("tuned")
    assert first == second
    assert tuned < default / 4


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
