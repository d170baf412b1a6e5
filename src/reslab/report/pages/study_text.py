"""What a study's page says in sentences: the scale, the summary, numbers with their spread.

The page of a study: what was found, held against what the paper reports.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean, stdev
from typing import Any

from reslab.report.format import count, plural, seconds
from reslab.spec.study import Cut, Metric, Reported, Row, Study, metric_of


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


_SCALES = {
    "smoke": "a check that everything runs, on tiny networks and data: its numbers mean nothing",
    "short": "a proxy, cut down until it runs on two processor cores: orderings can be held against the paper's, "
    "the numbers themselves cannot",
    "full": "the paper's own procedure: its numbers can be held against the paper's",
}
VERDICTS = ("holds", "fails", "undecided", "not judged")


def stamp_words(page: StudyPage) -> str:
    """What is stamped inside each figure: `he2015/degradation, short scale, 3 seeds`."""
    return f"reslab · {page.study.name} · {page.scale} scale · {seeds_words(page)}"


def seeds_words(page: StudyPage) -> str:
    """`3 seeds`, or `1 to 3 seeds` where the rows differ; rows that were not run do not count."""
    numbers = sorted({len(row.runs) for row in page.rows if row.runs})
    if not numbers:
        return "not run"
    return plural(numbers[0], "seed") if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"


def scale_words(page: StudyPage) -> str:
    """What the scale is, and what it cuts: all rows, or the first of those that share the commonest cut."""
    cuts = [row.cut.words for row in page.rows]
    common = max(cuts, key=cuts.count) if cuts else ""
    of = "Here" if len(set(cuts)) < 2 else f"{page.rows[cuts.index(common)].row.name}, for one"
    if page.scale != "full" and all(words.startswith("nothing is cut") for words in cuts):
        return f"{page.scale.capitalize()} scale: {common}."
    cut = f" {of}: {common}." if common and page.scale != "full" else ""
    return f"{page.scale.capitalize()} scale: {_SCALES[page.scale]}.{cut}"


def summary_words(page: StudyPage) -> str:
    """One or two sentences: how many claims hold, fail, are undecided; how many rows were run."""
    if page.summary:
        return page.summary
    run = sum(bool(row.runs) for row in page.rows)
    rows = f"{run} of {plural(len(page.rows), 'row')} run" if run < len(page.rows) else f"all {count(run)} rows run"
    if not page.claims:
        return f"{rows.capitalize()}."
    numbers = {verdict: sum(claim.verdict == verdict for claim in page.claims) for verdict in VERDICTS}
    hold = "holds" if 1 in (numbers["holds"], len(page.claims)) else "hold"
    said = [f"{numbers['holds']} of {plural(len(page.claims), 'claim')} {hold}"]
    said += [f"{numbers['fails']} {'fails' if numbers['fails'] == 1 else 'fail'}"] if numbers["fails"] else []
    said += [f"{numbers['undecided']} undecided"] if numbers["undecided"] else []
    said += [f"{numbers['not judged']} not judged"] if numbers["not judged"] else []
    return f"{', '.join(said)} at {page.scale} scale; {rows}, {seeds_words(page)} each."


def ours_words(row: StudyRow, metric: str, unit: str) -> str:
    """`31.20 ± 0.41 %`; `1.12 ± 0.18`; `31.20 %` of one seed; `not run`."""
    mean, std = row.mean(metric), row.std(metric)
    if mean is None:
        return "not run" if not row.runs else "no number"
    if std and not unit:
        decimals = max(0, 1 - math.floor(math.log10(std)))
        return f"{mean:,.{decimals}f} ± {std:,.{decimals}f}"
    spread = f" ± {value_words(std, unit, bare=True)}" if std is not None else ""
    return f"{value_words(mean, unit, bare=True)}{spread}{_unit(unit)}"


def reported_words(told: Reported | None, unit: str) -> str:
    """`8.75 %`, `6.61 ± 0.16 %`, `fail: above 20 %`, a dash where nothing is reported."""
    if told is None:
        return "–"
    if told.value is None:
        return told.note or "none"
    spread = f" ± {told.std:g}" if told.std is not None else ""
    return f"{told.value:g}{spread}{_unit(unit)}" + (" (as recalled)" if told.confidence == "recalled" else "")


def provenance_words(told: Reported | None) -> str:
    """How the reported value came about, and where it is printed."""
    if told is None:
        return ""
    note = f"; {told.note}" if told.note and told.value is not None else ""
    statistic = "a single run" if told.statistic == "single" else told.statistic
    said = ", ".join(part for part in (statistic, told.protocol) if part)
    return f"{said}; {told.where}{note}"


def value_words(value: float | None, unit: str, *, bare: bool = False) -> str:
    """A value in two decimals where it is percent, whole where it counts steps, else in four digits."""
    if value is None:
        return "–"
    if unit == "s":
        return seconds(value)
    text = f"{value:.2f}" if unit == "%" else f"{value:,.0f}" if unit == "steps" else f"{value:.4g}"
    return text if bare else f"{text}{_unit(unit)}"


def price_words(row: StudyRow) -> str:
    """What a row that was not run would cost, as estimated."""
    return f"about {seconds(row.price_seconds)}" if row.price_seconds else "not known"


def metric_words(metrics: Sequence[Metric]) -> list[str]:
    """What each metric is: `test_error: error on the test pictures, ...`."""
    seen = dict.fromkeys(metrics)
    return [f"{metric_name(metric.name)}: {metric.words}." for metric in seen]


def metric_name(name: str) -> str:
    """A metric's name for a reader: `test error`, `test error, top 5`, `responses, mean std`."""
    for ending, words in (("_top5", ", top 5"), ("_eval", ", eval mode"), ("_batch", ", by the batch")):
        name = name.replace(ending, words)
    return name.replace("_", " ").replace(".", ", ")


def figure_label(page: StudyPage, title: str, rows: Sequence[str] = (), metric: str = "") -> str:
    """A figure in words, for those who do not see it: its title, the values of `rows` (all where none is named)."""
    shown = [row for row in page.rows if not rows or row.row.name in rows]
    found = [(row, metric_of(metric) if metric else row.metric) for row in shown]
    told = [f"{row.row.name} {ours_words(row, one.name, one.unit)}" for row, one in found if row.values(one.name)]
    return f"{title}, {page.scale} scale. " + ("; ".join(told[:12]) + "." if told else "")


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""
