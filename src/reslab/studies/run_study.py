"""`run_study`: from a study to its page, training only what the store has not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reslab.report.pages.study_text import StudyPage
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
from reslab.training.run_logger import LogCallback

DEFAULT_STORE = Path("studies/store")


@dataclass(frozen=True)
class StudyOptions:
    """What is to be run of a study, and where: the arguments of `run_study`."""

    study: Study
    scale: str = "smoke"
    rows: tuple[str, ...] = ()
    seeds: int | None = None
    store: Path = DEFAULT_STORE
    data_dir: Path | None = None
    device: str = "auto"
    num_jobs: int = 1

    def make_plan(self) -> StudyPlan:
        """The study expanded; raises ValueError as `make_plan` does."""
        device = choose_device(self.device)
        data_dir = self.data_dir
        return make_study_plan(
            self.study, self.scale, rows=self.rows, seeds=self.seeds, data_dir=data_dir, device=device
        )

    def estimate_cost(self, plan: StudyPlan) -> StudyCost:
        """What of the plan is missing, and what it costs."""
        return estimate_study_cost(plan, StudyStore(self.store), choose_device(self.device), self.num_jobs)

    def job_context(self, on_message: MessageCallback, on_log: LogCallback) -> JobContext:
        """Where its jobs are done."""
        return JobContext(StudyStore(self.store), self.data_dir, str(choose_device(self.device)), on_message, on_log)

    def worker_command(self) -> list[str]:
        """The command that does one job of it, `--task NUMBER` to be set behind; ValueError for a study without a
        name that another process would know."""
        if STUDIES.get(self.study.name) != self.study:
            raise invalid("a study of the table for several processes", self.study.name, next_step="use one job")
        arguments = ["study", self.study.name, "--scale", self.scale, "--store", str(self.store.resolve())]
        arguments += ["--device", self.device]
        arguments += ["--rows", ",".join(self.rows)] if self.rows else []
        arguments += ["--seeds", str(self.seeds)] if self.seeds else []
        return reslab_command(arguments + (["--data-dir", str(self.data_dir.resolve())] if self.data_dir else []))

    def default_output(self) -> Path:
        """The folder of its page."""
        return Path("studies") / f"{self.study.name.replace('/', '-')}-{self.scale}"


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
    """Run a study by name, or one of your own, at a scale; write report.html and report.md, return what they show.

    `rows` and `seeds` in place of all and of the study's own. What the `store` has is not trained again; `jobs`
    processes train at a time; with `page_only` nothing is trained, and what is not there is told as not run. `say`
    takes what a person should be told, `show` the lines of each training. Raises ValueError for what means nothing,
    before anything is trained, and Interrupted on Ctrl-C: what is done is kept. Trainings that broke off are told by
    the page's `num_failed`.
    """
    resolved_study = get_study(study) if isinstance(study, str) else study
    data_path = None if data_dir is None else Path(data_dir)
    options = StudyOptions(resolved_study, scale, tuple(rows), seeds, Path(store), data_path, device, num_jobs)
    plan = options.make_plan()
    cost, context = options.estimate_cost(plan), options.job_context(on_message, on_log)
    outcomes = JobOutcomes() if report_only else _run_missing(options, cost, context)
    evaluate_ensembles(plan, context)
    failed = {**{job.number: reason for job, reason in cost.too_large}, **outcomes.failed}
    page = build_study_page(plan, context.store, cost.seconds_per_mac, failed, outcomes.notes, command)
    page = replace(page, num_failed=len(outcomes.failed))
    on_message(f"page: {write_study_page(page, Path(output or options.default_output()))}")
    return page


def _run_missing(options: StudyOptions, cost: StudyCost, context: JobContext) -> JobOutcomes:
    for reason in cost.skip_reasons():
        context.on_message(reason)
    if not cost.pending:
        return JobOutcomes()
    context.store.check_writable()
    context.on_message(cost.summary())
    if options.num_jobs == 1:
        return run_jobs(cost.pending, context)
    return run_jobs_in_processes(cost.pending, context, options.num_jobs, options.worker_command())
