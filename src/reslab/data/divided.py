"""What every set of picture files has in common: broken ones left out, one part held out, the evaluation's words."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from reslab.data.image_datasets import Images
from reslab.data.splits import carve, carve_again
from reslab.spec.errors import refuse

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
            raise refuse(f"the undivided data {place} of the recorded split", "one with a validation part of its own")
        again = carve_again(splits["train"], record)
        return {**again, **{name: splits[name] for name in splits if name != "train"}}, dict(record)
    if val_fraction is not None and "val" in splits:
        raise refuse(
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
