"""Calibration error against a direct loop; temperatures that are known."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reslab.training.evaluation.calibration import fit_temperature, log_probabilities, reliability, soften


def answers(num_samples: int = 400) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    outputs = 3 * torch.randn(num_samples, 4, generator=generator, dtype=torch.float64)
    return outputs.softmax(1), torch.randint(0, 4, (num_samples,), generator=generator)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_a_direct_loop(num_bins: int) -> None:
    probabilities, labels = answers()
    total, gaps = 0.0, []
    found = reliability(probabilities, labels, num_bins)
    for b in range(num_bins):
        inside = [
            (max(row), row.index(max(row)) == label)
            for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
            if b / num_bins < max(row) <= (b + 1) / num_bins
        ]
        assert found.bins[b].num_samples == len(inside)
        if not inside:
            assert found.bins[b].confidence is found.bins[b].accuracy is None
            continue
        confidence = sum(sure for sure, _ in inside) / len(inside)
        accuracy = sum(right for _, right in inside) / len(inside)
        assert found.bins[b].confidence == pytest.approx(confidence, rel=1e-12)
        assert found.bins[b].accuracy == accuracy
        total += len(inside) / len(labels) * abs(accuracy - confidence)
        gaps.append(abs(accuracy - confidence))
    assert found.ece == pytest.approx(total, rel=1e-12)
    assert found.mce == pytest.approx(max(gaps), rel=1e-12)


def test_a_network_that_is_sure_and_right_has_no_error_and_one_that_is_wrong_has_all() -> None:
    labels = torch.arange(6) % 3
    sure = functional.one_hot(labels, 3).float()
    assert reliability(sure, labels).ece == 0
    assert reliability(sure, labels).bins[-1].num_samples == 6
    assert reliability(sure.roll(1, 1), labels).ece == 1


def test_a_temperature_that_was_applied_is_found() -> None:
    generator = torch.Generator().manual_seed(1)
    outputs = 2 * torch.randn(5000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(outputs.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(outputs, labels) == pytest.approx(1, abs=0.05)
    for applied in (0.25, 3.0):
        found = fit_temperature(outputs * applied, labels)
        assert found == pytest.approx(applied * fit_temperature(outputs, labels), rel=1e-5)
        assert found == pytest.approx(fit_temperature((outputs * applied).log_softmax(1), labels), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_does_not_rise(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs, labels = torch.randn(20, 3, generator=generator), torch.randint(0, 3, (20,), generator=generator)
    found = fit_temperature(outputs, labels)
    before, after = (functional.cross_entropy(outputs.double() / t, labels) for t in (1.0, found))
    assert after <= before
    assert torch.equal((outputs / found).argmax(1), outputs.argmax(1))


def test_the_least_is_at_the_bottom() -> None:
    probabilities, _ = answers()
    labels = torch.multinomial(soften(probabilities, 2.0), 1, generator=torch.Generator().manual_seed(2))[:, 0]
    found = fit_temperature(log_probabilities(probabilities), labels)
    losses = [functional.nll_loss(log_probabilities(soften(probabilities, found * s)), labels) for s in (0.99, 1, 1.01)]
    assert losses[1] < min(losses[0], losses[2])


def test_where_all_is_right_no_temperature_is_nonsense() -> None:
    found = fit_temperature(torch.eye(3), torch.arange(3))
    assert 0 < found <= 1


def test_softening_is_the_softmax_of_divided_outputs() -> None:
    outputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(soften(outputs.softmax(1), 2.5), (outputs / 2.5).softmax(1), rtol=1e-10, atol=0)
    assert torch.equal(soften(torch.eye(3), 2.0).argmax(1), torch.arange(3))


def test_what_means_nothing_is_refused() -> None:
    probabilities, labels = answers(4)
    with pytest.raises(ValueError, match="values"):
        reliability(probabilities, labels[:2])
    with pytest.raises(ValueError, match="at least one sample"):
        fit_temperature(probabilities[:0], labels[:0])
    with pytest.raises(ValueError, match="take the softmax"):
        reliability(probabilities * 30, labels)
    with pytest.raises(ValueError, match="one bin"):
        reliability(probabilities, labels, 0)
    with pytest.raises(ValueError, match="above 0"):
        soften(probabilities, 0.0)
