"""`run_study`: train what the store does not have, evaluate the claims, and write the report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reslab.report.pages.study_results import StudyPage
from reslab.runtime.device import choose_device
from reslab.spec.errors import invalid
from reslab.spec.papers import STUDIES, get_study
from reslab.spec.study import Study
from reslab.studies.cost import StudyCost, estimate_study_cost
from reslab.studies.job import JobContext, MessageCallback, evaluate_ensembles
from reslab.studies.plan import StudyPlan, make_study_plan
from reslab.studies.results import build_study_page, write_study_page
from reslab.studies.runner import JobOutcomes, reslab_command, run_jobs, run_jobs_in_processes
from reslab.studies.store import StudyStore
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
        return run_jobs(cost.pending, context)
    return run_jobs_in_processes(cost.pending, context, options.num_jobs, worker_command(options))
