"""The data a run is about: opened by name, taken as handed over, opened again as it was recorded."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reslab.data.adapters import as_data
from reslab.data.dataset import Data
from reslab.data.image_datasets import FileImages, ShardImages
from reslab.data.loader import TrainBatches, eval_batches
from reslab.data.registry import DATA_SETS, open_data
from reslab.data.splits import take
from reslab.data.webdataset.remote import is_url
from reslab.runtime.torchrun import Place
from reslab.spec.config import from_dict, to_dict
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.recipe import Recipe

DEFAULT_DATA = "digits"


def find_data(
    data: Any,
    data_dir: str | Path | None = None,
    val_fraction: float | None = None,
    skip_bad_images: bool = False,
    num_images: int | None = None,
) -> Data:
    """A data set by name or folder (None is the digits), or the `Data`, data set or (images, labels) handed over.

    With `num_images` only so many of its training pictures, the same share of each class (`take`).
    """
    found = _found(data, data_dir, val_fraction, skip_bad_images)
    return found if num_images is None else take(found, num_images)


def _found(data: Any, data_dir: str | Path | None, val_fraction: float | None, skip_bad_images: bool) -> Data:
    if isinstance(data, Data):
        return data
    if data is None or isinstance(data, str | Path):
        return open_data(
            data or DEFAULT_DATA, data_dir=data_dir, val_fraction=val_fraction, skip_bad_images=skip_bad_images
        )
    return as_data(data, val_fraction=val_fraction)


def data_facts(data: Data, asked: Any, data_dir: str | Path | None) -> dict[str, Any]:
    """What run.json tells about the data: enough to open the same pictures in the same splits again."""
    return {
        "name": data.name,
        "source": data.source,
        "asked": _place(asked),
        "data_dir": None if data_dir is None else str(Path(data_dir).resolve()),
        "classes": list(data.classes),
        "num_images": {name: len(images) for name, images in data.splits.items()},
        "held_out": data.held_out,
        "preprocess": to_dict(data.preprocess),
        "split_record": dict(data.split_record),
        "fingerprint": data.fingerprint,
        "skipped": [list(pair) for pair in data.skipped],
    }


def _place(asked: Any) -> str | None:
    """The name of a named data set, the whole path of a folder, a URL, None for data that was handed over."""
    if isinstance(asked, str) and is_url(asked):
        return asked
    if asked is None or (isinstance(asked, str) and asked.lower() in DATA_SETS):
        return asked or DEFAULT_DATA
    return str(Path(asked).expanduser().resolve()) if isinstance(asked, str | Path) else None


def reopen_data(facts: Mapping[str, Any], data: Any = None, data_dir: str | Path | None = None) -> Data:
    """The data that `data_facts` recorded, from its place or another (`data`, `data_dir`), in the recorded splits.

    Raises ValueError where it is not the same data any more, or was handed over and is not now.
    """
    if data is None and facts["asked"] is None:
        raise invalid(
            f"the data the run had ({facts['name']}), which was handed over",
            "none",
            next_step="hand it over again: data=...",
        )
    if data is None or isinstance(data, str | Path):
        found = open_data(
            data or facts["asked"],
            data_dir=data_dir or facts["data_dir"],
            skip_bad_images=bool(facts["skipped"]),
            split_record=facts["split_record"],
        )
    else:
        record = facts["split_record"]
        found = data if isinstance(data, Data) else as_data(data, split_record=record)
    taken = facts["split_record"].get("num_images")
    found = found if taken is None else take(found, taken)
    if found.fingerprint != facts["fingerprint"]:
        raise invalid(
            f"the run's data, {facts['name']} with fingerprint {facts['fingerprint']}",
            f"{found.name} with fingerprint {found.fingerprint}: its pictures or labels differ",
            next_step="put the data back as it was, or begin a new run",
        )
    return replace(found, preprocess=from_dict(Preprocess, facts["preprocess"]))


def input_size(data: Data) -> tuple[int, ...]:
    """Channels, height and width of what the network sees when it is judged."""
    images = data.split(data.held_out)
    x, _, _ = next(iter(eval_batches(images.subset([0]), 1, data.preprocess, torch.device("cpu"))))
    return tuple(x.shape[1:])


def train_batches(
    recipe: Recipe, data: Data, seed: int, device: torch.device | str, workers: int = 0, place: Place | None = None
) -> TrainBatches:
    """The recipe's training batches of the data, a rank's part of them where it has a place among several.

    Raises ValueError where the batch or its words do not fit the pictures, or ranks cannot share it evenly.
    """
    place = place or Place()
    return TrainBatches(
        data.split("train"),
        recipe.batch_size,
        recipe.train_transform,
        data.preprocess,
        seed,
        device,
        workers,
        rank=place.rank,
        num_ranks=place.num_ranks,
        repeats=recipe.repeated_augmentation,
        balanced=recipe.class_balanced_sampling,
        num_classes=data.num_classes,
    )


def num_workers(asked: int | None, data: Data, num_local: int = 1) -> int:
    """The processes that decode pictures: as asked, else up to 8 for files and none for what is in memory.

    The processors of a machine are shared by its `num_local` ranks, and so are the shards that training streams by URL.
    """
    if asked is not None:
        return asked
    if not any(isinstance(images, FileImages | ShardImages) for images in data.splits.values()):
        return 0
    most = max(1, (os.cpu_count() or 1) // num_local)
    train = data.splits.get("train")
    if isinstance(train, ShardImages) and train.by_url:
        most = min(most, len({spot.shard for spot in train.spots}) // num_local)
    return min(8, most)
