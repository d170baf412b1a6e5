"""Statistics of the labels of a dataset: of the values in regression, of classes that images show together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.data.dataset import DatasetListing
from reslab.data.image_datasets import ImageDataset
from reslab.data.targets import count_images
from reslab.spec.task import TargetKind, find_task

NO_CLASS = "(no class)"
_OUTLIER_IQRS = 3.0


@dataclass(frozen=True)
class ValueSummary:
    """A value of a split: its mean, standard deviation (of the population) and range, and the outliers.

    Outliers are the indices of the images whose values are more than three interquartile ranges below the first or
    above the third quartile ("far out": Tukey 1977, Exploratory Data Analysis).
    """

    name: str
    mean: float
    std: float
    minimum: float
    maximum: float
    outliers: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassPair:
    """Two classes that training images show together: the images with both, with the first and with the second."""

    first: str
    second: str
    num_both: int
    num_first: int
    num_second: int

    @property
    def is_always(self) -> bool:
        """True if no image shows only one of them."""
        return self.num_both == self.num_first == self.num_second


def class_counts(listing: DatasetListing) -> dict[str, dict[str, int]]:
    """Return the number of images of each class in each split; empty for a split whose labels are not classes."""
    counts = {
        split: count_images(dataset.labels, dataset.target_kind, len(listing.classes))
        for split, dataset in listing.splits.items()
    }
    return {
        split: {} if numbers is None else dict(zip(listing.classes, numbers.tolist(), strict=True))
        for split, numbers in counts.items()
    }


def summarize_values(dataset: ImageDataset, names: Sequence[str]) -> tuple[ValueSummary, ...]:
    """Return a summary of each value of a split."""
    return tuple(_summarize(dataset.labels[:, k].double(), name) for k, name in enumerate(names) if len(dataset))


def _summarize(values: Tensor, name: str) -> ValueSummary:
    first_quartile, third_quartile = values.quantile(torch.tensor([0.25, 0.75], dtype=values.dtype)).tolist()
    margin = _OUTLIER_IQRS * (third_quartile - first_quartile)
    is_outlier = (values < first_quartile - margin) | (values > third_quartile + margin)
    # With more than half of the values equal, the range between the quartiles says nothing of the others.
    outliers = is_outlier.nonzero().flatten().tolist() if margin > 0 else []
    return ValueSummary(
        name,
        mean=float(values.mean()),
        std=float(values.std(correction=0)),
        minimum=float(values.min()),
        maximum=float(values.max()),
        outliers=tuple(outliers),
    )


def count_class_pairs(labels: Tensor, names: Sequence[str]) -> tuple[ClassPair, ...]:
    """Return the pairs of classes that occur together in multi-hot labels (N, C), the most frequent first."""
    together = (labels.T.double() @ labels.double()).long()
    first, second = (together.triu(1) > 0).nonzero(as_tuple=True)
    pairs = [
        ClassPair(names[a], names[b], int(together[a, b]), int(together[a, a]), int(together[b, b]))
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.num_both))


@dataclass(frozen=True, eq=False)
class LabelStatistics:
    """Statistics of labels: values by split, classes that occur together, images without a label."""

    values: Mapping[str, tuple[ValueSummary, ...]]
    pairs: tuple[ClassPair, ...] = ()
    num_without_class: Mapping[str, int] | None = None


def _no_statistics(_: DatasetListing) -> LabelStatistics:
    return LabelStatistics({})


def _multi_hot_statistics(listing: DatasetListing) -> LabelStatistics:
    train = listing.splits.get("train")
    pairs = () if train is None else count_class_pairs(train.labels, listing.classes)
    without = {split: int((dataset.labels.sum(1) == 0).sum()) for split, dataset in listing.splits.items()}
    return LabelStatistics({}, pairs, without)


def _value_statistics(listing: DatasetListing) -> LabelStatistics:
    return LabelStatistics(
        {split: summarize_values(dataset, listing.classes) for split, dataset in listing.splits.items()}
    )


_STATISTICS: dict[TargetKind, Callable[[DatasetListing], LabelStatistics]] = {
    TargetKind.MULTI_HOT: _multi_hot_statistics,
    TargetKind.VALUES: _value_statistics,
}


def label_statistics(listing: DatasetListing) -> LabelStatistics:
    """Return the statistics of the labels of a listing."""
    return _STATISTICS.get(find_task(listing.task).target, _no_statistics)(listing)


def _multi_hot_text(label: Tensor, names: Sequence[str]) -> str:
    return ", ".join(names[k] for k in label.nonzero().flatten().tolist()) or NO_CLASS


def _values_text(label: Tensor, names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{label.item():g}"
    return ", ".join(f"{name} {value:g}" for name, value in zip(names, label.tolist(), strict=True))


LABEL_TEXTS: dict[TargetKind, Callable[[Tensor, Sequence[str]], str]] = {
    TargetKind.CLASS: lambda label, names: names[int(label)],
    TargetKind.MULTI_HOT: _multi_hot_text,
    TargetKind.VALUES: _values_text,
}
"""The label of an image as text, by the kind of the targets."""


def label_texts(dataset: ImageDataset, names: Sequence[str]) -> list[str]:
    """Return the label of each image as text: `ant, bee`, or `3.5`; empty where the image as a whole has none."""
    text = LABEL_TEXTS.get(dataset.target_kind)
    return [text(label, names) for label in dataset.labels] if text else [""] * len(dataset)
