"""The evaluation loop: exact counts of a model on batches, on one process or several, and ensembles."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.data.image_datasets import ImageDataset
from reslab.metrics.classification import ClassMetrics, per_class_metrics
from reslab.runtime.device import deterministic_mode
from reslab.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from reslab.spec.errors import invalid

LossFn = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Scores over `num_samples` images, each evaluated once, in the order of the split.

    `top1` = `num_correct` / `num_samples` and `top5` are fractions (`top5` is None below 5 classes); `loss` is the mean
    over samples. `confusion_matrix[i][j]` counts the samples of class i that were predicted as class j. With
    `keep_probabilities`, `probabilities` (N, classes) and `labels` (N,) are kept, with the samples' `names` and their
    `dataset`. Where the loss is not finite, `bad_indices` are the samples whose images hold NaN or infinite values.
    `members` are the scores of each model of an ensemble by itself, without probabilities.
    """

    num_samples: int
    num_correct: int
    num_correct_top5: int | None
    loss: float
    confusion_matrix: tuple[tuple[int, ...], ...]
    split: str = ""
    probabilities: Tensor | None = None
    labels: Tensor | None = None
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    dataset: ImageDataset | None = None
    bad_indices: tuple[int, ...] = ()
    members: tuple["Evaluation", ...] = ()

    @property
    def top1(self) -> float:
        """The fraction of samples whose class has the largest output."""
        return self.num_correct / self.num_samples

    @property
    def top5(self) -> float | None:
        """The fraction of samples whose class is among the five largest outputs; None below 5 classes."""
        return None if self.num_correct_top5 is None else self.num_correct_top5 / self.num_samples

    def __repr__(self) -> str:
        """Return the scores; the fields are too many to print."""
        top5 = "" if self.top5 is None else f"top5 {self.top5:.2%}, "
        counts = f"{self.num_correct:,} of {self.num_samples:,} correct"
        return f"Evaluation({self.split or 'data'}: top1 {self.top1:.2%} ({counts}), {top5}loss {self.loss:.4f})"

    def _repr_html_(self) -> str:
        """Return a table of the scores, for notebooks."""
        rows = [("top-1 accuracy", f"{self.top1:.2%}"), ("loss", f"{self.loss:.4f}")]
        rows[1:1] = [] if self.top5 is None else [("top-5 accuracy", f"{self.top5:.2%}")]
        cells = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows)
        counts = f"{self.num_correct:,} of {self.num_samples:,} images correct"
        return f"<table><caption>{self.split or 'evaluation'}: {counts}</caption>{cells}</table>"

    def per_class_metrics(self) -> list[ClassMetrics]:
        """Return precision, recall and F1 of each class, in label order; NaN where they are undefined."""
        return per_class_metrics(
            self.confusion_matrix, self.classes or [str(label) for label in range(len(self.confusion_matrix))]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the scalar metrics: top1, top5, loss, num_samples, num_correct."""
        names = ("top1", "top5", "loss", "num_samples", "num_correct")
        return {name: getattr(self, name) for name in names}


@torch.no_grad()
def evaluate_batches(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    num_classes: int,
    loss: LossFn = functional.cross_entropy,
    split: str = "",
    keep_probabilities: bool = False,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Evaluation:
    """Evaluate `model` in eval mode and float32 on batches of x (N, C, H, W), y (N,), indices (N,).

    `loss(outputs, y)` is the mean over a batch. If the ranks of `process_group` hold the batches round-robin, every
    rank returns the scores of all batches, summed in their original order: bit for bit those of one process. The
    model's training mode is restored. Raises ValueError without samples, or for outputs that are not (N, num_classes).
    """
    batch_results: list[tuple[Tensor, Tensor, float, list[int]]] = []
    was_training = model.training
    model.eval()
    try:
        with deterministic_mode(), torch.autocast(_model_device(model).type, enabled=False):
            for x, y, indices in batches:
                outputs = _call_model(model, x)
                check_outputs(outputs, num_classes)
                logits = outputs.float()
                batch_loss = check_loss(loss(logits, y)).item()
                bad_indices = [] if math.isfinite(batch_loss) else find_bad_images(x, indices)
                batch_results.append((logits.cpu(), y.cpu(), batch_loss * len(y), bad_indices))
    finally:
        model.train(was_training)
    batch_results = process_group.merge_interleaved(batch_results)
    if not batch_results:
        raise invalid("at least one sample to evaluate", "none", next_step="choose another split")
    outputs, labels, losses, bad_indices_by_batch = zip(*batch_results, strict=True)
    evaluation = _make_evaluation(
        torch.cat(outputs), torch.cat(labels), num_classes, sum(losses), split, keep_probabilities
    )
    all_bad = tuple(itertools.chain.from_iterable(bad_indices_by_batch))
    return replace(evaluation, bad_indices=all_bad) if all_bad else evaluation


def find_bad_images(x: Tensor, indices: Tensor) -> list[int]:
    """Return the `indices` (N,) of the images x (N, ...) with a value that is NaN or infinite."""
    is_bad = ~x.detach().isfinite().flatten(1).all(1)
    bad_indices: list[int] = indices[is_bad.to(indices.device)].tolist()
    return bad_indices


def _call_model(model: nn.Module, x: Tensor) -> Any:
    """Return the outputs. Raises ValueError if the model fails because its weights have another precision than x."""
    try:
        return model(x)
    except RuntimeError as error:
        if advice := precision_advice(model, x.dtype):
            raise invalid(f"a network with weights in {x.dtype}, as its images", error, advice) from error
        raise


def precision_advice(model: nn.Module, dtype: torch.dtype) -> str:
    """Return the expression that gives a model weights of the images' `dtype`; empty if it has some already."""
    dtypes = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    return "" if not dtypes or dtype in dtypes else f"model.to({dtype})"


def _model_device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def check_output_type(outputs: Any) -> Tensor:
    """Return the outputs of a network. Raises ValueError, with the change to `forward`, unless they are a tensor."""
    if isinstance(outputs, Tensor):
        return outputs
    required = "a forward that returns one tensor of logits (N, classes)"
    if outputs is None:
        raise invalid(required, "None", next_step="end forward with `return x`")
    if isinstance(outputs, Mapping):
        tensors = [key for key, value in outputs.items() if isinstance(value, Tensor)]
        key = "logits" if "logits" in tensors else next(iter(tensors), "logits")
        raise invalid(required, f"a {type(outputs).__name__} with {', '.join(map(str, outputs))}", f"outputs[{key!r}]")
    nearest = "outputs[0]" if isinstance(outputs, list | tuple) else ""
    raise invalid(required, f"a {type(outputs).__name__}", nearest)


def check_loss(loss: Any) -> Tensor:
    """Return the loss of a batch. Raises ValueError unless it is a tensor of one number."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    nearest = "reduction='mean', or loss.mean()" if isinstance(loss, Tensor) else ""
    raise invalid("a loss of one number, the mean over the batch, as a tensor", got, nearest=nearest)


def check_outputs(outputs: Any, num_classes: int) -> None:
    """Raise ValueError unless the outputs are a tensor of shape (N, num_classes)."""
    outputs = check_output_type(outputs)
    if outputs.ndim != 2 or outputs.shape[1] != num_classes:
        raise invalid(f"outputs of shape (N, {num_classes}), one for each class of the data", tuple(outputs.shape))


def _make_evaluation(
    outputs: Tensor, labels: Tensor, num_classes: int, total_loss: float, split: str, keep_probabilities: bool
) -> Evaluation:
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise invalid(f"labels from 0 to {num_classes - 1}", f"{int(labels.min())} to {int(labels.max())}")
    predictions = outputs.argmax(1)
    counts = torch.bincount(labels * num_classes + predictions, minlength=num_classes**2).view(num_classes, num_classes)
    return Evaluation(
        num_samples=len(labels),
        num_correct=int((predictions == labels).sum()),
        num_correct_top5=_count_top_k(outputs, labels, 5) if num_classes >= 5 else None,
        loss=total_loss / len(labels),
        confusion_matrix=tuple(tuple(int(count) for count in row) for row in counts),
        split=split,
        probabilities=outputs.softmax(1) if keep_probabilities else None,
        labels=labels if keep_probabilities else None,
    )


def sample_losses(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, -log p(label) (N,), in float64; a p of 0 counts as the least float32."""
    smallest = torch.finfo(torch.float32).tiny
    return -probabilities.double().gather(1, labels[:, None])[:, 0].clamp_min(smallest).log()


def _count_top_k(outputs: Tensor, labels: Tensor, k: int) -> int:
    return int((outputs.topk(k, dim=1).indices == labels[:, None]).any(1).sum())


def average_evaluations(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the scores of an ensemble: the mean of several models' probabilities on the same samples.

    The loss is the mean of -log p(label). Raises ValueError if an evaluation kept no probabilities, or if the
    evaluations are of different samples.
    """
    first = evaluations[0]
    if first.labels is None or any(
        evaluation.probabilities is None or evaluation.labels is None for evaluation in evaluations
    ):
        raise invalid(
            "evaluations that kept their probabilities",
            "one that did not",
            next_step="evaluate with keep_probabilities=True",
        )
    if any(
        not torch.equal(first.labels, evaluation.labels) for evaluation in evaluations if evaluation.labels is not None
    ):
        raise invalid("evaluations of the same samples in the same order", "different labels")
    mean = torch.stack(
        [evaluation.probabilities.double() for evaluation in evaluations if evaluation.probabilities is not None]
    ).mean(0)
    log_mean = mean.clamp_min(torch.finfo(torch.float32).tiny).log()
    total_loss = functional.nll_loss(log_mean, first.labels, reduction="sum").item()
    result = _make_evaluation(mean, first.labels, mean.shape[1], total_loss, first.split, keep_probabilities=False)
    copied = {name: getattr(first, name) for name in ("labels", "names", "classes", "dataset")}
    members = tuple(replace(evaluation, probabilities=None, labels=None, dataset=None) for evaluation in evaluations)
    return Evaluation(**{**vars(result), "probabilities": mean.float(), "members": members, **copied})
