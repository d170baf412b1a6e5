"""Estimate what the jobs of a study cost: processor-seconds and memory, from finished trainings or from a few steps.

The rate of a network (seconds for one multiply-add) comes from its earlier trainings in the store, else from a few
steps measured now.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from reslab.report.format import format_duration, pluralize
from reslab.runtime.device import hardware_info
from reslab.runtime.memory import read_free_bytes, release_memory
from reslab.spec.recipe import Recipe
from reslab.studies.plan import StudyJob, StudyPlan, StudyStore, is_done, missing_jobs, training_identity
from reslab.studies.resolve import ResolvedRow, build_network, model_cost, random_step_loss

# One forward pass, and a backward pass for inputs and weights.
PASSES_PER_STEP = 3
# Opening the data, writing the checkpoint, evaluating the weights, writing the report.
OVERHEAD_SECONDS = 1.0
PROCESS_BYTES = 500_000_000
_FLOAT_BYTES = 4
_BENCHMARK_MACS = 4_000_000_000
_MAX_BENCHMARKS = 4
# The recipe's values that change how long a multiply-add takes.
_SPEED_KEYS = ("batch_size", "precision", "channels_last", "compile")

SecondsPerMac = Callable[[ResolvedRow], float]


def total_macs(row: ResolvedRow) -> float:
    """Return the multiply-adds of a row's training and of the evaluations at the end of each epoch."""
    if row.arch is None or row.recipe is None:
        return 0.0
    macs, batch_size = model_cost(row.arch).macs, row.recipe.batch_size
    num_evaluations = -(-row.num_steps // row.steps_per_epoch) + 1
    return float(macs) * (PASSES_PER_STEP * row.num_steps * batch_size + num_evaluations * row.num_eval)


def estimate_seconds(row: ResolvedRow, seconds_per_mac: float) -> float:
    """Return the processor-seconds of one seed, with the overhead at start and end."""
    return total_macs(row) * seconds_per_mac + (OVERHEAD_SECONDS if row.recipe else 0.0)


def estimate_memory_bytes(row: ResolvedRow) -> int:
    """Return the memory of a training step in float32: weights, gradients, optimizer state, and activations."""
    if row.arch is None:
        return 0
    cost, batch_size = model_cost(row.arch), row.recipe.batch_size if row.recipe else 1
    copies = 3 if row.recipe else 1
    accum_steps = row.recipe.grad_accum_steps if row.recipe else 1
    return _FLOAT_BYTES * (copies * cost.params + cost.num_activations * -(-batch_size // accum_steps))


def available_memory_bytes(device: torch.device) -> int:
    """Return the memory that jobs can use: all of a GPU, or what the machine has free."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    release_memory()
    free_bytes = read_free_bytes(device)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if free_bytes is None else free_bytes


def memory_shortage(row: ResolvedRow, device: torch.device, available_bytes: int, num_jobs: int = 1) -> str | None:
    """Return a text that says what a row needs, if that is more than its share of the memory; None if it fits."""
    needed_bytes = estimate_memory_bytes(row) + (PROCESS_BYTES if device.type == "cpu" else 0)
    share_bytes = available_bytes // num_jobs
    if needed_bytes <= share_bytes:
        return None
    batch_size = row.recipe.batch_size if row.recipe else 1
    share_text = f" for each of {num_jobs} jobs" if num_jobs > 1 else ""
    return (
        f"training {row.spec.name} with a batch of {batch_size} needs about {needed_bytes / 1e9:.1f} GB of memory, but "
        f"{share_bytes / 1e9:.1f} GB are available{share_text}; grad_accum_steps=4 needs less"
    )


def processor_clock(device: torch.device) -> float:
    """Return the seconds of processor time of this process, or wall-clock seconds on a GPU."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def find_seconds_per_mac(
    rows: Sequence[ResolvedRow], store: StudyStore, device: torch.device
) -> tuple[SecondsPerMac, str]:
    """Return the rate of each row, and a text that says where the rates come from.

    The rate of a network is the median of its trainings in the store on this hardware. Up to four of the other networks
    are measured now; the rest take the rate of the nearest in size.
    """
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
    sources = [f"{pluralize(num_recorded, 'row')} from earlier trainings"] * bool(num_recorded)
    sources += [f"{pluralize(len(unrecorded), 'row')} from a few steps measured now"] * bool(unrecorded)
    return seconds_per_mac, ", ".join(sources)


def _speed_key(row: ResolvedRow) -> str:
    return _identity_speed_key(training_identity(row, 0))


def _identity_speed_key(identity: Mapping[str, Any]) -> str:
    recipe = identity["recipe"] or {}
    return str((identity["arch"], [recipe.get(name) for name in _SPEED_KEYS]))


def _model_macs(row: ResolvedRow) -> int:
    assert row.arch is not None
    return model_cost(row.arch).macs


def _recorded_rates(store: StudyStore, device: torch.device) -> dict[str, list[float]]:
    """Return the rates of the store's trainings on this hardware, by speed key."""
    rates: dict[str, list[float]] = {}
    hardware = hardware_info(device)
    for metadata in (entry.metadata for entry in store.entries()):
        if metadata is None or not metadata.processor_seconds or not metadata.total_macs:
            continue
        if all(metadata.hardware[name] == hardware[name] for name in ("processor", "device_name")):
            key = _identity_speed_key(metadata.identity)
            rates.setdefault(key, []).append(metadata.processor_seconds / metadata.total_macs)
    return rates


def _sample_by_size(rows: Sequence[ResolvedRow]) -> list[ResolvedRow]:
    """Return up to four of the rows, evenly spaced from the smallest network to the largest."""
    by_macs: dict[int, ResolvedRow] = {}
    for row in rows:
        by_macs.setdefault(_model_macs(row), row)
    by_size = [by_macs[macs] for macs in sorted(by_macs)]
    last_index = len(by_size) - 1
    indices = sorted({round(last_index * i / (_MAX_BENCHMARKS - 1)) for i in range(_MAX_BENCHMARKS)}) if by_size else []
    return [by_size[index] for index in indices]


def _benchmark_row(row: ResolvedRow, device: torch.device) -> float:
    """Return the seconds for one multiply-add: the faster of two steps after a warmup, on a batch of limited cost."""
    arch, recipe = row.arch, row.recipe
    assert arch is not None
    assert recipe is not None
    batch_size = int(min(recipe.batch_size, max(2, _BENCHMARK_MACS // (PASSES_PER_STEP * _model_macs(row)))))
    model = build_network(arch).to(device).train()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    timings = []
    for _ in range(3):
        start_time = processor_clock(device)
        with autocast:
            loss = random_step_loss(model, arch, batch_size, device)
        loss.backward()
        timings.append(processor_clock(device) - start_time)
    return min(timings[1:]) / (PASSES_PER_STEP * _model_macs(row) * batch_size)


def describe_recipe(recipe: Recipe | None) -> str:
    """Return a recipe in a few words."""
    return "at initialization" if recipe is None else f"{recipe.duration}, batch {recipe.batch_size}"


@dataclass(frozen=True)
class StudyCost:
    """A plan with its cost: `pending` jobs are missing and can run here, `too_large` ones cannot, each with a reason.

    `rate_source` says where the rates come from, `done_numbers` are the numbers of the jobs in the store.
    """

    plan: StudyPlan
    seconds_per_mac: SecondsPerMac
    rate_source: str
    pending: tuple[StudyJob, ...]
    too_large: tuple[tuple[StudyJob, str], ...]
    done_numbers: frozenset[int]

    def job_seconds(self, job: StudyJob) -> float:
        """Return the processor-seconds of a job."""
        return estimate_seconds(job.row, self.seconds_per_mac(job.row))

    def summary(self) -> str:
        """Return a line that says what is left to do."""
        if not self.pending:
            return "nothing that can run here" if self.skip_reasons() else "nothing"
        duration = format_duration(sum(map(self.job_seconds, self.pending)))
        return f"{pluralize(len(self.pending), 'training')}, about {duration} on one processor ({self.rate_source})"

    def skip_reasons(self) -> list[str]:
        """Return why some rows cannot run here, each reason once: missing data, networks too large for the memory."""
        by_reason: dict[str, list[str]] = {}
        for row in self.plan.rows:
            if row.unavailable_reason:
                by_reason.setdefault(row.unavailable_reason, []).append(row.spec.name)
        unavailable = [f"{', '.join(names)} cannot run here: {reason}" for reason, names in by_reason.items()]
        return [*unavailable, *dict.fromkeys(reason for _, reason in self.too_large)]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data: `rows`, `num_missing`, `seconds`, `rate_source`."""
        return {
            "rows": [self._row_dict(row) for row in self.plan.rows],
            "num_missing": len(self.pending),
            "seconds": sum(self.job_seconds(job) for job in self.pending),
            "rate_source": self.rate_source,
        }

    def _row_dict(self, row: ResolvedRow) -> dict[str, Any]:
        name = row.spec.name
        reasons = dict.fromkeys(reason for job, reason in self.too_large if job.row is row)
        return {
            "name": name,
            "arch": row.arch.name if row.arch else "",
            "data": row.data,
            "preset": row.preset.description,
            "seeds": self.plan.num_seeds[name],
            "done": sum(job.number in self.done_numbers for job in self.plan.jobs_of(name)),
            "seconds": estimate_seconds(row, self.seconds_per_mac(row)),
            "memory_bytes": estimate_memory_bytes(row),
            "not_run_reason": "; ".join([row.unavailable_reason] if row.unavailable_reason else reasons),
        }


def estimate_study_cost(plan: StudyPlan, store: StudyStore, device: torch.device, num_jobs: int = 1) -> StudyCost:
    """Estimate the cost of a plan; `num_jobs` jobs at a time share the memory."""
    jobs = missing_jobs(plan, store)
    available_bytes = available_memory_bytes(device) if jobs else 0
    shortages = {job.number: memory_shortage(job.row, device, available_bytes, num_jobs) for job in jobs}
    seconds_per_mac, rate_source = find_seconds_per_mac(plan.rows, store, device)
    return StudyCost(
        plan=plan,
        seconds_per_mac=seconds_per_mac,
        rate_source=rate_source,
        pending=tuple(job for job in jobs if shortages[job.number] is None),
        too_large=tuple((job, reason) for job in jobs if (reason := shortages[job.number]) is not None),
        done_numbers=frozenset(job.number for job in plan.jobs if is_done(store.entry(job.key), job)),
    )
