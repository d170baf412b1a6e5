"""Runs with averages, parts, clipping and half precision: what they keep, and resuming bit for bit.

Averages of weights against torch's, timm's and numpy's.
"""

import copy
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from reslab.data.loader import TrainLoader
from reslab.data.registry import open_dataset
from reslab.data.rng import step_seed
from reslab.nn.checkpoints.safetensors_io import read_tensors, save_weights
from reslab.nn.factory import create_model
from reslab.runtime.interrupts import TrainingInterrupted
from reslab.training.batch_norm import update_bn_stats
from reslab.training.checkpoint import load_run_network
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.meters import NonFiniteError
from reslab.training.run import Run
from reslab.training.train import train
from reslab.training.weight_averaging import EMA, WeightMean, average_runs, clone_state_dict, swapped_weights

Hash = Callable[[Run], str]
Timeless = Callable[[Run], list[dict[str, Any]]]

RICH = {
    "ema": {
        "ema.decay": "0.9",
        "ema.warmup": "true",
        "ema.every": "2",
        "grad_accum_steps": "3",
        "clip_grad_norm": "1",
        "precise_bn_batches": "2",
    },
    "mean": {"swa_epochs": "2", "optimizer.name": "lamb", "loss": "bce(0.2,sum)", "class_weights": "balanced"},
    "fp16": {"precision": "fp16", "optimizer.name": "muon", "activation_checkpointing": "true", "loss": "focal"},
}


def settings(tiny: dict[str, Any], more: dict[str, str]) -> dict[str, Any]:
    return {**tiny, "batch_size": 128, "overrides": {**tiny["overrides"], "precision": "float32", **more}}


@pytest.mark.parametrize("name", RICH)
def test_a_run_interrupted_within_an_epoch_and_resumed_is_the_uninterrupted_one(
    name: str, tiny: dict[str, Any], tmp_path: Path, weights_hash: Hash, timeless: Timeless
) -> None:
    arguments = settings(tiny, RICH[name])
    whole = train(output=tmp_path / "whole", val_fraction=0.2, **arguments)

    def interrupt(step: int, model: nn.Module) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        return {}

    output = tmp_path / "halves"
    with pytest.raises(TrainingInterrupted):
        train(output=output, val_fraction=0.2, on_step_end=interrupt, hook_every_steps=13, **arguments)
    halves = train(output=output, resume=True, on_log=lambda line: None)
    assert weights_hash(halves) == weights_hash(whole)
    assert [line for line in timeless(halves) if line["kind"] != "step_end"] == timeless(whole)
    assert whole.main_metric == evaluate(whole).top1


def seen_weights(output: Path, arguments: dict[str, Any], **more: Any) -> tuple[Run, dict[int, dict[str, Tensor]]]:
    """A run, and the network's own weights after every step."""
    weights: dict[int, dict[str, Tensor]] = {}

    def remember(step: int, model: nn.Module) -> dict[str, Any]:
        weights[step] = clone_state_dict(model)
        return {}

    return train(output=output, on_step_end=remember, hook_every_steps=1, **more, **arguments), weights


def test_the_moving_average_is_what_is_kept(tiny: dict[str, Any], tmp_path: Path) -> None:
    arguments = settings(tiny, {"ema.decay": "0.8"})
    run, weights = seen_weights(tmp_path / "run", arguments)
    plain, first = seen_weights(tmp_path / "plain", settings(tiny, {}))
    assert all(torch.equal(weights[20][name], first[20][name]) for name in first[20])  # the steps do not know of it
    assert run.arch is not None
    torch.manual_seed(step_seed(0, -1))
    model = create_model(run.arch)
    average = EMA(model, 0.8)
    for step in sorted(weights):
        model.load_state_dict(weights[step])
        average.update(model, step)
    kept, last = read_tensors(run.weights_path), weights[max(weights)]
    assert all(torch.equal(tensor, average.weights[name]) for name, tensor in kept.items())
    assert not torch.equal(kept["fc.weight"], last["fc.weight"])
    assert run.result is not None
    assert run.result["selection"] == "ema"
    assert run.result["selection_text"] == "last moving average (decay 0.8)"
    assert run.log.records()[-1]["kind"] in ("eval", "step_end")
    assert plain.result is not None
    assert plain.result["selection"] == "last"


def test_the_mean_over_epochs_is_what_is_kept_with_statistics_of_its_own(tiny: dict[str, Any], tmp_path: Path) -> None:
    run, weights = seen_weights(tmp_path / "run", {**settings(tiny, {"swa_epochs": "2"}), "epochs": 3})
    mean, ends = WeightMean(), [22, 33]
    for step in ends:
        mean.add(weights[step])
    kept = read_tensors(run.weights_path)
    for name, tensor in mean.mean().items():
        assert torch.equal(kept[name], tensor) != ("running" in name), name
    assert run.result is not None
    assert (run.result["selection"], run.result["best_step"]) == ("swa", None)
    assert "mean over the ends of the last 2 epochs; BatchNorm statistics of" in run.result["selection_text"]


def test_precise_statistics_are_measured_on_training_batches(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = train(output=tmp_path / "run", **settings(tiny, {"precise_bn_batches": "11", "train_transform": ""}))
    assert run.result is not None
    assert "BatchNorm statistics of 1408 training samples" in run.result["selection_text"]
    network, data = load_run_network(run), open_dataset("digits")
    before = clone_state_dict(network)
    stream = TrainLoader(data.split("train"), 128, "", data.preprocess, 0, "cpu").iter_from(22)
    update_bn_stats(network, (next(stream)[0] for _ in range(11)))
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-5, atol=1e-6)


def test_a_student_is_distilled_from_a_run(
    digits_run: Run, tiny: dict[str, Any], tmp_path: Path, weights_hash: Hash
) -> None:
    teacher = {"distill.teacher": str(digits_run.path), "distill.alpha": "0.9", "distill.temperature": "4"}
    run = train(output=tmp_path / "run", **{**settings(tiny, teacher), "epochs": 1})
    alone = train(output=tmp_path / "alone", **{**settings(tiny, {}), "epochs": 1})
    assert weights_hash(run) != weights_hash(alone)
    assert run.recipe.distill.teacher == str(digits_run.path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"distill.alpha": "2"}, "distill.alpha from 0 to 1"),
        ({"distill.temperature": "0"}, "distill.temperature"),
        ({"loss": "bce", "distill.teacher": "nowhere"}, "nowhere"),
        ({"class_weights": "1,2"}, "10 numbers"),
        ({"optimizer.kwargs": "dampenin=1"}, "nearest: 'dampening'"),
        ({"ema.decay": "1"}, "ema.decay from 0"),
        ({"ema.decay": "0.9", "swa_epochs": "2"}, "ema or swa_epochs"),
        ({"grad_accum_steps": "1000"}, "grad_accum_steps from 1"),
        ({"compile": "true", "activation_checkpointing": "true"}, "compile or activation_checkpointing"),
        ({"clip_grad_norm": "-1"}, "clip_grad_norm of at least 0"),
    ],
)
def test_what_cannot_be_is_reported_before_anything_is_written(
    more: dict[str, str], message: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        train(output=tmp_path / "run", **settings(tiny, more))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_with_step_batch_and_layer(tiny: dict[str, Any], tmp_path: Path) -> None:
    class Damaged(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        """Images on demand, which are not searched for NaN before the run."""

        def __len__(self) -> int:
            return 64

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return torch.full((1, 8, 8), float("nan") if i == 5 else 0.5), i % 3

    with pytest.raises(NonFiniteError) as caught:
        train(data=Damaged(), output=tmp_path / "run", **{**settings(tiny, {}), "batch_size": 16})
    result = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert (result["phase"], result["module"]) == ("input", "")
    assert 5 in [sample["index"] for sample in result["batch"]]
    assert len(result["batch"]) == 16
    step = result["step"]
    assert f"at step {step}: it began at step {step} in the input images, on the batch of samples" in str(caught.value)
    assert "the last good checkpoint, of step 0, is in" in str(caught.value)


def test_a_rate_that_is_too_large_is_reported_with_the_layer(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteError, match=r"it began at step \d+ in the (output|gradient|step|loss).*samples \d+, \d+"
    ):
        train(output=tmp_path / "run", lr=1e30, **settings(tiny, {}))
    assert (tmp_path / "run" / "checkpoint" / "checkpoint.pt").exists()


SMALL = {"depths": (1, 1, 1), "widths": (4, 8, 16), "stem": "conv3(4) norm act", "in_channels": 1}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


def shake(model: nn.Module, step: int) -> None:
    """Other weights and statistics, as a step of training would leave them."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor += torch.rand(tensor.shape, generator=generator)
            else:
                tensor += 1


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_moving_average_is_torchs_and_timms() -> None:
    timm = pytest.importorskip("timm.utils")
    model = network()
    ours = EMA(model, 0.9)
    torchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    torchs.update_parameters(model)  # its first update copies
    timms = timm.ModelEmaV3(model, decay=0.9, exclude_buffers=True)
    for step in range(1, 8):
        shake(model, step)
        ours.update(model, step)
        torchs.update_parameters(model)
        timms.update(model)
    assert_same(ours.weights, torchs.module.state_dict())
    assert_same(ours.weights, timms.module.state_dict())


def test_the_moving_average_is_its_formula_on_every_third_step_with_a_warm_up() -> None:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    average = EMA(model, 0.5, every_steps=3, warmup=True)
    expected = model.weight.item()
    for step in range(1, 31):
        shake(model, step)
        average.update(model, step)
        if step % 3 == 0:
            n = step // 3
            decay = min(0.5, (1 + n) / (10 + n))
            expected = decay * expected + (1 - decay) * model.weight.item()
        assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_decay_that_means_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay between 0 and 1"):
        EMA(network(), decay)


def test_swapped_weights_restores_the_original_weights() -> None:
    model, other = network(), network()
    shake(other, 1)
    own = clone_state_dict(model)
    pointers = [tensor.data_ptr() for tensor in model.state_dict().values()]
    with swapped_weights(model, other.state_dict()):
        assert_same(clone_state_dict(model), clone_state_dict(other))
    assert_same(clone_state_dict(model), own)
    assert [tensor.data_ptr() for tensor in model.state_dict().values()] == pointers


def test_the_mean_is_numpys_and_is_resumed_from_its_state() -> None:
    model, mean, seen = network(), WeightMean(), []
    for step in range(5):
        shake(model, step)
        seen.append(clone_state_dict(model))
        mean.add(model.state_dict())
        again = WeightMean()
        again.load_state_dict(copy.deepcopy(mean.state_dict()))
        mean = again
    result = mean.mean()
    for name, tensor in result.items():
        assert tensor.dtype == seen[0][name].dtype
        if tensor.is_floating_point():
            expected = np.mean([weights[name].double().numpy() for weights in seen], axis=0)
            np.testing.assert_allclose(tensor.numpy(), expected.astype(np.float32), rtol=1e-7)
        else:
            assert torch.equal(tensor, seen[-1][name])


def test_a_mean_of_nothing_or_of_other_weights_is_refused() -> None:
    mean = WeightMean()
    with pytest.raises(ValueError, match="at least one set"):
        mean.mean()
    mean.add(network().state_dict())
    with pytest.raises(ValueError, match="same names and shapes"):
        mean.add(nn.Linear(2, 2).state_dict())


def test_runs_are_averaged_where_they_are_of_one_task(tmp_path: Path) -> None:
    """A mean of weights has neither the unit of one of two standardizations nor the thresholds of one of the runs."""
    tasks = {
        "old": {"name": "regression", "mean": [1990.0, 0.0, 0.0], "std": [10.0, 1.0, 1.0]},
        "new": {"name": "regression", "mean": [2000.0, 0.0, 0.0], "std": [10.0, 1.0, 1.0]},
        "first": {"name": "multi-label", "thresholds": [0.1, 0.2, 0.3]},
        "second": {"name": "multi-label", "thresholds": [0.7, 0.8, 0.9]},
    }
    for name, task in tasks.items():
        model = create_model("resnet20_cifar", **{**SMALL, "num_classes": 3})
        model.set_metadata(classes=("a", "b", "c"), task=task)
        save_weights(tmp_path / f"{name}.safetensors", model)
    paths = {name: tmp_path / f"{name}.safetensors" for name in tasks}
    for other in ("new", "first"):
        with pytest.raises(ValueError, match="runs for one task, of the same training labels"):
            average_runs([paths["old"], paths[other]])
    assert average_runs([paths["old"], paths["old"]]).task == tasks["old"]
    assert average_runs([paths["first"], paths["second"]]).task == {"name": "multi-label"}


def test_runs_are_averaged_where_they_are_of_one_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = [create_model("resnet20_cifar", **SMALL) for _ in range(3)]
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for model, path in zip(models, paths, strict=True):
        save_weights(path, model)
    result = average_runs(paths)
    for name, tensor in result.state_dict().items():
        expected = torch.stack([model.state_dict()[name].double() for model in models]).mean(0)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
    save_weights(tmp_path / "other.safetensors", create_model("resnet20_cifar", **{**SMALL, "depths": (1, 1, 2)}))
    with pytest.raises(ValueError, match="one architecture"):
        average_runs([paths[0], tmp_path / "other.safetensors"])
    with pytest.raises(ValueError, match="at least one run"):
        average_runs([])
