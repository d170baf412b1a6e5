"""`train` on real digits: its files, reproducibility, and the mistakes it refuses."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reslab.data.registry import open_dataset
from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.nn.factory import load_network
from reslab.spec.recipe import Recipe
from reslab.training.meters import NonFiniteError
from reslab.training.run import Run
from reslab.training.train import train

Timeless = Callable[[Run], list[dict[str, Any]]]


def test_two_runs_with_one_seed_are_equal_bit_for_bit(
    digits_run: Run, tiny: dict[str, Any], tmp_path: Path, timeless: Timeless, weights_hash: Callable[[Run], str]
) -> None:
    torch.manual_seed(12345)  # whatever was drawn before does not matter
    again = train(output=tmp_path / "again", seed=3, val_fraction=0.2, **tiny)
    assert weights_hash(again) == weights_hash(digits_run)
    assert timeless(again) == timeless(digits_run)


def test_another_seed_is_another_run(
    digits_run: Run, tiny: dict[str, Any], tmp_path: Path, weights_hash: Callable[[Run], str]
) -> None:
    other = train(output=tmp_path / "other", seed=4, val_fraction=0.2, **tiny)
    assert weights_hash(other) != weights_hash(digits_run)


def test_training_leaves_the_random_numbers_of_others_alone(tiny: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train(output=tmp_path / "run", **tiny)
    assert torch.equal(torch.rand(3), expected)


def test_the_weights_are_the_best_on_the_validation_split(digits_run: Run) -> None:
    assert digits_run.result is not None
    evaluations = [line for line in digits_run.log.records() if line["kind"] == "eval"]
    assert [line["split"] for line in evaluations] == ["val", "val"]
    best = max(evaluations, key=lambda line: (line["top1"], -line["loss"]))
    assert (digits_run.result["selection"], digits_run.result["best_step"]) == ("best_val", best["step"])
    assert digits_run.result["split"] == "test"
    assert digits_run.result["num_samples"] == len(open_dataset("digits").split("test"))
    val_metrics = digits_run.result["val_metrics"]
    assert val_metrics["num_samples"] == digits_run.metadata["data"]["num_images"]["val"]
    assert (val_metrics["top1"], val_metrics["loss"]) == pytest.approx((best["top1"], best["loss"]))
    assert val_metrics["top1"] != digits_run.result["top1"]
    assert f"on {val_metrics['num_samples']} images" in digits_run.report_path.read_text(encoding="utf-8")


def test_the_header_of_the_weights_alone_describes_the_network(digits_run: Run) -> None:
    header = read_header(digits_run.weights_path)
    assert header["arch"]["name"] == "resnet20_cifar"
    assert header["classes"] == list("0123456789")
    assert header["preprocess"]["channels"] == 1
    assert digits_run.result is not None
    assert header["metrics"]["num_correct"] == digits_run.result["num_correct"]
    assert header["metrics"]["split"] == "test"
    assert header["selection"] == "best_val"
    assert load_network(digits_run.weights_path).classes == tuple("0123456789")


def test_the_log_has_a_line_an_epoch_and_they_are_plain_json(digits_run: Run) -> None:
    lines = digits_run.log.records()
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["epoch"] for line in trained] == [1.0, 2.0]
    speeds = {"images_per_second", "compute_images_per_second", "seconds"}
    assert set(trained[0]) == {"kind", "step", "epoch", "loss", "top1", "lr"} | speeds
    assert 0 < trained[0]["seconds"] < trained[1]["seconds"]
    for text in digits_run.log.path.read_text().splitlines():
        json.loads(text, parse_constant=pytest.fail)


def test_the_report_is_one_file_that_names_the_run(digits_run: Run) -> None:
    page = digits_run.report_path.read_text(encoding="utf-8")
    assert len(page) < 5_000_000
    for fact in ("resnet20_cifar on digits", "torch", "seed", digits_run.metadata["recipe"]["reference"][:20]):
        assert fact in page


def test_without_a_validation_split_the_last_weights_are_kept(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = train(output=tmp_path / "run", **tiny)
    assert run.result is not None
    assert (run.result["selection"], run.result["best_step"]) == ("last", run.result["steps"])
    last = [line for line in run.log.records() if line["kind"] == "eval"][-1]
    assert (last["split"], last["top1"], last["loss"]) == ("test", run.result["top1"], run.result["loss"])


def test_what_is_shown(tiny: dict[str, Any], tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    run = train(output=tmp_path / "run", **{**tiny, "on_log": lines.append, "epochs": 1, "batch_size": 128})
    notes = [line["text"] for line in lines if line["kind"] == "message"]
    assert any("learning rate 0.1 for batch 64 becomes 0.2 for batch 128" in note for note in notes)
    assert any("are dropped" in note for note in notes)
    assert run.metadata["messages"] == notes
    (start,) = [line for line in lines if line["kind"] == "start"]
    assert (start["total_steps"], start["steps_per_epoch"], start["device"]) == (11, 11, "cpu")
    assert run.recipe.optimizer.lr == pytest.approx(0.2)


def test_a_probe_adds_its_lines_at_its_interval(tiny: dict[str, Any], tmp_path: Path) -> None:
    def norm(step: int, model: nn.Module) -> dict[str, Any]:
        return {"norm": sum(float(p.detach().square().sum()) for p in model.parameters())}

    run = train(output=tmp_path / "run", on_step_end=norm, hook_every_steps=10, **{**tiny, "epochs": 1})
    probes = [line for line in run.log.records() if line["kind"] == "step_end"]
    assert [line["step"] for line in probes] == [10, 20]
    assert all(line["norm"] > 0 for line in probes)


def test_a_length_in_steps_may_end_within_an_epoch(tiny: dict[str, Any], tmp_path: Path) -> None:
    arguments = {**tiny, "epochs": None, "overrides": {**tiny["overrides"], "duration": "30 steps"}}
    run = train(output=tmp_path / "run", **arguments)
    assert run.result is not None
    assert run.result["steps"] == 30
    assert [line["step"] for line in run.log.records() if line["kind"] == "eval"] == [22, 30]


def test_evaluations_follow_the_interval_and_the_last_step(tiny: dict[str, Any], tmp_path: Path) -> None:
    overrides = {**tiny["overrides"], "duration": "120 steps", "eval_interval": 2}
    run = train(output=tmp_path / "run", **{**tiny, "epochs": None, "overrides": overrides})
    assert [line["step"] for line in run.log.records() if line["kind"] == "eval"] == [44, 88, 120]


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    def burst(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return outputs.sum() * (float("nan") if len(calls) > 8 else 0.0) + nn.functional.cross_entropy(outputs, labels)

    calls: list[int] = []  # the first is the trial before the folder is made
    with pytest.raises(
        NonFiniteError, match=r"the loss is nan at step 7: .*checkpoint, of step 7, is in .*check the loss"
    ):
        train(output=tmp_path / "run", loss=burst, save_every_seconds=0, **tiny)
    assert Run(tmp_path / "run").main_metric is None


def test_a_learning_rate_beyond_reason_is_reported_so(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="lower learning rate"):
        train(output=tmp_path / "run", lr=1e30, **tiny)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet20_cifra"}, "resnet20_cifar"),
        ({"data": "digit"}, "digits"),
        ({"recipe": "he2015"}, "he2015-cifar"),
        ({"overrides": {"optimizer.lrr": 1}}, r"optimizer\.lr"),
        ({"overrides": {"model.orderr": "x"}}, "order"),
        ({"overrides": {"model.merge": "ad"}}, "add"),
        ({"overrides": {"train_transform": "pda(1) crop(8)"}}, "pad"),
        (
            {"overrides": {"batch_size": 32}, "batch_size": 64},
            "one value of batch_size; got: batch size 64 and the setting batch_size=32",
        ),
        ({"batch_size": 100_000}, "nearest valid: 143"),
        ({"epochs": 0}, "above 0"),
        ({"epochs": 0.001}, "at least one step"),
        ({"device": "cuda:99"}, "this machine has"),
        ({"device": "gpu"}, "auto"),
        ({"resume": True, "output": None}, "--output"),
        ({"val_fraction": 1.5}, "between 0 and 1"),
        ({"model": nn.Flatten(), "pretrained": True}, "module"),
    ],
)
def test_mistakes_are_errors_before_anything_is_written(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        train(**{"output": output, "on_log": lambda line: None, **arguments})
    assert not output.exists()


def test_a_network_larger_than_the_images_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="resnet18_cifar"), pytest.raises(ValueError, match="total stride"):
        train("resnet18", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_refused_and_nothing_is_lost(digits_run: Run, tiny: dict[str, Any]) -> None:
    before = {path: path.read_bytes() for path in digits_run.path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"contains a run.*--resume"):
        train(output=digits_run.path, **tiny)
    assert {path: path.read_bytes() for path in digits_run.path.rglob("*") if path.is_file()} == before


def test_the_default_folder_is_named_by_time_model_and_data(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train(**{**tiny, "epochs": 1})
    assert run.path.parent == Path("runs")
    assert run.name.endswith("-resnet20_cifar-digits")


def test_the_smallest_batches_and_data_train(tmp_path: Path, tiny: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    run = train(data=(images, labels), output=tmp_path / "run", **{**tiny, "on_log": lines.append})
    assert any("only 6 training images" in line.get("text", "") for line in lines)
    assert run.recipe.batch_size == 6
    assert math.isfinite(run.result["loss"] if run.result else math.nan)


def test_a_recipe_may_be_a_value(tmp_path: Path, tiny: dict[str, Any]) -> None:
    recipe = Recipe("mine", "test", duration="7 steps", batch_size=16, train_transform="")
    run = train(recipe=recipe, output=tmp_path / "run", **{**tiny, "epochs": None})
    assert run.recipe == recipe
