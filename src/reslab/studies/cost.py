"""What jobs cost: processor-seconds and memory, from earlier entries of the store or from a few steps measured here.

A plan with its prices: what is missing, what of it does not fit the memory, what the rest costs.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn import functional

from reslab.nn.network import ResidualNetwork
from reslab.report.format import format_duration, pluralize
from reslab.runtime.device import hardware_info
from reslab.spec.recipe import Recipe
from reslab.studies.plan import StudyJob, StudyPlan, is_done, missing_jobs
from reslab.studies.resolve import ResolvedRow, model_cost
from reslab.studies.store import StudyStore, training_identity

# Forward, and backward for inputs and for weights.
PASSES_PER_STEP = 3
# Opening the data, saving the state, judging the weights, writing the run's page.
OVERHEAD_SECONDS = 1.0
_FLOAT_BYTES = 4
PROCESS_BYTES = 500_000_000
_BENCHMARK_MACS = 4_000_000_000
_MAX_BENCHMARKS = 4

SecondsPerMac = Callable[[ResolvedRow], float]


def total_macs(row: ResolvedRow) -> float:
    """Multiply-adds of a row's training and of the evaluations at the end of each epoch."""
    if row.arch is None or row.recipe is None:
        return 0.0
    macs, batch_size = model_cost(row.arch).macs, row.recipe.batch_size
    num_evaluations = -(-row.num_steps // row.steps_per_epoch) + 1
    return float(macs) * (PASSES_PER_STEP * row.num_steps * batch_size + num_evaluations * row.num_eval)


def estimate_seconds(row: ResolvedRow, seconds_per_mac: float) -> float:
    """Processor-seconds of one seed at `rate` processor-seconds a multiply-add, and what beginning and ending take."""
    return total_macs(row) * seconds_per_mac + (OVERHEAD_SECONDS if row.recipe else 0.0)


def estimate_memory_bytes(row: ResolvedRow) -> int:
    """What a training step needs: weights, gradients, the optimizer's memory, what the backward pass reads; 4 bytes
    each."""
    if row.arch is None:
        return 0
    cost, batch_size = model_cost(row.arch), row.recipe.batch_size if row.recipe else 1
    copies = 3 if row.recipe else 1
    accum_steps = row.recipe.grad_accum_steps if row.recipe else 1
    return _FLOAT_BYTES * (copies * cost.params + cost.num_activations * -(-batch_size // accum_steps))


def available_memory_bytes(device: torch.device) -> int:
    """Memory that can be had: the GPU's, or what the machine has free, within the limit of its group."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _read_lines("/proc/meminfo"):
        if line.startswith("MemAvailable"):
            limits.append(int(line.split()[1]) * 1024)
    limit_lines = [
        *_read_lines("/sys/fs/cgroup/memory.max"),
        *_read_lines("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ]
    limits += [int(line) for line in limit_lines if line.strip().isdigit()]
    return min(limits)


def _read_lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def memory_shortage(row: ResolvedRow, device: torch.device, num_jobs: int = 1) -> str:
    """What a network that does not fit its part of the memory would need, in words; empty for one that fits."""
    needed_bytes, available_bytes = (
        estimate_memory_bytes(row) + (PROCESS_BYTES if device.type == "cpu" else 0),
        available_memory_bytes(device) // num_jobs,
    )
    if needed_bytes <= available_bytes:
        return ""
    batch_size = row.recipe.batch_size if row.recipe else 1
    return (
        f"training {row.spec.name} with a batch of {batch_size} needs about {needed_bytes / 1e9:.1f} GB of memory, "
        f"{available_bytes / 1e9:.1f} GB are there{f' for each of {num_jobs} jobs' if num_jobs > 1 else ''}; "
        "a batch in parts takes less: grad_accum_steps=4"
    )


def find_seconds_per_mac(
    rows: Sequence[ResolvedRow], store: StudyStore, device: torch.device
) -> tuple[SecondsPerMac, str]:
    """Processor-seconds a multiply-add for each row, and where it is from: the store's trainings of that network on
    this machine, else a few steps of up to four of the others, measured now, the nearest in size for the rest."""
    recorded = _recorded_rates(store, device)
    trainable = [row for row in rows if row.arch is not None and row.recipe is not None]
    unrecorded = [row for row in trainable if _speed_key(row) not in recorded]
    benchmarked = {_model_macs(row): _benchmark_row(row, device) for row in _sample_by_size(unrecorded)}

    def seconds_per_mac(row: ResolvedRow) -> float:
        if row.arch is None or row.recipe is None:
            return 0.0
        if _speed_key(row) in recorded:
            return median(recorded[_speed_key(row)])
        return benchmarked[min(benchmarked, key=lambda macs: abs(math.log(macs / _model_macs(row))))]

    num_recorded = len(trainable) - len(unrecorded)
    sources = [f"{pluralize(num_recorded, 'row')} as the store's trainings went"] * bool(num_recorded)
    return seconds_per_mac, ", ".join(
        sources + [f"{pluralize(len(unrecorded), 'row')} from a few steps measured now"] * bool(unrecorded)
    )


def _speed_key(row: ResolvedRow) -> str:
    return _identity_speed_key(training_identity(row, 0))


def _identity_speed_key(identity: Mapping[str, Any]) -> str:
    """What of an identity decides how long a multiply-add takes."""
    recipe = identity["recipe"] or {}
    return str(
        (identity["arch"], [recipe.get(name) for name in ("batch_size", "precision", "channels_last", "compile")])
    )


def _model_macs(row: ResolvedRow) -> int:
    assert row.arch is not None
    return model_cost(row.arch).macs


def _recorded_rates(store: StudyStore, device: torch.device) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {}
    this_hardware = hardware_info(device)
    for metadata in (entry.metadata for entry in store.entries()):
        entry_hardware, seconds, macs = (
            metadata["hardware"],
            metadata.get("processor_seconds"),
            metadata.get("total_macs"),
        )
        if (
            seconds
            and macs
            and (entry_hardware["processor"], entry_hardware["device_name"])
            == (this_hardware["processor"], this_hardware["device_name"])
        ):
            rates.setdefault(_identity_speed_key(metadata["identity"]), []).append(seconds / macs)
    return rates


def _sample_by_size(rows: Sequence[ResolvedRow]) -> list[ResolvedRow]:
    """Up to four of the rows, from the smallest network to the largest."""
    by_size = [group[0] for group in _group_by_macs(rows)]
    last_index = len(by_size) - 1
    indices = sorted({round(last_index * i / (_MAX_BENCHMARKS - 1)) for i in range(_MAX_BENCHMARKS)}) if by_size else []
    return [by_size[index] for index in indices]


def _group_by_macs(rows: Sequence[ResolvedRow]) -> list[list[ResolvedRow]]:
    groups: dict[int, list[ResolvedRow]] = {}
    for row in rows:
        groups.setdefault(_model_macs(row), []).append(row)
    return [groups[macs] for macs in sorted(groups)]


def _benchmark_row(row: ResolvedRow, device: torch.device) -> float:
    """The quicker of two steps after a first one, of fewer images where the network is large."""
    arch, recipe = row.arch, row.recipe
    assert arch is not None
    assert recipe is not None
    batch_size = int(min(recipe.batch_size, max(2, _BENCHMARK_MACS // (PASSES_PER_STEP * _model_macs(row)))))
    model = ResidualNetwork(arch).to(device).train()
    x = torch.randn(batch_size, *arch.input_size, device=device)
    y = torch.zeros(batch_size, dtype=torch.int64, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    timings = []
    for _ in range(3):
        start_time = _synced_clock(device)
        with autocast:
            loss = functional.cross_entropy(model(x).float(), y)
        loss.backward()
        timings.append(_synced_clock(device) - start_time)
    return min(timings[1:]) / (PASSES_PER_STEP * _model_macs(row) * batch_size)


def _synced_clock(device: torch.device) -> float:
    """Seconds of this process's processors; of a GPU, seconds."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def describe_recipe(recipe: Recipe | None) -> str:
    """A recipe in a few words."""
    return "at initialisation" if recipe is None else f"{recipe.duration}, batch {recipe.batch_size}"


@dataclass(frozen=True)
class StudyCost:
    """`todo` are the jobs that are missing and can be done here, `too_large` those that cannot, with the reason."""

    plan: StudyPlan
    seconds_per_mac: SecondsPerMac
    rate_source: str
    pending: tuple[StudyJob, ...]
    too_large: tuple[tuple[StudyJob, str], ...]
    done_numbers: frozenset[int]

    def job_seconds(self, job: StudyJob) -> float:
        """Processor-seconds of a job."""
        return estimate_seconds(job.row, self.seconds_per_mac(job.row))

    def summary(self) -> str:
        """What is left, in a line."""
        if not self.pending:
            return "nothing that can be run here" if self.skip_reasons() else "nothing"
        total_seconds = sum(map(self.job_seconds, self.pending))
        return f"{pluralize(len(self.pending), 'training')}, about {format_duration(total_seconds)} of one processor ({self.rate_source})"

    def skip_reasons(self) -> list[str]:
        """What cannot be run here, each reason once: data that are not here, networks too large for the memory."""
        by_reason: dict[str, list[str]] = {}
        for row in self.plan.rows:
            if row.unavailable_reason:
                by_reason.setdefault(row.unavailable_reason, []).append(row.spec.name)
        unavailable = [f"{', '.join(names)} cannot be run here; {reason}" for reason, names in by_reason.items()]
        return [*unavailable, *dict.fromkeys(reason for _, reason in self.too_large)]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data: `rows`, `num_missing`, `seconds`, `rate_from`."""
        return {
            "rows": [self._row_dict(row.spec.name) for row in self.plan.rows],
            "num_missing": len(self.pending),
            "seconds": sum(self.job_seconds(job) for job in self.pending),
            "rate_source": self.rate_source,
        }

    def _row_dict(self, name: str) -> dict[str, Any]:
        row = next(row for row in self.plan.rows if row.spec.name == name)
        jobs = self.plan.jobs_of(name)
        reasons = dict.fromkeys(reason for job, reason in self.too_large if job.row is row)
        return {
            "name": name,
            "arch": row.arch.name if row.arch else "",
            "data": row.data,
            "preset": row.preset.description,
            "seeds": self.plan.num_seeds[name],
            "done": sum(job.number in self.done_numbers for job in jobs),
            "seconds": estimate_seconds(row, self.seconds_per_mac(row)),
            "memory_bytes": estimate_memory_bytes(row),
            "not_run_reason": "; ".join([f"not here: {row.unavailable_reason}"] if row.unavailable_reason else reasons),
        }


def estimate_study_cost(plan: StudyPlan, store: StudyStore, device: torch.device, num_jobs: int = 1) -> StudyCost:
    """The prices of a plan, see `find_rate`; each of `num_jobs` at a time has its part of the memory."""
    jobs = missing_jobs(plan, store)
    shortages = {job.number: reason for job in jobs if (reason := memory_shortage(job.row, device, num_jobs))}
    seconds_per_mac, rate_source = find_seconds_per_mac(plan.rows, store, device)
    done_numbers = frozenset(job.number for job in plan.jobs if is_done(store.entry(job.key), job))
    return StudyCost(
        plan,
        seconds_per_mac,
        rate_source,
        tuple(job for job in jobs if job.number not in shortages),
        tuple((job, shortages[job.number]) for job in jobs if job.number in shortages),
        done_numbers,
    )
