"""The data of a run: open it by name or from the user's objects, record it, and open it again as recorded."""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reslab.data.dataset import DatasetSplits
from reslab.data.dataset_names import dataset_path
from reslab.data.decode_limits import DEFAULT_LIMITS, current_limits, use_limits
from reslab.data.formats.csv_table import ColumnNames
from reslab.data.formats.mask_classes import MaskValuesLike
from reslab.data.image_datasets import FileImageDataset, ShardImageDataset
from reslab.data.loader import TrainLoader, eval_loader
from reslab.data.named import DATASETS
from reslab.data.registry import open_dataset
from reslab.data.splits import is_stratified, stratified_subset
from reslab.data.target_datasets import TargetImageDataset
from reslab.data.webdataset.remote import is_url
from reslab.runtime.torchrun import DistributedEnv
from reslab.spec.config import from_dict, to_dict
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.recipe import Recipe
from reslab.spec.task import find_task

if TYPE_CHECKING:
    from reslab.training.run import Run

DEFAULT_DATA = "digits"
_MASK_KEYS = ("classes", "mask_encoding", "mask_values")  # of a split record: a user's mask_values replace them
_MIN_ADVISED_WAIT = 0.2


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The options of opening and splitting a dataset, for training and evaluation; None means not given.

    `num_images` limits the training images, with the same fraction of each class; `task` is the one that the data are
    for, by default the one that they suit. The others are those of `open_dataset`.
    """

    data_dir: str | Path | None = None
    val_fraction: float | None = None
    is_default_fraction: bool = False
    skip_bad_images: bool = False
    columns: ColumnNames | None = None
    mask_values: MaskValuesLike | None = None
    num_images: int | None = None
    task: str | None = None


def open_train_data(data: Any, options: DataOptions | None = None, *, dims: int = 2) -> DatasetSplits:
    """Open what `open_dataset` opens (None: the digits), its training images limited to `num_images` if given.

    `dims`: 1 for tensors of signals, 3 for volumes. Raises ValueError for data of another task than that of `options`.
    """
    options = options or DataOptions()
    task = options.task
    dataset = open_dataset(
        DEFAULT_DATA if data is None else data,
        data_dir=options.data_dir,
        val_fraction=options.val_fraction,
        skip_bad_images=options.skip_bad_images,
        columns=options.columns,
        is_default_fraction=options.is_default_fraction,
        task=task,
        mask_values=options.mask_values,
        dims=dims,
    )
    if task is not None and find_task(task).name != dataset.task:
        raise invalid(f"data of the task {task}", f"{dataset.name}, data of the task {dataset.task}")
    return dataset if options.num_images is None else stratified_subset(dataset, options.num_images)


def data_metadata(data: DatasetSplits, requested: Any, data_dir: str | Path | None) -> dict[str, Any]:
    """Return what run.json records of the data: enough to open the same images in the same splits again."""
    return {
        "name": data.name,
        "source": data.source,
        "dims": getattr(data.splits["train"], "dims", 2),
        "requested": data_location(requested),
        "data_dir": None if data_dir is None else str(Path(data_dir).resolve()),
        "classes": list(data.classes),
        "num_images": {name: len(images) for name, images in data.splits.items()},
        "eval_split": data.eval_split,
        "preprocess": to_dict(data.preprocess),
        "split_record": dict(data.split_record),
        "fingerprint": data.fingerprint,
        "skipped_files": [list(pair) for pair in data.skipped_files],
        "num_decode_warnings": len(data.decode_warnings),
        "max_pixels": changed_max_pixels(),
    }


def changed_max_pixels() -> int | None:
    """Return the largest number of pixels of an image in this process; None for the default."""
    max_pixels = current_limits().max_pixels
    return None if max_pixels == DEFAULT_LIMITS.max_pixels else max_pixels


def data_location(requested: Any) -> str | None:
    """Return a dataset's name, a folder's absolute path or a URL; None for data passed as objects."""
    if isinstance(requested, str) and is_url(requested):
        return requested
    if requested is None or (isinstance(requested, str) and requested.lower() in DATASETS):
        return requested or DEFAULT_DATA
    return str(dataset_path(requested).resolve()) if isinstance(requested, str | os.PathLike) else None


def reopen_data(metadata: Mapping[str, Any], data: Any = None, data_dir: str | Path | None = None) -> DatasetSplits:
    """Open the data that `data_metadata` recorded, in the recorded splits; `data` or `data_dir` give a new location.

    Images are decoded within the recorded `max_pixels`, unless this process has limits of its own (`use_limits`).

    Raises ValueError if it has changed, or if it was passed as objects and is not passed again.
    """
    with _recorded_limits(metadata):
        return _reopen_data(metadata, data, data_dir)


def _recorded_limits(metadata: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    max_pixels = metadata.get("max_pixels")
    if max_pixels is None or changed_max_pixels() is not None:
        return contextlib.nullcontext()
    return use_limits(replace(current_limits(), max_pixels=max_pixels))


def _reopen_data(metadata: Mapping[str, Any], data: Any, data_dir: str | Path | None) -> DatasetSplits:
    if data is None and metadata["requested"] is None:
        raise invalid(
            f"the data of the run ({metadata['name']}), which was passed as objects",
            "none",
            next_step="pass it again: data=...",
        )
    if data is None:
        _require_location(metadata)
    dataset = open_dataset(
        metadata["requested"] if data is None else data,
        data_dir=data_dir or metadata["data_dir"],
        skip_bad_images=bool(metadata["skipped_files"]),
        split_record=metadata["split_record"],
        dims=metadata.get("dims", 2),
    )
    num_images = metadata["split_record"].get("num_images")
    dataset = dataset if num_images is None else stratified_subset(dataset, num_images)
    if dataset.fingerprint != metadata["fingerprint"]:
        raise invalid(
            f"the run's data, {metadata['name']} with fingerprint {metadata['fingerprint']}",
            f"{dataset.name} with fingerprint {dataset.fingerprint}: its images or labels differ",
            next_step="restore the data, or start a new run",
        )
    return replace(dataset, preprocess=from_dict(Preprocess, metadata["preprocess"]))


def open_data_for_run(
    run: "Run | None", data: Any, options: DataOptions | None = None, *, dims: int = 2
) -> DatasetSplits:
    """Open data to evaluate a run on, in the run's recorded split where they are its own images.

    A new split of them would hold out images that the run was trained on. They are its own if they have the recorded
    content, lie where the run's data lie, or have all the images that the record names; others, and those without a
    run, are opened as by `open_train_data`. Raises ValueError like `open_dataset`, and for a `val_fraction` that is not
    the recorded one.
    """
    options = options or DataOptions()
    metadata = None if run is None else run.metadata["data"]
    own = None if metadata is None else _open_own_data(metadata, data, options)
    if metadata is None or own is None:
        return open_train_data(data, options, dims=dims)
    fraction = metadata["split_record"]["fraction"]
    if options.val_fraction not in (None, fraction):
        required = f"the run's own validation split of {own.name}, a fraction of {fraction:g}"
        got = f"{options.val_fraction:g}, another split with images that the run was trained on"
        raise invalid(required, got, nearest=f"{fraction:g}", next_step="leave the fraction out")
    return own


def held_out_images(record: Mapping[str, Any]) -> list[Any] | None:
    """Return the names or numbers of the training images that a split record holds out for validation; else None."""
    if not is_stratified(record) or record.get("into") != "val":
        return None
    return list(record["names"] if "names" in record else record["indices"])


def _open_own_data(metadata: Mapping[str, Any], data: Any, options: DataOptions) -> DatasetSplits | None:
    """Return the run's images in its recorded split; None for other data, data of another task, or without a split."""
    if isinstance(data, DatasetSplits) or held_out_images(metadata["split_record"]) is None:
        return None
    record = dict(metadata["split_record"])
    if options.mask_values is not None:
        record = {name: value for name, value in record.items() if name not in _MASK_KEYS}
    is_same_place = data_location(data) is not None and data_location(data) == metadata["requested"]
    try:
        own = open_dataset(
            data,
            data_dir=options.data_dir or metadata["data_dir"],
            skip_bad_images=options.skip_bad_images or bool(metadata["skipped_files"]),
            split_record=record,
            columns=options.columns,
            task=options.task,
            mask_values=options.mask_values,
            dims=metadata.get("dims", 2),
        )
        if "num_images" in record:
            own = stratified_subset(own, record["num_images"])
    except ValueError:
        if is_same_place and options.task is None:
            raise
        return None
    # Numbers of images in memory say nothing of other images.
    is_own = is_same_place or "names" in record or own.fingerprint == metadata["fingerprint"]
    return own if is_own and own.split_record.get("method") == record["method"] else None


def _require_location(metadata: Mapping[str, Any]) -> None:
    """Raise ValueError if the recorded folder or file is not there, as after a run was copied to another machine."""
    location = metadata["requested"]
    if location.lower() not in DATASETS and not is_url(location) and not Path(location).exists():
        raise invalid(
            f"the data of the run, {metadata['name']}",
            f"{location}, which does not exist here",
            next_step="say where it is now: --data PATH (data=PATH in Python)",
        )


def infer_input_size(data: DatasetSplits) -> tuple[int, ...]:
    """Return (channels, height, width) of the network's input in evaluation."""
    images = data.split(data.eval_split)
    x, _, _ = next(iter(eval_loader(images.subset([0]), 1, data.preprocess, torch.device("cpu"))))
    return tuple(x[0].shape)


def make_train_loader(
    recipe: Recipe,
    data: DatasetSplits,
    seed: int,
    device: torch.device | str,
    workers: int = 0,
    env: DistributedEnv | None = None,
    *,
    transform_functions: Mapping[str, Callable[..., Any]] | None = None,
) -> TrainLoader:
    """Return the loader of the recipe's training batches; with several ranks, of this rank's part of each.

    `transform_functions` are the user's own transforms, which the recipe names as `callable(NAME)`.

    Raises ValueError if batch size or transform do not fit the images, or the ranks cannot share a batch evenly.
    """
    env = env or DistributedEnv()
    return TrainLoader(
        dataset=data.split("train"),
        batch_size=recipe.batch_size,
        transform=recipe.train_transform,
        preprocess=data.preprocess,
        seed=seed,
        device=device,
        num_workers=workers,
        rank=env.rank,
        world_size=env.world_size,
        num_repeats=recipe.repeated_augmentation,
        class_balanced=recipe.class_balanced_sampling,
        num_classes=data.num_classes,
        transform_functions=transform_functions,
    )


def advise_num_workers(waited: float | None, num_workers: int, data: DatasetSplits) -> int | None:
    """Return a larger number of workers for a run that waited for files for at least a fifth of its time.

    None if it did not, if every processor has a worker already, or for images in memory, which no worker reads.
    """
    num_advised = min(8, os.cpu_count() or 1)
    return (
        num_advised if _reads_files(data) and (waited or 0) >= _MIN_ADVISED_WAIT and num_workers < num_advised else None
    )


def choose_num_workers(requested: int | None, data: DatasetSplits, local_world_size: int = 1) -> int:
    """Return the number of data-loading workers: the requested one, else up to 8 for files and 0 for data in memory.

    The ranks of a machine share its processors, and the shards that training streams by URL.
    """
    if requested is not None:
        return requested
    if not _reads_files(data):
        return 0
    max_workers = max(1, (os.cpu_count() or 1) // local_world_size)
    train = data.splits.get("train")
    if isinstance(train, ShardImageDataset) and train.is_remote:
        max_workers = min(max_workers, len({location.shard for location in train.locations}) // local_world_size)
    return min(8, max_workers)


def _reads_files(data: DatasetSplits) -> bool:
    """Return True if images are read from files, also those with masks or boxes."""
    splits = data.splits.values()
    sources = (images.images if isinstance(images, TargetImageDataset) else images for images in splits)
    return any(isinstance(images, FileImageDataset | ShardImageDataset) for images in sources)
