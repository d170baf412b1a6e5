"""From a check of data to its page: which pictures are shown, and what is said below each."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from reslab.data.check.check import DataCheck, Seen
from reslab.data.check.duplicates import Twins
from reslab.data.check.findings import Finding
from reslab.data.image_datasets import Images
from reslab.data.loader import TrainBatches
from reslab.report.data_page import DataPage, Picture, PictureGroup
from reslab.report.format import count
from reslab.spec.preprocess import Preprocess

MOST_GROUPS = 12
MOST_IN_A_GROUP = 6
BATCH = 24


def check_page(check: DataCheck, findings: Sequence[Finding], words: str, seed: int = 0) -> DataPage:
    """The page of a check, with one batch of its training pictures under the augmentation `words`.

    Where the words do not fit the pictures the page says so and shows no batch.
    """
    across = {twins.places for twins in check.shared}
    groups = sorted(check.twins, key=lambda twins: (twins.places not in across, not twins.exact, twins.bits))
    page = DataPage(
        title=check.inventory.name,
        counts=check.counts,
        findings=[(finding.severity, finding.text) for finding in findings],
        sizes=_sizes(check.readable),
        unreadable=[(seen.name, seen.look.error) for seen in check.unreadable],
        groups=[_group(check, twins, twins.places in across) for twins in groups[:MOST_GROUPS]],
        num_groups=len(groups),
        words=words,
        facts={"location": check.inventory.location, "pictures looked at": count(len(check.seen))},
    )
    try:
        return replace(page, batch=_batch(check, words, seed))
    except ValueError as error:
        told = ("error", f"No training batch can be made under {words!r}: {error}.")
        return replace(page, findings=[told, *page.findings])


def _sizes(readable: Sequence[Seen]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for seen in readable:
        found.setdefault(seen.split, []).append((seen.look.height, seen.look.width))
    return found


def _group(check: DataCheck, twins: Twins, across: bool) -> PictureGroup:
    kind = "The same pixels" if twins.exact else f"Nearly the same, {twins.bits} of 64 bits apart"
    shown = [check.seen[place] for place in twins.places[:MOST_IN_A_GROUP]]
    more = len(twins.places) - len(shown)
    kind += f", {len(twins.places)} pictures of which {len(shown)} are shown" if more else ""
    pictures = [
        Picture(_pixels(seen.images.raw(seen.place)), f"{seen.label}, {seen.split}", seen.name) for seen in shown
    ]
    return PictureGroup(f"{kind}, in more than one split" if across else kind, pictures)


def _batch(check: DataCheck, words: str, seed: int) -> list[Picture]:
    images = _readable_training(check)
    if images is None:
        return []
    channels = images.raw(0).shape[0]
    as_it_is = Preprocess(channels, "", (0.0,) * channels, (1.0,) * channels)
    classes = check.inventory.classes
    num = min(BATCH, len(images))
    batches = TrainBatches(images, num, words, as_it_is, seed, "cpu", num_classes=len(classes))
    x, y, indices = next(batches.iterate())
    return [
        Picture(_pixels((255 * picture).round().clamp(0, 255).to(torch.uint8)), _label(target, classes), images.name(i))
        for picture, target, i in zip(x, y, indices.tolist(), strict=True)
    ]


def _readable_training(check: DataCheck) -> Images | None:
    split = "train" if "train" in check.inventory.splits else next(iter(check.inventory.splits), "")
    if not split:
        return None
    images = check.inventory.splits[split]
    places = [seen.place for seen in check.readable if seen.images is images]
    return images.subset(places) if places else None


def _label(target: Tensor, classes: Sequence[str]) -> str:
    """A class, or of a mixed picture its parts: `0.7 ant, 0.3 bee`."""
    if target.ndim == 0:
        return classes[int(target)]
    parts = [(float(share), classes[place]) for place, share in enumerate(target.tolist()) if share > 0]
    return parts[0][1] if len(parts) == 1 else ", ".join(f"{share:.2g} {name}" for share, name in sorted(parts)[::-1])


def _pixels(picture: Tensor) -> np.ndarray:
    array = picture.numpy()
    return array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
