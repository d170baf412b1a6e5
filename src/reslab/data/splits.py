"""Holding samples out: stratified, a function of (labels, fraction, seed), and written down."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reslab.data.image_datasets import FileImages, Images
from reslab.data.rng import permutation
from reslab.data.shard_images import ShardImages
from reslab.spec.errors import refuse


def stratified(labels: Tensor, fraction: float, seed: int, classes: Sequence[str]) -> tuple[list[int], list[int]]:
    """The indices kept and held out: of each class floor(n fraction + 1/2) are held out, chosen by seed; both sorted.

    Raises ValueError where the fraction is not inside (0, 1), or leaves a class without a sample on either side.
    """
    check_fraction(fraction)
    held: list[int] = []
    for label, name in enumerate(classes):
        members = (labels == label).nonzero().flatten()
        if len(members) == 0:
            continue
        num_held = int(len(members) * fraction + 0.5)
        if not 0 < num_held < len(members):
            raise _leaves_nothing(labels, fraction, name, len(members), num_held)
        held += members[permutation(len(members), seed, label)[:num_held]].tolist()
    held.sort()
    chosen = torch.ones(len(labels), dtype=torch.bool)
    chosen[held] = False
    return chosen.nonzero().flatten().tolist(), held


def check_fraction(fraction: float) -> None:
    """Raises ValueError where a validation fraction is not strictly between 0 and 1."""
    if not 0 < fraction < 1:
        raise refuse(
            "a validation fraction between 0 and 1",
            fraction,
            nearest="0.01" if fraction <= 0 else "0.99",
            next_step="0.2 is usual",
        )


def _leaves_nothing(labels: Tensor, fraction: float, name: str, num: int, num_held: int) -> ValueError:
    counts = labels.bincount()
    least = int(counts[counts > 0].min())
    side = "validation" if num_held == 0 else "training"
    got = f"{fraction:g}, which holds out {num_held} of the {num} of class {name!r} and leaves {side} none"
    if least < 2:
        return refuse("at least 2 samples of every class to split", got, next_step=f"add samples of class {name!r}")
    low, high = 0.5 / least, 1 - 0.5 / least
    # Just inside, so that four printed digits are still valid.
    valid = low + 1e-4 if fraction < low else high - 1e-4
    return refuse("a validation fraction that leaves every class a sample on both sides", got, nearest=f"{valid:.4f}")


def carve(
    images: Images, fraction: float, seed: int, classes: Sequence[str], into: str = "val"
) -> tuple[dict[str, Images], dict[str, Any]]:
    """Split training images in two, and the record of it: held-out files by name, held-out tensors by index."""
    kept, held = stratified(images.labels, fraction, seed, classes)
    record: dict[str, Any] = {"how": "stratified", "from": "train", "into": into, "fraction": fraction, "seed": seed}
    if isinstance(images, FileImages | ShardImages):
        record["names"] = [images.name(i) for i in held]
    else:
        record["indices"] = held
    return {"train": images.subset(kept), into: images.subset(held)}, record


def carve_again(images: Images, record: Mapping[str, Any]) -> dict[str, Images]:
    """The split that a record tells; raises ValueError naming what the record holds out and is not there any more."""
    held = set(_recorded(images, record))
    kept = [i for i in range(len(images)) if i not in held]
    return {"train": images.subset(kept), str(record["into"]): images.subset(sorted(held))}


def _recorded(images: Images, record: Mapping[str, Any]) -> list[int]:
    if "indices" in record:
        found = [int(i) for i in record["indices"]]
        if found and max(found) >= len(images):
            raise refuse(f"the data the split was recorded on, with sample #{max(found)}", f"{len(images)} samples")
        return found
    place = {images.name(i): i for i in range(len(images))}
    gone = [name for name in record["names"] if name not in place]
    if gone:
        raise refuse(
            f"the {len(record['names'])} files the recorded split holds out",
            f"{len(gone)} of them missing: {', '.join(gone[:5])}{' ...' if len(gone) > 5 else ''}",
            next_step="put them back, or name the folder's new place",
        )
    return [place[name] for name in record["names"]]
