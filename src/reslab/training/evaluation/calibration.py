"""Calibration: expected calibration error, reliability diagram, temperature scaling.

A temperature is fitted on the validation split once and saved with the weights; every prediction then uses it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reslab.spec.errors import invalid

NUM_CALIBRATION_BINS = 15
_MAX_ITERATIONS = 200


@dataclass(frozen=True)
class CalibrationBin:
    """The samples with a confidence in (low, high]: their number, mean confidence and accuracy (None if empty)."""

    low: float
    high: float
    num_samples: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class ReliabilityDiagram:
    """The bins of a reliability diagram and the calibration errors (Guo et al. 2017, Eqs. 3 and 5).

    `ece` = sum over bins b of n_b / n |accuracy_b - confidence_b|; `mce` is the largest of these gaps.
    """

    ece: float
    mce: float
    bins: tuple[CalibrationBin, ...]


def compute_reliability(
    probabilities: Tensor, labels: Tensor, num_bins: int = NUM_CALIBRATION_BINS
) -> ReliabilityDiagram:
    """Compare confidence and accuracy in `num_bins` bins of equal width, for probabilities (N, C) and labels (N,).

    Raises ValueError for shapes that do not match, no samples, or values outside 0 to 1.
    """
    _check_shapes(probabilities, labels)
    if num_bins < 1:
        raise invalid("at least one bin", num_bins, nearest=str(NUM_CALIBRATION_BINS))
    confidences, predictions = probabilities.double().max(1)
    if not (
        bool(confidences.isfinite().all()) and float(confidences.min()) >= 0 and float(confidences.max()) <= 1 + 1e-5
    ):
        raise invalid(
            "probabilities from 0 to 1", f"{confidences.min():g} to {confidences.max():g}", next_step="take the softmax"
        )
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64, device=confidences.device)
    bin_indices = (torch.bucketize(confidences, edges) - 1).clamp(0, num_bins - 1)
    counts = torch.bincount(bin_indices, minlength=num_bins)
    sums = [torch.bincount(bin_indices, value, num_bins) for value in (confidences, (predictions == labels).double())]
    means = [(total / counts.clamp(min=1)).tolist() for total in sums]
    bin_counts, bin_edges = counts.tolist(), edges.tolist()
    gaps = [abs(accuracy - confidence) for confidence, accuracy in zip(*means, strict=True)]
    bins = tuple(
        CalibrationBin(
            bin_edges[b],
            bin_edges[b + 1],
            bin_counts[b],
            *((means[0][b], means[1][b]) if bin_counts[b] else (None, None)),
        )
        for b in range(num_bins)
    )
    ece = sum(count * gap for count, gap in zip(bin_counts, gaps, strict=True)) / len(labels)
    return ReliabilityDiagram(ece, max(gap for count, gap in zip(bin_counts, gaps, strict=True) if count), bins)


def fit_temperature(outputs: Tensor, labels: Tensor) -> float:
    """Return the T of softmax(z / T) that minimizes the mean of -log p(label), by L-BFGS over log T.

    Guo et al. 2017, Sec. 4.2. Logits z (N, C), or log-probabilities, which differ from them by a constant per sample;
    labels (N,). Returns 1 if no other temperature is better. Raises ValueError for shapes that do not match or no
    samples.
    """
    _check_shapes(outputs, labels)
    outputs = outputs.detach().double()
    log_t = torch.zeros((), dtype=torch.float64, device=outputs.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_t], max_iter=_MAX_ITERATIONS, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(outputs / log_t.exp(), labels)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
        temperature = log_t.exp().item()
        is_better = functional.cross_entropy(outputs / temperature, labels) <= functional.cross_entropy(outputs, labels)
    return temperature if bool(is_better) and temperature > 0 else 1.0


def apply_temperature(probabilities: Tensor, temperature: float) -> Tensor:
    """Return softmax(z / T) from softmax(z), (N, C). Raises ValueError for a temperature that is not above 0."""
    if not temperature > 0:
        raise invalid("a temperature above 0", temperature, nearest="1")
    return (log_probabilities(probabilities) / temperature).softmax(1).to(probabilities.dtype)


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Return log p (N, C) in float64, with zeros replaced by the smallest normal float32."""
    return probabilities.double().clamp_min(torch.finfo(torch.float32).tiny).log()


def apply_cross_fitted_temperature(probabilities: Tensor, labels: Tensor) -> Tensor | None:
    """Return softmax(z / T) in float64 from softmax(z), (N, C), with T of the odd indices for the even ones and back.

    None if a half is empty or has no mistake.
    """
    is_correct = probabilities.argmax(1) == labels
    if any(bool(is_correct[start::2].all()) for start in (0, 1)):
        return None
    result = torch.empty_like(probabilities, dtype=torch.float64)
    for start in (0, 1):
        other_half = slice(1 - start, None, 2)
        temperature = fit_temperature(log_probabilities(probabilities[other_half]), labels[other_half])
        result[start::2] = apply_temperature(probabilities[start::2].double(), temperature)
    return result


def _check_shapes(values: Tensor, labels: Tensor) -> None:
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise invalid("values (N, C) and labels (N,)", f"{tuple(values.shape)} and {tuple(labels.shape)}")
    if not len(labels):
        raise invalid("at least one sample", "none")


@dataclass(frozen=True)
class FittedTemperature:
    """A temperature T of softmax(z / T), the split it was fitted on and the number of its samples."""

    value: float
    fit_split: str
    num_samples: int


@dataclass(frozen=True)
class TemperatureCheck:
    """Calibration error and loss of a split, without a temperature and with cross-fitted ones."""

    ece_before: float
    ece_after: float
    loss_before: float
    loss_after: float

    @property
    def is_better(self) -> bool:
        """True if the temperatures lower the loss and do not raise the calibration error."""
        return self.loss_after < self.loss_before and self.ece_after <= self.ece_before

    def __str__(self) -> str:
        ece_text = f"calibration error {self.ece_before:.2%} -> {self.ece_after:.2%}"
        return f"{ece_text}, loss {self.loss_before:.4f} -> {self.loss_after:.4f}"


class TemperatureNotBetterError(ValueError):
    """Cross-validation does not find a temperature better than none."""


def check_temperature(probabilities: Tensor, labels: Tensor) -> TemperatureCheck | None:
    """Return the cross-validation of temperature scaling: each half is scaled with the other half's temperature.

    Probabilities (N, C), labels (N,). None if a half is empty or has no mistake, so that nothing can be fitted to it.
    """
    scaled = apply_cross_fitted_temperature(probabilities, labels)
    if scaled is None:
        return None
    eces = [compute_reliability(p, labels).ece for p in (probabilities, scaled)]
    losses = [functional.nll_loss(log_probabilities(p), labels).item() for p in (probabilities, scaled)]
    return TemperatureCheck(*eces, *losses)
