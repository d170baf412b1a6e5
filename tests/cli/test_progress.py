"""The progress of a run: plain lines in a file, a moving bar in a terminal."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from reslab.cli.progress import ProgressDisplay
from reslab.report.format import format_int
from reslab.training.train import train

START = {
    "kind": "start",
    "run": "runs/x",
    "model": "resnet20_cifar",
    "params": 269_434,
    "data": "digits: 1,438 train",
    "recipe": "digits",
    "batch_size": 64,
    "precision": "float32",
    "device": "cpu",
    "step": 0,
    "total_steps": 44,
    "steps_per_epoch": 22,
    "task": "classification",
}
TRAIN = {"kind": "train", "step": 22, "loss": 1.5, "top1": 0.5, "images_per_second": 1234.6, "seconds": 2.0}
EVAL = {"kind": "eval", "split": "test", "step": 22, "epoch": 1.0, "loss": 0.25, "top1": 0.875}
PROGRESS = {"kind": "progress", "step": 33, "epoch": 1.5, "total_steps": 44, "seconds": 3.0}


def shown(lines: list[dict[str, Any]], terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, highlight=False, soft_wrap=True)
    with ProgressDisplay(console) as display:
        for line in lines:
            display(line)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_plain_lines() -> None:
    lines = shown([{"kind": "message", "text": "[careful]"}, START, TRAIN, PROGRESS, EVAL], terminal=False).splitlines()
    assert lines[0] == "note: [careful]"
    assert lines[1] == "resnet20_cifar (269,434 parameters) on digits: 1,438 train"
    assert lines[2] == "recipe digits, batch size 64, float32, cpu"
    assert lines[3] == "44 steps, writing to runs/x"
    assert lines[4].split() == [
        "epoch",
        "train",
        "loss",
        "accuracy",
        "test",
        "loss",
        "accuracy",
        "images/s",
        "remaining",
    ]
    assert lines[5].split() == ["1/2", "1.5000", "50.00", "%", "0.2500", "87.50", "%", "1,235", "3.0", "s"]
    assert len(lines) == 6
    assert max(len(line) for line in lines) <= 80


def test_the_columns_are_named_once_and_fit_80_characters() -> None:
    start = {**START, "total_steps": 10_000 * 22}
    train = {**TRAIN, "loss": 1234.5678, "top1": 1.0, "images_per_second": 1_234_567.0, "seconds": 1e5}
    evaluation = {**EVAL, "split": "train", "epoch": 9999.0, "loss": 1234.5678, "top1": 1.0}
    lines = shown([start, train, evaluation, evaluation], terminal=False).splitlines()[3:]
    assert len(lines) == 3
    assert max(len(line) for line in lines) <= 80


def test_a_task_without_a_loss_in_evaluation_has_no_column_for_it() -> None:
    train = {"kind": "train", "step": 22, "loss": 1.5, "images_per_second": 12.3, "seconds": 2.0}
    evaluation = {"kind": "eval", "split": "val", "step": 22, "epoch": 1.0, "loss": None, "ap": 0.415}
    start = {**START, "task": "detection"}
    header, row = shown([start, train, evaluation], terminal=False).splitlines()[3:]
    assert header.split() == ["epoch", "train", "loss", "AP", "images/s", "remaining"]
    assert row.split() == ["1/2", "1.5000", "41.50", "%", "12", "2.0", "s"]


def test_the_last_line_has_no_time_left() -> None:
    last = shown([START, TRAIN, {**EVAL, "step": 44, "epoch": 2.0}], terminal=False).splitlines()[-1]
    assert last.split()[-2:] == ["1,235", "–"]


def test_a_terminal_has_a_bar_that_goes_away() -> None:
    text = shown([START, TRAIN, PROGRESS, EVAL], terminal=True)
    assert "epoch 1.5/2, loss 1.5000" in text
    assert "\x1b[?25l" in text
    assert text.rstrip().endswith("\x1b[2K") or "\x1b[?25h" in text  # the cursor is shown again


def test_an_unknown_record_is_ignored() -> None:
    assert shown([{"kind": "step_end", "step": 1, "x": 2}], terminal=False) == ""


def test_waiting_for_data_is_shown_above_a_threshold() -> None:
    for share, expected in ((0.4, True), (0.01, False)):
        text = shown([START, TRAIN, {**PROGRESS, "waiting_fraction": share}, EVAL], terminal=False)
        assert ("40 % of the time waiting for data" in text) is expected
        assert ("waiting" in text) is expected


def test_each_phase_of_unfreezing_is_a_line_and_a_record(tmp_path: Path) -> None:
    settings = {"unfreeze": "head: 0%,all: 50%", "model.depths": "1,1,1"}
    console = Console(file=io.StringIO(), width=80)
    run = train(output=tmp_path / "run", epochs=2, overrides=settings, on_log=ProgressDisplay(console))
    phases = [record for record in run.log.records() if record["kind"] == "phase"]
    assert [(record["step"], record["trained"]) for record in phases] == [(0, ["head"]), (22, ["head", "all"])]
    assert phases[0]["num_trained_params"] == 64 * 10 + 10
    total = format_int(phases[1]["num_trained_params"])
    lines = console.file.getvalue().splitlines()
    assert f"epoch 0: training head (650 of {total} parameters)" in lines
    assert f"epoch 1: training head, all ({total} of {total} parameters)" in lines
