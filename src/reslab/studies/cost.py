"""What jobs cost: processor-seconds and memory, from earlier entries of the store or from a few steps measured here."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional

from reslab.nn.network import Network
from reslab.spec.arch import Arch
from reslab.spec.recipe import Recipe
from reslab.studies.resolving import Definite, weight
from reslab.studies.store import Store, told_arch
from reslab.training.device import hardware

# Forward, and backward for inputs and for weights.
PASSES = 3
_FLOAT_BYTES = 4
_PROCESS_BYTES = 500_000_000
_MEASURED_IMAGES = 16

Rate = Callable[[Definite], float]


def work_macs(row: Definite) -> float:
    """Multiply-adds of a row's training and of the evaluations at the end of each epoch."""
    if row.arch is None or row.recipe is None:
        return 0.0
    macs, batch = weight(row.arch).macs, row.recipe.batch
    num_evaluations = -(-row.num_steps // row.steps_per_epoch) + 1
    return float(macs) * (PASSES * row.num_steps * batch + num_evaluations * row.num_judged)


def price_seconds(row: Definite, rate: float) -> float:
    """Processor-seconds of one seed at `rate` processor-seconds a multiply-add."""
    return work_macs(row) * rate


def memory_bytes(row: Definite) -> int:
    """What a training step needs: weights, gradients, the optimizer's memory, what the backward pass reads; 4 bytes
    each."""
    if row.arch is None:
        return 0
    found, batch = weight(row.arch), row.recipe.batch if row.recipe else 1
    copies = 3 if row.recipe else 1
    accumulate = row.recipe.accumulate if row.recipe else 1
    return _FLOAT_BYTES * (copies * found.params + found.kept * -(-batch // accumulate))


def available_bytes(device: torch.device) -> int:
    """Memory that can be had: the GPU's, or what the machine has free, within the limit of its group."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable"):
            found.append(int(line.split()[1]) * 1024)
    limits = [*_lines("/sys/fs/cgroup/memory.max"), *_lines("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    found += [int(line) for line in limits if line.strip().isdigit()]
    return min(found)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def too_large(row: Definite, device: torch.device) -> str:
    """What a network that does not fit the memory would need, in words; empty for one that fits."""
    needed, there = memory_bytes(row) + (_PROCESS_BYTES if device.type == "cpu" else 0), available_bytes(device)
    if needed <= there:
        return ""
    batch = row.recipe.batch if row.recipe else 1
    return (
        f"training {row.row.name} with a batch of {batch} needs about {needed / 1e9:.1f} GB of memory, "
        f"{there / 1e9:.1f} GB are there; parts of a batch take less: accumulate=4"
    )


def store_rate(store: Store, device: torch.device) -> Rate | None:
    """Processor-seconds a multiply-add, of the same network where the store has it, else the median of all; None of an
    empty store. Entries of another machine do not count."""
    found: dict[str, list[float]] = {}
    here = hardware(device)
    for facts in (entry.facts for entry in store.entries()):
        machine = facts["hardware"]
        spent = facts["values"].get("train_seconds")
        done = PASSES * facts["macs"] * facts["num_steps"] * facts["batch"]
        if (
            spent
            and done
            and (machine["processor"], machine["device_name"]) == (here["processor"], here["device_name"])
        ):
            used = min(machine["num_threads"], machine["num_cores"])
            found.setdefault(str(facts["identity"]["arch"]), []).append(spent * used / done)
    if not found:
        return None
    all_of_them = median(rate for rates in found.values() for rate in rates)
    return lambda row: median(found.get(str(told_arch(row.arch)), [all_of_them]))


def measured_rate(rows: Sequence[Definite], device: torch.device) -> Rate | None:
    """Processor-seconds a multiply-add, of three steps of the cheapest network here; None where there is none."""
    trained = [row for row in rows if row.arch is not None and row.recipe is not None]
    if not trained:
        return None
    row = min(trained, key=lambda one: weight(one.arch).macs if one.arch else 0)
    assert row.arch is not None
    rate = _rate_of(row.arch, device)
    return lambda _: rate


def _rate_of(arch: Arch, device: torch.device) -> float:
    model = Network(arch).to(device).train()
    x = torch.randn(_MEASURED_IMAGES, *arch.input_size, device=device)
    y = torch.zeros(_MEASURED_IMAGES, dtype=torch.int64, device=device)
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        functional.cross_entropy(model(x), y).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - began)
    processors = 1 if device.type == "cuda" else torch.get_num_threads()
    return median(spent[1:]) * processors / (PASSES * weight(arch).macs * _MEASURED_IMAGES)


def describe_recipe(recipe: Recipe | None) -> str:
    """A recipe in a few words."""
    return "at initialisation" if recipe is None else f"{recipe.length}, batch {recipe.batch}"
