"""What came out of a study, gathered from the store as the plain data of its page.

The page of a study, written: report.html, report.md and the figures beside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from reslab.report.format import format_duration, pluralize
from reslab.report.pages.study import render_study_markdown
from reslab.report.pages.study_text import ClaimResult, StudyPage, StudyRow, StudyRun
from reslab.report.render import render_study_page
from reslab.runtime.files import write_atomic
from reslab.spec.study import AnalysisRequest, Claim, Metric, get_metric
from reslab.studies.cost import SecondsPerMac, describe_recipe, estimate_seconds
from reslab.studies.job import row_ensembles
from reslab.studies.metrics import DEFAULT_TRAIN_ERROR, entry_metrics, result_value
from reslab.studies.plan import StudyJob, StudyPlan, is_done
from reslab.studies.resolve import ResolvedRow
from reslab.studies.store import StoreEntry, StudyStore
from reslab.studies.verdicts import ClaimVerdict, evaluate_claim


def build_study_page(
    plan: StudyPlan,
    store: StudyStore,
    seconds_per_mac: SecondsPerMac,
    failed: Mapping[int, str],
    notes: Sequence[str] = (),
    command: str = "",
) -> StudyPage:
    """The page of a plan: every row with the seeds that are there, why others are not, the claims judged."""
    rows = [_study_row(plan, row, store, seconds_per_mac, failed) for row in plan.rows]
    page = StudyPage(
        plan.study,
        plan.scale,
        rows,
        metadata=_page_metadata(plan, store, command),
        notes=_collect_notes(plan, store, notes),
    )
    return replace(page, claims=[claim_result(page, claim, verdict) for claim, verdict in evaluate_claims(page)])


def _collect_notes(plan: StudyPlan, store: StudyStore, new_notes: Sequence[str]) -> tuple[str, ...]:
    """What the entries tell of how they came about, and what was said now; each once."""
    entry_notes = [note for job in plan.jobs for note in store.entry(job.key).metadata.get("notes", ())]
    return tuple(dict.fromkeys([*entry_notes, *new_notes]))


def evaluate_claims(page: StudyPage) -> list[tuple[Claim, ClaimVerdict]]:
    """Each claim with its verdict from the page's rows."""
    return [
        (claim, evaluate_claim(claim, _claim_values(page, claim), _difference_unit(page, claim)))
        for claim in page.study.claims
    ]


def claim_result(page: StudyPage, claim: Claim, verdict: ClaimVerdict) -> ClaimResult:
    """A claim as the page shows it."""
    metric_notes = _metric_notes(page, claim) if verdict.difference is not None else []
    return ClaimResult(claim.text, verdict.verdict, "; ".join([verdict.explanation, *metric_notes]))


def _claim_metric(page: StudyPage, claim: Claim) -> Metric:
    return get_metric(claim.metric or page.study.get_row(claim.rows[0]).metric)


def _difference_unit(page: StudyPage, claim: Claim) -> str:
    """That of a difference: percentages differ by points."""
    block = _claim_metric(page, claim).unit
    return "points" if block == "%" else block


def _metric_notes(page: StudyPage, claim: Claim) -> list[str]:
    """What was counted, where the claim does not say it: the field of an answer; steps to which training error."""
    if claim.metric != "steps_to_train_error":
        return [f"in the {_claim_metric(page, claim).description}"] * ("." in claim.metric)
    rows = [row for name in claim.rows if (row := page.row(name))]
    thresholds = dict.fromkeys(f"{row.preset.target_train_error or DEFAULT_TRAIN_ERROR:g} %" for row in rows)
    return [f"in steps to a training error of {' and '.join(thresholds)}, the last step where it was not reached"]


def _claim_values(page: StudyPage, claim: Claim) -> dict[str, dict[int, float]]:
    """The values of a claim's metric by row and seed; a step that was never reached counts as the last."""
    values_by_row: dict[str, dict[int, float]] = {}
    for name in claim.rows:
        row = page.row(name)
        if row and row.runs:
            values_by_row[name] = {}
        for run in row.runs if row else ():
            value = run.values.get(claim.metric or page.study.get_row(name).metric)
            if value is not None and math.isinf(value):
                value = max((float(record["step"]) for record in run.log), default=None)
            if value is not None and math.isfinite(value):
                values_by_row[name][run.seed] = value
    return values_by_row


def _study_row(
    plan: StudyPlan, row: ResolvedRow, store: StudyStore, seconds_per_mac: SecondsPerMac, failed: Mapping[int, str]
) -> StudyRow:
    jobs = plan.jobs_of(row.spec.name)
    finished = [(job, store.entry(job.key)) for job in jobs]
    finished = [(job, entry) for job, entry in finished if is_done(entry, job)]
    runs = [_study_run(job, entry) for job, entry in finished]
    if row.spec.members:
        ensemble_values = [(ensemble.seed, ensemble.read_values(store)) for ensemble in row_ensembles(plan, row)]
        runs = [StudyRun(seed, values) for seed, values in ensemble_values if values]
    num_diverged = sum(entry.metadata["status"] == "diverged" for _, entry in finished)
    reason = _not_run_reason(row, jobs, len(runs), num_diverged, failed)
    estimated_seconds = (
        estimate_seconds(row, seconds_per_mac(row)) * plan.num_seeds[row.spec.name] if not row.spec.members else None
    )
    return StudyRow(row.spec, row.preset, runs, _describe_network(row), reason, estimated_seconds)


def _not_run_reason(
    row: ResolvedRow, jobs: Sequence[StudyJob], num_done: int, num_diverged: int, failed: Mapping[int, str]
) -> str:
    reasons = []
    if row.unavailable_reason:
        reasons.append(f"its data are not here ({row.data})")
    reasons += dict.fromkeys(failed[job.number] for job in jobs if job.number in failed)
    if row.spec.members and not num_done:
        reasons.append("not all of its members were run")
    if 0 < num_done < len(jobs):
        reasons.append(f"{num_done} of {pluralize(len(jobs), 'seed')} {'was' if num_done == 1 else 'were'} run")
    if num_diverged:
        reasons.append(
            f"the loss was not finite in {num_diverged} of {pluralize(num_done, 'seed')}, whose error is that of guessing"
        )
    return "; ".join(reasons)


def _study_run(job: StudyJob, entry: StoreEntry) -> StudyRun:
    run = entry.run
    log = run.log.records() if run else []
    results = {
        _result_name(request): result for request in job.analyses if (result := entry.read_result(request)) is not None
    }
    values = entry_metrics(job, entry, log)
    for name in job.metrics:
        if name not in values and (number := result_value(name, results)) is not None:
            values[name] = number
    return StudyRun(job.seed, values, log, results, values.get("train_seconds", 0.0))


def _result_name(request: AnalysisRequest) -> str:
    return request.analysis if request.weights == "final" else f"{request.analysis}@{request.weights}"


def _describe_network(row: ResolvedRow) -> str:
    if row.arch is None:
        return f"the mean of {', '.join(row.spec.members)}"
    overrides = [
        f"{key.removeprefix('model.')}={value}" for key, value in row.overrides.items() if key.startswith("model.")
    ]
    return ", ".join([row.arch.name, *overrides])


def _page_metadata(plan: StudyPlan, store: StudyStore, command: str) -> dict[str, str]:
    """Command, hardware, versions and cost of what is there."""
    entries = [store.entry(job.key) for job in plan.jobs]
    entry_metadata = [metadata for metadata in (entry.metadata for entry in entries) if metadata]
    hardware = dict.fromkeys(
        f"{record['device']}, {record['processor']}, {pluralize(record['num_threads'], 'thread')}"
        for record in (metadata["hardware"] for metadata in entry_metadata)
    )
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in record["versions"].items() if name != "system")
        for record in entry_metadata
    )
    # A training that was stopped tells its own seconds in full, its entry those after it was taken up again.
    total_seconds = sum(max(record["seconds"], record["values"].get("train_seconds", 0.0)) for record in entry_metadata)
    recipes = dict.fromkeys(describe_recipe(row.recipe) for row in plan.rows if not row.spec.members)
    page_metadata = {
        "command": command,
        "scale": plan.scale,
        "procedure": "; ".join(recipes),
        "hardware": "; ".join(hardware),
        "versions": "; ".join(versions),
        "cost": f"{format_duration(total_seconds)} for {pluralize(len(entry_metadata), 'network')}"
        if entry_metadata
        else "",
    }
    return {name: text for name, text in page_metadata.items() if text}


def write_study_page(page: StudyPage, output_dir: Path) -> Path:
    """Write report.md with its figures into `folder`, and report.html; returns the path of the latter."""
    text, plots = render_study_markdown(page)
    write_atomic(output_dir / "report.md", text.encode())
    for name, plot in plots.items():
        write_atomic(output_dir / name, plot.encode())
    write_atomic(output_dir / "report.html", render_study_page(page).encode())
    return output_dir / "report.html"
