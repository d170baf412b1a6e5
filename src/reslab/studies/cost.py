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

from reslab.nn.network import Network
from reslab.report.format import plural, seconds
from reslab.runtime.device import hardware
from reslab.spec.recipe import Recipe
from reslab.studies.plan import Job, Plan, is_done, missing
from reslab.studies.resolve import Definite, weight
from reslab.studies.store import Store, identity

# Forward, and backward for inputs and for weights.
PASSES = 3
# Opening the data, saving the state, judging the weights, writing the run's page.
BESIDE_SECONDS = 1.0
_FLOAT_BYTES = 4
PROCESS_BYTES = 500_000_000
_MEASURED_MACS = 4_000_000_000
_MOST_MEASURED = 4

Rate = Callable[[Definite], float]


def work_macs(row: Definite) -> float:
    """Multiply-adds of a row's training and of the evaluations at the end of each epoch."""
    if row.arch is None or row.recipe is None:
        return 0.0
    macs, batch = weight(row.arch).macs, row.recipe.batch
    num_evaluations = -(-row.num_steps // row.steps_per_epoch) + 1
    return float(macs) * (PASSES * row.num_steps * batch + num_evaluations * row.num_judged)


def price_seconds(row: Definite, rate: float) -> float:
    """Processor-seconds of one seed at `rate` processor-seconds a multiply-add, and what beginning and ending take."""
    return work_macs(row) * rate + (BESIDE_SECONDS if row.recipe else 0.0)


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


def too_large(row: Definite, device: torch.device, num_jobs: int = 1) -> str:
    """What a network that does not fit its part of the memory would need, in words; empty for one that fits."""
    needed, there = (
        memory_bytes(row) + (PROCESS_BYTES if device.type == "cpu" else 0),
        available_bytes(device) // num_jobs,
    )
    if needed <= there:
        return ""
    batch = row.recipe.batch if row.recipe else 1
    return (
        f"training {row.row.name} with a batch of {batch} needs about {needed / 1e9:.1f} GB of memory, "
        f"{there / 1e9:.1f} GB are there{f' for each of {num_jobs} jobs' if num_jobs > 1 else ''}; "
        "a batch in parts takes less: accumulate=4"
    )


def find_rate(rows: Sequence[Definite], store: Store, device: torch.device) -> tuple[Rate, str]:
    """Processor-seconds a multiply-add for each row, and where it is from: the store's trainings of that network on
    this machine, else a few steps of up to four of the others, measured now, the nearest in size for the rest."""
    known = _known_rates(store, device)
    trained = [row for row in rows if row.arch is not None and row.recipe is not None]
    fresh = [row for row in trained if _signature(row) not in known]
    measured = {_macs(row): _measured(row, device) for row in _spread(fresh)}

    def rate(row: Definite) -> float:
        if row.arch is None or row.recipe is None:
            return 0.0
        if _signature(row) in known:
            return median(known[_signature(row)])
        return measured[min(measured, key=lambda macs: abs(math.log(macs / _macs(row))))]

    known_rows = len(trained) - len(fresh)
    told = [f"{plural(known_rows, 'row')} as the store's trainings went"] * bool(known_rows)
    return rate, ", ".join(told + [f"{plural(len(fresh), 'row')} from a few steps measured now"] * bool(fresh))


def _signature(row: Definite) -> str:
    return _pace(identity(row, 0))


def _pace(told: Mapping[str, Any]) -> str:
    """What of an identity decides how long a multiply-add takes."""
    recipe = told["recipe"] or {}
    return str((told["arch"], [recipe.get(name) for name in ("batch", "precision", "channels_last", "compile")]))


def _macs(row: Definite) -> int:
    assert row.arch is not None
    return weight(row.arch).macs


def _known_rates(store: Store, device: torch.device) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    here = hardware(device)
    for facts in (entry.facts for entry in store.entries()):
        there, spent, done = facts["hardware"], facts.get("processor_seconds"), facts.get("work_macs")
        if spent and done and (there["processor"], there["device_name"]) == (here["processor"], here["device_name"]):
            found.setdefault(_pace(facts["identity"]), []).append(spent / done)
    return found


def _spread(rows: Sequence[Definite]) -> list[Definite]:
    """Up to four of the rows, from the smallest network to the largest."""
    by_size = [group[0] for group in _by_macs(rows)]
    last = len(by_size) - 1
    places = sorted({round(last * part / (_MOST_MEASURED - 1)) for part in range(_MOST_MEASURED)}) if by_size else []
    return [by_size[place] for place in places]


def _by_macs(rows: Sequence[Definite]) -> list[list[Definite]]:
    found: dict[int, list[Definite]] = {}
    for row in rows:
        found.setdefault(_macs(row), []).append(row)
    return [found[macs] for macs in sorted(found)]


def _measured(row: Definite, device: torch.device) -> float:
    """The quicker of two steps after a first one, of fewer images where the network is large."""
    arch, recipe = row.arch, row.recipe
    assert arch is not None
    assert recipe is not None
    number = int(min(recipe.batch, max(2, _MEASURED_MACS // (PASSES * _macs(row)))))
    model = Network(arch).to(device).train()
    x = torch.randn(number, *arch.input_size, device=device)
    y = torch.zeros(number, dtype=torch.int64, device=device)
    low = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    spent = []
    for _ in range(3):
        began = _clock(device)
        with low:
            loss = functional.cross_entropy(model(x).float(), y)
        loss.backward()
        spent.append(_clock(device) - began)
    return min(spent[1:]) / (PASSES * _macs(row) * number)


def _clock(device: torch.device) -> float:
    """Seconds of this process's processors; of a GPU, seconds."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def describe_recipe(recipe: Recipe | None) -> str:
    """A recipe in a few words."""
    return "at initialisation" if recipe is None else f"{recipe.length}, batch {recipe.batch}"


@dataclass(frozen=True)
class Price:
    """`todo` are the jobs that are missing and can be done here, `too_large` those that cannot, with the reason."""

    plan: Plan
    rate: Rate
    rate_from: str
    todo: tuple[Job, ...]
    too_large: tuple[tuple[Job, str], ...]
    done: frozenset[int]

    def seconds_of(self, job: Job) -> float:
        """Processor-seconds of a job."""
        return price_seconds(job.row, self.rate(job.row))

    def summary(self) -> str:
        """What is left, in a line."""
        if not self.todo:
            return "nothing that can be run here" if self.refused() else "nothing"
        total = sum(map(self.seconds_of, self.todo))
        return f"{plural(len(self.todo), 'training')}, about {seconds(total)} of one processor ({self.rate_from})"

    def refused(self) -> list[str]:
        """What cannot be run here, each reason once: data that are not here, networks too large for the memory."""
        by_reason: dict[str, list[str]] = {}
        for row in self.plan.rows:
            if row.absent:
                by_reason.setdefault(row.absent, []).append(row.row.name)
        absent = [f"{', '.join(names)} cannot be run here; {why}" for why, names in by_reason.items()]
        return [*absent, *dict.fromkeys(why for _, why in self.too_large)]

    def facts(self) -> dict[str, Any]:
        """The plan as plain data: `rows`, `num_missing`, `seconds`, `rate_from`."""
        return {
            "rows": [self._row(row.row.name) for row in self.plan.rows],
            "num_missing": len(self.todo),
            "seconds": sum(self.seconds_of(job) for job in self.todo),
            "rate_from": self.rate_from,
        }

    def _row(self, name: str) -> dict[str, Any]:
        row = next(row for row in self.plan.rows if row.row.name == name)
        jobs = self.plan.jobs_of(name)
        refused = dict.fromkeys(why for job, why in self.too_large if job.row is row)
        return {
            "name": name,
            "network": row.arch.name if row.arch else "",
            "data": row.data,
            "cut": row.cut.words,
            "seeds": self.plan.num_seeds[name],
            "done": sum(job.number in self.done for job in jobs),
            "seconds": price_seconds(row, self.rate(row)),
            "memory_bytes": memory_bytes(row),
            "why": "; ".join([f"not here: {row.absent}"] if row.absent else refused),
        }


def prices(plan: Plan, store: Store, device: torch.device, num_jobs: int = 1) -> Price:
    """The prices of a plan, see `find_rate`; each of `num_jobs` at a time has its part of the memory."""
    jobs = missing(plan, store)
    refused = {job.number: why for job in jobs if (why := too_large(job.row, device, num_jobs))}
    rate, told = find_rate(plan.rows, store, device)
    done = frozenset(job.number for job in plan.jobs if is_done(store.entry(job.key), job))
    return Price(
        plan,
        rate,
        told,
        tuple(job for job in jobs if job.number not in refused),
        tuple((job, refused[job.number]) for job in jobs if job.number in refused),
        done,
    )
