"""A study expanded at a scale: each row with each seed, what of it is there, and what the rest costs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from reslab.spec.errors import refuse
from reslab.spec.study import Asked, Study
from reslab.studies.resolve import Definite, definite, questions_of
from reslab.studies.store import Entry, Store, identity, key_of

# The log and the result of a run do not tell these.
EVALUATED = frozenset({"train_error_eval", "train_loss_eval", "gap", "train_error_batch", "test_error_batch"})


@dataclass(frozen=True)
class Job:
    """One seed of a row: the entry of the store that it makes or finds. `wanted` are the metrics to be measured."""

    number: int
    row: Definite
    seed: int
    key: str
    asked: tuple[Asked, ...] = ()
    wanted: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """`plain-56, seed 1`."""
        return f"{self.row.row.name}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """All jobs of a study at a scale, the first seeds of every row first; `rows` are those asked for, in order."""

    study: Study
    scale: str
    rows: tuple[Definite, ...]
    num_seeds: dict[str, int] = field(default_factory=dict)
    jobs: tuple[Job, ...] = ()

    def jobs_of(self, name: str) -> list[Job]:
        """The jobs of a row, by seed."""
        return [job for job in self.jobs if job.row.row.name == name]


def make_plan(
    study: Study,
    scale: str,
    *,
    rows: Sequence[str] = (),
    seeds: int | None = None,
    data_dir: str | Path | None = None,
    device: torch.device | None = None,
) -> Plan:
    """Expand a study at a scale, for `rows` of it (all where none is named), `seeds` in place of its own.

    Raises ValueError for an unknown scale or row (with the nearest names), and for rows that mean nothing.
    """
    if seeds is not None and seeds < 1:
        raise refuse("at least 1 seed", seeds, nearest="1")
    study.cuts.at(scale)
    chosen = [study.row(name) for name in dict.fromkeys(rows)] if rows else list(study.rows)
    place = device or torch.device("cpu")
    found = tuple(definite(study, row, scale, data_dir, place) for row in chosen)
    counts = {one.row.name: seeds or one.cut.seeds or one.row.seeds for one in found}
    return Plan(study, scale, found, counts, tuple(_jobs(study, found, counts)))


def _jobs(study: Study, rows: Sequence[Definite], counts: dict[str, int]) -> list[Job]:
    jobs: list[Job] = []
    for seed in range(max(counts.values(), default=0)):
        for one in rows:
            if seed < counts[one.row.name] and not one.row.members:
                key = key_of(identity(one, seed))
                asked = questions_of(study, one.row, one.cut)
                jobs.append(Job(len(jobs), one, seed, key, asked, wanted_metrics(study, one.row.name)))
    return jobs


def wanted_metrics(study: Study, name: str) -> frozenset[str]:
    """The metrics of a row: its own, those of further reported values, and those of the claims that speak of it."""
    row = study.row(name)
    claimed = {claim.metric for claim in study.claims if name in claim.rows and claim.metric}
    return frozenset({row.metric, *claimed, *(told.metric for told in row.also)})


def is_done(entry: Entry, job: Job) -> bool:
    """Whether an entry holds all that a job wants, undamaged."""
    facts = entry.facts
    if not facts or entry.damage():
        return False
    if facts["status"] == "diverged":
        return True
    told = facts.get("unanswered", {})
    measured = set() if job.row.recipe is None else measured_metrics(job)
    return measured <= facts["values"].keys() and all(
        entry.answer(asked) is not None or entry.answer_path(asked).stem in told for asked in job.asked
    )


def measured_metrics(job: Job) -> set[str]:
    """The figures that an evaluation of their own has to find for those that are wanted."""
    found = {"train_error_eval" if name == "gap" else name for name in job.wanted & EVALUATED}
    return found | ({f"test_error@{job.row.views}"} if job.row.views else set())


def missing(plan: Plan, store: Store) -> list[Job]:
    """The jobs that are not in the store, and whose data are here."""
    return [job for job in plan.jobs if not job.row.absent and not is_done(store.entry(job.key), job)]
