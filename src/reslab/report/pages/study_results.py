"""The results of a study as plain data, and their texts: scale, summary, values with their spread."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from reslab.report.format import format_duration, format_int, format_split, pluralize
from reslab.spec.study import FigurePanel, ReportedValue, RowSpec, ScalePreset, Study, StudyMetric, get_metric


@dataclass(frozen=True)
class StudyRun:
    """One seed of a row: its values by metric, in the metric's unit, its log and its training time.

    `analysis_results` has the results of analyses as plain data: `lesion` of the trained network, `gradients@init` at
    initialization.
    """

    seed: int
    values: Mapping[str, float] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    analysis_results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    train_seconds: float = 0.0


@dataclass(frozen=True)
class StudyRow:
    """A row at the page's scale, with a run for each seed and a short description of its network.

    `not_run_reason` says why there is no run, or why seeds are missing; `estimated_seconds` are of all seeds. `depth`
    is the number of layers of the network at this scale, `source_depth` that of the source's; 0 without a network.
    """

    row: RowSpec
    preset: ScalePreset
    runs: Sequence[StudyRun] = ()
    arch_text: str = ""
    not_run_reason: str = ""
    estimated_seconds: float | None = None
    depth: int = 0
    source_depth: int = 0

    @property
    def depth_text(self) -> str:
        """Return `38 layers in place of 110` where the depth is not that of the source; else an empty text."""
        if self.depth == self.source_depth:
            return ""
        return f"{format_int(self.depth)} layers in place of {format_int(self.source_depth)}"

    def values(self, metric: str = "") -> list[float]:
        """Return the finite values of a metric (by default the row's own), one for each seed."""
        name = metric or self.row.metric
        recorded = [run.values[name] for run in self.runs if run.values.get(name) is not None]
        return [value for value in recorded if math.isfinite(value)]

    def mean(self, metric: str = "") -> float | None:
        """Return the mean over the seeds; None where there is no value."""
        values = self.values(metric)
        return fmean(values) if values else None

    def std(self, metric: str = "") -> float | None:
        """Return the standard deviation over the seeds (n - 1); None below two."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else None

    def analysis_results(self, analysis: str) -> list[Mapping[str, Any]]:
        """Return the results of an analysis, one for each seed that has it."""
        return [run.analysis_results[analysis] for run in self.runs if analysis in run.analysis_results]

    @property
    def is_plain(self) -> bool:
        """True for a network without shortcuts."""
        overrides = (*self.row.arch_overrides, *self.row.overrides)
        return self.row.model.startswith("plain") or any(
            override.removeprefix("model.").replace(" ", "") == "merge=none" for override in overrides
        )

    @property
    def metric(self) -> StudyMetric:
        """The row's own metric."""
        return get_metric(self.row.metric)


@dataclass(frozen=True)
class ClaimResult:
    """A claim of the source, or a test of our own, with its verdict (of VERDICTS) and evidence: `5 of 5 seeds; ...`."""

    text: str
    verdict: str
    explanation: str = ""
    is_ours: bool = False


@dataclass(frozen=True)
class StudyPage:
    """The values of a study's page. `metadata` are command, hardware, versions and cost.

    `notes` are for readers, such as a damaged store entry that was rebuilt. An empty `summary` is written from the
    verdicts. `num_failed` counts the training runs that failed every time.
    """

    study: Study
    scale: str
    rows: Sequence[StudyRow]
    claims: Sequence[ClaimResult] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    summary: str = ""
    num_failed: int = 0

    def row(self, name: str) -> StudyRow | None:
        """Return the row of that name; None where it was not selected (`--rows`)."""
        return next((row for row in self.rows if row.row.name == name), None)

    def select_rows(self, names: Sequence[str]) -> list[StudyRow]:
        """Return the rows of these names that the page has."""
        return [row for row in map(self.row, names) if row is not None]


_SCALE_DESCRIPTIONS = {
    "smoke": "a check that everything runs, on tiny networks and data; its numbers mean nothing",
    "short": "a proxy that runs on two CPU cores; orderings can be compared with the {source}, numbers cannot",
    "full": "the {source}'s own procedure; its numbers can be compared with the {source}'s",
}
VERDICTS = ("holds", "fails", "undecided")


def stamp_text(page: StudyPage, rows: Sequence[StudyRow] = ()) -> str:
    """Return the stamp inside each figure: `reslab · he2015/degradation · short scale · 3 seeds`.

    Networks of another depth than the source's are named too: `38 layers in place of 110`.
    """
    stamp = f"reslab · {page.study.name} · {page.scale} scale · {seeds_text(page)}"
    depths = depths_text(rows or page.rows)
    return f"{stamp}\n{depths}" if depths else stamp


def depths_text(rows: Sequence[StudyRow]) -> str:
    """Return the depths of the rows that have another one than the source: `38 layers in place of 110`; else empty."""
    return ", ".join(dict.fromkeys(row.depth_text for row in rows if row.depth_text))


def panel_title(page: StudyPage, panel: FigurePanel) -> str:
    """Return the title of a panel, with the depth that was run where all its networks differ from the source in it.

    `110 layers` becomes `110 layers (run: 38)`.
    """
    rows = page.select_rows(panel.rows)
    depths = {row.depth for row in rows}
    if len(depths) != 1 or not all(row.depth_text for row in rows):
        return panel.title
    return f"{panel.title} (run: {format_int(depths.pop())}{'' if 'layers' in panel.title else ' layers'})".strip()


def comparable_rows(page: StudyPage) -> list[StudyRow]:
    """Return the rows that were trained as long as in the source, or all of them if none or every one was."""
    full_length = [row for row in page.rows if not row.preset.changes_duration]
    return full_length or list(page.rows)


def seeds_text(page: StudyPage) -> str:
    """Return `3 seeds`, or `1 to 3 seeds` where rows differ; rows that were not run do not count."""
    seed_counts = sorted({len(row.runs) for row in page.rows if row.runs})
    if not seed_counts:
        return "not run"
    return (
        pluralize(seed_counts[0], "seed") if len(seed_counts) == 1 else f"{seed_counts[0]} to {seed_counts[-1]} seeds"
    )


def scale_text(page: StudyPage) -> str:
    """Return what the scale means, and how it changes the procedure of its rows."""
    scale_description = _SCALE_DESCRIPTIONS[page.scale].format(source=page.study.source)
    if page.scale == "full":
        return f"{scale_description}."
    descriptions = [row.preset.description for row in page.rows]
    if not descriptions:
        return f"{scale_description}."
    most_common = max(descriptions, key=descriptions.count)
    if not any(row.preset.changes_procedure for row in page.rows):
        return f"{most_common}."
    example = page.rows[descriptions.index(most_common)].row.name
    subject = "All rows" if len(set(descriptions)) == 1 else f"Most rows, such as {example}"
    depths = depths_text(page.rows)
    depths_sentence = f" Networks: {depths}." if depths else ""
    return f"{scale_description}. {subject}: {most_common}.{depths_sentence}"


def study_summary_text(page: StudyPage) -> str:
    """Return one sentence: how many claims hold, fail or are undecided, and how many rows were run."""
    if page.summary:
        return page.summary
    num_run = sum(bool(row.runs) for row in page.rows)
    rows_text = (
        f"{num_run} of {pluralize(len(page.rows), 'row')} run"
        if num_run < len(page.rows)
        else (f"all {format_int(num_run)} rows run" if num_run > 1 else "the one row was run")
    )
    claims = [claim for claim in page.claims if not claim.is_ours] or list(page.claims)
    if not claims:
        return f"{rows_text.capitalize()}."
    noun = "test of our own" if claims[0].is_ours else "claim"
    plural = "tests of our own" if claims[0].is_ours else "claims"
    verdict_counts = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in VERDICTS}
    verb = "holds" if 1 in (verdict_counts["holds"], len(claims)) else "hold"
    clauses = [f"{verdict_counts['holds']} of {pluralize(len(claims), noun, plural)} {verb}"]
    clauses += (
        [f"{verdict_counts['fails']} {'fails' if verdict_counts['fails'] == 1 else 'fail'}"]
        if verdict_counts["fails"]
        else []
    )
    clauses += [f"{verdict_counts['undecided']} undecided"] if verdict_counts["undecided"] else []
    return f"{', '.join(clauses)} at {page.scale} scale; {rows_text}, {seeds_text(page)} each."


def ours_text(row: StudyRow, metric: str, unit: str) -> str:
    """Return the mean with its spread: `31.20 ± 0.41 %`, `1.12 ± 0.18`, `31.20 %` of one seed, `not run`, `NaN`."""
    mean, std = row.mean(metric), row.std(metric)
    if mean is None:
        return "not run" if not row.runs else "NaN"
    if std and not unit:
        decimals = max(0, 1 - math.floor(math.log10(std)))
        return f"{mean:,.{decimals}f} ± {std:,.{decimals}f}"
    std_text = f" ± {format_metric_value(std, unit, omit_unit=True)}" if std is not None else ""
    return f"{format_metric_value(mean, unit, omit_unit=True)}{std_text}{_unit_suffix(unit)}"


def reported_text(reported: ReportedValue | None, unit: str) -> str:
    """Return the reported value: `8.75 %`, `6.61 ± 0.16 %`, `fail: above 20 %`, a dash where there is none."""
    if reported is None:
        return "–"
    if reported.value is None:
        return reported.note or "none"
    std_text = f" ± {reported.std:g}" if reported.std is not None else ""
    return f"{reported.value:g}{std_text}{_unit_suffix(unit)}" + (
        " (from memory)" if reported.provenance == "from_memory" else ""
    )


def provenance_text(reported: ReportedValue | None) -> str:
    """Return the statistic and the protocol of a reported value, and where it is printed."""
    if reported is None:
        return ""
    note_text = f"; {reported.note}" if reported.note and reported.value is not None else ""
    statistic = "a single run" if reported.statistic == "single" else reported.statistic
    procedure = ", ".join(part for part in (statistic, reported.protocol) if part)
    return f"{procedure}; {reported.location}{note_text}"


def format_metric_value(value: float | None, unit: str, *, omit_unit: bool = False) -> str:
    """Format a value: two decimals for percent, none for steps, a duration for seconds, else four digits."""
    if value is None:
        return "–"
    if unit == "s":
        return format_duration(value)
    text = f"{value:.2f}" if unit == "%" else f"{value:,.0f}" if unit == "steps" else f"{value:.4g}"
    return text if omit_unit else f"{text}{_unit_suffix(unit)}"


def estimated_time_text(row: StudyRow) -> str:
    """Return the estimated training time of a row that was not run."""
    return f"about {format_duration(row.estimated_seconds)}" if row.estimated_seconds else "unknown"


def metric_descriptions(metrics: Sequence[StudyMetric]) -> list[str]:
    """Return a description of each metric: `test error: error on the test images, ...`."""
    unique = dict.fromkeys(metrics)
    return [f"{metric_display_name(metric.name)}: {metric.description}." for metric in unique]


_ABBREVIATIONS = {"ap": "AP", "ap50": "AP50", "voc": "VOC", "map": "mAP", "macs": "MACs"}


def metric_display_name(name: str) -> str:
    """Return a metric's name for readers: `test error`, `test error, top 5`, `test VOC mAP`."""
    for suffix, text in (("_top5", ", top 5"), ("_eval", ", eval mode"), ("_batch", ", batch statistics")):
        name = name.replace(suffix, text)
    words = name.replace(".", ", ").replace("_", " ").split(" ")
    return " ".join(_ABBREVIATIONS.get(word, word) for word in words)


def reported_split(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the split of a run's evaluations that figures show: `test` if it was evaluated, else the first."""
    splits = [str(record.get("split")) for record in records]
    return "test" if "test" in splits else splits[0]


def eval_split_name(rows: Sequence[StudyRow]) -> str:
    """Return the full name of the split that figures of these rows show: `test`, `validation`, or both."""
    evaluations = [[record for record in run.log if record.get("kind") == "eval"] for row in rows for run in row.runs]
    splits = {format_split(reported_split(records)) for records in evaluations if records}
    return " or ".join(sorted(splits)) or "test"


def figure_alt_text(page: StudyPage, title: str, rows: Sequence[str] = (), metric: str = "") -> str:
    """Return the alternative text of a figure: its title and the values of its rows (by default all)."""
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
