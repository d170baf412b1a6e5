"""What a study's page says in sentences: the scale, the summary, numbers with their spread.

The page of a study: what was found, held against what the paper reports.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean, stdev
from typing import Any

from reslab.report.format import format_duration, format_int, pluralize
from reslab.spec.study import Metric, ReportedValue, RowSpec, ScalePreset, Study, get_metric


@dataclass(frozen=True)
class StudyRun:
    """One seed of a row: `values` by metric in the metric's unit, the lines of log.jsonl, seconds of training.

    `answers` holds what the questions answered, as plain data: `lesion` of the trained network, `gradients@init` at
    initialisation.
    """

    seed: int
    values: Mapping[str, float] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    analysis_results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    train_seconds: float = 0.0


@dataclass(frozen=True)
class StudyRow:
    """A row at the page's scale: its runs, none where it was not run and `why` says so; `price_seconds` of all seeds.

    `network` is the network in a few words. Of a row whose worker died, or of which seeds are missing, `why` tells.
    """

    row: RowSpec
    preset: ScalePreset
    runs: Sequence[StudyRun] = ()
    arch_text: str = ""
    not_run_reason: str = ""
    estimated_seconds: float | None = None

    def values(self, metric: str = "") -> list[float]:
        """The finite values of a metric (the row's own where none is named), one a seed."""
        name = metric or self.row.metric
        recorded = [run.values[name] for run in self.runs if run.values.get(name) is not None]
        return [value for value in recorded if isfinite(value)]

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
        return get_metric(self.row.metric)


@dataclass(frozen=True)
class ClaimResult:
    """A claim and its verdict (`holds`, `fails`, `undecided`, `not judged`); `words` tell why: `5 of 5 seeds; ...`."""

    text: str
    verdict: str
    explanation: str = ""


@dataclass(frozen=True)
class StudyPage:
    """What the page shows. `facts` are command, hardware, versions and cost; `notes` what a reader must be told beside
    (a damaged entry that was rebuilt, a row that was tried twice). An empty `summary` is written from the verdicts.
    `num_failed` trainings broke off now, each time they were tried."""

    study: Study
    scale: str
    rows: Sequence[StudyRow]
    claims: Sequence[ClaimResult] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    summary: str = ""
    num_failed: int = 0

    def row(self, name: str) -> StudyRow | None:
        """The row of that name; None where the page has none (`--rows`)."""
        return next((row for row in self.rows if row.row.name == name), None)


_SCALE_DESCRIPTIONS = {
    "smoke": "a check that everything runs, on tiny networks and data: its numbers mean nothing",
    "short": "a proxy, cut down until it runs on two processor cores: orderings can be held against the paper's, "
    "the numbers themselves cannot",
    "full": "the paper's own procedure: its numbers can be held against the paper's",
}
VERDICTS = ("holds", "fails", "undecided", "not judged")


def stamp_text(page: StudyPage) -> str:
    """What is stamped inside each figure: `he2015/degradation, short scale, 3 seeds`."""
    return f"reslab · {page.study.name} · {page.scale} scale · {seeds_text(page)}"


def seeds_text(page: StudyPage) -> str:
    """`3 seeds`, or `1 to 3 seeds` where the rows differ; rows that were not run do not count."""
    seed_counts = sorted({len(row.runs) for row in page.rows if row.runs})
    if not seed_counts:
        return "not run"
    return (
        pluralize(seed_counts[0], "seed") if len(seed_counts) == 1 else f"{seed_counts[0]} to {seed_counts[-1]} seeds"
    )


def scale_text(page: StudyPage) -> str:
    """What the scale is, and what it cuts: all rows, or the first of those that share the commonest cut."""
    descriptions = [row.preset.description for row in page.rows]
    most_common = max(descriptions, key=descriptions.count) if descriptions else ""
    subject = (
        "Here" if len(set(descriptions)) < 2 else f"{page.rows[descriptions.index(most_common)].row.name}, for one"
    )
    if page.scale != "full" and not any(row.preset.changes_procedure for row in page.rows):
        return f"{page.scale.capitalize()} scale: {most_common}."
    preset_text = f" {subject}: {most_common}." if most_common and page.scale != "full" else ""
    return f"{page.scale.capitalize()} scale: {_SCALE_DESCRIPTIONS[page.scale]}.{preset_text}"


def study_summary_text(page: StudyPage) -> str:
    """One or two sentences: how many claims hold, fail, are undecided; how many rows were run."""
    if page.summary:
        return page.summary
    num_run = sum(bool(row.runs) for row in page.rows)
    rows_text = (
        f"{num_run} of {pluralize(len(page.rows), 'row')} run"
        if num_run < len(page.rows)
        else f"all {format_int(num_run)} rows run"
    )
    if not page.claims:
        return f"{rows_text.capitalize()}."
    verdict_counts = {verdict: sum(claim.verdict == verdict for claim in page.claims) for verdict in VERDICTS}
    verb = "holds" if 1 in (verdict_counts["holds"], len(page.claims)) else "hold"
    clauses = [f"{verdict_counts['holds']} of {pluralize(len(page.claims), 'claim')} {verb}"]
    clauses += (
        [f"{verdict_counts['fails']} {'fails' if verdict_counts['fails'] == 1 else 'fail'}"]
        if verdict_counts["fails"]
        else []
    )
    clauses += [f"{verdict_counts['undecided']} undecided"] if verdict_counts["undecided"] else []
    clauses += [f"{verdict_counts['not judged']} not judged"] if verdict_counts["not judged"] else []
    return f"{', '.join(clauses)} at {page.scale} scale; {rows_text}, {seeds_text(page)} each."


def ours_text(row: StudyRow, metric: str, unit: str) -> str:
    """`31.20 ± 0.41 %`; `1.12 ± 0.18`; `31.20 %` of one seed; `not run`."""
    mean, std = row.mean(metric), row.std(metric)
    if mean is None:
        return "not run" if not row.runs else "no number"
    if std and not unit:
        decimals = max(0, 1 - math.floor(math.log10(std)))
        return f"{mean:,.{decimals}f} ± {std:,.{decimals}f}"
    std_text = f" ± {format_metric_value(std, unit, omit_unit=True)}" if std is not None else ""
    return f"{format_metric_value(mean, unit, omit_unit=True)}{std_text}{_unit_suffix(unit)}"


def reported_text(reported: ReportedValue | None, unit: str) -> str:
    """`8.75 %`, `6.61 ± 0.16 %`, `fail: above 20 %`, a dash where nothing is reported."""
    if reported is None:
        return "–"
    if reported.value is None:
        return reported.note or "none"
    std_text = f" ± {reported.std:g}" if reported.std is not None else ""
    return f"{reported.value:g}{std_text}{_unit_suffix(unit)}" + (
        " (from memory)" if reported.provenance == "from_memory" else ""
    )


def provenance_text(reported: ReportedValue | None) -> str:
    """How the reported value came about, and where it is printed."""
    if reported is None:
        return ""
    note_text = f"; {reported.note}" if reported.note and reported.value is not None else ""
    statistic = "a single run" if reported.statistic == "single" else reported.statistic
    procedure = ", ".join(part for part in (statistic, reported.protocol) if part)
    return f"{procedure}; {reported.location}{note_text}"


def format_metric_value(value: float | None, unit: str, *, omit_unit: bool = False) -> str:
    """A value in two decimals where it is percent, whole where it counts steps, else in four digits."""
    if value is None:
        return "–"
    if unit == "s":
        return format_duration(value)
    text = f"{value:.2f}" if unit == "%" else f"{value:,.0f}" if unit == "steps" else f"{value:.4g}"
    return text if omit_unit else f"{text}{_unit_suffix(unit)}"


def estimated_time_text(row: StudyRow) -> str:
    """What a row that was not run would cost, as estimated."""
    return f"about {format_duration(row.estimated_seconds)}" if row.estimated_seconds else "not known"


def metric_descriptions(metrics: Sequence[Metric]) -> list[str]:
    """What each metric is: `test_error: error on the test pictures, ...`."""
    unique = dict.fromkeys(metrics)
    return [f"{metric_display_name(metric.name)}: {metric.description}." for metric in unique]


def metric_display_name(name: str) -> str:
    """A metric's name for a reader: `test error`, `test error, top 5`, `responses, mean std`."""
    for suffix, text in (("_top5", ", top 5"), ("_eval", ", eval mode"), ("_batch", ", by the batch")):
        name = name.replace(suffix, text)
    return name.replace("_", " ").replace(".", ", ")


def figure_alt_text(page: StudyPage, title: str, rows: Sequence[str] = (), metric: str = "") -> str:
    """A figure in words, for those who do not see it: its title, the values of `rows` (all where none is named)."""
    selected = [row for row in page.rows if not rows or row.row.name in rows]
    row_metrics = [(row, get_metric(metric) if metric else row.metric) for row in selected]
    values = [
        f"{row.row.name} {ours_text(row, row_metric.name, row_metric.unit)}"
        for row, row_metric in row_metrics
        if row.values(row_metric.name)
    ]
    return f"{title}, {page.scale} scale. " + ("; ".join(values[:12]) + "." if values else "")


def _unit_suffix(unit: str) -> str:
    return f" {unit}" if unit else ""
