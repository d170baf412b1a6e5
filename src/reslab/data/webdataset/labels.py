"""The labels of shards: a class, several classes or numbers of each sample, written as text beside its image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from reslab.data.formats.label_text import InferredTask, LabelTexts, infer_task, parse_labels
from reslab.data.image_datasets import location_name
from reslab.data.targets import TARGET_RULES
from reslab.data.webdataset.http import read_optional_text
from reslab.data.webdataset.remote import is_url
from reslab.data.webdataset.tar import IndexedSample
from reslab.spec.errors import invalid, nearest
from reslab.spec.task import DEFAULT_TASK, find_task


@dataclass(frozen=True, eq=False)
class ShardLabels:
    """The labels of every split of shards with their task and the names of its outputs.

    `has_class_list`: the names are those of classes.txt.
    """

    task: str
    classes: tuple[str, ...]
    by_split: Mapping[str, Tensor]
    has_class_list: bool
    task_reason: str = ""


def label_samples(
    root: Path | str, samples_by_split: Mapping[str, Sequence[IndexedSample]], task: str | None
) -> ShardLabels:
    """Return the labels of samples; without a task, of the one that they leave no doubt about, else of classification.

    Raises ValueError naming the sample of a label that does not suit the task, or that classes.txt does not list.
    """
    class_names = tuple(line.strip() for line in _read_text(f"{root}/classes.txt").splitlines() if line.strip())
    samples = [sample for samples in samples_by_split.values() for sample in samples]
    texts = LabelTexts(
        ("label",),
        [(sample.label,) for sample in samples],
        place=lambda i: location_name(samples[i].location, root),
        row=lambda i: samples[i].label,
        class_names=class_names,
    )
    inferred = InferredTask(task or DEFAULT_TASK)
    if task is None:
        inferred = infer_task(replace(texts, rows=[(label,) for label in {sample.label for sample in samples}]))
    if inferred.name == DEFAULT_TASK:
        classes = _shard_classes(root, samples_by_split, class_names)
        by_split = {split: _class_indices(samples, classes) for split, samples in samples_by_split.items()}
        return ShardLabels(DEFAULT_TASK, classes, by_split, bool(class_names))
    parsed = parse_labels(texts, inferred.name)
    labels = torch.tensor(parsed.labels, dtype=TARGET_RULES[find_task(parsed.task).target].dtype)
    parts = labels.split([len(samples) for samples in samples_by_split.values()])
    by_split = dict(zip(samples_by_split, parts, strict=True))
    return ShardLabels(parsed.task, parsed.names, by_split, bool(class_names), inferred.reason)


def _class_indices(samples: Sequence[IndexedSample], classes: tuple[str, ...]) -> Tensor:
    label_of = {label: index for index, label in enumerate(classes)}
    labels = [label_of[sample.label] if sample.label in label_of else int(sample.label) for sample in samples]
    return torch.tensor(labels, dtype=torch.int64)


def _shard_classes(
    root: Path | str, samples_by_split: Mapping[str, Sequence[IndexedSample]], class_names: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the class names in label order, from classes.txt or from the labels of all splits.

    Raises ValueError if a label is not in classes.txt, or no training image has it.
    """
    classes_file = f"{root}/classes.txt"
    all_labels = {sample.label for samples in samples_by_split.values() for sample in samples}
    if all_labels and all(label.isascii() and label.isdigit() for label in all_labels):
        max_label = max(all_labels, key=lambda label: (len(label.lstrip("0")), label.lstrip("0"))).lstrip("0") or "0"
        # Compared before there is a list of that many names: a label may have any number of digits.
        num_samples = sum(map(len, samples_by_split.values()))
        limit, meaning = (
            (len(class_names), f"the number of names in {classes_file}")
            if class_names
            else (num_samples, f"the number of images, as there is no {classes_file}")
        )
        if len(max_label) > len(str(limit)) or int(max_label) >= limit:
            got = max_label if len(max_label) <= 40 else f"a number of {len(max_label)} digits"
            key = next(
                location_name(sample.location, root)
                for samples in samples_by_split.values()
                for sample in samples
                if sample.label.lstrip("0") == max_label.lstrip("0")
            )
            raise invalid(f"labels below {limit}, {meaning}", f"{got}, of {key}", nearest=str(limit - 1))
        return class_names or tuple(map(str, range(int(max_label) + 1)))
    known = set(class_names or (sample.label for sample in samples_by_split["train"]))
    for label in sorted(all_labels - known):
        matches = nearest(label, known, 1)
        required = f"labels that {classes_file} lists" if class_names else "labels that training images have too"
        raise invalid(required, repr(label), nearest=matches[0] if matches else "")
    return class_names or tuple(sorted(all_labels))


def _read_text(location: str) -> str:
    """Return the text of a file by path or URL; empty if there is no such file."""
    if is_url(location):
        return read_optional_text(location) or ""
    path = Path(location)
    return path.read_text("utf-8") if path.is_file() else ""
