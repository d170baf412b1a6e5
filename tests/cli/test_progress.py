"""What a run shows: plain lines for a file, a moving bar for a terminal."""

import io
from typing import Any

from rich.console import Console

from reslab.cli.progress import ProgressDisplay

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
    lines = shown([{"kind": "note", "text": "[careful]"}, START, TRAIN, PROGRESS, EVAL], terminal=False).splitlines()
    assert lines[0] == "note: [careful]"
    assert lines[1] == "resnet20_cifar (269,434 parameters) on digits: 1,438 train"
    assert "44 steps, into runs/x" in lines[2]
    assert lines[3] == (
        "epoch 1/2, loss 1.5000, accuracy 50.00 %, 1,235 images/s, test loss 0.2500, test accuracy 87.50 %, ETA 3.0 s"
    )
    assert len(lines) == 4


def test_the_last_line_has_no_time_left() -> None:
    assert "ETA" not in shown([START, TRAIN, {**EVAL, "step": 44, "epoch": 2.0}], terminal=False)


def test_a_terminal_has_a_bar_that_goes_away() -> None:
    text = shown([START, TRAIN, PROGRESS, EVAL], terminal=True)
    assert "epoch 1.5/2, loss 1.5000" in text
    assert "\x1b[?25l" in text
    assert text.rstrip().endswith("\x1b[2K") or "\x1b[?25h" in text  # the cursor is shown again


def test_an_unknown_line_is_passed_over() -> None:
    assert shown([{"kind": "step_end", "step": 1, "x": 2}], terminal=False) == ""


def test_waiting_for_data_is_told_where_it_is_more_than_little() -> None:
    for share, told in ((0.4, True), (0.01, False)):
        words = shown([START, TRAIN, {**PROGRESS, "waiting_fraction": share}, EVAL], terminal=False)
        assert ("40% waiting for data" in words) is told
        assert ("waiting" in words) is told
