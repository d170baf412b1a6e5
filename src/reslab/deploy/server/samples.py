"""The validation or test images of a run, and what its network predicts for them."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import ImageDataset
from reslab.data.loader import eval_loader
from reslab.deploy.server.ablation import finite_or_none
from reslab.deploy.server.errors import HTTPError, http_error
from reslab.deploy.server.model_handle import reading_run
from reslab.deploy.server.schemas import ClassMetricsSchema, SampleInfo, SamplePrediction
from reslab.metrics.classification import per_class_metrics
from reslab.report.format import format_number, format_split
from reslab.spec.task import TargetKind
from reslab.training.run import Run
from reslab.training.run_data import reopen_data

_SEED = 0
_NUM_MISCLASSIFIED = 24


def _shown_classes(classes: Sequence[str], label: Tensor) -> str:
    return ", ".join(name for name, shown in zip(classes, label.tolist(), strict=True) if shown) or "no class"


def _values(classes: Sequence[str], label: Tensor) -> str:
    return ", ".join(f"{name} {format_number(value)}" for name, value in zip(classes, label.tolist(), strict=True))


_LABEL_TEXTS: dict[TargetKind, Callable[[Sequence[str], Tensor], str]] = {
    TargetKind.CLASS: lambda classes, label: classes[int(label)],
    TargetKind.MULTI_HOT: _shown_classes,
    TargetKind.VALUES: _values,
    TargetKind.MASK: lambda classes, label: "",
    TargetKind.BOXES: lambda classes, label: "",
}


@dataclass(frozen=True, eq=False)
class SampleSet:
    """The validation or test images of a run, in a random order drawn once, so that the first n cover the classes."""

    data: DatasetSplits
    images: ImageDataset
    order: tuple[int, ...]

    @property
    def split(self) -> str:
        """The full name of the split: `validation` or `test`."""
        return format_split(self.data.eval_split)

    def describe(self, index: int) -> SampleInfo:
        """Return id, label and name of the image at this index."""
        text = _LABEL_TEXTS[self.data.target_kind](self.data.classes, self.images.labels[index])
        return SampleInfo(id=index, label=text, name=self.images.name(index))

    def load_batch(self, indices: Sequence[int]) -> Tensor:
        """Return images of one size as the network reads them, normalized (N, C, H, W)."""
        return torch.stack(self.load_images(indices))

    def load_images(self, indices: Sequence[int]) -> list[Tensor]:
        """Return images as the network reads them, normalized (C, H, W); of a detector of any sizes."""
        selected = self.images.subset(list(indices))
        return [image for x, _, _ in eval_loader(selected, len(selected), self.data.preprocess, "cpu") for image in x]


class SampleStore:
    """The sample sets of all models, each opened on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sample_sets: dict[str, SampleSet] = {}

    def get(self, model: str, run: Run | None) -> SampleSet:
        """Return the samples of the model's run. Raises HTTPError (404), with the reason, if there are none."""
        with self._lock:
            if model not in self._sample_sets:
                self._sample_sets[model] = _open_sample_set(model, run)
            return self._sample_sets[model]

    async def normalized_images(self, model: str, run: Run | None, num_images: int) -> list[Tensor]:
        """Return the first samples, normalized (C, H, W). Raises HTTPError (404)."""

        def load() -> list[Tensor]:
            sample_set = self.get(model, run)
            assert run is not None  # `get` raises without one
            with reading_run(model, run.path):
                return sample_set.load_images(sample_set.order[:num_images])

        return await asyncio.to_thread(load)


def _open_sample_set(model: str, run: Run | None) -> SampleSet:
    if run is None:
        raise http_error(404, "a run with its data", f"{model}, a weights file", "serve the run's folder")
    try:
        data = reopen_data(run.metadata["data"])
    except (ValueError, OSError) as error:
        raise HTTPError(404, f"the images of {model}'s run cannot be opened: {error}") from None
    images = data.split(data.eval_split)
    permutation = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SEED))
    return SampleSet(data, images, tuple(permutation.tolist()))


@dataclass(frozen=True, eq=False)
class SampleEvaluation:
    """The predictions for the images `indices` of a sample set: labels, predictions, confidences and losses (N,)."""

    sample_set: SampleSet
    classes: tuple[str, ...]
    indices: tuple[int, ...]
    labels: Tensor
    predicted: Tensor
    confidences: Tensor
    losses: Tensor

    def confusion_matrix(self) -> list[list[int]]:
        """Return the counts, matrix[true][predicted]."""
        num_classes = len(self.classes)
        counts = torch.bincount(self.labels * num_classes + self.predicted, minlength=num_classes * num_classes).view(
            num_classes, num_classes
        )
        return [[int(count) for count in row] for row in counts]

    def misclassified(self) -> list[SamplePrediction]:
        """Return the top losses: the misclassified images with the highest loss, highest first."""
        wrong = (self.predicted != self.labels).nonzero().flatten()
        order = wrong[self.losses[wrong].argsort(descending=True, stable=True)][:_NUM_MISCLASSIFIED]
        return [self.describe_sample(position) for position in order.tolist()]

    def confusion_cell(self, true: int, predicted: int) -> list[SamplePrediction]:
        """Return the images of one cell of the confusion matrix."""
        positions = ((self.labels == true) & (self.predicted == predicted)).nonzero().flatten()
        return [self.describe_sample(position) for position in positions.tolist()]

    def describe_sample(self, position: int) -> SamplePrediction:
        """Return id, true, predicted, probability, loss and name of an image."""
        index = self.indices[position]
        return SamplePrediction(
            id=index,
            true=self.classes[int(self.labels[position])],
            predicted=self.classes[int(self.predicted[position])],
            probability=float(self.confidences[position]),
            loss=float(self.losses[position]),
            name=self.sample_set.images.name(index),
        )

    def per_class(self) -> list[ClassMetricsSchema]:
        """Return precision, recall and F1 of each class; null where one is undefined."""
        return [
            ClassMetricsSchema(
                name=row.name,
                num_samples=row.num_samples,
                precision=finite_or_none(row.precision),
                recall=finite_or_none(row.recall),
                f1=finite_or_none(row.f1),
            )
            for row in per_class_metrics(self.confusion_matrix(), self.classes)
        ]
