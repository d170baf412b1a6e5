"""The meter of training metrics; running averages and speed of a run; the time that steps wait for data."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from reslab.data.boxes import BoxImageDataset, make_box_table
from reslab.data.image_datasets import FileImageDataset, TensorImageDataset
from reslab.runtime.distributed import ProcessGroup
from reslab.runtime.torchrun import DistributedEnv
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.loop import TimedLoader
from reslab.training.meters import (
    NonFiniteError,
    TrainMeter,
    count_correct,
    last_epoch_averages,
    throughput_without_loading,
    waiting_fraction,
)
from reslab.training.run_data import advise_num_workers, choose_num_workers
from reslab.training.train import train


def make_meter(*losses: float, first_step: int = 10) -> TrainMeter:
    """A meter of steps on three samples each, two of them correct."""
    meter = TrainMeter(first_step=first_step)
    correct = count_correct(torch.eye(3), torch.tensor([0, 1, 1]))
    for loss in losses:
        meter.update({"loss": torch.tensor(loss), "top1": correct}, num_samples=3)
    return meter


def test_means_are_averaged_over_steps_and_counts_over_samples() -> None:
    meter = make_meter(1.0, 2.0)
    assert meter.averages() == {"loss": 1.5, "top1": 4 / 6}
    assert meter.last("loss") == 2.0
    meter.update({"loss": torch.tensor(6.0), "top1": torch.tensor(9)}, num_samples=9)  # a larger batch
    assert meter.averages() == {"loss": 3.0, "top1": 13 / 15}


def test_any_metric_is_averaged() -> None:
    meter = TrainMeter()
    for norm in (1.0, 4.0):
        meter.update({"grad_norm": torch.tensor(norm, dtype=torch.float16)}, num_samples=2)
    assert meter.averages() == {"grad_norm": 2.5}


def test_the_first_step_that_is_not_finite_is_named() -> None:
    meter = make_meter(1.0, 2.0, float("inf"), float("nan"))
    with pytest.raises(NonFiniteError, match="the loss is inf at step 12"):
        meter.averages()


def test_a_reset_starts_a_new_window() -> None:
    meter = make_meter(1.0, 2.0)
    meter.seconds = 3.0
    meter.reset(first_step=12)
    assert (meter.first_step, meter.num_steps, meter.num_samples, meter.seconds) == (12, 0, 0, 0.0)


def test_a_meter_is_restored_from_its_state() -> None:
    meter = make_meter(1.25)
    meter.seconds = 1.5
    restored = TrainMeter()
    restored.load_state_dict(meter.state_dict(), torch.device("cpu"))
    assert restored.averages() == meter.averages()
    assert (restored.first_step, restored.num_samples, restored.seconds) == (10, 3, 1.5)


class OneMoreRank(ProcessGroup):
    """A second rank whose losses are 1 higher, with one correct sample more and four samples a step."""

    def all_gather(self, value: Any) -> list[Any]:
        (losses, correct), num_samples = value
        return [value, ([[loss + 1 for loss in losses], [n + 1 for n in correct]], num_samples // 3 * 4)]


def test_ranks_average_their_means_and_add_their_counts_once() -> None:
    meter, process_group = make_meter(1.0, 2.0), OneMoreRank(DistributedEnv(world_size=2))
    for _ in range(2):  # the second time nothing is new
        meter.all_reduce(process_group)
        assert meter.num_samples == 14
        assert meter.averages() == {"loss": 2.0, "top1": 10 / 14}


def test_outputs_that_are_no_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, classes\)"):
        count_correct(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64))


def test_mixed_targets_count_by_their_largest_class() -> None:
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.4, 0.0, 0.6], [0.1, 0.8, 0.1]])
    assert count_correct(torch.eye(3), targets) == 1


def test_the_last_epoch_is_averaged_over_its_steps() -> None:
    losses = [0.1 * step for step in range(1, 26)]  # two epochs of ten steps and half of a third, reports of up to 4
    ends = (4, 8, 10, 14, 18, 20, 24, 25)
    lines: list[dict[str, Any]] = [{"kind": "eval", "step": 20, "loss": 99.0, "top1": 0.0}]
    for first, last in zip((0, *ends), ends, strict=False):
        mean = sum(losses[first:last]) / (last - first)
        lines.append({"kind": "train", "step": last, "loss": mean, "top1": mean / 10})
    assert last_epoch_averages(lines, 10, ["top1"]) == pytest.approx(
        {"train_loss_running": sum(losses[20:]) / 5, "train_top1_running": sum(losses[20:]) / 50}
    )
    assert last_epoch_averages(lines[:7], 10, ["top1"])["train_loss_running"] == pytest.approx(sum(losses[10:20]) / 10)
    assert last_epoch_averages([], 10, ["top1"]) == {}


def test_speed_is_images_over_seconds() -> None:
    key = "compute_images_per_second"
    lines = [{"kind": "train", "step": 10, key: 100.0}, {"kind": "train", "step": 40, key: 300.0}]
    assert throughput_without_loading(lines) == pytest.approx(40 / (10 / 100 + 30 / 300))
    assert throughput_without_loading([]) is None


def test_the_waiting_fraction_weights_records_by_their_time() -> None:
    speeds = ((10, 100.0, 200.0), (40, 1000.0, 1250.0))  # 10 steps in 0.1, then 30 in 0.03 seconds an image of a batch
    keys = ("step", "images_per_second", "compute_images_per_second")
    lines = [{"kind": "train", **dict(zip(keys, values, strict=True))} for values in speeds]
    assert waiting_fraction(lines) == pytest.approx((0.5 * 0.1 + 0.2 * 0.03) / 0.13)
    assert waiting_fraction([]) is None


def test_run_reports_running_and_evaluated_training_metrics(tiny: dict[str, Any], tmp_path: Path) -> None:
    options = {**tiny, "overrides": {**tiny["overrides"], "eval_train": "true"}}
    run = train(output=tmp_path / "run", seed=1, **options)
    result = run.result
    assert result is not None
    evaluation = evaluate(run.path, split="train")
    assert (result["train_loss"], result["train_top1"]) == (evaluation.loss, evaluation.top1)
    last = [line for line in run.log.records() if line["kind"] == "train"][-1]
    assert result["train_loss_running"] == pytest.approx(last["loss"])  # one report an epoch
    assert result["train_top1_running"] != result["train_top1"]
    assert result["compute_images_per_second"] > result["images_per_second"] > 0
    page = run.report_path.read_text()
    assert "mean over the last epoch" in page
    assert 0 < result["waiting_fraction"] < 1
    assert "of the time waiting for data" in page


def test_other_tasks_do_not_evaluate_the_training_images(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = train(output=tmp_path / "run", seed=1, **tiny)
    assert run.result is not None
    assert "train_top1" not in run.result
    assert "train_top1_running" in run.result
    assert "mean over the last epoch" not in run.report_path.read_text()


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


def test_loader_timer_counts_waiting_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("reslab.training.loop.time.perf_counter", lambda: now[0])
    awaited = TimedLoader(_Slow(now))
    stream = awaited.iter_from(5)
    for step in (5, 6, 7):
        assert int(next(stream)[0]) == step
        now[0] += 10.0  # the step
    assert awaited.wait_seconds == 6.0
    assert awaited.num_steps_per_epoch == 3


def test_a_run_reports_the_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reslab.training.run_logger._PROGRESS_EVERY_SECONDS", 0.0)
    lines: list[dict[str, Any]] = []
    train(
        "resnet8_fast",
        "digits",
        epochs=0.5,
        output=tmp_path / "run",
        on_log=lines.append,
        overrides={"batch_size": 128, "model.stem": "conv3(16) norm act"},
    )
    shares = [line["waiting_fraction"] for line in lines if line["kind"] == "progress"]
    assert shares
    assert all(0 <= share <= 1 for share in shares)
    assert any(share > 0 for share in shares)


def test_workers_are_advised_where_a_run_waited_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reslab.training.run_data.os.cpu_count", lambda: 4)
    files = FileImageDataset((tmp_path / "a.jpg",), torch.zeros(1, dtype=torch.int64))
    in_memory = TensorImageDataset(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    data = SimpleNamespace(splits={"train": files, "val": in_memory})
    assert advise_num_workers(0.3, 2, data) == 4
    assert advise_num_workers(0.3, 4, data) is None
    assert advise_num_workers(0.1, 0, data) is None
    assert advise_num_workers(None, 0, data) is None
    assert advise_num_workers(0.3, 0, SimpleNamespace(splits={"train": in_memory})) is None


def test_images_in_files_are_read_by_workers_with_boxes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reslab.training.run_data.os.cpu_count", lambda: 4)
    labels = torch.zeros(1, dtype=torch.int64)
    table = make_box_table(["a"], [(8, 8)], [[]])
    files = FileImageDataset((tmp_path / "a.jpg",), labels)
    in_memory = TensorImageDataset(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), labels)
    numbers = [
        choose_num_workers(None, SimpleNamespace(splits={"train": images}))
        for images in (files, BoxImageDataset(files, table), in_memory, BoxImageDataset(in_memory, table))
    ]
    assert numbers == [4, 4, 0, 0]
