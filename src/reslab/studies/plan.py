"""A study expanded at a scale: one job for each seed of each row, and which of them the store already has."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from reslab.spec.errors import invalid
from reslab.spec.study import AnalysisRequest, Study
from reslab.studies.resolve import ResolvedRow, resolve_row, row_analyses
from reslab.studies.store import EntryStatus, StoreEntry, StudyStore, entry_key, training_identity

# Metrics that neither the log nor the result of a run contains.
EVALUATED_METRICS = frozenset({"train_error_eval", "train_loss_eval", "gap", "train_error_batch", "test_error_batch"})


@dataclass(frozen=True)
class StudyJob:
    """One seed of a row, with the `key` of its entry in the store, the analyses to run and the metrics to measure."""

    number: int
    row: ResolvedRow
    seed: int
    key: str
    analyses: tuple[AnalysisRequest, ...] = ()
    metrics: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The name for messages: `plain-56, seed 1`."""
        return f"{self.row.spec.name}, seed {self.seed}"


@dataclass(frozen=True)
class StudyPlan:
    """All jobs of a study at a scale, the first seed of every row first; `rows` are the selected ones, in order."""

    study: Study
    scale: str
    rows: tuple[ResolvedRow, ...]
    num_seeds: dict[str, int] = field(default_factory=dict)
    jobs: tuple[StudyJob, ...] = ()

    def jobs_of(self, name: str) -> list[StudyJob]:
        """Return the jobs of a row, by seed."""
        return [job for job in self.jobs if job.row.spec.name == name]


def make_study_plan(
    study: Study,
    scale: str,
    *,
    rows: Sequence[str] = (),
    seeds: int | None = None,
    data_dir: str | Path | None = None,
    device: torch.device | None = None,
) -> StudyPlan:
    """Expand a study at a scale: all `rows` unless some are named, with `seeds` or the study's own number of seeds.

    Raises ValueError for an unknown scale or row (with the nearest names), and for rows that are invalid.
    """
    if seeds is not None and seeds < 1:
        raise invalid("at least 1 seed", seeds, nearest="1")
    study.presets.for_scale(scale)
    selected_rows = [study.get_row(name) for name in dict.fromkeys(rows)] if rows else list(study.rows)
    resolved_device = device or torch.device("cpu")
    resolved_rows = tuple(resolve_row(study, row, scale, data_dir, resolved_device) for row in selected_rows)
    num_seeds = {
        resolved.spec.name: seeds or resolved.preset.seeds or resolved.spec.seeds for resolved in resolved_rows
    }
    return StudyPlan(study, scale, resolved_rows, num_seeds, tuple(_make_jobs(study, resolved_rows, num_seeds)))


def _make_jobs(study: Study, rows: Sequence[ResolvedRow], num_seeds: dict[str, int]) -> list[StudyJob]:
    jobs: list[StudyJob] = []
    for seed in range(max(num_seeds.values(), default=0)):
        for row in rows:
            if seed < num_seeds[row.spec.name] and not row.spec.members:
                job = StudyJob(
                    number=len(jobs),
                    row=row,
                    seed=seed,
                    key=entry_key(training_identity(row, seed)),
                    analyses=row_analyses(study, row.spec, row.preset),
                    metrics=row_metrics(study, row.spec.name),
                )
                jobs.append(job)
    return jobs


def row_metrics(study: Study, name: str) -> frozenset[str]:
    """Return the metrics of a row: its own, those of its further reported values, and those of claims about it."""
    row = study.get_row(name)
    claim_metrics = {claim.metric for claim in study.claims if name in claim.rows and claim.metric}
    return frozenset({row.metric, *claim_metrics, *(reported.metric for reported in row.more_reported)})


def is_done(entry: StoreEntry, job: StudyJob) -> bool:
    """Return whether an entry is intact and contains everything that a job needs."""
    metadata = entry.metadata
    if metadata is None or entry.find_damage() is not None:
        return False
    if metadata.status is EntryStatus.DIVERGED:
        return True
    evaluated = set() if job.row.recipe is None else evaluated_metrics(job)
    return evaluated <= metadata.values.keys() and all(
        entry.read_result(request) is not None or entry.result_path(request).stem in metadata.failed_analyses
        for request in job.analyses
    )


def evaluated_metrics(job: StudyJob) -> set[str]:
    """Return the metrics of a job that need an evaluation of their own."""
    metrics = {"train_error_eval" if name == "gap" else name for name in job.metrics & EVALUATED_METRICS}
    return metrics | ({f"test_error@{job.row.tta}"} if job.row.tta else set())


def missing_jobs(plan: StudyPlan, store: StudyStore) -> list[StudyJob]:
    """Return the jobs that the store does not have, and whose data are available."""
    return [job for job in plan.jobs if not job.row.unavailable_reason and not is_done(store.entry(job.key), job)]
