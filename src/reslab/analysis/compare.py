"""Compare two models: training curves, weights, predictions that flipped, and a paired significance test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reslab.analysis.inputs import are_equal_labels
from reslab.analysis.target import AnalysisTarget, EvalBatches, evaluate_target, image_data_uri
from reslab.metrics.intervals import PairedTest, run_paired_test
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind
from reslab.training.evaluation.evaluation import Evaluation, with_added_metrics

_RECORD_KINDS = ("train", "eval")


@dataclass(frozen=True)
class CompareOptions:
    """The `split` to evaluate on, and how many flipped predictions to show, those with the highest confidence first.

    `own` takes the images of the targets; an empty split takes the whole held-out split where there is one.
    """

    split: str = ""
    max_flipped: int = 14


_DEFAULT_OPTIONS = CompareOptions()


@dataclass(frozen=True)
class ComparedModel:
    """One of the two models: its score and loss on the images, and, for a run, its settings and its log.

    The score is the metric that selects the weights of the task; None where it is undefined. `arch` names the
    architecture with the overrides of the zoo's.
    """

    name: str
    score: float | None
    loss: float | None
    num_parameters: int
    arch: str = ""
    dataset: str = ""
    recipe: str = ""
    seed: int = 0
    log: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class FlippedPrediction:
    """An image that exactly one of the two models classifies correctly, with each model's class and probability."""

    index: int
    image: str
    label: str
    first: str
    first_probability: float
    second: str
    second_probability: float


@dataclass(frozen=True)
class WeightDistance:
    """A weight of both models: its two norms, the distance relative to their mean, and the cosine."""

    name: str
    norms: tuple[float, float]
    distance: float
    cosine: float


@dataclass(frozen=True)
class ComparisonResult:
    """The two models on the same images; `num_unmatched` counts the parameters without a counterpart of equal shape.

    `metric` is the name of the scores' metric. `paired_test` is None, and nothing flipped, where an image has no one
    class.
    """

    models: tuple[ComparedModel, ...]
    task: str
    metric: str
    num_images: int
    split: str
    paired_test: PairedTest | None
    flipped: tuple[FlippedPrediction, ...]
    weight_distances: tuple[WeightDistance, ...]
    num_unmatched: int


def compare_models(targets: Sequence[AnalysisTarget], options: CompareOptions = _DEFAULT_OPTIONS) -> ComparisonResult:
    """Compare two models on the same images, and their weights where names and shapes agree.

    In a classification the test is the exact one of McNemar (1947): among the images that only one model classifies
    correctly, both are equally likely to be that one. Raises ValueError unless there are two targets with the same
    images.
    """
    if len(targets) != 2:
        raise invalid("two networks to compare", len(targets), "2", "reslab analyze compare RUN RUN")
    first, second = targets
    split = _resolve_split(first, options)
    if not are_equal_labels(first.labels, second.labels):
        raise invalid("two networks on the same images", f"other labels for {first.name} and {second.name}")
    distances, num_unmatched = weight_distances(first, second)
    result = ComparisonResult(
        models=(),
        task=first.task.spec.name,
        metric=first.task.spec.selection_metric.name,
        num_images=0,
        split=split,
        paired_test=None,
        flipped=(),
        weight_distances=distances,
        num_unmatched=num_unmatched,
    )
    if first.task.spec.target is TargetKind.CLASS:
        return _with_classes(result, first, second, options)
    evaluations = [evaluate_target(target.model, EvalBatches(target, split)) for target in targets]
    models = tuple(_compared_model(*pair) for pair in zip(targets, evaluations, strict=True))
    return replace(result, models=models, num_images=evaluations[0].num_samples)


def _with_classes(
    result: ComparisonResult, first: AnalysisTarget, second: AnalysisTarget, options: CompareOptions
) -> ComparisonResult:
    """Return the result with the scores, the paired test and the flipped predictions of two classifications."""
    first_logits, labels = _collect_logits(first, result.split)
    second_logits, second_labels = _collect_logits(second, result.split)
    if not torch.equal(labels, second_labels):
        raise invalid("two networks on the same images", f"other labels for {first.name} and {second.name}")
    all_logits = (first_logits, second_logits)
    results = [[(logits, labels)] for logits in all_logits]
    evaluations = [
        with_added_metrics(first.task.evaluate(batches, _mean_loss(*batches[0])), batches) for batches in results
    ]
    return replace(
        result,
        models=tuple(_compared_model(*pair) for pair in zip((first, second), evaluations, strict=True)),
        num_images=len(labels),
        paired_test=run_paired_test(first_logits.argmax(1), second_logits.argmax(1), labels),
        flipped=_flipped_predictions(
            first, result.split, logits=all_logits, labels=labels, max_flipped=options.max_flipped
        ),
    )


def _mean_loss(logits: Tensor, labels: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits, labels))


def _resolve_split(target: AnalysisTarget, options: CompareOptions) -> str:
    if options.split == "own" or (target.data is None and not options.split):
        return ""
    return options.split or (target.data.eval_split if target.data else "")


@torch.no_grad()
def _collect_logits(target: AnalysisTarget, split: str) -> tuple[Tensor, Tensor]:
    """Return the logits and labels of all images."""
    batches = [(target.model(x).float().cpu(), y.cpu()) for x, y in EvalBatches(target, split)]
    return torch.cat([logits for logits, _ in batches]), torch.cat([labels for _, labels in batches])


def _compared_model(target: AnalysisTarget, evaluation: Evaluation) -> ComparedModel:
    model = ComparedModel(
        name=target.name,
        score=evaluation.metrics[target.task.spec.selection_metric.name],
        loss=evaluation.loss,
        num_parameters=sum(parameter.numel() for parameter in target.model.parameters()),
    )
    run = target.run
    if run is None:
        return model
    return replace(
        model,
        arch=run.model_spec,
        dataset=run.metadata["data"]["name"],
        recipe=run.metadata["recipe"]["name"],
        seed=int(run.metadata.get("seed", 0)),
        log=tuple(record for record in run.log.records() if record.get("kind") in _RECORD_KINDS),
    )


def _flipped_predictions(
    target: AnalysisTarget, split: str, *, logits: tuple[Tensor, Tensor], labels: Tensor, max_flipped: int
) -> tuple[FlippedPrediction, ...]:
    """Return the flipped images on which the wrong model was most confident."""
    first_probs, second_probs = logits[0].softmax(1), logits[1].softmax(1)
    first_predictions, second_predictions = first_probs.argmax(1), second_probs.argmax(1)
    indices = torch.nonzero((first_predictions == labels) != (second_predictions == labels))[:, 0]
    wrong_confidences = torch.where(
        first_predictions[indices] == labels[indices], second_probs[indices].amax(1), first_probs[indices].amax(1)
    )
    selected = indices[wrong_confidences.argsort(descending=True, stable=True)[:max_flipped]]
    if not len(selected):
        return ()
    subset = replace(target, images=_images_at(target, split, selected), labels=labels[selected])
    return tuple(
        FlippedPrediction(
            index=int(i),
            image=image_data_uri(subset, row),
            label=target.class_name(int(labels[i])),
            first=target.class_name(int(first_predictions[i])),
            first_probability=float(first_probs[i, first_predictions[i]]),
            second=target.class_name(int(second_predictions[i])),
            second_probability=float(second_probs[i, second_predictions[i]]),
        )
        for row, i in enumerate(selected)
    )


def _images_at(target: AnalysisTarget, split: str, indices: Tensor) -> Tensor:
    """Return the images at `indices`, in this order, with at most one batch of others in memory."""
    requested, offset = {int(i) for i in indices}, 0
    images_by_index: dict[int, Tensor] = {}
    for x, _ in EvalBatches(target, split):
        images_by_index |= {i: x[i - offset].cpu() for i in requested if offset <= i < offset + len(x)}
        offset += len(x)
    return torch.stack([images_by_index[int(i)] for i in indices])


def weight_distances(first: AnalysisTarget, second: AnalysisTarget) -> tuple[tuple[WeightDistance, ...], int]:
    """Return the distances of all weights of both models, and the number of parameters that have no counterpart.

    A counterpart has the same name and shape; norms and biases, which have one dimension, are counted but not listed.
    """
    first_parameters, second_parameters = (dict(target.model.named_parameters()) for target in (first, second))
    common = [
        name
        for name in first_parameters
        if name in second_parameters and first_parameters[name].shape == second_parameters[name].shape
    ]
    distances = [
        _weight_distance(name, first_parameters[name], second_parameters[name])
        for name in common
        if first_parameters[name].ndim >= 2
    ]
    return tuple(distances), len(first_parameters.keys() | second_parameters.keys()) - len(common)


def _weight_distance(name: str, first: Tensor, second: Tensor) -> WeightDistance:
    a, b = (weight.detach().cpu().double().flatten() for weight in (first, second))
    norms = float(a.norm()), float(b.norm())
    distance = float((a - b).norm()) / max(sum(norms) / 2, 1e-30)
    return WeightDistance(name, norms, distance, cosine=float(a @ b) / max(norms[0] * norms[1], 1e-30))
