"""The store: keys, damage, locks, entries of older numerics."""

import json
import multiprocessing
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

import reslab.studies.plan as plan_module
from reslab.analysis import layers
from reslab.runtime import locks
from reslab.runtime.locks import LockHeldError
from reslab.spec.study import AnalysisRequest, Study
from reslab.studies.job import run_job
from reslab.studies.plan import (
    EntryStatus,
    JobContext,
    StudyPlan,
    StudyStore,
    entry_key,
    make_study_plan,
    missing_jobs,
    training_identity,
)
from reslab.studies.runner import run_jobs

from .conftest import StudyFactory


def plan_of(study: Study, seeds: int = 1, rows: tuple[str, ...] = ()) -> StudyPlan:
    return make_study_plan(study, "smoke", seeds=seeds, rows=rows)


def test_a_key_depends_on_what_determines_the_training(study: Study, make_study: StudyFactory) -> None:
    first = plan_of(study, seeds=2)
    keys = [job.key for job in first.jobs]
    assert len(set(keys)) == 4
    assert [job.key for job in plan_of(study, seeds=2).jobs] == keys
    for other in (
        make_study(num_images=50),
        make_study(overrides=(*study.presets.smoke.overrides, "optimizer.lr=0.05")),
        make_study(overrides=(*study.presets.smoke.overrides, "model.order=full-preact")),
    ):
        assert {job.key for job in plan_of(other, seeds=2).jobs}.isdisjoint(keys)
    renamed = replace(study, name="test/other", title="Other", rows=tuple(replace(row, note="x") for row in study.rows))
    assert [job.key for job in plan_of(renamed, seeds=2).jobs] == keys
    assert entry_key(training_identity(first.jobs[0].row, 0), 999) != keys[0]


def test_a_finished_entry_is_not_trained_again(study: Study, context: JobContext) -> None:
    job = plan_of(study).jobs[0]
    weights = run_job(job, context).run_path / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert run_job(job, context).metadata.status is EntryStatus.DONE
    assert weights.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("entry.json", "cut"),
        ("run/model.safetensors", "cut"),
        ("run/model.safetensors", "gone"),
        ("run/log.jsonl", "cut"),
    ],
)
def test_a_damaged_entry_is_created_again_with_a_note(
    study: Study, recorded: tuple[JobContext, list[str]], file: str, how: str
) -> None:
    context, messages = recorded
    job = plan_of(study).jobs[0]
    entry = run_job(job, context)
    sound = (entry.run_path / "model.safetensors").read_bytes()
    path = entry.path / file
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    messages.clear()
    again = run_job(job, context)
    assert f"the entry {job.key} was damaged" in messages[0]
    assert again.metadata.notes == (messages[0],)
    assert again.find_damage() is None
    assert again.metadata.values.keys() >= {"test_error", "train_seconds"}
    assert (again.run_path / "model.safetensors").read_bytes() == sound


def test_a_damaged_entry_is_missing(study: Study, context: JobContext) -> None:
    plan = plan_of(study)
    job = plan.jobs[0]
    log = run_job(job, context).run_path / "log.jsonl"
    assert job not in missing_jobs(plan, context.store)
    log.write_text(log.read_text() + "junk\n")
    assert job in missing_jobs(plan, context.store)


def test_an_entry_of_older_numerics_is_kept_and_marked(
    study: Study, recorded: tuple[JobContext, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, messages = recorded
    old = plan_of(study).jobs[0]
    run_job(old, context)
    monkeypatch.setattr(plan_module, "NUMERICS_VERSION", 2)
    monkeypatch.setattr(entry_key, "__defaults__", (2,))
    new = plan_of(study).jobs[0]
    assert new.key != old.key
    run_job(new, context)
    kept = context.store.entry(old.key)
    assert kept.metadata.superseded_by == new.key
    assert (kept.run_path / "model.safetensors").exists()
    assert "is kept, marked as superseded" in messages[-1]


def test_one_worker_holds_a_lock_and_the_error_names_it(tmp_path: Path) -> None:
    store = StudyStore(tmp_path)
    with store.lock("a"):
        other = StudyStore(tmp_path)
        with pytest.raises(LockHeldError, match=f"process {os.getpid()} on "), other.lock("a"):
            pytest.fail("two workers hold one lock")
        with other.lock("b"):
            assert (tmp_path / "a.lock").exists()
    assert not (tmp_path / "a.lock").exists()


def test_the_lock_of_a_dead_process_is_free_at_once(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_die_with_lock, args=(tmp_path,))
    child.start()
    child.join()
    assert f"pid={child.pid}\n" in (tmp_path / "a.lock").read_text()
    with StudyStore(tmp_path).lock("a"):
        assert f"pid={os.getpid()}\n" in (tmp_path / "a.lock").read_text()


def _die_with_lock(path: Path) -> None:
    with StudyStore(path).lock("a"):
        os._exit(1)


def test_a_lock_of_another_machine_is_free_once_it_is_not_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.1)
    with StudyStore(tmp_path).lock("a"):
        record = (tmp_path / "a.lock").read_text()
    record = re.sub("host=.*", "host=elsewhere", re.sub("pid=.*", "pid=1", record))
    (tmp_path / "a.lock").write_text(record)
    store = StudyStore(tmp_path)
    with pytest.raises(LockHeldError, match="process 1 on elsewhere"), store.lock("a"):
        pytest.fail("the lock of another machine was taken")
    time.sleep(0.3)
    (tmp_path / "a.lock").touch()
    time.sleep(0.3)
    with pytest.raises(LockHeldError), store.lock("a"):
        pytest.fail("a renewed lock was taken")
    time.sleep(0.6)
    with store.lock("a"):
        assert f"pid={os.getpid()}\n" in (tmp_path / "a.lock").read_text()


def test_two_rows_that_are_one_training_share_an_entry(study: Study, context: JobContext) -> None:
    twice = replace(study, rows=(*study.rows, replace(study.rows[0], name="again")))
    plan = plan_of(twice)
    assert len({job.key for job in plan.jobs}) == 2
    run_jobs(plan.jobs, run_job, context)
    assert len(context.store.entries()) == 2


def test_an_interrupted_run_resumes_bit_for_bit(study: Study, context: JobContext, tmp_path: Path) -> None:
    job = plan_of(study).jobs[1]
    whole = run_job(job, replace(context, store=StudyStore(tmp_path / "other")))

    def stop(line: dict[str, object]) -> None:
        if line["kind"] == "eval" and line["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, replace(context, on_log=stop, save_every_seconds=0.0))
    assert context.store.entry(job.key).metadata is None
    resumed = run_job(job, context)
    assert resumed.run is not None
    assert resumed.run.metadata["resume_commands"]
    name = "model.safetensors"
    assert (resumed.run_path / name).read_bytes() == (whole.run_path / name).read_bytes()


def test_an_unreadable_checkpoint_starts_again(study: Study, recorded: tuple[JobContext, list[str]]) -> None:
    context, messages = recorded
    job = plan_of(study).jobs[0]
    entry = run_job(job, context)
    (entry.path / "entry.json").unlink()
    (entry.run_path / "checkpoint" / "checkpoint.pt").write_bytes(b"torn")
    run_job(job, context)
    assert any("could not be resumed" in line for line in messages)
    assert entry.metadata.status is EntryStatus.DONE


def test_a_training_that_diverges_is_a_result(make_study: StudyFactory, context: JobContext) -> None:
    study = make_study(overrides=(*make_study().presets.smoke.overrides, "optimizer.lr=1e30"))
    outcome = run_jobs(plan_of(study, rows=("plain",)).jobs, run_job, context)
    assert not outcome.failed
    facts = context.store.entry(plan_of(study, rows=("plain",)).jobs[0].key).metadata
    assert facts.status is EntryStatus.DIVERGED
    assert "training stopped" in facts.error


def test_an_unwritable_store_is_an_error_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"a writable folder for the store.*--store"):
        StudyStore(tmp_path / "file" / "store").check_writable()
    StudyStore(tmp_path / "new" / "store").check_writable()
    assert not list((tmp_path / "new" / "store").iterdir())


def test_insufficient_memory_is_not_recorded_as_a_failed_analysis(
    make_study: StudyFactory, context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = plan_of(make_study(analyses=(AnalysisRequest("gradients", weights="init", num_images=8),))).jobs[0]
    with monkeypatch.context() as short:
        short.setattr(layers, "read_free_bytes", lambda device: 1000)
        with pytest.raises(layers.InsufficientMemoryError, match="fit in memory"):
            run_job(job, context)
    entry = run_job(job, context)
    assert entry.metadata.failed_analyses == {}
    assert entry.read_result(job.analyses[0]) is not None


def test_an_unreadable_result_is_computed_again_with_a_note(
    make_study: StudyFactory, recorded: tuple[JobContext, list[str]]
) -> None:
    context, messages = recorded
    job = plan_of(make_study(analyses=(AnalysisRequest("gradients", weights="init", num_images=8),))).jobs[0]
    (path,) = (run_job(job, context).path / "results").iterdir()
    sound = json.loads(path.read_text())["result"]
    path.write_text("{")
    entry = run_job(job, context)
    assert messages == ["plain, seed 0: its result of gradients is unreadable and is computed again"]
    assert entry.read_result(job.analyses[0]) == sound
    assert entry.metadata.notes == tuple(messages)
