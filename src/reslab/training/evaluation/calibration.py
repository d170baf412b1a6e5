"""Calibration: expected calibration error, reliability diagram, temperature scaling.

A temperature is fitted on the validation split once and saved with the weights; every prediction then uses it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.training.evaluation.classification import ClassificationEvaluation

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


@dataclass(frozen=True)
class CalibrationResult:
    """A temperature fitted on one split, and reliability and loss of another split before and after scaling."""

    temperature: float
    fit_split: str
    before: ReliabilityDiagram
    after: ReliabilityDiagram
    loss_before: float
    loss_after: float


def calibrate(
    fit_evaluation: ClassificationEvaluation, evaluation: ClassificationEvaluation, num_bins: int = NUM_CALIBRATION_BINS
) -> CalibrationResult:
    """Fit a temperature on `fit_evaluation` and return the calibration of `evaluation` before and after scaling.

    Raises ValueError unless both kept their predictions.
    """
    (fit_probabilities, fit_labels), (before, eval_labels) = (
        fit_evaluation.require_predictions(),
        evaluation.require_predictions(),
    )
    temperature = fit_temperature(log_probabilities(fit_probabilities), fit_labels)
    after = apply_temperature(before.double(), temperature)
    losses = [functional.nll_loss(log_probabilities(p), eval_labels).item() for p in (before, after)]
    diagrams = [compute_reliability(p, eval_labels, num_bins) for p in (before, after)]
    return CalibrationResult(temperature, fit_evaluation.split, diagrams[0], diagrams[1], losses[0], losses[1])


def calibration_metrics(
    evaluation: ClassificationEvaluation, val_evaluation: ClassificationEvaluation | None
) -> dict[str, Any]:
    """Return the calibration metrics of a split as plain data.

    Always `ece`, `mce` and `reliability` (the bins); with a validation evaluation also `temperature`, `fit_split`,
    `fit_num_samples`, and `ece_after`, `loss_after`, `reliability_after` of the evaluated split with that temperature.
    If the evaluated split is the validation split itself, each half of it (even and odd indices) is scaled with the
    temperature fitted on the other half (`cross_fitted`), so that no image contributes to its own temperature; these
    keys are absent if a half has no mistake. `temperature` is absent if no validation image is misclassified, because
    the loss then has no minimum.
    """
    probabilities, labels = evaluation.require_predictions()
    before = compute_reliability(probabilities, labels)
    metrics: dict[str, Any] = {"ece": before.ece, "mce": before.mce, "reliability": to_dict(before.bins)}
    if val_evaluation is None or val_evaluation.num_correct == val_evaluation.num_samples:
        return metrics
    val_probabilities, val_labels = val_evaluation.require_predictions()
    temperature = fit_temperature(log_probabilities(val_probabilities), val_labels)
    metrics |= {
        "temperature": temperature,
        "fit_split": val_evaluation.split,
        "fit_num_samples": val_evaluation.num_samples,
    }
    cross_fitted = evaluation.split == val_evaluation.split
    scaled = (
        apply_cross_fitted_temperature(probabilities, labels)
        if cross_fitted
        else apply_temperature(probabilities.double(), temperature)
    )
    if scaled is None:
        return metrics
    after = compute_reliability(scaled, labels)
    loss = functional.nll_loss(log_probabilities(scaled), labels).item()
    after_metrics = {"ece_after": after.ece, "loss_after": loss, "reliability_after": to_dict(after.bins)}
    return {**metrics, **after_metrics, "cross_fitted": cross_fitted}


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


def fit_validation_temperature(val_evaluation: ClassificationEvaluation) -> FittedTemperature:
    """Fit the temperature on a validation split, if cross-validation finds it better than none.

    Raises ValueError for another split (a temperature is never fitted on the test or training images), if no
    validation image is misclassified, or if the evaluation kept no predictions; TemperatureNotBetterError if
    `check_temperature` is worse or impossible.
    """
    if val_evaluation.split != "val":
        raise invalid(
            "a validation split to fit a temperature on",
            f"the split {val_evaluation.split!r}",
            next_step="train with --val-fraction 0.1: never fit it on the test or training images",
        )
    probabilities, labels = val_evaluation.require_predictions()
    if val_evaluation.num_correct == val_evaluation.num_samples:
        got = f"{val_evaluation.num_samples} images, all classified correctly"
        raise invalid("a misclassified validation image, to fit a temperature", got, next_step="leave it at 1")
    check = check_temperature(probabilities, labels)
    if check is None or not check.is_better:
        got = f"half of the {val_evaluation.num_samples} images without a mistake" if check is None else str(check)
        next_step = "use no temperature, or more validation images"
        raise TemperatureNotBetterError(
            str(invalid("a temperature that cross-validation finds better", got, next_step=next_step))
        )
    return FittedTemperature(
        fit_temperature(log_probabilities(probabilities), labels), val_evaluation.split, val_evaluation.num_samples
    )
