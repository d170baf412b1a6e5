"""`run_study`: from a study to its page, training only what the store has not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reslab.report.pages.study_text import StudyPage
from reslab.runtime.device import choose_device
from reslab.spec.errors import refuse
from reslab.spec.papers import STUDIES, get_study
from reslab.spec.study import Study
from reslab.studies.cost import Price, prices
from reslab.studies.job import Place, Say, judge_ensembles
from reslab.studies.plan import Plan, make_plan
from reslab.studies.results import collect, write_page
from reslab.studies.runner import Outcome, own_command, run_here, run_in_processes
from reslab.studies.store import Store
from reslab.training.run_logger import Show

DEFAULT_STORE = Path("studies/store")


@dataclass(frozen=True)
class Wanted:
    """What is to be run of a study, and where: the arguments of `run_study`."""

    study: Study
    scale: str = "smoke"
    rows: tuple[str, ...] = ()
    seeds: int | None = None
    store: Path = DEFAULT_STORE
    data_dir: Path | None = None
    device: str = "auto"
    num_jobs: int = 1

    def plan(self) -> Plan:
        """The study expanded; raises ValueError as `make_plan` does."""
        place = choose_device(self.device)
        folder = self.data_dir
        return make_plan(self.study, self.scale, rows=self.rows, seeds=self.seeds, data_dir=folder, device=place)

    def price(self, plan: Plan) -> Price:
        """What of the plan is missing, and what it costs."""
        return prices(plan, Store(self.store), choose_device(self.device), self.num_jobs)

    def place(self, say: Say, show: Show) -> Place:
        """Where its jobs are done."""
        return Place(Store(self.store), self.data_dir, str(choose_device(self.device)), say, show)

    def command(self) -> list[str]:
        """The command that does one job of it, `--task NUMBER` to be set behind; ValueError for a study without a
        name that another process would know."""
        if STUDIES.get(self.study.name) != self.study:
            raise refuse("a study of the table for several processes", self.study.name, next_step="use one job")
        words = ["study", self.study.name, "--scale", self.scale, "--store", str(self.store.resolve())]
        words += ["--device", self.device]
        words += ["--rows", ",".join(self.rows)] if self.rows else []
        words += ["--seeds", str(self.seeds)] if self.seeds else []
        return own_command(words + (["--data-dir", str(self.data_dir.resolve())] if self.data_dir else []))

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
    jobs: int = 1,
    page_only: bool = False,
    say: Say = lambda _: None,
    show: Show = lambda _: None,
    command: str = "",
) -> StudyPage:
    """Run a study by name, or one of your own, at a scale; write report.html and report.md, return what they show.

    `rows` and `seeds` in place of all and of the study's own. What the `store` has is not trained again; `jobs`
    processes train at a time; with `page_only` nothing is trained, and what is not there is told as not run. `say`
    takes what a person should be told, `show` the lines of each training. Raises ValueError for what means nothing,
    before anything is trained, and Interrupted on Ctrl-C: what is done is kept. Trainings that broke off are told by
    the page's `num_failed`.
    """
    found = get_study(study) if isinstance(study, str) else study
    folder = None if data_dir is None else Path(data_dir)
    wanted = Wanted(found, scale, tuple(rows), seeds, Path(store), folder, device, jobs)
    plan = wanted.plan()
    price, place = wanted.price(plan), wanted.place(say, show)
    outcome = Outcome() if page_only else _done(wanted, price, place)
    judge_ensembles(plan, place)
    failed = {**{job.number: why for job, why in price.too_large}, **outcome.failed}
    page = collect(plan, place.store, price.rate, failed, outcome.notes, command)
    page = replace(page, num_failed=len(outcome.failed))
    say(f"page: {write_page(page, Path(output or wanted.default_output()))}")
    return page


def _done(wanted: Wanted, price: Price, place: Place) -> Outcome:
    for reason in price.refused():
        place.say(reason)
    if not price.todo:
        return Outcome()
    place.store.check()
    place.say(price.summary())
    if wanted.num_jobs == 1:
        return run_here(price.todo, place)
    return run_in_processes(price.todo, place, wanted.num_jobs, wanted.command())
