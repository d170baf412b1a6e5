"""A temperature kept with the weights: where it is written, what it leaves alone, what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reslab.nn.checkpoints.safetensors_io import load_weights, read_header, read_tensors
from reslab.training.evaluation.calibration import (
    answers_of,
    calibration_facts,
    fit_temperature,
    log_probabilities,
    soften,
)
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.evaluation.loop import Evaluation
from reslab.training.run import Run
from reslab.training.temperature import Temperature, calibrated, keep_temperature


@pytest.fixture(scope="module")
def val(digits_run: Run) -> Evaluation:
    return evaluate(digits_run, split="val", keep_probabilities=True)


@pytest.fixture
def run(digits_run: Run, tmp_path: Path) -> Run:
    return Run(shutil.copytree(digits_run.path, tmp_path / "run"))


def test_it_is_that_of_the_validation_answers(val: Evaluation) -> None:
    probabilities, labels = answers_of(val)
    found = calibrated(val)
    assert found == Temperature(fit_temperature(log_probabilities(probabilities), labels), "val", val.num_samples)
    assert found.value != 1.0


def test_it_is_written_into_the_header_and_the_run_and_changes_no_weight(run: Run) -> None:
    before, header = read_tensors(run.weights_path), read_header(run.weights_path)
    keep_temperature(run.path, Temperature(1.5, "val", 40))
    kept = {"value": 1.5, "fitted_on": "val", "num_samples": 40}
    assert read_header(run.weights_path) == {**header, "temperature": kept}
    assert Run(run.path).facts["temperature"] == kept
    after = read_tensors(run.weights_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_weights(run.weights_path).temperature == 1.5
    assert [path.name for path in run.path.iterdir() if "partial" in path.name] == []


def test_weights_alone_can_keep_one(run: Run) -> None:
    alone = Path(shutil.copy(run.weights_path, run.path.parent / "alone.safetensors"))
    keep_temperature(alone, Temperature(0.7, "val", 40))
    assert load_weights(alone).temperature == 0.7
    assert load_weights(run.weights_path).temperature is None


def test_an_evaluation_does_not_use_it(run: Run) -> None:
    before = evaluate(run).to_dict()
    keep_temperature(run, Temperature(5.0, "val", 40))
    assert evaluate(run).to_dict() == before


def test_it_is_fitted_on_validation_images_alone(val: Evaluation) -> None:
    for split in ("test", "train"):
        with pytest.raises(ValueError, match="never the test set"):
            calibrated(replace(val, split=split))
    with pytest.raises(ValueError, match="all of them right"):
        calibrated(replace(val, num_correct=val.num_samples))


def test_what_is_told_of_another_split_is_the_validation_temperature_applied(digits_run: Run, val: Evaluation) -> None:
    judged = evaluate(digits_run, keep_probabilities=True)
    found = calibration_facts(judged, val)
    assert found["temperature"] == calibrated(val).value
    assert (found["fitted_on"], found["fitted_images"], found["in_halves"]) == ("val", val.num_samples, False)
    probabilities, labels = answers_of(judged)
    softened = soften(probabilities.double(), found["temperature"])
    confidence, called = softened.max(1)
    shown = [one for one in found["reliability_scaled"] if one["num_samples"]]
    for one in shown:
        inside = (confidence > one["low"]) & (confidence <= one["high"])
        assert int(inside.sum()) == one["num_samples"]
        assert float((called == labels)[inside].double().mean()) == pytest.approx(one["accuracy"])
    loss = -softened[torch.arange(len(labels)), labels].log().mean().item()
    assert found["loss_scaled"] == pytest.approx(loss, rel=1e-6)


def test_validation_images_do_not_judge_their_own_temperature(val: Evaluation) -> None:
    found = calibration_facts(val, val)
    assert found["in_halves"]
    probabilities, labels = answers_of(val)
    total = 0.0
    for start in (0, 1):
        other = fit_temperature(log_probabilities(probabilities[1 - start :: 2]), labels[1 - start :: 2])
        mine = soften(probabilities[start::2].double(), other)
        total -= mine[torch.arange(len(mine)), labels[start::2]].log().sum().item()
    assert found["loss_scaled"] == pytest.approx(total / len(labels), rel=1e-6)


def test_without_mistakes_there_is_no_temperature_and_without_them_in_a_half_no_judgement() -> None:
    labels = torch.zeros(8, dtype=torch.int64)
    sure = torch.tensor([[0.9, 0.1]]).repeat(8, 1)
    right = Evaluation(8, 8, None, 0.1, ((8, 0), (0, 0)), "val", sure, labels)
    assert set(calibration_facts(right, right)) == {"ece", "mce", "reliability"}
    sure[0] = torch.tensor([0.4, 0.6])
    wrong = replace(right, probabilities=sure, num_correct=7)
    found = calibration_facts(wrong, wrong)
    assert found["temperature"] > 0
    assert "ece_scaled" not in found
