"""`reslab study NAME`: a table or figure of a paper, run, judged and written as a page."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import DataDir, Device, Json
from reslab.cli.output import print_json, print_table, say
from reslab.report.tables import number, seconds
from reslab.spec.errors import refuse, unknown
from reslab.spec.papers import get_study
from reslab.spec.study import SCALES

if TYPE_CHECKING:
    from reslab.report.study_page import StudyPage, StudyRow
    from reslab.studies.plan import Plan
    from reslab.studies.prices import Price
    from reslab.studies.runner import Outcome
    from reslab.studies.work import Place


def study(
    name: Annotated[str, typer.Argument(help="`reslab studies` lists them.")],
    scale: Annotated[
        str, typer.Option("--scale", help="smoke (seconds), short (minutes a row) or full (the paper's procedure).")
    ] = "smoke",
    rows: Annotated[str | None, typer.Option("--rows", metavar="A,B", help="Only these rows.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Seeds a row, in place of the study's.")] = None,
    store: Annotated[
        Path, typer.Option("--store", metavar="DIR", help="Where trainings are kept and found again.")
    ] = Path("studies/store"),
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes at a time, one thread each.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run and what it costs.")] = False,
    slurm: Annotated[
        Path | None, typer.Option("--slurm", metavar="FILE", help="Write an array script for sbatch, and run nothing.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Folder of the page. [default: studies/NAME-SCALE]")
    ] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    task: Annotated[int | None, typer.Option("--task", hidden=True, help="Do this one job, write no page.")] = None,
    json: Json = False,
) -> None:
    """Run a study: train only what the store has not, judge the paper's claims, write the page."""
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    chosen = [row.strip() for row in (rows or "").split(",") if row.strip()]
    for row in chosen:
        get_study(name).row(row)
    from reslab.studies.ensembles import judge_ensembles
    from reslab.studies.plan import make_plan
    from reslab.studies.prices import prices
    from reslab.studies.store import Store
    from reslab.studies.work import Place
    from reslab.training.device import choose_device

    place = Place(Store(store), data_dir, str(choose_device(device)), say, _Lines())
    found = get_study(name)
    plan = make_plan(found, scale, rows=chosen, seeds=seeds, data_dir=data_dir, device=choose_device(device))
    words = _words(name, scale, rows, seeds, store, data_dir, device)
    if task is not None:
        _do_task(plan, place, task)
        return
    price = prices(plan, place.store, choose_device(device))
    if dry_run:
        _print_plan(plan, price, json)
        return
    if slurm is not None:
        _write_script(plan, price, place, words, slurm)
        return
    outcome = _run(price, place, jobs, words)
    judge_ensembles(plan, place)
    folder = output or Path("studies") / f"{name.replace('/', '-')}-{scale}"
    _finish(_Ended(plan, price, place, outcome, folder), json)


@dataclass(frozen=True)
class _Ended:
    """A study that was run, and where its page goes."""

    plan: "Plan"
    price: "Price"
    place: "Place"
    outcome: "Outcome"
    folder: Path


class _Lines:
    """What a person sees of a training under way: its evaluations."""

    def __call__(self, line: dict[str, Any]) -> None:
        if line["kind"] == "eval":
            say(f"  step {line['step']:,}: {line['split']} error {100 * (1 - line['top1']):.2f} %")


def _words(
    name: str, scale: str, rows: str | None, seeds: int | None, store: Path, data_dir: Path | None, device: str
) -> list[str]:
    """The words behind `reslab` that mean the same plan to another process."""
    found = ["study", name, "--scale", scale, "--store", str(store.resolve()), "--device", device]
    found += ["--rows", rows] if rows else []
    found += ["--seeds", str(seeds)] if seeds else []
    return found + (["--data-dir", str(data_dir.resolve())] if data_dir else [])


def _do_task(plan: "Plan", place: "Place", task: int) -> None:
    from reslab.studies.runner import run_here

    job = next((job for job in plan.jobs if job.number == task), None)
    if job is None:
        raise refuse(f"a task from 0 to {len(plan.jobs) - 1}", task)
    outcome = run_here([job], place, num_tries=1)
    if outcome.failed:
        raise RuntimeError(outcome.failed[task])


def _write_script(plan: "Plan", price: "Price", place: "Place", words: list[str], path: Path) -> None:
    from reslab.studies.runner import own_command
    from reslab.studies.slurm import slurm_script
    from reslab.training.disk import write_whole

    if not price.todo:
        raise refuse("a study with something left to run", "none is missing", next_step="leave --slurm out")
    longest = max(price.seconds_of(job) for job in price.todo)
    (place.store.path / "logs").mkdir(parents=True, exist_ok=True)
    text = slurm_script(plan.study.name, price.todo, own_command(words), place.store, Path.cwd(), longest)
    write_whole(path, text.encode())
    say(f"{len(price.todo)} tasks in {path}: sbatch {shlex.quote(str(path))}")


def _run(price: "Price", place: "Place", jobs: int, words: list[str]) -> "Outcome":
    from reslab.studies.runner import own_command, run_here, run_in_processes

    if price.todo:
        say(f"{len(price.todo)} trainings, about {seconds(sum(map(price.seconds_of, price.todo)))} of one processor")
    if jobs == 1:
        return run_here(price.todo, place)
    return run_in_processes(price.todo, place, jobs, own_command(words))


def _finish(ended: _Ended, json: bool) -> None:
    from reslab.studies.collect import collect
    from reslab.studies.pages import write_page

    refused = {job.number: why for job, why in ended.price.too_large}
    outcome = ended.outcome
    command = shlex.join(["reslab", *sys.argv[1:]])
    failed = {**refused, **outcome.failed}
    page = collect(ended.plan, ended.place.store, ended.price.rate, failed, outcome.notes, command)
    path = write_page(page, ended.folder)
    if json:
        print_json(facts_of(page))
        return
    _print_page(page)
    say(f"page: {path}")


def facts_of(page: "StudyPage") -> dict[str, Any]:
    """What `reslab study --json` promises: study, scale, rows, claims."""
    return {
        "study": page.study.name,
        "scale": page.scale,
        "rows": [_row_facts(row) for row in page.rows],
        "claims": [{"text": claim.text, "verdict": claim.verdict, "words": claim.words} for claim in page.claims],
    }


def _row_facts(row: "StudyRow") -> dict[str, Any]:
    return {
        "name": row.row.name,
        "arch": row.network,
        "metric": row.row.metric,
        "unit": row.metric.unit,
        "reported": row.row.reported.value if row.row.reported else None,
        "mean": row.mean(),
        "std": row.std(),
        "seeds": len(row.runs),
        "values": row.values(),
        "why": row.why,
    }


def _print_page(page: "StudyPage") -> None:
    print(f"{page.study.title} ({page.study.source}), scale {page.scale}")
    cells = [
        (
            row.row.name,
            f"{row.row.metric}{f' ({row.metric.unit})' if row.metric.unit else ''}",
            number(row.row.reported.value if row.row.reported else None),
            number(row.mean()),
            number(row.std(), 2),
            str(len(row.runs)),
            row.why,
        )
        for row in page.rows
    ]
    print_table(["row", "metric", "reported", "mean", "std", "seeds", ""], cells)
    for claim in page.claims:
        print(f"{claim.text}: {claim.verdict} ({claim.words})")


def _print_plan(plan: "Plan", price: "Price", json: bool) -> None:
    facts = price.facts()
    if json:
        print_json({"study": plan.study.name, "scale": plan.scale, **facts})
        return
    print(f"{plan.study.title} ({plan.study.source}), scale {plan.scale}")
    cells = [
        (
            row["name"],
            row["cut"],
            str(row["seeds"]),
            str(row["done"]),
            seconds(row["seconds"]),
            f"{row['memory_bytes'] / 1e9:.1f} GB",
            row["why"],
        )
        for row in facts["rows"]
    ]
    print_table(["row", "what is cut", "seeds", "done", "a seed", "memory", ""], cells)
    print(
        f"left: {facts['num_missing']} trainings, about {seconds(facts['seconds'])} of one processor "
        f"({facts['rate_from']})"
    )
