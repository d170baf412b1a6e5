"""Jobs done: here, by several processes, after a worker that dies, after Ctrl-C."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from reslab.spec.papers import get_study
from reslab.spec.study import Study
from reslab.studies import runner
from reslab.studies.plan import is_done, make_plan, missing
from reslab.studies.runner import own_command, run_here, run_in_processes
from reslab.studies.store import Store
from reslab.studies.work import Place
from reslab.training.interruption import Interrupted

NAME = "he2015/degradation"


def test_only_what_is_missing_is_run(study: Study, said: tuple[Place, list[str]]) -> None:
    place, lines = said
    run_here(make_plan(study, "smoke", seeds=1).jobs, place)
    plan = make_plan(study, "smoke", seeds=2)
    left = missing(plan, place.store)
    assert [job.name for job in left] == ["plain, seed 1", "residual, seed 1"]
    lines.clear()
    run_here(left, place)
    assert [line.split(":")[0] for line in lines] == ["plain, seed 1", "residual, seed 1"]
    assert not missing(plan, place.store)
    assert all(is_done(place.store.entry(job.key), job) for job in plan.jobs)


def test_ctrl_c_keeps_what_is_done(study: Study, place: Place) -> None:
    plan = make_plan(study, "smoke", seeds=2)
    seen: list[int] = []

    def stop(line: dict[str, object]) -> None:
        seen.extend([1] * (line["kind"] == "start"))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="what is done is kept"):
        run_here(plan.jobs, replace(place, show=stop))
    assert len(missing(plan, place.store)) == 2
    assert not list(place.store.path.glob("*.lock"))
    assert not run_here(missing(plan, place.store), place).failed
    assert not missing(plan, place.store)


def test_a_job_that_fails_is_tried_once_more_then_told(
    study: Study, said: tuple[Place, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, lines = said
    plan = make_plan(study, "smoke", seeds=1)
    tried: list[str] = []
    real = runner.do

    def flaky(job: object, where: object) -> object:
        name = getattr(job, "name", "")
        tried.append(name)
        if name.startswith("plain") or tried.count(name) == 1:
            raise RuntimeError(f"no luck with {name}")
        return real(job, where)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "do", flaky)
    outcome = run_here(plan.jobs, place)
    assert tried == ["plain, seed 0", "residual, seed 0"] * 2
    assert outcome.failed == {0: "RuntimeError: no luck with plain, seed 0"}
    assert len(missing(plan, place.store)) == 1
    assert any("tried once more" in line for line in lines)


def test_a_job_of_another_worker_is_come_back_to(study: Study, said: tuple[Place, list[str]]) -> None:
    place, lines = said
    plan = make_plan(study, "smoke", seeds=1)
    taken, leave = threading.Event(), threading.Event()

    def other() -> None:
        with place.store.lock(plan.jobs[0].key):
            taken.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    assert taken.wait(60)

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("residual, seed 0: done"):
            leave.set()

    run_here(plan.jobs, replace(place, say=say))
    thread.join()
    assert "is at it" in lines[0]
    assert [line.split(",")[0] for line in lines[1:]] == ["residual", "plain"]


def study_words(store: Store) -> list[str]:
    words = ["study", NAME, "--scale", "smoke", "--rows", "plain-20", "--seeds", "2"]
    return [*words, "--store", str(store.path), "--device", "cpu"]


def test_a_worker_that_is_killed_is_replaced_once(said: tuple[Place, list[str]], tmp_path: Path) -> None:
    """The first worker of seed 0 kills itself, that of seed 1 always does."""
    place, lines = said
    plan = make_plan(get_study(NAME), "smoke", rows=["plain-20"], seeds=2)
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
    outcome = run_in_processes(plan.jobs, place, 2, [sys.executable, str(script), *study_words(place.store)])
    assert outcome.failed == {1: "its worker was killed by SIGKILL (about to die)"}
    assert [job.number for job in missing(plan, place.store)] == [1]
    assert "plain-20, seed 0: done" in lines
    assert len(outcome.notes) == 3


def test_the_command_of_a_worker_does_one_job(place: Place) -> None:
    plan = make_plan(get_study(NAME), "smoke", rows=["plain-20"], seeds=2)
    words = [*own_command(study_words(place.store)), "--task", "1"]
    subprocess.run(words, check=True, capture_output=True, timeout=300)
    assert [job.number for job in missing(plan, place.store)] == [0]
    beyond = subprocess.run([*words[:-1], "7"], capture_output=True, text=True, timeout=300)
    assert beyond.returncode == 1
    assert "a task from 0 to 1" in beyond.stderr
