"""A temperature kept with the weights: where it is written, what it leaves alone, what is refused.

Calibration error against a direct loop; temperatures that are known.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reslab.nn.checkpoints.safetensors_io import read_header, read_tensors
from reslab.nn.factory import load_network
from reslab.training.checkpoint import save_temperature
from reslab.training.evaluation.calibration import (
    FittedTemperature,
    TemperatureNotBetterError,
    apply_temperature,
    check_temperature,
    compute_reliability,
    fit_temperature,
    log_probabilities,
)
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.run import Run
from reslab.training.tasks.classification import (
    ClassificationEvaluation,
    calibration_metrics,
    fit_validation_temperature,
)


@pytest.fixture(scope="module")
def val(digits_run: Run) -> ClassificationEvaluation:
    return evaluate(digits_run, split="val", keep_predictions=True)


@pytest.fixture
def run(digits_run: Run, tmp_path: Path) -> Run:
    return Run(shutil.copytree(digits_run.path, tmp_path / "run"))


def test_validation_temperature_is_fitted_on_validation_predictions(val: ClassificationEvaluation) -> None:
    probabilities, labels = val.require_predictions()
    result = fit_validation_temperature(val)
    assert result == FittedTemperature(
        fit_temperature(log_probabilities(probabilities), labels), "val", val.num_samples
    )
    assert result.value != 1.0


def test_it_is_written_into_the_header_and_the_run_and_changes_no_weight(run: Run) -> None:
    before, header = read_tensors(run.weights_path), read_header(run.weights_path)
    save_temperature(run.path, FittedTemperature(1.5, "val", 40))
    kept = {"value": 1.5, "fit_split": "val", "num_samples": 40}
    assert read_header(run.weights_path) == {**header, "temperature": kept}
    assert Run(run.path).metadata["temperature"] == kept
    after = read_tensors(run.weights_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_network(run.weights_path).temperature == 1.5
    assert [path.name for path in run.path.iterdir() if "partial" in path.name] == []


def test_weights_alone_can_keep_one(run: Run) -> None:
    alone = Path(shutil.copy(run.weights_path, run.path.parent / "alone.safetensors"))
    save_temperature(alone, FittedTemperature(0.7, "val", 40))
    assert load_network(alone).temperature == 0.7
    assert load_network(run.weights_path).temperature is None


def test_an_evaluation_does_not_use_it(run: Run) -> None:
    before = evaluate(run).to_dict()
    save_temperature(run, FittedTemperature(5.0, "val", 40))
    assert evaluate(run).to_dict() == before


def test_it_is_fitted_on_validation_images_alone(val: ClassificationEvaluation) -> None:
    for split in ("test", "train"):
        with pytest.raises(ValueError, match="never fit it on the test or training images"):
            fit_validation_temperature(replace(val, split=split))
    with pytest.raises(ValueError, match="all classified correctly"):
        fit_validation_temperature(replace(val, num_correct=val.num_samples))


def test_what_is_reported_of_another_split_is_the_validation_temperature_applied(
    digits_run: Run, val: ClassificationEvaluation
) -> None:
    evaluated = evaluate(digits_run, keep_predictions=True)
    result = calibration_metrics(evaluated, val)
    assert result["temperature"] == fit_validation_temperature(val).value
    assert (result["fit_split"], result["fit_num_samples"], result["cross_fitted"]) == ("val", val.num_samples, False)
    probabilities, labels = evaluated.require_predictions()
    softened = apply_temperature(probabilities.double(), result["temperature"])
    confidence, called = softened.max(1)
    shown = [one for one in result["reliability_after"] if one["num_samples"]]
    for one in shown:
        inside = (confidence > one["low"]) & (confidence <= one["high"])
        assert int(inside.sum()) == one["num_samples"]
        assert float((called == labels)[inside].double().mean()) == pytest.approx(one["accuracy"])
    loss = -softened[torch.arange(len(labels)), labels].log().mean().item()
    assert result["loss_after"] == pytest.approx(loss, rel=1e-6)


def test_validation_images_do_not_evaluate_their_own_temperature(val: ClassificationEvaluation) -> None:
    result = calibration_metrics(val, val)
    assert result["cross_fitted"]
    probabilities, labels = val.require_predictions()
    total = 0.0
    for start in (0, 1):
        other = fit_temperature(log_probabilities(probabilities[1 - start :: 2]), labels[1 - start :: 2])
        ours = apply_temperature(probabilities[start::2].double(), other)
        total -= ours[torch.arange(len(ours)), labels[start::2]].log().sum().item()
    assert result["loss_after"] == pytest.approx(total / len(labels), rel=1e-6)


def test_without_errors_there_is_no_temperature_and_without_them_in_a_half_no_cross_fit() -> None:
    labels = torch.zeros(8, dtype=torch.int64)
    sure = torch.tensor([[0.9, 0.1]]).repeat(8, 1)
    right = ClassificationEvaluation(
        num_samples=8,
        num_correct=8,
        num_correct_top5=None,
        loss=0.1,
        confusion_matrix=((8, 0), (0, 0)),
        split="val",
        probabilities=sure,
        labels=labels,
    )
    assert set(calibration_metrics(right, right)) == {"ece", "mce", "reliability"}
    sure[0] = torch.tensor([0.4, 0.6])
    wrong = replace(right, probabilities=sure, num_correct=7)
    result = calibration_metrics(wrong, wrong)
    assert result["temperature"] > 0
    assert "ece_after" not in result


def answers(num_samples: int = 400) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    outputs = 3 * torch.randn(num_samples, 4, generator=generator, dtype=torch.float64)
    return outputs.softmax(1), torch.randint(0, 4, (num_samples,), generator=generator)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_a_direct_loop(num_bins: int) -> None:
    probabilities, labels = answers()
    total, gaps = 0.0, []
    result = compute_reliability(probabilities, labels, num_bins)
    for b in range(num_bins):
        inside = [
            (max(row), row.index(max(row)) == label)
            for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
            if b / num_bins < max(row) <= (b + 1) / num_bins
        ]
        assert result.bins[b].num_samples == len(inside)
        if not inside:
            assert result.bins[b].confidence is result.bins[b].accuracy is None
            continue
        confidence = sum(sure for sure, _ in inside) / len(inside)
        accuracy = sum(right for _, right in inside) / len(inside)
        assert result.bins[b].confidence == pytest.approx(confidence, rel=1e-12)
        assert result.bins[b].accuracy == accuracy
        total += len(inside) / len(labels) * abs(accuracy - confidence)
        gaps.append(abs(accuracy - confidence))
    assert result.ece == pytest.approx(total, rel=1e-12)
    assert result.mce == pytest.approx(max(gaps), rel=1e-12)


def test_a_network_that_is_sure_and_right_has_no_error_and_one_that_is_wrong_has_all() -> None:
    labels = torch.arange(6) % 3
    sure = functional.one_hot(labels, 3).float()
    assert compute_reliability(sure, labels).ece == 0
    assert compute_reliability(sure, labels).bins[-1].num_samples == 6
    assert compute_reliability(sure.roll(1, 1), labels).ece == 1


def test_a_temperature_that_was_applied_is_recovered() -> None:
    generator = torch.Generator().manual_seed(1)
    outputs = 2 * torch.randn(5000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(outputs.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(outputs, labels) == pytest.approx(1, abs=0.05)
    for applied in (0.25, 3.0):
        result = fit_temperature(outputs * applied, labels)
        assert result == pytest.approx(applied * fit_temperature(outputs, labels), rel=1e-5)
        assert result == pytest.approx(fit_temperature((outputs * applied).log_softmax(1), labels), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_does_not_rise(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs, labels = torch.randn(20, 3, generator=generator), torch.randint(0, 3, (20,), generator=generator)
    result = fit_temperature(outputs, labels)
    before, after = (functional.cross_entropy(outputs.double() / t, labels) for t in (1.0, result))
    assert after <= before
    assert torch.equal((outputs / result).argmax(1), outputs.argmax(1))


def test_fitted_temperature_minimizes_the_loss() -> None:
    probabilities, _ = answers()
    labels = torch.multinomial(apply_temperature(probabilities, 2.0), 1, generator=torch.Generator().manual_seed(2))[
        :, 0
    ]
    result = fit_temperature(log_probabilities(probabilities), labels)
    losses = [
        functional.nll_loss(log_probabilities(apply_temperature(probabilities, result * s)), labels)
        for s in (0.99, 1, 1.01)
    ]
    assert losses[1] < min(losses[0], losses[2])


def test_where_all_is_right_no_temperature_is_nonsense() -> None:
    result = fit_temperature(torch.eye(3), torch.arange(3))
    assert 0 < result <= 1


def test_softening_is_the_softmax_of_divided_outputs() -> None:
    outputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        apply_temperature(outputs.softmax(1), 2.5), (outputs / 2.5).softmax(1), rtol=1e-10, atol=0
    )
    assert torch.equal(apply_temperature(torch.eye(3), 2.0).argmax(1), torch.arange(3))


def test_invalid_values_raise() -> None:
    probabilities, labels = answers(4)
    with pytest.raises(ValueError, match="values"):
        compute_reliability(probabilities, labels[:2])
    with pytest.raises(ValueError, match="at least one sample"):
        fit_temperature(probabilities[:0], labels[:0])
    with pytest.raises(ValueError, match="take the softmax"):
        compute_reliability(probabilities * 30, labels)
    with pytest.raises(ValueError, match="one bin"):
        compute_reliability(probabilities, labels, 0)
    with pytest.raises(ValueError, match="above 0"):
        apply_temperature(probabilities, 0.0)


def _evaluation(probabilities: Tensor, labels: Tensor) -> ClassificationEvaluation:
    num_correct = int((probabilities.argmax(1) == labels).sum())
    return ClassificationEvaluation(
        num_samples=len(labels),
        num_correct=num_correct,
        num_correct_top5=None,
        loss=0.0,
        confusion_matrix=((0,),),
        split="val",
        probabilities=probabilities,
        labels=labels,
    )


def test_a_temperature_that_cross_validation_finds_worse_is_not_kept() -> None:
    # The even images are too sure and the odd ones too unsure, so that each half wants the opposite of the other.
    labels = torch.zeros(400, dtype=torch.int64)
    sure = torch.tensor([0.99, 0.01]).repeat(200, 1)
    sure[:80] = torch.tensor([0.01, 0.99])
    unsure = torch.tensor([0.6, 0.4]).repeat(200, 1)
    unsure[:10] = torch.tensor([0.4, 0.6])
    probabilities = torch.stack((sure, unsure), 1).flatten(0, 1)
    check = check_temperature(probabilities, labels)
    assert check is not None
    scaled = torch.empty_like(probabilities, dtype=torch.float64)
    for half, other in ((0, 1), (1, 0)):
        temperature = fit_temperature(probabilities[other::2].log(), labels[other::2])
        scaled[half::2] = (probabilities[half::2].double().log() / temperature).softmax(1)
    assert check.loss_after == pytest.approx(-scaled[:, 0].log().mean().item(), rel=1e-5)
    assert check.loss_after > check.loss_before
    assert check.ece_after > check.ece_before
    with pytest.raises(TemperatureNotBetterError, match=rf"{check.ece_before:.2%} -> {check.ece_after:.2%}"):
        fit_validation_temperature(_evaluation(probabilities, labels))


def test_a_temperature_that_cross_validation_finds_better_is_kept() -> None:
    probabilities, labels = answers()
    check = check_temperature(probabilities, labels)
    assert check is not None
    assert check.is_better
    fitted = fit_validation_temperature(_evaluation(probabilities, labels))
    assert fitted.value == fit_temperature(log_probabilities(probabilities), labels)


def test_a_half_without_a_mistake_allows_no_cross_validation() -> None:
    probabilities = torch.tensor([0.9, 0.1]).repeat(6, 1)
    labels = torch.tensor([0, 1, 0, 1, 0, 0])  # both mistakes are in the odd half
    assert check_temperature(probabilities, labels) is None
    with pytest.raises(TemperatureNotBetterError, match="without a mistake"):
        fit_validation_temperature(_evaluation(probabilities, labels))
