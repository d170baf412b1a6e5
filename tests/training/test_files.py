"""Files that are whole or not there, the log, and a disk that fills."""

import errno
import json
import os
import resource
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reslab.runtime.files import DiskFullError, atomic_path, disk_full_guard, remove_partial_files, write_atomic
from reslab.training.checkpoint import (
    TrainCheckpoint,
    has_train_checkpoint,
    load_train_checkpoint,
    save_train_checkpoint,
)
from reslab.training.run import Run
from reslab.training.run_folder import DamagedLogWarning, RunLog
from reslab.training.train import train
from tests.full_disk import largest_file


def state(step: int, size: int = 10) -> TrainCheckpoint:
    return TrainCheckpoint(step, {"w": torch.full((size,), float(step))}, {"state": {}}, {"first_step": step})


def test_what_is_written_is_there_and_readable(tmp_path: Path) -> None:
    write_atomic(tmp_path / "new" / "file", b"first")
    write_atomic(tmp_path / "new" / "file", b"second")
    assert (tmp_path / "new" / "file").read_bytes() == b"second"
    assert os.listdir(tmp_path / "new") == ["file"]
    assert (tmp_path / "new" / "file").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"first")
    with largest_file(1000), pytest.raises(DiskFullError, match=r"no space left to write .*free some space, then run"):
        write_atomic(path, bytes(100_000))
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_another_error_of_the_disk_keeps_its_name() -> None:
    with pytest.raises(PermissionError), disk_full_guard(Path("x")):
        raise PermissionError(errno.EACCES, "denied")


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname().replace(".", "-")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / f".checkpoint.pt.{dead.pid}@{host}.abc.part").write_bytes(b"half")
    (tmp_path / "checkpoint.pt").write_bytes(b"whole")
    old = tmp_path / ".run.json.1@elsewhere.abc.part"
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    living = [f".run.json.{os.getppid()}@{host}.abc.part", ".run.json.1@elsewhere.def.part", ".notes.part"]
    for name in living:
        (tmp_path / name).write_bytes(b"half")
    with atomic_path(tmp_path / "file") as temp_path:
        remove_partial_files(tmp_path)
        assert sorted(os.listdir(tmp_path)) == sorted(["checkpoint", "checkpoint.pt", temp_path.name, *living])
    assert os.listdir(tmp_path / "checkpoint") == []


def test_a_state_comes_back(tmp_path: Path) -> None:
    assert load_train_checkpoint(tmp_path) is None
    save_train_checkpoint(tmp_path, state(3))
    save_train_checkpoint(tmp_path, state(4))
    checkpoint = load_train_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 4
    assert torch.equal(checkpoint.model["w"], torch.full((10,), 4.0))
    assert has_train_checkpoint(tmp_path)


def test_a_disk_that_fills_while_saving_leaves_the_last_state(tmp_path: Path) -> None:
    save_train_checkpoint(tmp_path, state(3))
    with largest_file(20_000), pytest.raises(DiskFullError):
        save_train_checkpoint(tmp_path, state(4, 100_000))
    checkpoint = load_train_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 3


def test_a_damaged_state_is_reported(tmp_path: Path) -> None:
    save_train_checkpoint(tmp_path, state(3))
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cannot be read.*delete it"):
        load_train_checkpoint(tmp_path)


def test_the_log_is_read_to_its_last_whole_line_and_cut(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    assert log.records() == []
    for step in (1, 2, 3):
        log.append({"kind": "train", "step": step, "loss": 0.1 * step})
    with log.path.open("a") as file:
        file.write('{"kind": "train", "st')
    assert [line["step"] for line in log.records()] == [1, 2, 3]
    log.truncate(2)
    assert log.path.read_text().count("\n") == 2
    written = [json.loads(text) for text in log.path.read_text().splitlines()]
    assert [{key: line[key] for key in line if key != "crc32"} for line in written] == log.records()
    assert log.records()[1] == {"kind": "train", "step": 2, "loss": 0.2}


def test_a_disk_that_fills_in_a_run_leaves_a_state_to_go_on_from(
    tmp_path: Path, tiny: dict[str, Any], weights_hash: Callable[[Run], str]
) -> None:
    output = tmp_path / "run"

    def fill(step: int, model: torch.nn.Module) -> dict[str, Any]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return {}

    with largest_file(resource.getrlimit(resource.RLIMIT_FSIZE)[0]), pytest.raises(DiskFullError, match="--resume"):
        train(output=output, on_step_end=fill, hook_every_steps=5, save_every_seconds=0, **tiny)
    checkpoint = load_train_checkpoint(output / "checkpoint")
    assert checkpoint is not None
    assert checkpoint.step == 4
    ended, whole = train(output=output, resume=True, **tiny), train(output=tmp_path / "whole", **tiny)
    assert weights_hash(ended) == weights_hash(whole)


def log_of_three(path: Path) -> RunLog:
    log = RunLog(path / "log.jsonl")
    for step in (1, 2, 3):
        log.append({"kind": "train", "step": step, "loss": 0.1 * step})
    return log


def test_each_flipped_byte_of_the_log_is_reported_and_the_other_lines_are_kept(tmp_path: Path) -> None:
    log = log_of_three(tmp_path)
    whole, records = log.path.read_bytes(), log.records()
    for index in range(len(whole)):
        log.path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x15]) + whole[index + 1 :])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = log.records()
        assert result == records or "damaged" in str(caught[0].message)
        assert all(record in records for record in result)
        assert len(result) >= 3 - (2 if whole[index] == ord("\n") else 1)
    log.path.write_bytes(whole.replace(b'"step": 2', b'"step": 4'))
    with pytest.warns(DamagedLogWarning, match="line 2 of 3"):
        log.truncate(3)
    assert log.records() == [records[0], records[2]]


def test_each_flipped_byte_of_a_checkpoint_is_reported_or_changes_nothing(tmp_path: Path) -> None:
    save_train_checkpoint(tmp_path, state(3))
    path = tmp_path / "checkpoint.pt"
    whole, num_reported = path.read_bytes(), 0
    for index in range(0, len(whole), 7):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x41]) + whole[index + 1 :])
        try:
            checkpoint = load_train_checkpoint(tmp_path)
        except ValueError as error:
            num_reported += "cannot be read" in str(error)
        else:
            assert checkpoint is not None
            assert (checkpoint.step, checkpoint.meter) == (3, {"first_step": 3})
            assert torch.equal(checkpoint.model["w"], torch.full((10,), 3.0))
    assert num_reported > 20
