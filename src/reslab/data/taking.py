"""Fewer training pictures: the same share of every class, the same ones for every seed."""

from dataclasses import replace

import torch
from torch import Tensor

from reslab.data.dataset import Data
from reslab.data.rng import permutation
from reslab.spec.errors import refuse

_SEED = 0


def take(data: Data, num_images: int) -> Data:
    """The data with `num_images` of its training pictures, of each class its share; the others splits stay whole.

    Which ones follows from the labels alone, so every seed of a training sees the same. Written down in the split
    record. Raises ValueError where there are not so many, or fewer than classes.
    """
    if data.split_record.get("num_images") == num_images:
        return data
    images = data.split("train")
    least = int((images.labels.bincount(minlength=data.num_classes) > 0).sum())
    if not max(2, least) <= num_images <= len(images):
        raise refuse(
            f"num_images from {max(2, least)}, one a class, to the {len(images):,} training pictures of {data.name}",
            num_images,
            nearest=str(min(max(num_images, 2, least), len(images))),
        )
    splits = {**data.splits, "train": images.subset(shares(images.labels, num_images))}
    return replace(data, splits=splits, split_record={**data.split_record, "num_images": num_images}, fingerprint="")


def shares(labels: Tensor, num_images: int) -> list[int]:
    """The indices of `num_images` samples, sorted: n_c N / sum n of class c, rounded down, the largest remainders up,
    and every class at least one."""
    classes, counts = labels.unique(return_counts=True)
    exact = counts.double() * num_images / len(labels)
    wanted = exact.floor().long().clamp_min(1)
    order = (wanted - exact).argsort(stable=True)
    while int(wanted.sum()) != num_images:
        missing = num_images - int(wanted.sum())
        if missing > 0:
            wanted[order[:missing]] += 1
        else:
            wanted[wanted.argmax()] -= 1
    chosen = [
        members[permutation(len(members), _SEED, int(label))[:many]]
        for label, many in zip(classes, wanted.tolist(), strict=True)
        for members in [(labels == label).nonzero().flatten()]
    ]
    return sorted(torch.cat(chosen).tolist())
