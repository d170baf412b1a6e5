"""WebDataset shards as a data set: a folder of them read like a folder of pictures, or by URL, streamed."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reslab.data.dataset import DatasetSplits
from reslab.data.decoded_cache import decode_cached
from reslab.data.formats.class_folders import SPLIT_FOLDERS
from reslab.data.formats.image_folder import IMAGENET_MEAN, IMAGENET_STD
from reslab.data.image_datasets import ImageDataset, ShardImageDataset, TensorImageDataset, location_name
from reslab.data.splits import apply_split, check_fraction, collect_skipped, default_eval_transform
from reslab.data.webdataset.http import read_optional_text
from reslab.data.webdataset.remote import index_url_shards, is_url, list_url_shards, url_root
from reslab.data.webdataset.tar import IndexedSample, index_shard
from reslab.spec.errors import invalid, nearest
from reslab.spec.preprocess import Preprocess

MAX_BYTES_IN_MEMORY = 1 << 30
_SPLIT_OF = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
_SPLIT_PREFIX = re.compile(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})(?![a-z])")


def find_shards(location: Path) -> dict[str, list[Path]]:
    """The tar files of each split: train-*.tar, val-*.tar, test-*.tar or train/*.tar ...; without such names all train.

    Empty where there is none. Raises ValueError where some names tell a split and others do not, or none is train.
    """
    if location.is_file():
        return {"train": [location]} if location.suffix == ".tar" else {}
    if not location.is_dir():
        return {}
    nested = [path for name in _SPLIT_OF for path in (location / name).glob("*.tar")]
    shards_by_split: dict[str, list[Path]] = {}
    for path in sorted([*location.glob("*.tar"), *nested]):
        match = _SPLIT_PREFIX.match(path.relative_to(location).as_posix())
        shards_by_split.setdefault(_SPLIT_OF[match[1]] if match else "", []).append(path)
    if set(shards_by_split) == {""}:
        return {"train": shards_by_split[""]}
    if "" in shards_by_split:
        names = ", ".join(path.name for path in shards_by_split[""][:5])
        raise invalid(
            f"shards of {location} all called train-, val- or test-",
            f"{names} beside the others",
            f"train-{shards_by_split[''][0].name}",
        )
    if shards_by_split and "train" not in shards_by_split:
        raise invalid(
            f"train-*.tar in {location}",
            f"only shards of {' and '.join(shards_by_split)}",
            next_step="add the training shards",
        )
    return {split: shards_by_split[split] for split in SPLIT_FOLDERS if split in shards_by_split}


def open_shards(
    location: Path,
    val_fraction: float | None = None,
    split_seed: int = 0,
    skip_bad_images: bool = False,
    split_record: Mapping[str, Any] | None = None,
) -> DatasetSplits:
    """The pictures of a folder of shards (or of one), KEY.jpg beside KEY.cls: indexed once, then read where they lie.

    A label is the number of a class (named in classes.txt, one a line in label order, else "0", "1", ...) or its name
    (classes in lexicographic order). Small pictures of one size are decoded once into memory. Splits, records and
    broken pictures as of a folder. Raises ValueError naming shard and key of every fault.
    """
    location = location.resolve()
    root = location.parent if location.is_file() else location
    if val_fraction is not None:
        check_fraction(val_fraction)
    samples_by_split = {split: _index_shards(paths) for split, paths in find_shards(location).items()}
    name = location.stem if location.is_file() else location.name
    return _make_dataset(
        name, location, root, samples_by_split, val_fraction, split_seed, skip_bad_images, split_record
    )


def open_url_shards(
    urls_text: str,
    val_fraction: float | None = None,
    split_seed: int = 0,
    skip_bad_images: bool = False,
    split_record: Mapping[str, Any] | None = None,
) -> DatasetSplits:
    """The pictures of shards by URL (`url_shards.url_shards`), as `open_shards` those of a folder.

    Training streams them (`flow`); evaluation reads neighbours together. Nothing of them stays on this machine but the
    index. classes.txt may lie in the folder that all of them are in. Raises ValueError as `open_shards` does, and where
    a file cannot be fetched or the extra `webdataset` is missing.
    """
    if val_fraction is not None:
        check_fraction(val_fraction)
    urls_by_split = list_url_shards(urls_text)
    root = url_root([url for split_urls in urls_by_split.values() for url in split_urls])
    samples_by_split = {split: index_url_shards(split_urls) for split, split_urls in urls_by_split.items()}
    name = root.rpartition("/")[2]
    return _make_dataset(
        name, urls_text, root, samples_by_split, val_fraction, split_seed, skip_bad_images, split_record
    )


def _make_dataset(
    name: str,
    location: Path | str,
    root: Path | str,
    samples_by_split: Mapping[str, Sequence[IndexedSample]],
    val_fraction: float | None,
    split_seed: int,
    skip_bad_images: bool,
    split_record: Mapping[str, Any] | None,
) -> DatasetSplits:
    """The data set of indexed samples; `place` is what was opened, names are relative to `root`."""
    classes = shard_classes(
        root, {split: [sample.label for sample in samples] for split, samples in samples_by_split.items()}
    )
    all_samples = [sample for samples in samples_by_split.values() for sample in samples]
    unreadable = {location_name(sample.location, root): sample.error for sample in all_samples if sample.error}
    skipped = collect_skipped(root, unreadable, skip_bad_images, split_record)
    eval_transform = default_eval_transform((sample.height, sample.width) for sample in all_samples if not sample.error)
    skipped_names = {name for name, _ in skipped}
    splits: Mapping[str, ImageDataset] = {
        split: _load_split(
            name,
            root,
            [sample for sample in samples if location_name(sample.location, root) not in skipped_names],
            classes,
            eval_transform,
        )
        for split, samples in samples_by_split.items()
    }
    final_splits, record = apply_split(location, splits, classes, val_fraction, split_seed, split_record)
    if skipped:
        record = {**record, "skipped_files": [list(pair) for pair in skipped]}
    preprocess = Preprocess(3, eval_transform, IMAGENET_MEAN, IMAGENET_STD)
    source = f"shards in {location}"
    return DatasetSplits(
        name, source, classes, preprocess, final_splits, record, skipped_files=skipped, location=str(location)
    )


def _index_shards(paths: Sequence[Path]) -> list[IndexedSample]:
    return [sample for path in paths for sample in index_shard(path)]


def shard_classes(root: Path | str, labels: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The names of the classes in label order, from classes.txt or from the labels of all splits.

    Raises ValueError where classes.txt does not have a label, or a split has one that train has not.
    """
    classes_file = f"{root}/classes.txt"
    class_names = tuple(line.strip() for line in _read_text(classes_file).splitlines() if line.strip())
    all_labels = {label for split_labels in labels.values() for label in split_labels}
    if all_labels and all(label.isascii() and label.isdigit() for label in all_labels):
        max_label = max(map(int, all_labels))
        if class_names and max_label >= len(class_names):
            raise invalid(
                f"labels below {len(class_names)}, the number of names in {classes_file}",
                max_label,
                str(len(class_names) - 1),
            )
        return class_names or tuple(map(str, range(max_label + 1)))
    known = set(class_names or labels["train"])
    for label in sorted(all_labels - known):
        suggestion = nearest(label, known, 1)
        raise invalid(
            f"labels among {'those of ' + classes_file if class_names else 'those of train'}",
            repr(label),
            suggestion[0] if suggestion else "",
        )
    return class_names or tuple(sorted(all_labels))


def _read_text(location: str) -> str:
    """The text of a file by path or URL; empty where there is none."""
    if is_url(location):
        return read_optional_text(location) or ""
    path = Path(location)
    return path.read_text("utf-8") if path.is_file() else ""


def _load_split(
    name: str, root: Path | str, samples: Sequence[IndexedSample], classes: tuple[str, ...], eval_transform: str
) -> ImageDataset:
    """The pictures where they lie, or in memory where they are small, of one size, not too many and not by URL."""
    label_of = {label: index for index, label in enumerate(classes)}
    labels = [label_of[sample.label] if sample.label in label_of else int(sample.label) for sample in samples]
    dataset = ShardImageDataset(
        tuple(sample.location for sample in samples), torch.tensor(labels, dtype=torch.int64), 3, root
    )
    if (
        dataset.is_remote
        or eval_transform
        or len(samples) * 3 * samples[0].height * samples[0].width > MAX_BYTES_IN_MEMORY
    ):
        return dataset  # no words: small, and all of one size
    shards = sorted({Path(sample.location.shard) for sample in samples})
    cached = decode_cached(f"{name}-{len(samples)}", shards, lambda: _decode_all(dataset))
    return replace(cached, labels=dataset.labels, names=tuple(dataset.name(i) for i in range(len(dataset))))


def _decode_all(dataset: ShardImageDataset) -> TensorImageDataset:
    with ThreadPoolExecutor() as pool:
        return TensorImageDataset(torch.stack(list(pool.map(dataset.load_image, range(len(dataset))))), dataset.labels)
