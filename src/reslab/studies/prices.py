"""A plan with its prices: what is missing, what of it does not fit the memory, what the rest costs."""

from dataclasses import dataclass
from typing import Any

import torch

from reslab.report.format import plural, seconds
from reslab.studies.cost import Rate, find_rate, memory_bytes, price_seconds, too_large
from reslab.studies.plan import Job, Plan, is_done, missing
from reslab.studies.store import Store


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
