"""Holding samples out: stratified, a function of (labels, fraction, seed), and written down.

Fewer training pictures: the same share of every class, the same ones for every seed.

What every set of picture files has in common: broken ones left out, one part held out, the evaluation's words.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from reslab.data.dataset import Data
from reslab.data.image_datasets import FileImages, Images, ShardImages
from reslab.data.rng import permutation
from reslab.spec.errors import invalid


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
        raise invalid(
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
        return invalid("at least 2 samples of every class to split", got, next_step=f"add samples of class {name!r}")
    low, high = 0.5 / least, 1 - 0.5 / least
    # Just inside, so that four printed digits are still valid.
    valid = low + 1e-4 if fraction < low else high - 1e-4
    return invalid("a validation fraction that leaves every class a sample on both sides", got, nearest=f"{valid:.4f}")


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
            raise invalid(f"the data the split was recorded on, with sample #{max(found)}", f"{len(images)} samples")
        return found
    place = {images.name(i): i for i in range(len(images))}
    gone = [name for name in record["names"] if name not in place]
    if gone:
        raise invalid(
            f"the {len(record['names'])} files the recorded split holds out",
            f"{len(gone)} of them missing: {', '.join(gone[:5])}{' ...' if len(gone) > 5 else ''}",
            next_step="put them back, or name the folder's new place",
        )
    return [place[name] for name in record["names"]]


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
        raise invalid(
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


SMALL_PIXELS = 64
VAL_FRACTION = 0.2
PHOTOGRAPHS = "resize(256) center-crop(224)"


def left_out(
    place: Path | str, bad: Mapping[str, str], skip_bad_images: bool, record: Mapping[str, Any] | None
) -> tuple[tuple[str, str], ...]:
    """(name, reason) of the pictures to leave out, of those that cannot be read and those that a record leaves out.

    Raises ValueError listing the bad ones where there are more than was agreed to.
    """
    recorded: dict[str, str] = dict((record or {}).get("skipped", ()))
    agreed = {name: bad.get(name, reason) for name, reason in recorded.items()}
    if not skip_bad_images and (new := {name: reason for name, reason in bad.items() if name not in agreed}):
        lines = "".join(f"\n  {place}/{name}: {reason}" for name, reason in new.items())
        what = "picture that" if len(new) == 1 else "pictures that"
        raise ValueError(
            f"{len(new)} {what} cannot be read in {place} (repair or remove, or skip with --skip-bad-images):{lines}"
        )
    return tuple(sorted({**agreed, **bad}.items()))


def divided(
    place: Path | str,
    splits: Mapping[str, Images],
    classes: tuple[str, ...],
    val_fraction: float | None,
    split_seed: int,
    record: Mapping[str, Any] | None,
) -> tuple[dict[str, Images], dict[str, Any]]:
    """The splits and their record: as they are, or with a validation part held out (`VAL_FRACTION` of a lone train).

    Raises ValueError where a fraction or a recorded split meets a validation part that is there already.
    """
    if record is not None and record.get("how") == "stratified":
        if "val" in splits:
            raise invalid(f"the undivided data {place} of the recorded split", "one with a validation part of its own")
        again = carve_again(splits["train"], record)
        return {**again, **{name: splits[name] for name in splits if name != "train"}}, dict(record)
    if val_fraction is not None and "val" in splits:
        raise invalid(
            f"one validation set for {place}",
            "a validation folder and a fraction",
            next_step="leave --val-fraction away",
        )
    if len(splits) > 1 and val_fraction is None:
        return dict(splits), {"how": "given"}
    fraction = VAL_FRACTION if val_fraction is None else val_fraction
    parts, made = carve(splits["train"], fraction, split_seed, classes)
    return {**parts, **{name: splits[name] for name in splits if name != "train"}}, made


def evaluation_words(sizes: Iterable[tuple[int, int]]) -> str:
    """Photographs as ImageNet's are evaluated; pictures that are all small at their own size, 224 would only blur.

    `sizes` are (height, width), each once or more.
    """
    different = set(sizes)
    sides = [min(size) for size in different]
    if not sides or max(sides) >= SMALL_PIXELS:
        return PHOTOGRAPHS
    if len(different) == 1:
        return ""
    side = int(median(sides))
    return f"resize({side}) center-crop({side})"
