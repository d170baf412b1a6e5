"""`evaluate` and `load`: runs, files, modules and checkpoints of others."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn import metrics
from torch import nn
from torch.nn import functional

from reslab.data.loader import eval_loader
from reslab.data.registry import open_dataset
from reslab.nn.factory import create_model
from reslab.runtime.device import available_devices, choose_device
from reslab.training.checkpoint import load_run_network
from reslab.training.evaluation.calibration import apply_temperature, fit_temperature, log_probabilities
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.run import Run
from reslab.training.tasks.classification import average_probabilities, calibration_metrics
from reslab.training.train import train


def test_evaluating_a_run_again_gives_its_recorded_scores(digits_run: Run) -> None:
    evaluation = evaluate(digits_run.path)
    assert digits_run.result is not None
    assert evaluation.to_dict() == {name: digits_run.result[name] for name in evaluation.to_dict()}
    assert evaluation.split == "test"


def test_the_recorded_splits_are_used_again(digits_run: Run) -> None:
    data = open_dataset("digits", split_record=digits_run.metadata["data"]["split_record"])
    for split in ("train", "val"):
        evaluation = evaluate(digits_run, split=split, keep_predictions=True)
        assert evaluation.labels is not None
        assert torch.equal(evaluation.labels, data.split(split).labels)
    best = next(line for line in digits_run.log.records() if line["kind"] == "eval" and line["split"] == "val")
    assert evaluation.num_samples == len(data.split("val"))
    assert evaluation.top1 >= best["top1"]


def test_a_file_of_weights_is_enough(digits_run: Run, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere.safetensors"
    shutil.copy(digits_run.weights_path, alone)
    assert evaluate(str(alone), "digits").to_dict() == evaluate(digits_run).to_dict()
    model = load_run_network(alone)
    assert not model.training
    assert evaluate(model, "digits").to_dict() == evaluate(digits_run).to_dict()


def test_a_loaded_network_gives_the_probabilities_that_were_evaluated(digits_run: Run) -> None:
    evaluation = evaluate(digits_run, keep_predictions=True)
    model, images = load_run_network(digits_run), open_dataset("digits").split("test").images
    assert model.preprocess is not None
    mean, std = model.preprocess.mean[0], model.preprocess.std[0]
    with torch.no_grad():
        probabilities = model((images / 255 - mean) / std).softmax(1)
    assert evaluation.probabilities is not None
    torch.testing.assert_close(evaluation.probabilities, probabilities, rtol=1e-4, atol=1e-6)


def test_several_runs_average_their_probabilities(digits_run: Run, tiny: dict[str, Any], tmp_path: Path) -> None:
    other = train(output=tmp_path / "other", seed=8, **tiny)
    both = evaluate([digits_run, other.path], split="test")
    one, two = (evaluate(run, keep_predictions=True) for run in (digits_run, other))
    assert both.to_dict() == average_probabilities([one, two]).to_dict()
    assert one.probabilities is not None
    assert two.probabilities is not None
    mean = (one.probabilities.double() + two.probabilities.double()) / 2
    assert both.top1 == metrics.accuracy_score(one.labels, mean.argmax(1))


def test_third_party_checkpoint_with_its_own_normalization(digits_run: Run, tmp_path: Path) -> None:
    file = tmp_path / "theirs.pth"
    torch.save({"state_dict": load_run_network(digits_run).state_dict()}, file)
    assert digits_run.arch is not None
    settings = {
        "model.depths": digits_run.arch.depths,
        "model.widths": "8,16,32",
        "model.stem": digits_run.arch.stem,
        "model.merge": "add",  # else a warning: a plain network has the same weights
    }
    preprocess = digits_run.metadata["data"]["preprocess"]
    right = evaluate(
        "resnet20_cifar",
        "digits",
        pretrained=file,
        overrides=settings,
        mean=preprocess["mean"],
        std=preprocess["std"],
    )
    assert right.to_dict() == evaluate(digits_run).to_dict()
    wrong = evaluate("resnet20_cifar", "digits", pretrained=file, overrides=settings, mean=(0.0,), std=(5.0,))
    assert wrong.loss != right.loss


def test_evaluating_a_run_of_a_custom_module_requires_the_module(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    run = train(module, output=tmp_path / "run", epochs=3, on_log=lambda line: None)
    assert run.arch is None
    assert run.result is not None
    fresh = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert evaluate(run, module=fresh).to_dict() == {
        name: run.result[name] for name in evaluate(run, module=fresh).to_dict()
    }
    with pytest.raises(ValueError, match=r"the code of Sequential.*--model package.module:factory"):
        evaluate(run)
    with pytest.raises(ValueError, match="another module"):
        load_run_network(run)


def test_what_does_not_fit_is_reported(digits_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split of digits"):
        evaluate(digits_run, split="vla")
    with pytest.raises(ValueError, match="data to evaluate on"):
        evaluate(digits_run.weights_path)
    with pytest.raises(ValueError, match="--pretrained"):
        evaluate("resnet20_cifar", "digits")
    with pytest.raises(ValueError, match="one per channel"):
        evaluate(digits_run, mean=(0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match="at least one model"):
        evaluate([])
    data = open_dataset("digits")
    swapped = replace(data, classes=("1", "0", *data.classes[2:]))
    with pytest.raises(ValueError, match="0 where the data has 1"):
        evaluate(digits_run, swapped)
    for weights in (digits_run.weights_path, str(digits_run.weights_path)):
        with pytest.raises(ValueError, match="0 where the data has 1"):
            evaluate(weights, swapped)
    (tmp_path / "unfinished").mkdir()
    shutil.copy(digits_run.path / "run.json", tmp_path / "unfinished" / "run.json")
    with pytest.raises(ValueError, match=r"no weights yet.*--resume"):
        load_run_network(tmp_path / "unfinished")


def test_devices() -> None:
    assert available_devices()[-1] == "cpu"
    assert choose_device("auto").type == available_devices()[0]
    assert choose_device(torch.device("cpu")) == torch.device("cpu")
    for absent in {"cuda", "mps"} - set(available_devices()):
        with pytest.raises(ValueError, match=r"this machine has.*cpu"):
            choose_device(absent)
    with pytest.raises(ValueError, match="auto, cuda"):
        choose_device("the fast one")


def test_an_untrained_module_can_be_evaluated() -> None:
    model = create_model("resnet20_cifar", in_channels=1)
    model.train()
    evaluation = evaluate(model, "digits")
    assert evaluation.num_samples == len(open_dataset("digits").split("test"))
    assert model.training


def test_views_and_transforms_reach_the_network_and_results_keep_their_names(digits_run: Run) -> None:
    evaluation = evaluate(digits_run, tta="flip", eval_transform="resize(12)", keep_predictions=True)
    network, data = load_run_network(digits_run), open_dataset("digits")
    x, y, _ = next(eval_loader(data.split("test"), 359, replace(data.preprocess, transform="resize(12)"), "cpu"))
    with torch.no_grad():
        mean = (network(x).softmax(1) + network(x.flip(3)).softmax(1)) / 2
    assert evaluation.probabilities is not None
    torch.testing.assert_close(evaluation.probabilities, mean, rtol=1e-4, atol=1e-6)
    assert evaluation.num_correct == int((mean.argmax(1) == y).sum())
    assert evaluation.classes == data.classes
    assert evaluation.names == tuple(data.split("test").name(i) for i in range(359))
    both = evaluate([digits_run, digits_run], tta="flip", eval_transform="resize(12)", keep_predictions=True)
    assert (both.names, both.classes) == (evaluation.names, evaluation.classes)
    assert evaluate(digits_run).names == ()


def test_calibration_is_fitted_on_one_split_and_evaluated_on_another(digits_run: Run) -> None:
    val, test = (evaluate(digits_run, split=split, keep_predictions=True) for split in ("val", "test"))
    assert calibration_metrics(test, val)["fit_split"] == "val"
    temperature = fit_temperature(log_probabilities(val.require_predictions()[0]), val.labels)
    scaled = apply_temperature(val.probabilities.double(), temperature)
    assert functional.nll_loss(log_probabilities(scaled), val.labels) <= val.loss + 1e-6
    with pytest.raises(ValueError, match="kept their predictions"):
        calibration_metrics(evaluate(digits_run), val)
