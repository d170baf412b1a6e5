"""What came out of a study, gathered from the store as the plain data of its page.

The page of a study, written: report.html, report.md and the figures beside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from reslab.report.format import plural, seconds
from reslab.report.pages.study import study_markdown
from reslab.report.pages.study_text import JudgedClaim, StudyPage, StudyRow, StudyRun
from reslab.report.render import render_study
from reslab.runtime.files import write_whole
from reslab.spec.study import Asked, Claim, Metric, metric_of
from reslab.studies.cost import Rate, describe_recipe, price_seconds
from reslab.studies.job import ensembles
from reslab.studies.metrics import DEFAULT_TRAIN_ERROR, row_value, values_of
from reslab.studies.plan import Job, Plan, is_done
from reslab.studies.resolve import Definite
from reslab.studies.store import Entry, Store
from reslab.studies.verdicts import Verdict, judge


def collect(
    plan: Plan, store: Store, rate: Rate, failed: Mapping[int, str], notes: Sequence[str] = (), command: str = ""
) -> StudyPage:
    """The page of a plan: every row with the seeds that are there, why others are not, the claims judged."""
    rows = [_row(plan, row, store, rate, failed) for row in plan.rows]
    page = StudyPage(plan.study, plan.scale, rows, facts=_facts(plan, store, command), notes=_notes(plan, store, notes))
    return replace(page, claims=[judged(page, claim, verdict) for claim, verdict in verdicts(page)])


def _notes(plan: Plan, store: Store, said: Sequence[str]) -> tuple[str, ...]:
    """What the entries tell of how they came about, and what was said now; each once."""
    told = [note for job in plan.jobs for note in store.entry(job.key).facts.get("notes", ())]
    return tuple(dict.fromkeys([*told, *said]))


def verdicts(page: StudyPage) -> list[tuple[Claim, Verdict]]:
    """Each claim with its verdict from the page's rows."""
    return [(claim, judge(claim, _values(page, claim), _unit(page, claim))) for claim in page.study.claims]


def judged(page: StudyPage, claim: Claim, verdict: Verdict) -> JudgedClaim:
    """A claim as the page shows it."""
    counted = _how_counted(page, claim) if verdict.difference is not None else []
    return JudgedClaim(claim.text, verdict.verdict, "; ".join([verdict.words, *counted]))


def _metric(page: StudyPage, claim: Claim) -> Metric:
    return metric_of(claim.metric or page.study.row(claim.rows[0]).metric)


def _unit(page: StudyPage, claim: Claim) -> str:
    """That of a difference: percentages differ by points."""
    unit = _metric(page, claim).unit
    return "points" if unit == "%" else unit


def _how_counted(page: StudyPage, claim: Claim) -> list[str]:
    """What was counted, where the claim does not say it: the field of an answer; steps to which training error."""
    if claim.metric != "steps_to_train_error":
        return [f"in the {_metric(page, claim).words}"] * ("." in claim.metric)
    rows = [row for name in claim.rows if (row := page.row(name))]
    levels = dict.fromkeys(f"{row.cut.train_error or DEFAULT_TRAIN_ERROR:g} %" for row in rows)
    return [f"in steps to a training error of {' and '.join(levels)}, the last step where it was not reached"]


def _values(page: StudyPage, claim: Claim) -> dict[str, dict[int, float]]:
    """The values of a claim's metric by row and seed; a step that was never reached counts as the last."""
    found: dict[str, dict[int, float]] = {}
    for name in claim.rows:
        row = page.row(name)
        if row and row.runs:
            found[name] = {}
        for run in row.runs if row else ():
            value = run.values.get(claim.metric or page.study.row(name).metric)
            if value is not None and math.isinf(value):
                value = max((float(line["step"]) for line in run.log), default=None)
            if value is not None and math.isfinite(value):
                found[name][run.seed] = value
    return found


def _row(plan: Plan, row: Definite, store: Store, rate: Rate, failed: Mapping[int, str]) -> StudyRow:
    jobs = plan.jobs_of(row.row.name)
    done = [(job, store.entry(job.key)) for job in jobs]
    done = [(job, entry) for job, entry in done if is_done(entry, job)]
    runs = [_run(job, entry) for job, entry in done]
    if row.row.members:
        judged = [(one.seed, one.values(store)) for one in ensembles(plan, row)]
        runs = [StudyRun(seed, values) for seed, values in judged if values]
    diverged = sum(entry.facts["status"] == "diverged" for _, entry in done)
    why = _why(row, jobs, len(runs), diverged, failed)
    price = price_seconds(row, rate(row)) * plan.num_seeds[row.row.name] if not row.row.members else None
    return StudyRow(row.row, row.cut, runs, _network(row), why, price)


def _why(row: Definite, jobs: Sequence[Job], num_done: int, num_diverged: int, failed: Mapping[int, str]) -> str:
    told = []
    if row.absent:
        told.append(f"its data are not here ({row.data})")
    told += dict.fromkeys(failed[job.number] for job in jobs if job.number in failed)
    if row.row.members and not num_done:
        told.append("not all of its members were run")
    if 0 < num_done < len(jobs):
        told.append(f"{num_done} of {plural(len(jobs), 'seed')} {'was' if num_done == 1 else 'were'} run")
    if num_diverged:
        told.append(
            f"the loss was not finite in {num_diverged} of {plural(num_done, 'seed')}, whose error is that of guessing"
        )
    return "; ".join(told)


def _run(job: Job, entry: Entry) -> StudyRun:
    run = entry.run
    log = run.log.lines() if run else []
    answers = {_answer_name(asked): answer for asked in job.asked if (answer := entry.answer(asked)) is not None}
    values = values_of(job, entry, log)
    for name in job.wanted:
        if name not in values and (found := row_value(name, answers)) is not None:
            values[name] = found
    return StudyRun(job.seed, values, log, answers, values.get("train_seconds", 0.0))


def _answer_name(asked: Asked) -> str:
    return asked.question if asked.at == "weights" else f"{asked.question}@{asked.at}"


def _network(row: Definite) -> str:
    if row.arch is None:
        return f"the mean of {', '.join(row.row.members)}"
    axes = [f"{key.removeprefix('model.')}={value}" for key, value in row.settings.items() if key.startswith("model.")]
    return ", ".join([row.arch.name, *axes])


def _facts(plan: Plan, store: Store, command: str) -> dict[str, str]:
    """Command, hardware, versions and cost of what is there."""
    entries = [store.entry(job.key) for job in plan.jobs]
    told = [facts for facts in (entry.facts for entry in entries) if facts]
    hardware = dict.fromkeys(
        f"{one['device']}, {one['processor']}, {plural(one['num_threads'], 'thread')}"
        for one in (facts["hardware"] for facts in told)
    )
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in one["versions"].items() if name != "system") for one in told
    )
    # A training that was stopped tells its own seconds in full, its entry those after it was taken up again.
    spent = sum(max(one["seconds"], one["values"].get("train_seconds", 0.0)) for one in told)
    recipes = dict.fromkeys(describe_recipe(row.recipe) for row in plan.rows if not row.row.members)
    found = {
        "command": command,
        "scale": plan.scale,
        "procedure": "; ".join(recipes),
        "hardware": "; ".join(hardware),
        "versions": "; ".join(versions),
        "cost": f"{seconds(spent)} for {plural(len(told), 'network')}" if told else "",
    }
    return {name: text for name, text in found.items() if text}


def write_page(page: StudyPage, folder: Path) -> Path:
    """Write report.md with its figures into `folder`, and report.html; returns the path of the latter."""
    text, figures = study_markdown(page)
    write_whole(folder / "report.md", text.encode())
    for name, figure in figures.items():
        write_whole(folder / name, figure.encode())
    write_whole(folder / "report.html", render_study(page).encode())
    return folder / "report.html"
