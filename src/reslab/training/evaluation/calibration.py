"""Whether a network is right as often as it says: calibration error, reliability diagram, temperature.

A temperature fitted once and kept with the weights, so that whatever predicts with them can divide by it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reslab.nn.checkpoints.safetensors_io import update_header
from reslab.runtime.files import room_for
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.training.evaluation.loop import Evaluation
from reslab.training.run import Run, run_weights

NUM_BINS = 15
_MOST_ITERATIONS = 200


@dataclass(frozen=True)
class Bin:
    """The samples whose confidence is in (low, high]: how many, their mean confidence, the fraction that were right.

    `confidence` and `accuracy` are None where there are none.
    """

    low: float
    high: float
    num_samples: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Reliability:
    """The reliability diagram's data, and what it comes to (Guo et al. 2017, Eqs. 3 and 5).

    `ece` = sum over bins of n_b / n |accuracy - confidence|; `mce` is the largest of these gaps.
    """

    ece: float
    mce: float
    bins: tuple[Bin, ...]


def reliability(probabilities: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> Reliability:
    """Confidence against accuracy in `num_bins` bins of equal width, from probabilities (N, C) and labels (N,).

    Raises ValueError for shapes that do not fit, no samples, or what is no probability.
    """
    _check(probabilities, labels)
    if num_bins < 1:
        raise invalid("at least one bin", num_bins, nearest=str(NUM_BINS))
    sure, called = probabilities.double().max(1)
    if not (bool(sure.isfinite().all()) and float(sure.min()) >= 0 and float(sure.max()) <= 1 + 1e-5):
        raise invalid("probabilities from 0 to 1", f"{sure.min():g} to {sure.max():g}", next_step="take the softmax")
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64, device=sure.device)
    places = (torch.bucketize(sure, edges) - 1).clamp(0, num_bins - 1)
    counts = torch.bincount(places, minlength=num_bins)
    sums = [torch.bincount(places, value, num_bins) for value in (sure, (called == labels).double())]
    means = [(total / counts.clamp(min=1)).tolist() for total in sums]
    numbers, bounds = counts.tolist(), edges.tolist()
    gaps = [abs(accuracy - confidence) for confidence, accuracy in zip(*means, strict=True)]
    bins = tuple(
        Bin(bounds[b], bounds[b + 1], numbers[b], *((means[0][b], means[1][b]) if numbers[b] else (None, None)))
        for b in range(num_bins)
    )
    ece = sum(number * gap for number, gap in zip(numbers, gaps, strict=True)) / len(labels)
    return Reliability(ece, max(gap for number, gap in zip(numbers, gaps, strict=True) if number), bins)


def fit_temperature(outputs: Tensor, labels: Tensor) -> float:
    """The T of softmax(z / T) with the least mean -log p(label) (Guo et al. 2017, Sec. 4.2), by L-BFGS over log T.

    Outputs z (N, C), or log-probabilities, which differ from them by a number a sample; labels (N,). Never worse than
    T = 1, which it is where nothing is better. Raises ValueError for shapes that do not fit or no samples.
    """
    _check(outputs, labels)
    outputs = outputs.detach().double()
    log_t = torch.zeros((), dtype=torch.float64, device=outputs.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_t], max_iter=_MOST_ITERATIONS, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(outputs / log_t.exp(), labels)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
        found = log_t.exp().item()
        better = functional.cross_entropy(outputs / found, labels) <= functional.cross_entropy(outputs, labels)
    return found if bool(better) and found > 0 else 1.0


def soften(probabilities: Tensor, temperature: float) -> Tensor:
    """softmax(z / T) from softmax(z), (N, C). Raises ValueError for a temperature not above 0."""
    if not temperature > 0:
        raise invalid("a temperature above 0", temperature, nearest="1")
    return (log_probabilities(probabilities) / temperature).softmax(1).to(probabilities.dtype)


def log_probabilities(probabilities: Tensor) -> Tensor:
    """log p (N, C) in float64, of what is 0 in float32 the least that is not."""
    return probabilities.double().clamp_min(torch.finfo(torch.float32).tiny).log()


@dataclass(frozen=True)
class Calibration:
    """A temperature fitted on one split, and what it does on another: reliability and loss before and after."""

    temperature: float
    fitted_on: str
    before: Reliability
    after: Reliability
    loss_before: float
    loss_after: float


def calibrate(fitted: Evaluation, judged: Evaluation, num_bins: int = NUM_BINS) -> Calibration:
    """The temperature of the `fitted` split's answers, and the `judged` split's before and after it.

    Both keep their probabilities. Raises ValueError where one does not.
    """
    (first, labels), (before, truth) = answers_of(fitted), answers_of(judged)
    temperature = fit_temperature(log_probabilities(first), labels)
    after = soften(before.double(), temperature)
    losses = [functional.nll_loss(log_probabilities(p), truth).item() for p in (before, after)]
    shown = [reliability(p, truth, num_bins) for p in (before, after)]
    return Calibration(temperature, fitted.split, shown[0], shown[1], losses[0], losses[1])


def calibration_facts(judged: Evaluation, val: Evaluation | None) -> dict[str, Any]:
    """What is told of a split's calibration, as plain data: `ece`, `mce`, `reliability` (the bins), and with
    validation answers the `temperature` they ask for, `fitted_on`, `fitted_images`, and `ece_scaled`, `loss_scaled`,
    `reliability_scaled` of the judged split under it.

    Where the judged split is the validation split itself, each half of it (even and odd places) is judged with the
    temperature of the other (`in_halves`), so that no image helps to judge itself; these are left out where a half has
    no mistake. `temperature` is left out where no validation image is wrong: there is no least loss then.
    """
    probabilities, labels = answers_of(judged)
    before = reliability(probabilities, labels)
    facts: dict[str, Any] = {"ece": before.ece, "mce": before.mce, "reliability": to_dict(before.bins)}
    if val is None or val.num_correct == val.num_samples:
        return facts
    fitted, truth = answers_of(val)
    temperature = fit_temperature(log_probabilities(fitted), truth)
    facts |= {"temperature": temperature, "fitted_on": val.split, "fitted_images": val.num_samples}
    halves = judged.split == val.split
    scaled = scaled_by_halves(probabilities, labels) if halves else soften(probabilities.double(), temperature)
    if scaled is None:
        return facts
    after = reliability(scaled, labels)
    loss = functional.nll_loss(log_probabilities(scaled), labels).item()
    told = {"ece_scaled": after.ece, "loss_scaled": loss, "reliability_scaled": to_dict(after.bins)}
    return {**facts, **told, "in_halves": halves}


def scaled_by_halves(probabilities: Tensor, labels: Tensor) -> Tensor | None:
    """softmax(z / T) in float64 from softmax(z), (N, C): T of the odd places for the even ones, and the other way.

    None where a half has no mistake, or is empty.
    """
    right = probabilities.argmax(1) == labels
    if any(bool(right[start::2].all()) for start in (0, 1)):
        return None
    found = torch.empty_like(probabilities, dtype=torch.float64)
    for start in (0, 1):
        other = slice(1 - start, None, 2)
        temperature = fit_temperature(log_probabilities(probabilities[other]), labels[other])
        found[start::2] = soften(probabilities[start::2].double(), temperature)
    return found


def answers_of(found: Evaluation) -> tuple[Tensor, Tensor]:
    """Probabilities (N, C) and labels (N,); ValueError where the evaluation kept none."""
    if found.probabilities is None or found.labels is None:
        raise invalid("evaluations that kept their probabilities", "one that did not", "keep_probabilities=True")
    return found.probabilities, found.labels


def _check(values: Tensor, labels: Tensor) -> None:
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise invalid("values (N, C) and labels (N,)", f"{tuple(values.shape)} and {tuple(labels.shape)}")
    if not len(labels):
        raise invalid("at least one sample", "none")


@dataclass(frozen=True)
class Temperature:
    """The T of softmax(z / T), the split that it was fitted on and how many images that has."""

    value: float
    fitted_on: str
    num_samples: int


def calibrated(val: Evaluation) -> Temperature:
    """The temperature that validation answers ask for.

    Raises ValueError where they are not a validation split's (a temperature is never fitted on the test set, nor on
    the images that were learnt from), hold no mistake, or kept no probabilities.
    """
    if val.split != "val":
        raise invalid(
            "a validation split to fit a temperature on",
            f"the split {val.split!r}",
            next_step="train with --val-fraction 0.1: never the test set, nor the images that were learnt from",
        )
    probabilities, labels = answers_of(val)
    if val.num_correct == val.num_samples:
        got = f"{val.num_samples} images, all of them right"
        raise invalid("validation images with a mistake, to fit a temperature on", got, next_step="leave it at 1")
    return Temperature(fit_temperature(log_probabilities(probabilities), labels), val.split, val.num_samples)


def keep_temperature(place: Run | str | Path, found: Temperature) -> None:
    """Write a temperature into the header of a run's weights (or of a `model.safetensors`) and into its run.json.

    Raises ValueError where the run has not ended or the file is not ours; DiskFull.
    """
    folder = isinstance(place, Run) or Path(place).is_dir()
    run = (place if isinstance(place, Run) else Run(place)) if folder else None
    path = run_weights(run) if run else Path(str(place))
    facts: dict[str, Any] = to_dict(found)
    with room_for(path):
        update_header(path, temperature=facts)
    if run:
        run.update(temperature=facts)
