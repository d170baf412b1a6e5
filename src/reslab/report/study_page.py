"""The page of a study: what was found, held against what the paper reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean, stdev
from typing import Any

from reslab.spec.metric import Metric, metric_of
from reslab.spec.study import Cut, Row, Study


@dataclass(frozen=True)
class StudyRun:
    """One seed of a row: `values` by metric in the metric's unit, the lines of log.jsonl, seconds of training.

    `answers` holds what the questions answered, as plain data: `lesion` of the trained network, `gradients@init` at
    initialisation.
    """

    seed: int
    values: Mapping[str, float] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    train_seconds: float = 0.0


@dataclass(frozen=True)
class StudyRow:
    """A row at the page's scale: its runs, none where it was not run and `why` says so; `price_seconds` of all seeds.

    `network` is the network in a few words. Of a row whose worker died, or of which seeds are missing, `why` tells.
    """

    row: Row
    cut: Cut
    runs: Sequence[StudyRun] = ()
    network: str = ""
    why: str = ""
    price_seconds: float | None = None

    def values(self, metric: str = "") -> list[float]:
        """The finite values of a metric (the row's own where none is named), one a seed."""
        name = metric or self.row.metric
        found = [run.values[name] for run in self.runs if run.values.get(name) is not None]
        return [value for value in found if isfinite(value)]

    def mean(self, metric: str = "") -> float | None:
        """The mean over the seeds; None where there is none."""
        values = self.values(metric)
        return fmean(values) if values else None

    def std(self, metric: str = "") -> float | None:
        """The standard deviation over the seeds (n - 1); None below two."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else None

    @property
    def metric(self) -> Metric:
        """What the row measures."""
        return metric_of(self.row.metric)


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and its verdict (`holds`, `fails`, `undecided`, `not judged`); `words` tell why: `5 of 5 seeds; ...`."""

    text: str
    verdict: str
    words: str = ""


@dataclass(frozen=True)
class StudyPage:
    """What the page shows. `facts` are command, hardware, versions and cost; `notes` what a reader must be told beside
    (a damaged entry that was rebuilt, a row that was tried twice). An empty `summary` is written from the verdicts.
    `num_failed` trainings broke off now, each time they were tried."""

    study: Study
    scale: str
    rows: Sequence[StudyRow]
    claims: Sequence[JudgedClaim] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    summary: str = ""
    num_failed: int = 0

    def row(self, name: str) -> StudyRow | None:
        """The row of that name; None where the page has none (`--rows`)."""
        return next((row for row in self.rows if row.row.name == name), None)
