"""`run_study`: train what the store does not have, evaluate the claims, and write the report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reslab.report.format import format_duration, pluralize
from reslab.report.pages.study import render_study_markdown
from reslab.report.pages.study_results import ClaimResult, StudyPage, StudyRow, StudyRun, depths_text
from reslab.report.render import render_page
from reslab.runtime.device import choose_device
from reslab.runtime.files import write_atomic
from reslab.spec.errors import invalid
from reslab.spec.papers import STUDIES, get_study
from reslab.spec.study import AnalysisRequest, Claim, Study, StudyMetric, get_metric
from reslab.studies.cost import SecondsPerMac, StudyCost, describe_recipe, estimate_seconds, estimate_study_cost
from reslab.studies.job import evaluate_ensembles, row_ensembles, run_job
from reslab.studies.plan import (
    EntryMetadata,
    EntryStatus,
    JobContext,
    MessageCallback,
    StoreEntry,
    StudyJob,
    StudyPlan,
    StudyStore,
    is_done,
    make_study_plan,
)
from reslab.studies.resolve import ResolvedRow, source_arch
from reslab.studies.run_metrics import DEFAULT_TRAIN_ERROR, entry_metrics, result_value
from reslab.studies.runner import JobOutcomes, reslab_command, run_jobs, run_jobs_in_processes
from reslab.studies.verdicts import ClaimVerdict, evaluate_claim
from reslab.training.run_data import changed_max_pixels
from reslab.training.run_logger import LogCallback

DEFAULT_STORE = Path("studies/store")


@dataclass(frozen=True)
class StudyOptions:
    """The options of `run_study`: what to run of a study, and where."""

    study: Study
    scale: str = "smoke"
    rows: tuple[str, ...] = ()
    seeds: int | None = None
    store: Path = DEFAULT_STORE
    data_dir: Path | None = None
    device: str = "auto"
    num_jobs: int = 1
    output: Path | None = None
    report_only: bool = False


def run_study(
    study: str | Study,
    scale: str = "smoke",
    *,
    rows: Sequence[str] = (),
    seeds: int | None = None,
    store: str | Path = DEFAULT_STORE,
    output: str | Path | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
    num_jobs: int = 1,
    report_only: bool = False,
    on_message: MessageCallback = lambda _: None,
    on_log: LogCallback = lambda _: None,
    command: str = "",
) -> StudyPage:
    """Run a study, by name or your own, at a scale; write report.html and report.md, and return their content.

    `rows` and `seeds` replace all rows and the study's own number of seeds. What the `store` has is not trained again.
    `num_jobs` processes train at a time; with `report_only` nothing is trained, and missing rows are reported as not
    run. `on_message` receives messages for the user, `on_log` the log records of the trainings. `num_failed` of the
    page counts the trainings that failed. Raises ValueError for invalid options before anything is trained, and
    TrainingInterrupted on Ctrl-C: finished work is kept.
    """
    options = StudyOptions(
        study=get_study(study) if isinstance(study, str) else study,
        scale=scale,
        rows=tuple(rows),
        seeds=seeds,
        store=Path(store),
        data_dir=None if data_dir is None else Path(data_dir),
        device=device,
        num_jobs=num_jobs,
        output=None if output is None else Path(output),
        report_only=report_only,
    )
    return run_study_options(options, on_message, on_log, command)


def run_study_options(
    options: StudyOptions, on_message: MessageCallback, on_log: LogCallback, command: str = ""
) -> StudyPage:
    """Run the study of the options, as `run_study` does."""
    plan = plan_study(options)
    cost, context = estimate_cost(options, plan), make_job_context(options, on_message, on_log)
    outcomes = JobOutcomes() if options.report_only else _run_missing(options, cost, context)
    evaluate_ensembles(plan, context)
    failed = {**{job.number: reason for job, reason in cost.too_large}, **outcomes.failed}
    page = build_study_page(plan, context.store, cost.seconds_per_mac, failed, notes=outcomes.notes, command=command)
    page = replace(page, num_failed=len(outcomes.failed))
    on_message(f"report: {write_study_page(page, options.output or default_output(options))}")
    return page


def plan_study(options: StudyOptions) -> StudyPlan:
    """Expand the study; raises ValueError as `make_study_plan` does."""
    return make_study_plan(
        options.study,
        options.scale,
        rows=options.rows,
        seeds=options.seeds,
        data_dir=options.data_dir,
        device=choose_device(options.device),
    )


def estimate_cost(options: StudyOptions, plan: StudyPlan) -> StudyCost:
    """Return which jobs of the plan are missing, and what they cost."""
    return estimate_study_cost(plan, StudyStore(options.store), choose_device(options.device), options.num_jobs)


def make_job_context(options: StudyOptions, on_message: MessageCallback, on_log: LogCallback) -> JobContext:
    """Return the environment of the jobs."""
    device = str(choose_device(options.device))
    return JobContext(StudyStore(options.store), options.data_dir, device, on_message, on_log)


def worker_command(options: StudyOptions) -> list[str]:
    """Return the command that runs one job of the study, once `--task NUMBER` is appended.

    Raises ValueError for a study that is not in the table, as another process could not find it by name.
    """
    study = options.study
    if STUDIES.get(study.name) != study:
        raise invalid("a study of the table for several processes", study.name, next_step="use one job")
    arguments = ["study", study.name, "--scale", options.scale, "--store", str(options.store.resolve())]
    arguments += ["--device", options.device]
    arguments += ["--rows", ",".join(options.rows)] if options.rows else []
    arguments += ["--seeds", str(options.seeds)] if options.seeds else []
    arguments += ["--data-dir", str(options.data_dir.resolve())] if options.data_dir else []
    max_pixels = changed_max_pixels()
    arguments += [] if max_pixels is None else ["--max-pixels", str(max_pixels)]
    return reslab_command(arguments)


def default_output(options: StudyOptions) -> Path:
    """Return the default folder of the report."""
    return Path("studies") / f"{options.study.name.replace('/', '-')}-{options.scale}"


def _run_missing(options: StudyOptions, cost: StudyCost, context: JobContext) -> JobOutcomes:
    for reason in cost.skip_reasons():
        context.on_message(reason)
    if not cost.pending:
        return JobOutcomes()
    context.store.check_writable()
    context.on_message(cost.summary())
    if options.num_jobs == 1:
        return run_jobs(cost.pending, run_job, context)
    return run_jobs_in_processes(cost.pending, context, options.num_jobs, worker_command(options))


def build_study_page(
    plan: StudyPlan,
    store: StudyStore,
    seconds_per_mac: SecondsPerMac,
    failed: Mapping[int, str],
    *,
    notes: Sequence[str] = (),
    command: str = "",
) -> StudyPage:
    """Return the report of a plan: each row with its finished seeds, or the reason why it was not run, and the claims.

    `failed` are the errors of jobs by number, `notes` what happened while they ran.
    """
    finished = {job.number: entry for job in plan.jobs if is_done(entry := store.entry(job.key), job)}
    page = StudyPage(
        plan.study,
        plan.scale,
        [_study_row(plan, row, store, seconds_per_mac, finished=finished, failed=failed) for row in plan.rows],
        metadata=_page_metadata(plan, store, command),
        notes=_collect_notes(plan, store, notes),
    )
    return replace(page, claims=[_claim_result(page, claim) for claim in page.study.claims])


def _entry_metadata(plan: StudyPlan, store: StudyStore) -> list[EntryMetadata]:
    entries = [store.entry(job.key).metadata for job in plan.jobs]
    return [metadata for metadata in entries if metadata is not None]


def _collect_notes(plan: StudyPlan, store: StudyStore, new_notes: Sequence[str]) -> tuple[str, ...]:
    """Return the notes of the entries and those of now, each once."""
    entry_notes = [note for metadata in _entry_metadata(plan, store) for note in metadata.notes]
    return tuple(dict.fromkeys([*entry_notes, *new_notes]))


def _claim_result(page: StudyPage, claim: Claim) -> ClaimResult:
    metric = get_metric(claim.metric or page.study.get_row(claim.rows[0]).metric)
    unit = "points" if metric.unit == "%" else metric.unit  # percentages differ by points
    verdict = evaluate_claim(claim, _claim_values(page, claim), unit)
    explanation = _claim_explanation(page, claim, metric, verdict)
    return ClaimResult(claim.text, verdict.verdict, explanation, claim.is_ours)


def _claim_explanation(page: StudyPage, claim: Claim, metric: StudyMetric, verdict: ClaimVerdict) -> str:
    """Return the explanation of a verdict, with the depths if not the source's, and what was measured if unclear."""
    if verdict.difference is None:
        return verdict.explanation
    explanation = "; ".join(text for text in (verdict.explanation, depths_text(page.select_rows(claim.rows))) if text)
    if claim.metric == "steps_to_train_error":
        rows = [row for name in claim.rows if (row := page.row(name))]
        thresholds = dict.fromkeys(f"{row.preset.target_train_error or DEFAULT_TRAIN_ERROR:g} %" for row in rows)
        measured = f"steps to a training error of {' and '.join(thresholds)}, or all steps if it was not reached"
    elif "." in claim.metric:
        measured = metric.description
    else:
        return explanation
    return f"{explanation}; measured: {measured}"


def _claim_values(page: StudyPage, claim: Claim) -> dict[str, dict[int, float]]:
    """Return the values of a claim's metric by row and seed; a step that was never reached counts as the last."""
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
    plan: StudyPlan,
    row: ResolvedRow,
    store: StudyStore,
    seconds_per_mac: SecondsPerMac,
    *,
    finished: Mapping[int, StoreEntry],
    failed: Mapping[int, str],
) -> StudyRow:
    jobs = plan.jobs_of(row.spec.name)
    if row.spec.members:
        ensemble_values = [(ensemble.seed, ensemble.read_values(store)) for ensemble in row_ensembles(plan, row)]
        runs = [StudyRun(seed, values) for seed, values in ensemble_values if values]
        estimated_seconds = None
    else:
        runs = [_study_run(job, finished[job.number]) for job in jobs if job.number in finished]
        estimated_seconds = estimate_seconds(row, seconds_per_mac(row)) * plan.num_seeds[row.spec.name]
    num_diverged = sum(_has_diverged(finished[job.number]) for job in jobs if job.number in finished)
    reason = _not_run_reason(row, jobs, len(runs), num_diverged, failed)
    return StudyRow(
        row.spec,
        row.preset,
        runs,
        arch_text=_describe_network(row),
        not_run_reason=reason,
        estimated_seconds=estimated_seconds,
        depth=0 if row.arch is None else row.arch.depth,
        source_depth=0 if row.arch is None else source_arch(row.spec).depth,
    )


def _has_diverged(entry: StoreEntry) -> bool:
    metadata = entry.metadata
    return metadata is not None and metadata.status is EntryStatus.DIVERGED


def _not_run_reason(
    row: ResolvedRow, jobs: Sequence[StudyJob], num_done: int, num_diverged: int, failed: Mapping[int, str]
) -> str:
    """Return why seeds of a row are missing, or what is wrong with those that ran; empty if all is well."""
    reasons = []
    if row.unavailable_reason:
        reasons.append(f"its data ({row.data}) are not available")
    reasons += dict.fromkeys(failed[job.number] for job in jobs if job.number in failed)
    if row.spec.members and not num_done:
        reasons.append("some of its members were not run")
    if 0 < num_done < len(jobs):
        reasons.append(f"{num_done} of {pluralize(len(jobs), 'seed')} {'was' if num_done == 1 else 'were'} run")
    if num_diverged:
        reasons.append(
            f"the loss became infinite or NaN in {num_diverged} of {pluralize(num_done, 'seed')}, "
            "which count with the error of guessing"
        )
    return "; ".join(reasons)


def _study_run(job: StudyJob, entry: StoreEntry) -> StudyRun:
    run, metadata = entry.run, entry.metadata
    assert metadata is not None
    log = run.log.records() if run else []
    results = {
        _result_name(request): result for request in job.analyses if (result := entry.read_result(request)) is not None
    }
    values = entry_metrics(job, metadata, log)
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
    depth = "" if row.arch.depth == source_arch(row.spec).depth else f"{row.arch.depth} layers"
    return ", ".join(text for text in (row.arch.name, depth, *overrides) if text)


def _page_metadata(plan: StudyPlan, store: StudyStore, command: str) -> dict[str, str]:
    """Return command, procedure, hardware, versions and cost of the finished entries, without empty values."""
    entries = _entry_metadata(plan, store)
    hardware = dict.fromkeys(
        f"{record['device']}, {record['processor']}, {pluralize(record['num_threads'], 'thread')}"
        for record in (metadata.hardware for metadata in entries)
    )
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in metadata.versions.items() if name != "system")
        for metadata in entries
    )
    # The entry of a resumed training has the seconds since it was resumed, the training itself all of its seconds.
    total_seconds = sum(max(metadata.seconds, metadata.values.get("train_seconds", 0.0)) for metadata in entries)
    recipes = dict.fromkeys(describe_recipe(row.recipe) for row in plan.rows if not row.spec.members)
    page_metadata = {
        "command": command,
        "scale": plan.scale,
        "procedure": "; ".join(recipes),
        "hardware": "; ".join(hardware),
        "versions": "; ".join(versions),
        "cost": f"{format_duration(total_seconds)} for {pluralize(len(entries), 'network')}" if entries else "",
    }
    return {name: text for name, text in page_metadata.items() if text}


def write_study_page(page: StudyPage, output_dir: Path) -> Path:
    """Write report.md with its figures, and report.html, into `output_dir`; return the path of the latter."""
    text, plots = render_study_markdown(page)
    write_atomic(output_dir / "report.md", text.encode())
    for name, plot in plots.items():
        write_atomic(output_dir / name, plot.encode())
    write_atomic(output_dir / "report.html", render_page(page).encode())
    return output_dir / "report.html"
