"""WebDataset shards as a dataset: a folder of tar files, one tar file, or URLs whose shards are streamed."""

import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import torch
from torch import Tensor

from reslab.data.cache import decode_cached
from reslab.data.dataset import IMAGENET_MEAN, IMAGENET_STD, DatasetListing, DatasetSplits
from reslab.data.formats.class_folders import (
    SPLIT_FOLDERS,
    SPLIT_OF_FOLDER,
    find_image_files,
    split_of_folder,
    subfolders,
)
from reslab.data.formats.file_listing import is_visible
from reslab.data.formats.label_text import InferredTask, LabelTexts, infer_task, parse_labels
from reslab.data.image_datasets import (
    ImageDataset,
    ImageLocation,
    ShardImageDataset,
    TensorImageDataset,
    decode_all,
    location_name,
)
from reslab.data.image_formats import IMAGE_EXTENSIONS, is_image_name
from reslab.data.splits import (
    SplitOptions,
    apply_split,
    check_label_coverage,
    collect_skipped,
    default_eval_transform,
    rare_class_messages,
)
from reslab.data.targets import TARGET_RULES
from reslab.data.webdataset.http import read_optional_text
from reslab.data.webdataset.remote import expand_urls, index_url_shards, is_url, url_root
from reslab.data.webdataset.tar import IndexedSample, index_shard, list_tar_members
from reslab.spec.errors import invalid, nearest
from reslab.spec.preprocess import Preprocess
from reslab.spec.task import DEFAULT_TASK, TargetKind, find_task


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
        location=lambda i: location_name(samples[i].location, root),
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


MAX_BYTES_IN_MEMORY = 1 << 30
_SPLIT_NAMES = "|".join(sorted(SPLIT_OF_FOLDER, key=len, reverse=True))
# The file name or the name of its folder begins with a split: train-000.tar, train/000.tar.
_SPLIT_PATTERN = re.compile(rf"(?:^|/)({_SPLIT_NAMES})(?![a-z])[^/]*(?:/[^/]*)?$", re.IGNORECASE)

Shard = TypeVar("Shard", Path, str)


def has_shards(path: Path) -> bool:
    """Return True if a path is a tar file, or a folder with tar files in it or in a folder of a split."""
    if path.is_file():
        return path.suffix.lower() == ".tar"
    return path.is_dir() and any(True for _ in _iter_shards(path))


def _iter_shards(folder: Path) -> Iterator[Path]:
    """Yield the tar files in a folder and in its folders of splits."""
    for path in (folder, *(path for path in subfolders(folder) if split_of_folder(path.name))):
        yield from (shard for shard in path.iterdir() if shard.suffix.lower() == ".tar" and is_visible(shard.name))


def open_shards(location: Path, options: SplitOptions) -> DatasetSplits:
    """Open a folder of shards, or one shard: indexed once, then read in place.

    A label is a class index (class names in classes.txt, one a line in label order, else "0", "1", ...) or a class
    name (classes in lexicographic order); for other tasks, several names or indices, or numbers (`label_samples`).
    Small images of one size are decoded once into memory.
    Raises ValueError naming shard and key of every mistake.
    """
    location = location.resolve()
    root = location.parent if location.is_file() else location
    return _make_dataset(_name(location), location, root, _index_path(location), options)


def open_url_shards(urls_text: str, options: SplitOptions) -> DatasetSplits:
    """Open shards by URL (`expand_urls`). Training streams them; this machine keeps nothing but their index.

    Raises ValueError as `open_shards`, and if a file cannot be downloaded or `webdataset` is not installed.
    """
    urls_by_split = list_url_shards(urls_text)
    root = url_root([url for urls in urls_by_split.values() for url in urls])
    samples_by_split = {split: index_url_shards(urls) for split, urls in urls_by_split.items()}
    return _make_dataset(root.rpartition("/")[2], urls_text, root, samples_by_split, options)


def list_shards(location: Path, task: str | None = None) -> DatasetListing:
    """List the images of a folder of shards, or of one shard. Raises ValueError as `open_shards`."""
    root = location.parent if location.is_file() else location
    samples_by_split = _index_path(location)
    labels = label_samples(root, samples_by_split, task)
    splits = {
        split: _to_dataset(samples, labels.by_split[split], labels.task, root)
        for split, samples in samples_by_split.items()
    }
    layout_error = ""
    messages: tuple[str, ...] = ()
    try:
        messages = (*_coverage_messages(splits, labels), *_ignored_images(location))
    except ValueError as error:
        layout_error = str(error)
    return DatasetListing(
        _name(location),
        str(location),
        labels.classes,
        splits,
        layout_error=layout_error,
        messages=messages,
        task=labels.task,
        task_reason=labels.task_reason,
    )


def list_unlabeled_images(path: Path) -> list[Path | ImageLocation]:
    """Return the images of a tar file or a folder, whatever their labels; a folder's shards if it has no image files.

    Raises ValueError if there is none.
    """
    if path.is_file():
        return list(_list_tar_images(path))
    files = find_image_files(path)
    if files:
        return list(files)
    shards = sorted(path.rglob("*.tar"))
    if not shards:
        raise invalid(f"images ({', '.join(IMAGE_EXTENSIONS)}) in {path}", "none", next_step="name another folder")
    return [location for shard in shards for location in _list_tar_images(shard)]


def _list_tar_images(shard: Path) -> list[ImageLocation]:
    if not shard.stat().st_size:
        raise ValueError(f"{shard}: empty (0 bytes); download it again")
    with shard.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        members = list_tar_members(shard, content)
    locations = []
    for member in members:
        if is_image_name(member.name.rpartition("/")[2]):
            key, _, extension = member.name.rpartition(".")
            locations.append(ImageLocation(shard, key, member.offset, member.num_bytes, extension))
    if not locations:
        raise invalid(f"images ({', '.join(IMAGE_EXTENSIONS)}) in {shard}", f"{len(members)} other files")
    return locations


def _make_dataset(
    name: str,
    location: Path | str,
    root: Path | str,
    samples_by_split: Mapping[str, Sequence[IndexedSample]],
    options: SplitOptions,
) -> DatasetSplits:
    """Make the dataset of indexed samples; `location` is what was opened, names are relative to `root`."""
    labels = label_samples(root, samples_by_split, options.requested_task)
    all_samples = [sample for samples in samples_by_split.values() for sample in samples]
    unreadable = {location_name(sample.location, root): sample.error for sample in all_samples if sample.error}
    skipped = collect_skipped(root, unreadable, options)
    skipped_names = {name for name, _ in skipped}
    eval_transform = default_eval_transform((sample.height, sample.width) for sample in all_samples if not sample.error)
    splits: dict[str, ImageDataset] = {}
    for split, samples in samples_by_split.items():
        chosen = [i for i, sample in enumerate(samples) if location_name(sample.location, root) not in skipped_names]
        kept = [samples[i] for i in chosen]
        dataset = _to_dataset(kept, labels.by_split[split][chosen], labels.task, root)
        # Without an evaluation transform the images are small and all of one size.
        num_bytes = sum(3 * sample.height * sample.width for sample in kept)
        fits_in_memory = bool(kept) and not eval_transform and num_bytes <= MAX_BYTES_IN_MEMORY
        splits[split] = _decode_to_memory(name, dataset) if fits_in_memory and not dataset.is_remote else dataset
    reasons = (labels.task_reason,) if labels.task_reason else ()
    messages = (*reasons, *_coverage_messages(splits, labels))
    final_splits, record = apply_split(location, splits, labels.classes, options)
    if skipped:
        record = {**record, "skipped_files": [list(pair) for pair in skipped]}
    return DatasetSplits(
        name=name,
        source=f"shards in {location}",
        classes=labels.classes,
        preprocess=Preprocess(3, eval_transform, IMAGENET_MEAN, IMAGENET_STD),
        splits=final_splits,
        split_record=record,
        skipped_files=skipped,
        decode_warnings=tuple(
            (location_name(sample.location, root), sample.warning) for sample in all_samples if sample.warning
        ),
        location=str(location),
        messages=(*messages, *rare_class_messages(record), *_ignored_images(location)),
        task=labels.task,
    )


def _ignored_images(location: Path | str) -> tuple[str, ...]:
    """Return a message about image files beside the shards of a folder, which are not read."""
    if isinstance(location, str) or not location.is_dir():
        return ()
    files = find_image_files(location)
    if not files:
        return ()
    noun = "1 image file" if len(files) == 1 else f"{len(files):,} image files"
    example = files[0].relative_to(location).as_posix()
    return (
        f"{noun} beside the tar files of {location.name} ignored ({example}): a folder with tar files is of shards",
    )


def _coverage_messages(splits: Mapping[str, ImageDataset], labels: ShardLabels) -> tuple[str, ...]:
    labels_by_split = {split: dataset.labels for split, dataset in splits.items()}
    target_kind = find_task(labels.task).target
    return check_label_coverage(
        labels_by_split, labels.classes, has_class_list=labels.has_class_list, target_kind=target_kind
    )


def _name(location: Path) -> str:
    return location.stem if location.is_file() else location.name


def _index_path(location: Path) -> dict[str, list[IndexedSample]]:
    if location.is_file():
        return {"train": index_shard(location)}
    shards = sorted(_iter_shards(location))
    groups = _group_by_split(shards, [path.relative_to(location).as_posix() for path in shards], str(location))
    return {split: [sample for shard in group for sample in index_shard(shard)] for split, group in groups.items()}


def list_url_shards(urls_text: str) -> dict[str, list[str]]:
    """Return the URLs of each split's shards; raise ValueError as `expand_urls`, and if the names are mixed."""
    urls = expand_urls(urls_text)
    return _group_by_split(urls, [urlsplit(url).path for url in urls], urls_text)


def _group_by_split(shards: Sequence[Shard], names: Sequence[str], location: str) -> dict[str, list[Shard]]:
    """Group shards by the split in their names, or put all into train if no name has one.

    Raises ValueError if only some names have one, or there are no training shards.
    """
    groups: dict[str, list[Shard]] = {}
    unassigned = []
    for shard, name in zip(shards, names, strict=True):
        match = _SPLIT_PATTERN.search(name)
        if match:
            groups.setdefault(SPLIT_OF_FOLDER[match[1].lower()], []).append(shard)
        else:
            unassigned.append((shard, name.rpartition("/")[2]))
    if not groups:
        return {"train": list(shards)}
    if unassigned:
        file_names = ", ".join(name for _, name in unassigned[:5])
        required = f"names with train-, val- or test- for all shards of {location}"
        raise invalid(required, f"{file_names} beside such names", nearest=f"train-{unassigned[0][1]}")
    if "train" not in groups:
        got = f"only shards of {' and '.join(groups)}"
        raise invalid(f"train-*.tar in {location}", got, next_step="add the training shards")
    return {split: groups[split] for split in SPLIT_FOLDERS if split in groups}


def _to_dataset(samples: Sequence[IndexedSample], labels: Tensor, task: str, root: Path | str) -> ShardImageDataset:
    locations = tuple(sample.location for sample in samples)
    return ShardImageDataset(locations, labels, 3, root, target_kind=find_task(task).target)


def _decode_to_memory(name: str, dataset: ShardImageDataset) -> TensorImageDataset:
    shards = sorted({Path(location.shard) for location in dataset.locations})
    # The cache knows nothing of the labels: they depend on the task.
    unlabeled = replace(dataset, labels=torch.zeros(len(dataset), dtype=torch.int64), target_kind=TargetKind.CLASS)
    images, _ = decode_cached(f"{name}-{len(dataset)}", shards, lambda: _decode_contiguous(unlabeled))
    names = tuple(dataset.name(i) for i in range(len(dataset)))
    return TensorImageDataset(images, dataset.labels, names, target_kind=dataset.target_kind)


def _decode_contiguous(dataset: ShardImageDataset) -> tuple[Tensor, Tensor]:
    # Decoders write pixels side by side (H, W, C); the same layout in memory as from the cache gives the same numbers.
    decoded = decode_all(dataset)
    return decoded.images.contiguous(), decoded.labels
