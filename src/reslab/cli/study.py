"""`reslab study`: reproduce a table or figure of a paper and write a report."""

import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import DataDir, Device, JsonFlag, MaxPixels, Panel, complete_study, limit_pixels, output_option
from reslab.cli.output import echo_err, print_json, print_table
from reslab.report.format import format_duration, format_metric, format_percent, pluralize
from reslab.report.pages.study_results import StudyPage, StudyRow, format_metric_value, reported_text
from reslab.runtime.allocator import keep_freed_memory
from reslab.runtime.files import write_atomic
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.study import SCALES
from reslab.spec.task import TASKS

if TYPE_CHECKING:
    from reslab.studies.run_study import StudyOptions


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The trainings of the study, and where they run, by the names of `StudyOptions`."""

    scale: Annotated[
        str,
        typer.Option(
            "--scale",
            metavar="smoke|short|full",
            help="smoke takes seconds, short minutes per row, full is the paper's procedure.",
        ),
    ] = "smoke"
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", metavar="INTEGER", min=1, help="Number of seeds per row.", show_default="the study's"),
    ] = None
    store: Annotated[
        Path,
        typer.Option("--store", metavar="DIR", rich_help_panel=Panel.OUTPUT, help="Folder of the finished trainings."),
    ] = Path("studies/store")
    output: Annotated[
        Path | None,
        output_option("DIR", "Folder of the report.", "studies/NAME-SCALE"),
    ] = None
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write the report of what the store has, and train nothing.")
    ] = False
    num_jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            metavar="INTEGER",
            min=1,
            rich_help_panel=Panel.COMPUTE,
            help="Number of parallel processes, with one thread each.",
        ),
    ] = 1
    device: Device = "auto"
    data_dir: DataDir = None


def study(
    *,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Study; `reslab studies` lists them.", autocompletion=complete_study),
    ],
    training: TrainingOptions,
    rows: Annotated[
        str | None, typer.Option("--rows", metavar="NAME,...", help="Rows to run.", show_default="all")
    ] = None,
    max_pixels: MaxPixels = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run and what it would cost, and run nothing.")
    ] = False,
    slurm: Annotated[
        Path | None,
        typer.Option(
            "--slurm", metavar="FILE", rich_help_panel=Panel.COMPUTE, help="Write an sbatch array script; run nothing."
        ),
    ] = None,
    task: Annotated[
        int | None, typer.Option("--task", metavar="INTEGER", hidden=True, help="Run one job, write no report.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Reproduce a table or figure of a paper: train what the store lacks, test the paper's claims, write a report.

    Exit code 1 if trainings failed. Claims that fail or stay undecided, and rows that cannot run here, are no errors.
    """
    keep_freed_memory()
    if training.scale not in SCALES:
        raise unknown_name("scale", training.scale, SCALES)
    from reslab.spec.papers import get_study

    study_spec = get_study(name)
    selected_rows = tuple(row.strip() for row in (rows or "").split(",") if row.strip())
    for row in selected_rows:
        study_spec.get_row(row)
    from reslab.studies.run_study import StudyOptions

    options = StudyOptions(study_spec, rows=selected_rows, **vars(training))
    with limit_pixels(max_pixels):
        if task is not None:
            _run_task(options, task)
        elif dry_run:
            _print_plan(options, as_json)
        elif slurm is not None:
            _write_slurm_script(options, slurm, as_json)
        else:
            _run_study(options, as_json)


def _run_study(options: "StudyOptions", as_json: bool) -> None:
    from reslab.studies.run_study import run_study_options

    page = run_study_options(options, echo_err, _EvalPrinter(), shlex.join(["reslab", *sys.argv[1:]]))
    if as_json:
        print_json(study_payload(page))
    else:
        _print_page(page)
    if page.num_failed:
        echo_err(
            f"{pluralize(page.num_failed, 'training')} failed: the report gives the reasons; "
            "run the same command to retry"
        )
        raise typer.Exit(1)


class _EvalPrinter:
    """Prints the evaluations of a training in progress."""

    def __call__(self, record: dict[str, Any]) -> None:
        if record["kind"] != "eval":
            return
        value = f"error {format_percent(1 - record['top1'])}" if "top1" in record else _main_metric(record)
        echo_err(f"  step {record['step']:,}: {record['split']} {value}")


def _main_metric(record: dict[str, Any]) -> str:
    """Return the metric that selects the weights, of the task that has it."""
    metrics = [task.selection_metric for task in TASKS.values()]
    metric = next(metric for metric in metrics if metric.name in record)
    return f"{metric.title} {format_metric(metric, record[metric.name])}"


def _run_task(options: "StudyOptions", task: int) -> None:
    from reslab.studies.job import run_job
    from reslab.studies.run_study import make_job_context, plan_study
    from reslab.studies.runner import run_jobs

    # nohup makes a process ignore SIGINT, but the parent process stops this one with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    plan = plan_study(options)
    job = next((job for job in plan.jobs if job.number == task), None)
    if job is None:
        raise invalid(f"a task from 0 to {len(plan.jobs) - 1}", task)
    result = run_jobs([job], run_job, make_job_context(options, echo_err, _EvalPrinter()), max_tries=1)
    if result.failed:
        raise RuntimeError(result.failed[task])


def _write_slurm_script(options: "StudyOptions", path: Path, as_json: bool) -> None:
    from reslab.studies.run_study import estimate_cost, plan_study, worker_command
    from reslab.studies.runner import make_slurm_script

    cost = estimate_cost(options, plan_study(options))
    for reason in cost.skip_reasons():
        echo_err(f"not in the script: {reason}")
    if not cost.pending:
        raise invalid("a study with trainings left to run", cost.summary(), next_step="leave --slurm out")
    max_seconds = max(cost.job_seconds(job) for job in cost.pending)
    logs = options.store / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    text = make_slurm_script(
        options.study.name,
        cost.pending,
        worker_command(options),
        log_dir=logs,
        work_dir=Path.cwd(),
        max_seconds=max_seconds,
    )
    write_atomic(path, text.encode())
    if as_json:
        print_json({"script": str(path), "num_tasks": len(cost.pending)})
    else:
        echo_err(f"{len(cost.pending)} tasks in {path}: sbatch {shlex.quote(str(path))}")


def study_payload(page: StudyPage) -> dict[str, Any]:
    """Return the value of `reslab study --json`."""
    return {
        "study": page.study.name,
        "scale": page.scale,
        "rows": [_row_payload(row) for row in page.rows],
        "claims": [
            {
                "text": claim.text,
                "verdict": claim.verdict,
                "explanation": claim.explanation,
                "is_ours": claim.is_ours,
            }
            for claim in page.claims
        ],
    }


def _row_payload(row: StudyRow) -> dict[str, Any]:
    return {
        "name": row.row.name,
        "arch": row.arch_text,
        "depth": row.depth,
        "source_depth": row.source_depth,
        "metric": row.row.metric,
        "unit": row.metric.unit,
        "reported": row.row.reported.value if row.row.reported else None,
        "mean": row.mean(),
        "std": row.std(),
        "seeds": len(row.runs),
        "values": row.values(),
        "not_run_reason": row.not_run_reason,
    }


def _print_page(page: StudyPage) -> None:
    print(f"{page.study.title} ({page.study.reference}), scale {page.scale}")
    cells = [
        (
            row.row.name,
            f"{row.row.metric}{f' ({row.metric.unit})' if row.metric.unit else ''}",
            reported_text(row.row.reported, ""),
            format_metric_value(row.mean(), row.metric.unit, omit_unit=True),
            format_metric_value(row.std(), row.metric.unit, omit_unit=True),
            str(len(row.runs)),
            row.not_run_reason,
        )
        for row in page.rows
    ]
    print_table(["row", "metric", "reported", "mean", "std", "seeds", ""], cells)
    for claim in page.claims:
        origin = " (a test of our own)" if claim.is_ours else ""
        print(f"{claim.text}{origin}: {claim.verdict} ({claim.explanation})")


def _print_plan(options: "StudyOptions", as_json: bool) -> None:
    from reslab.studies.run_study import estimate_cost, plan_study

    cost = estimate_cost(options, plan_study(options))
    payload = cost.to_dict()
    if as_json:
        print_json({"study": options.study.name, "scale": options.scale, **payload})
        return
    print(f"{options.study.title} ({options.study.reference}), scale {options.scale}")
    reasons = list(dict.fromkeys(row["not_run_reason"] for row in payload["rows"] if row["not_run_reason"]))
    cells = [
        (
            row["name"],
            row["preset"],
            str(row["seeds"]),
            str(row["done"]),
            format_duration(row["seconds"]),
            f"{row['memory_bytes'] / 1e6:,.0f} MB",
            f"cannot run ({reasons.index(row['not_run_reason']) + 1})" if row["not_run_reason"] else "",
        )
        for row in payload["rows"]
    ]
    print_table(["row", "reduced", "seeds", "done", "time/seed", "memory", ""], cells)
    for number, reason in enumerate(reasons, 1):
        print(f"({number}) {reason}")
    print(f"remaining: {cost.summary()}")
