"""The store: keys, damage, locks, entries of older numerics."""

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest

import reslab.studies.store as store_module
from reslab.analysis import progress as room
from reslab.spec.study import AnalysisRequest, Study
from reslab.studies import store as lock
from reslab.studies.job import JobContext, run_job
from reslab.studies.plan import StudyPlan, make_study_plan, missing_jobs
from reslab.studies.runner import run_jobs
from reslab.studies.store import LockHeldError, entry_key, hold_lock, training_identity

from .conftest import Changed


def plan_of(study: Study, seeds: int = 1, rows: tuple[str, ...] = ()) -> StudyPlan:
    return make_study_plan(study, "smoke", seeds=seeds, rows=rows)


def test_a_key_says_what_determines_the_training(study: Study, changed: Changed) -> None:
    first = plan_of(study, seeds=2)
    keys = [job.key for job in first.jobs]
    assert len(set(keys)) == 4
    assert [job.key for job in plan_of(study, seeds=2).jobs] == keys
    for other in (
        changed(num_images=50),
        changed(overrides=(*study.presets.smoke.overrides, "optimizer.lr=0.05")),
        changed(overrides=(*study.presets.smoke.overrides, "model.order=full-preact")),
    ):
        assert {job.key for job in plan_of(other, seeds=2).jobs}.isdisjoint(keys)
    renamed = replace(study, name="test/other", title="Other", rows=tuple(replace(row, note="x") for row in study.rows))
    assert [job.key for job in plan_of(renamed, seeds=2).jobs] == keys
    assert entry_key(training_identity(first.jobs[0].row, 0), 999) != keys[0]


def test_a_finished_entry_is_not_made_again(study: Study, place: JobContext) -> None:
    job = plan_of(study).jobs[0]
    weights = run_job(job, place).run_path / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert run_job(job, place).metadata["status"] == "done"
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
def test_a_damaged_entry_is_made_again_and_that_is_said(
    study: Study, said: tuple[JobContext, list[str]], file: str, how: str
) -> None:
    place, lines = said
    job = plan_of(study).jobs[0]
    entry = run_job(job, place)
    sound = (entry.run_path / "model.safetensors").read_bytes()
    path = entry.path / file
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    lines.clear()
    again = run_job(job, place)
    assert f"its entry {job.key} was damaged" in lines[0]
    assert again.metadata["notes"] == [lines[0]]
    assert again.find_damage() == ""
    assert again.metadata["values"].keys() >= {"test_error", "train_seconds"}
    assert (again.run_path / "model.safetensors").read_bytes() == sound


def test_a_damaged_entry_is_missing(study: Study, place: JobContext) -> None:
    plan = plan_of(study)
    job = plan.jobs[0]
    log = run_job(job, place).run_path / "log.jsonl"
    assert job not in missing_jobs(plan, place.store)
    log.write_text(log.read_text() + "junk\n")
    assert job in missing_jobs(plan, place.store)


def test_an_entry_of_older_numerics_is_kept_and_marked(
    study: Study, said: tuple[JobContext, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, lines = said
    old = plan_of(study).jobs[0]
    run_job(old, place)
    monkeypatch.setattr(store_module, "NUMERICS_VERSION", 2)
    monkeypatch.setattr(entry_key, "__defaults__", (2,))
    new = plan_of(study).jobs[0]
    assert new.key != old.key
    run_job(new, place)
    kept = place.store.entry(old.key)
    assert kept.metadata["superseded_by"] == new.key
    assert (kept.run_path / "model.safetensors").exists()
    assert "is kept, and marked as superseded" in lines[-1]


def test_only_one_holds_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with hold_lock(path):
        with pytest.raises(LockHeldError, match=f"process {os.getpid()} on "), hold_lock(path):
            pytest.fail("two of them")
        assert path.exists()
    assert not path.exists()


def test_the_lock_of_a_dead_process_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    child = multiprocessing.get_context("spawn").Process(target=int)
    child.start()
    child.join()
    with hold_lock(path):
        told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "pid": child.pid}))
    with hold_lock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_lock_of_another_machine_counts_until_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(LockHeldError, match="process 1 on elsewhere"), hold_lock(path):
        pytest.fail("it was taken")
    long_ago = path.stat().st_mtime - lock.STALE_SECONDS - 1
    os.utime(path, (long_ago, long_ago))
    with hold_lock(path):
        assert path.exists()


def test_two_rows_that_are_one_training_share_an_entry(study: Study, place: JobContext) -> None:
    twice = replace(study, rows=(*study.rows, replace(study.rows[0], name="again")))
    plan = plan_of(twice)
    assert len({job.key for job in plan.jobs}) == 2
    run_jobs(plan.jobs, place)
    assert len(place.store.entries()) == 2


def test_a_run_that_was_stopped_goes_on_bit_for_bit(study: Study, place: JobContext, tmp_path: Path) -> None:
    job = plan_of(study).jobs[1]
    whole = run_job(job, replace(place, store=store_module.StudyStore(tmp_path / "other")))

    def stop(line: dict[str, object]) -> None:
        if line["kind"] == "eval" and line["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, replace(place, on_log=stop, save_every_seconds=0.0))
    assert not place.store.entry(job.key).metadata
    resumed = run_job(job, place)
    assert resumed.run is not None
    assert resumed.run.metadata["resume_commands"]
    name = "model.safetensors"
    assert (resumed.run_path / name).read_bytes() == (whole.run_path / name).read_bytes()


def test_a_state_that_cannot_be_read_begins_again(study: Study, said: tuple[JobContext, list[str]]) -> None:
    place, lines = said
    job = plan_of(study).jobs[0]
    entry = run_job(job, place)
    (entry.path / "entry.json").unlink()
    (entry.run_path / "checkpoint" / "checkpoint.pt").write_bytes(b"torn")
    run_job(job, place)
    assert any("could not be taken up" in line for line in lines)
    assert entry.metadata["status"] == "done"


def test_a_training_that_diverges_is_a_result(changed: Changed, place: JobContext) -> None:
    study = changed(overrides=(*changed().presets.smoke.overrides, "optimizer.lr=1e30"))
    outcome = run_jobs(plan_of(study, rows=("plain",)).jobs, place)
    assert not outcome.failed
    facts = place.store.entry(plan_of(study, rows=("plain",)).jobs[0].key).metadata
    assert facts["status"] == "diverged"
    assert "training stopped" in facts["error"]


def test_a_store_that_cannot_be_written_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"a folder for the store that can be written.*--store"):
        store_module.StudyStore(tmp_path / "file" / "store").check_writable()
    store_module.StudyStore(tmp_path / "new" / "store").check_writable()
    assert not list((tmp_path / "new" / "store").iterdir())


def test_memory_that_is_short_now_is_not_kept_as_what_the_network_cannot_be_asked(
    changed: Changed, place: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = plan_of(changed(asked=(AnalysisRequest("gradients", weights="init", num_images=8),))).jobs[0]
    with monkeypatch.context() as short:
        short.setattr(room.MemoryTracker, "free_bytes", lambda memory: 1000)
        with pytest.raises(room.InsufficientMemoryError, match="fit the memory"):
            run_job(job, place)
    entry = run_job(job, place)
    assert entry.metadata["failed_analyses"] == {}
    assert entry.read_result(job.analyses[0]) is not None


def test_an_answer_that_cannot_be_read_is_found_again_and_that_is_said(
    changed: Changed, said: tuple[JobContext, list[str]]
) -> None:
    place, lines = said
    job = plan_of(changed(asked=(AnalysisRequest("gradients", weights="init", num_images=8),))).jobs[0]
    (path,) = (run_job(job, place).path / "results").iterdir()
    sound = json.loads(path.read_text())["result"]
    path.write_text("{")
    entry = run_job(job, place)
    assert lines == ["plain, seed 0: its answer to gradients could not be read and is found again"]
    assert entry.read_result(job.analyses[0]) == sound
    assert entry.metadata["notes"] == lines
