"""Both meanings of training accuracy, and of speed: against sums over all steps, and as a run tells them.

What the steps wait for their data: counted while it is fetched, not while a step is taken.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reslab.training.evaluation.evaluate import evaluate
from reslab.training.loop import TimedLoader
from reslab.training.meters import last_epoch_averages, throughput_without_loading
from reslab.training.train import train


def test_the_last_epoch_is_averaged_over_its_steps() -> None:
    losses = [0.1 * step for step in range(1, 26)]  # two epochs of ten steps and half of a third, reports of up to 4
    ends = (4, 8, 10, 14, 18, 20, 24, 25)
    lines: list[dict[str, Any]] = [{"kind": "eval", "step": 20, "loss": 99.0, "top1": 0.0}]
    for first, last in zip((0, *ends), ends, strict=False):
        mean = sum(losses[first:last]) / (last - first)
        lines.append({"kind": "train", "step": last, "loss": mean, "top1": mean / 10})
    assert last_epoch_averages(lines, 10) == pytest.approx(
        {"train_loss_running": sum(losses[20:]) / 5, "train_top1_running": sum(losses[20:]) / 50}
    )
    assert last_epoch_averages(lines[:7], 10)["train_loss_running"] == pytest.approx(sum(losses[10:20]) / 10)
    assert last_epoch_averages([], 10) == {}


def test_speed_is_images_over_seconds() -> None:
    key = "compute_images_per_second"
    lines = [{"kind": "train", "step": 10, key: 100.0}, {"kind": "train", "step": 40, key: 300.0}]
    assert throughput_without_loading(lines) == pytest.approx(40 / (10 / 100 + 30 / 300))
    assert throughput_without_loading([]) is None


def test_a_run_tells_both(tiny: dict[str, Any], tmp_path: Path) -> None:
    said = {**tiny, "overrides": {**tiny["overrides"], "eval_train": "true"}}
    run = train(output=tmp_path / "run", seed=1, **said)
    result = run.result
    assert result is not None
    found = evaluate(run.path, split="train")
    assert (result["train_loss"], result["train_top1"]) == (found.loss, found.top1)
    last = [line for line in run.log.records() if line["kind"] == "train"][-1]
    assert result["train_loss_running"] == pytest.approx(last["loss"])  # one report an epoch
    assert result["train_top1_running"] != result["train_top1"]
    assert result["compute_images_per_second"] > result["images_per_second"] > 0
    page = run.report_path.read_text()
    assert "along the last epoch" in page
    assert "without waiting for data" in page


def test_others_do_not_judge_the_training_images(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = train(output=tmp_path / "run", seed=1, **tiny)
    assert run.result is not None
    assert "train_top1" not in run.result
    assert "train_top1_running" in run.result
    assert "along the last epoch" not in run.report_path.read_text()


class _Slow:
    """Batches that take two seconds each, of a clock of their own."""

    num_steps_per_epoch = 3

    def __init__(self, now: list[float]) -> None:
        self.now = now

    def iter_from(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for step in range(start_step, 100):
            self.now[0] += 2.0
            batch = torch.full((1,), step)
            yield batch, batch, batch


def test_fetching_counts_and_stepping_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("reslab.training.loop.time.perf_counter", lambda: now[0])
    awaited = TimedLoader(_Slow(now))
    stream = awaited.iter_from(5)
    for step in (5, 6, 7):
        assert int(next(stream)[0]) == step
        now[0] += 10.0  # the step
    assert awaited.wait_seconds == 6.0
    assert awaited.num_steps_per_epoch == 3


def test_a_run_tells_the_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reslab.training.run_logger._PROGRESS_EVERY_SECONDS", 0.0)
    lines: list[dict[str, Any]] = []
    train(
        "resnet8_fast",
        "digits",
        epochs=0.5,
        output=tmp_path / "run",
        on_log=lines.append,
        overrides={"batch_size": 128},
    )
    shares = [line["waiting_fraction"] for line in lines if line["kind"] == "progress"]
    assert shares
    assert all(0 <= share <= 1 for share in shares)
    assert any(share > 0 for share in shares)
