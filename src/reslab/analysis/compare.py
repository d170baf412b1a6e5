"""Two networks held against each other: curves, weights, predictions that flipped, a paired test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reslab.analysis.inputs import EvalBatches, class_name, image_data_uri
from reslab.analysis.subject import AnalysisTarget
from reslab.metrics.intervals import PairedTest, run_paired_test
from reslab.spec.errors import invalid

_RECORD_KINDS = ("train", "eval")


@dataclass(frozen=True)
class CompareOptions:
    """`split`: judge on this one (`own`: the subjects' pictures; empty: the whole held-out split where there is one).
    At most `pictures` flipped ones are shown, those that were surest first."""

    split: str = ""
    max_flipped: int = 14


_DEFAULT_OPTIONS = CompareOptions()


@dataclass(frozen=True)
class ComparedModel:
    """One of the two: its accuracy on the pictures, and of a run what it was (`model` with the axes that differ from
    the zoo's), and its log."""

    name: str
    accuracy: float
    loss: float
    num_parameters: int
    arch: str = ""
    dataset: str = ""
    recipe: str = ""
    seed: int = 0
    log: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class FlippedPrediction:
    """A picture that one calls right and the other wrong, with the class and the probability of each."""

    index: int
    image: str
    label: str
    first: str
    first_probability: float
    second: str
    second_probability: float


@dataclass(frozen=True)
class WeightDistance:
    """A weight of both networks: norms, the distance as a share of their mean norm, the cosine between them."""

    name: str
    norms: tuple[float, float]
    distance: float
    cosine: float


@dataclass(frozen=True)
class ComparisonResult:
    """`num_other` counts the parameters that are not in both with one shape."""

    models: tuple[ComparedModel, ...]
    num_images: int
    split: str
    paired_test: PairedTest
    flipped: tuple[FlippedPrediction, ...]
    weight_distances: tuple[WeightDistance, ...]
    num_unmatched: int


def compare_models(targets: Sequence[AnalysisTarget], options: CompareOptions = _DEFAULT_OPTIONS) -> ComparisonResult:
    """Two networks on the same pictures, and their weights where names and shapes agree.

    The test is McNemar's (1947), exact: of the pictures that only one calls right, either is as likely the one that
    does. Raises ValueError unless there are two, and where they were shown other pictures.
    """
    if len(targets) != 2:
        raise invalid("two networks to compare", len(targets), "2", "reslab inspect compare RUN RUN")
    first, second = targets
    split = _resolve_split(first, options)
    first_logits, labels = _collect_logits(first, split)
    second_logits, second_labels = _collect_logits(second, split)
    if not torch.equal(labels, second_labels):
        raise invalid("two networks on the same pictures", f"other labels for {first.name} and {second.name}")
    distances, num_unmatched = weight_distances(first, second)
    models = [
        _compared_model(target, model_logits, labels)
        for target, model_logits in ((first, first_logits), (second, second_logits))
    ]
    return ComparisonResult(
        tuple(models),
        len(labels),
        split,
        run_paired_test(first_logits.argmax(1), second_logits.argmax(1), labels),
        _flipped_predictions(first, split, first_logits, second_logits, labels, options.max_flipped),
        distances,
        num_unmatched,
    )


def _resolve_split(target: AnalysisTarget, options: CompareOptions) -> str:
    if options.split == "own" or (target.data is None and not options.split):
        return ""
    return options.split or (target.data.eval_split if target.data else "")


@torch.no_grad()
def _collect_logits(target: AnalysisTarget, split: str) -> tuple[Tensor, Tensor]:
    """Logits and labels of every picture."""
    batches = [(target.model(x).float().cpu(), y.cpu()) for x, y in EvalBatches(target, split)]
    return torch.cat([logits for logits, _ in batches]), torch.cat([labels for _, labels in batches])


def _compared_model(target: AnalysisTarget, logits: Tensor, labels: Tensor) -> ComparedModel:
    accuracy = int((logits.argmax(1) == labels).sum()) / len(labels)
    loss = float(torch.nn.functional.cross_entropy(logits, labels))
    num_parameters = sum(parameter.numel() for parameter in target.model.parameters())
    run = target.run
    if run is None:
        return ComparedModel(target.name, accuracy, loss, num_parameters)
    metadata = run.metadata
    records = tuple(record for record in run.log.records() if record.get("kind") in _RECORD_KINDS)
    data, recipe = (metadata[part]["name"] for part in ("data", "recipe"))
    seed = int(metadata.get("seed", 0))
    return ComparedModel(target.name, accuracy, loss, num_parameters, run.model_spec, data, recipe, seed, records)


def _flipped_predictions(
    target: AnalysisTarget, split: str, first_logits: Tensor, second_logits: Tensor, labels: Tensor, max_flipped: int
) -> tuple[FlippedPrediction, ...]:
    """The flipped pictures of which the wrong network was surest."""
    first_probs, second_probs = first_logits.softmax(1), second_logits.softmax(1)
    first_predictions, second_predictions = first_probs.argmax(1), second_probs.argmax(1)
    indices = torch.nonzero((first_predictions == labels) != (second_predictions == labels))[:, 0]
    wrong_confidences = torch.where(
        first_predictions[indices] == labels[indices], second_probs[indices].amax(1), first_probs[indices].amax(1)
    )
    selected = indices[wrong_confidences.argsort(descending=True, stable=True)[:max_flipped]]
    if not len(selected):
        return ()
    images = _images_at(target, split, selected)
    subset = AnalysisTarget("", target.model, images, labels[selected], target.data, target.classes)
    return tuple(
        FlippedPrediction(
            int(i),
            image_data_uri(subset, row),
            class_name(target, int(labels[i])),
            class_name(target, int(first_predictions[i])),
            float(first_probs[i, first_predictions[i]]),
            class_name(target, int(second_predictions[i])),
            float(second_probs[i, second_predictions[i]]),
        )
        for row, i in enumerate(selected)
    )


def _images_at(target: AnalysisTarget, split: str, indices: Tensor) -> Tensor:
    """The pictures at these places, in this order, with no more than a batch of others in memory."""
    wanted_indices, offset = {int(i) for i in indices}, 0
    images_by_index: dict[int, Tensor] = {}
    for x, _ in EvalBatches(target, split):
        images_by_index |= {i: x[i - offset].cpu() for i in wanted_indices if offset <= i < offset + len(x)}
        offset += len(x)
    return torch.stack([images_by_index[int(i)] for i in indices])


def weight_distances(first: AnalysisTarget, second: AnalysisTarget) -> tuple[tuple[WeightDistance, ...], int]:
    """The weights with more than one dimension that both networks have, and how many parameters they do not share."""
    first_parameters, second_parameters = (dict(target.model.named_parameters()) for target in (first, second))
    common = [
        name
        for name in first_parameters
        if name in second_parameters and first_parameters[name].shape == second_parameters[name].shape
    ]
    distances = []
    for name in common:
        a, b = (
            parameters[name].detach().cpu().double().flatten() for parameters in (first_parameters, second_parameters)
        )
        if first_parameters[name].ndim < 2:
            continue
        norms = float(a.norm()), float(b.norm())
        mean = max(sum(norms) / 2, 1e-30)
        cosine = float(a @ b) / max(norms[0] * norms[1], 1e-30)
        distances.append(WeightDistance(name, norms, float((a - b).norm()) / mean, cosine))
    return tuple(distances), len(set(first_parameters) ^ set(second_parameters)) + len(
        set(first_parameters) & set(second_parameters)
    ) - len(common)
