"""Running jobs: in this process and in several, after a worker dies, after Ctrl-C."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reslab.runtime.interrupts import TrainingInterrupted
from reslab.spec.papers import get_study
from reslab.spec.study import Study
from reslab.studies.job import run_job
from reslab.studies.plan import JobContext, StoreEntry, StudyJob, StudyStore, is_done, make_study_plan, missing_jobs
from reslab.studies.run_study import run_study
from reslab.studies.runner import run_jobs, run_jobs_in_processes

NAME = "he2015/degradation"


def test_only_missing_jobs_are_run(study: Study, recorded: tuple[JobContext, list[str]]) -> None:
    context, messages = recorded
    run_jobs(make_study_plan(study, "smoke", seeds=1).jobs, run_job, context)
    plan = make_study_plan(study, "smoke", seeds=2)
    left = missing_jobs(plan, context.store)
    assert [job.name for job in left] == ["plain, seed 1", "residual, seed 1"]
    messages.clear()
    run_jobs(left, run_job, context)
    assert [record.split(":")[0] for record in messages] == ["plain, seed 1", "residual, seed 1"]
    assert not missing_jobs(plan, context.store)
    assert all(is_done(context.store.entry(job.key), job) for job in plan.jobs)


def test_ctrl_c_keeps_finished_jobs(study: Study, context: JobContext) -> None:
    plan = make_study_plan(study, "smoke", seeds=2)
    seen: list[int] = []

    def stop(record: dict[str, object]) -> None:
        seen.extend([1] * (record["kind"] == "start"))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted, match="finished work is kept"):
        run_jobs(plan.jobs, run_job, replace(context, on_log=stop))
    assert len(missing_jobs(plan, context.store)) == 2
    assert not list(context.store.path.glob("*.lock"))
    assert not run_jobs(missing_jobs(plan, context.store), run_job, context).failed
    assert not missing_jobs(plan, context.store)


def test_a_job_that_fails_is_tried_once_more_then_recorded(
    study: Study, recorded: tuple[JobContext, list[str]]
) -> None:
    context, messages = recorded
    plan = make_study_plan(study, "smoke", seeds=1)
    tried: list[str] = []

    def flaky(job: StudyJob, where: JobContext) -> StoreEntry:
        name = job.name
        tried.append(name)
        if name.startswith("plain") or tried.count(name) == 1:
            raise RuntimeError(f"no luck with {name}")
        return run_job(job, where)

    outcome = run_jobs(plan.jobs, flaky, context)
    assert tried == ["plain, seed 0", "residual, seed 0"] * 2
    assert outcome.failed == {0: "RuntimeError: no luck with plain, seed 0"}
    assert len(missing_jobs(plan, context.store)) == 1
    assert any("trying once more" in record for record in messages)


def test_a_job_of_another_worker_is_waited_for(study: Study, recorded: tuple[JobContext, list[str]]) -> None:
    context, messages = recorded
    plan = make_study_plan(study, "smoke", seeds=1)
    taken, leave = threading.Event(), threading.Event()

    def other() -> None:
        with context.store.lock(plan.jobs[0].key):
            taken.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    assert taken.wait(60)

    def say(record: str) -> None:
        messages.append(record)
        if record.startswith("residual, seed 0: done"):
            leave.set()

    run_jobs(plan.jobs, run_job, replace(context, on_message=say))
    thread.join()
    assert "waiting" in messages[0]
    assert [record.split(",")[0] for record in messages[1:]] == ["residual", "plain"]


def study_words(store: StudyStore) -> list[str]:
    text = ["study", NAME, "--scale", "smoke", "--rows", "plain-20", "--seeds", "2"]
    return [*text, "--store", str(store.path), "--device", "cpu"]


def test_a_worker_that_is_killed_is_replaced_once(recorded: tuple[JobContext, list[str]], tmp_path: Path) -> None:
    """The first worker of seed 0 kills itself, every worker of seed 1 does."""
    context, messages = recorded
    plan = make_study_plan(get_study(NAME), "smoke", rows=["plain-20"], seeds=2)
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, pathlib, runpy, signal, sys\n"
        "mark = pathlib.Path(__file__).parent / f'tried-{sys.argv[-1]}'\n"
        "if sys.argv[-1] == '1' or not mark.exists():\n"
        "    mark.touch()\n"
        "    print('about to die', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "runpy.run_module('reslab', run_name='__main__')\n"
    )
    outcome = run_jobs_in_processes(plan.jobs, context, 2, [sys.executable, str(script), *study_words(context.store)])
    assert outcome.failed == {1: "its worker was killed by SIGKILL (about to die)"}
    assert [job.number for job in missing_jobs(plan, context.store)] == [1]
    assert "plain-20, seed 0: done" in messages
    assert len(outcome.notes) == 3


def test_stopping_ends_the_workers(study: Study, context: JobContext, tmp_path: Path) -> None:
    """Each worker leaves a file when it starts, and one when it is interrupted."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "mark = pathlib.Path(__file__).parent / sys.argv[-1]\n"
        "try:\n"
        "    mark.with_suffix('.runs').touch()\n"
        "    time.sleep(600)\n"
        "except KeyboardInterrupt:\n"
        "    mark.with_suffix('.stopped').touch()\n"
    )

    def stop() -> None:
        while len(list(tmp_path.glob("*.runs"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(TrainingInterrupted, match="the same command continues"):
        run_jobs_in_processes(make_study_plan(study, "smoke").jobs, context, 2, [sys.executable, str(script)])
    thread.join()
    assert sorted(path.name for path in tmp_path.glob("*.stopped")) == ["0.stopped", "1.stopped"]


def test_a_study_of_your_own(study: Study, tmp_path: Path) -> None:
    page = run_study(study, seeds=1, store=tmp_path / "store", output=tmp_path / "page", rows=["residual"])
    assert page.rows[0].mean() is not None
    assert (tmp_path / "page" / "report.html").is_file()
    whole = run_study(study, seeds=1, store=tmp_path / "store", output=tmp_path / "whole", report_only=True)
    assert [(row.row.name, row.values()) for row in whole.rows] == [("plain", []), ("residual", page.rows[0].values())]
    with pytest.raises(ValueError, match="a study of the table for several processes"):
        run_study(study, seeds=2, store=tmp_path / "store", output=tmp_path / "page", num_jobs=2)
