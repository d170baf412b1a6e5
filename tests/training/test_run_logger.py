"""The numbers of a log, read back as TensorBoard reads them."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from reslab.runtime.interrupts import TrainingInterrupted
from reslab.training import run_logger as scalars
from reslab.training.run import Run
from reslab.training.run_folder import RunLog
from reslab.training.train import train


def points(run: Run) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, pytest.approx(event.value, rel=1e-6)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def lines(run: Run, kind: str, key: str) -> list[tuple[int, float]]:
    return [(line["step"], line[key]) for line in run.log.records() if line["kind"] == kind]


def test_every_number_of_the_log_is_there_once_also_of_a_resumed_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    def interrupt(step: int, model: nn.Module) -> dict[str, Any]:
        if step == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return {"twice": 2 * step, "word": "not a number"}

    options = {"output": tmp_path / "run", "val_fraction": 0.2, "hook_every_steps": 5, **tiny}
    with pytest.raises(TrainingInterrupted):
        train(tensorboard=True, on_step_end=interrupt, **options)
    # Points of steps that are taken again: as if the state had been saved before them.
    again = scalars.TensorBoardWriter(tmp_path / "run" / "tensorboard")
    again.start(20)
    again.log({"kind": "step_end", "step": 25, "twice": -1.0})
    again.close()
    run = train(resume=True, on_step_end=lambda step, model: {"twice": 2 * step}, **options)  # what was begun goes on
    result = points(run)
    for kind, group, key in (
        ("train", "train", "loss"),
        ("train", "train", "lr"),
        ("eval", "val", "top1"),
        ("step_end", "step_end", "twice"),
    ):
        assert result[f"{group}/{key}"] == lines(run, kind, key)
    assert [step for step, _ in result["step_end/twice"]] == [5, 10, 15, 20, 25, 30]
    assert "probe/word" not in result


def test_without_tensorboard_it_reports_the_next_step_and_writes_nothing(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalars, "has_tensorboard", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'reslab\[tensorboard\]'"):
        train(output=tmp_path / "run", tensorboard=True, **tiny)
    assert not (tmp_path / "run").exists()


class RecordingWriter:
    """A tracker that records its calls, and fails at the records of one kind."""

    def __init__(self, failing_kind: str = "") -> None:
        self.calls: list[Any] = []
        self.failing_kind = failing_kind

    def start(self, step: int) -> None:
        self.calls.append(("start", step))

    def log(self, record: dict[str, Any]) -> None:
        if record["kind"] == self.failing_kind:
            raise OSError("the tracker does not answer")
        self.calls.append(record)

    def close(self) -> None:
        self.calls.append("close")


def test_every_writer_gets_every_record_and_a_failing_one_stops_no_other(tmp_path: Path) -> None:
    failing, working = RecordingWriter(failing_kind="eval"), RecordingWriter()
    shown: list[dict[str, Any]] = []
    run: Any = SimpleNamespace(log=RunLog(tmp_path / "log.jsonl"))
    logger = scalars.RunLogger(run, shown.append, writers=[failing, working])
    records = [{"kind": "train", "step": 1, "loss": 2.0}, {"kind": "eval", "step": 1, "split": "val", "top1": 0.5}]
    logger.start(0)
    for record in records:
        logger.log(record)
    with pytest.raises(OSError, match="does not answer"):
        logger.raise_failure()
    logger.close()
    assert working.calls == [("start", 0), *records, "close"]
    assert failing.calls == [("start", 0), records[0], "close"]
    assert shown == records
    assert [
        {key: line[key] for key in record} for line, record in zip(run.log.records(), records, strict=True)
    ] == records


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    writer = RecordingWriter()
    run: Any = SimpleNamespace(log=RunLog(tmp_path / "log.jsonl"))
    logger = scalars.RunLogger(run, lambda record: None, is_main=False, writers=[writer])
    logger.start(0)
    logger.log({"kind": "train", "step": 1, "loss": 2.0})
    logger.close()
    assert writer.calls == []
    assert not run.log.path.exists()
