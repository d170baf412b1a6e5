"""What a check of data means, in sentences: errors that stop training, warnings that spoil it, notes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reslab.data.check.check import DataCheck, Seen
from reslab.data.check.duplicates import MOST_BITS, Twins

UNEVEN = 3.0
FEW_IN_A_CLASS = 20
SMALL_SIDE = 32
LONG_SIDES = 4.0


@dataclass(frozen=True)
class Finding:
    """One thing to know: `severity` error, warning or note, `kind` one word for it, and the sentence."""

    severity: str
    kind: str
    text: str


def findings(check: DataCheck) -> list[Finding]:
    """Everything a person should know, errors first; empty where nothing is wrong."""
    found = [*_layout(check), *_unreadable(check), *_twins(check), *_classes(check), *_pictures(check)]
    return sorted(found, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def _layout(check: DataCheck) -> Iterator[Finding]:
    for split, images in check.inventory.loose.items():
        flat = split not in check.inventory.splits
        what = f"{_pictures_of(len(images))} directly in the folder of {split}, without a class folder"
        advice = "sort them into class folders, or list them with their labels in a CSV file"
        if split == "test" and flat:
            yield Finding("note", "flat", f"{what}: a test set without labels is passed over.")
        else:
            yield Finding("error" if flat else "warning", "flat", f"{what}: nothing tells what they show; {advice}.")
    if check.inventory.fault:
        yield Finding("error", "layout", f"Training would refuse this: {check.inventory.fault}.")


def _unreadable(check: DataCheck) -> Iterator[Finding]:
    if check.unreadable:
        files = "1 file cannot" if len(check.unreadable) == 1 else f"{len(check.unreadable):,} files cannot"
        text = f"{files} be read: {_some(check.unreadable)}; repair or remove, or train with --skip-bad-images."
        yield Finding("error", "unreadable", text)


def _twins(check: DataCheck) -> Iterator[Finding]:
    for exact, what in ((True, "exactly"), (False, "nearly")):
        shared = [twins for twins in check.shared if twins.exact == exact]
        if shared:
            where = _split_names(check, shared)
            advice = "a score there is partly memory; remove one side" if exact else "look at them: a copy is memory"
            text = f"{_groups(shared)} of {what} the same picture in {where}: {advice} ({_first(check, shared)})."
            yield Finding("warning", "shared" if exact else "shared-near", text)
    if check.contradicting:
        groups = check.contradicting
        text = f"{_groups(groups)} of the same picture under different classes: {_first(check, groups)}."
        yield Finding("warning", "contradicting", text)
    told = {twins.places for twins in (*check.shared, *check.contradicting)}
    inside = [twins for twins in check.twins if twins.places not in told]
    for exact, severity in ((True, "warning"), (False, "note")):
        twins = [each for each in inside if each.exact == exact]
        if twins:
            what = "the same picture" if exact else f"nearly the same picture (hashes within {MOST_BITS} of 64 bits)"
            kind = "duplicates" if exact else "near-duplicates"
            yield Finding(severity, kind, f"{_groups(twins)} of {what} in one split: {_first(check, twins)}.")


def _classes(check: DataCheck) -> Iterator[Finding]:
    train = check.counts.get("train", {})
    if not train:
        return
    small, large = min(train, key=lambda name: train[name]), max(train, key=lambda name: train[name])
    if check.imbalance >= UNEVEN and train[small]:
        text = (
            f"The classes are uneven: {train[large]:,} of {large}, {train[small]:,} of {small} in train "
            f"({check.imbalance:.3g} to 1); balanced sampling or class weights help, and judge by per-class scores."
        )
        yield Finding("warning", "imbalance", text)
    few = [name for name, number in train.items() if 0 < number < FEW_IN_A_CLASS]
    if few:
        text = f"{_listed(few)}: fewer than {FEW_IN_A_CLASS} pictures in train; start from pretrained weights."
        yield Finding("note", "few", text)


def _pictures(check: DataCheck) -> Iterator[Finding]:
    readable = check.readable
    blank = [seen for seen in readable if seen.look.blank]
    if blank:
        yield Finding("warning", "blank", f"{_pictures_of(len(blank))} of one colour: {_some(blank)}.")
    channels = Counter(seen.look.channels for seen in readable)
    if len(channels) > 1:
        parts = ", ".join(f"{number:,} {_kind(kind)}" for kind, number in channels.most_common())
        yield Finding(
            "note", "channels", f"Mixed kinds: {parts}; all are read as colour, what is transparent on white."
        )
    turned = sum(seen.look.turned for seen in readable)
    if turned:
        yield Finding("note", "turned", f"{_pictures_of(turned)} turned by EXIF; they are read upright.")
    sides = [min(seen.look.height, seen.look.width) for seen in readable]
    tiny = [seen for seen, side in zip(readable, sides, strict=True) if side < SMALL_SIDE]
    if tiny and max(sides) >= 4 * SMALL_SIDE:
        text = f"{_pictures_of(len(tiny))} less than {SMALL_SIDE} pixels high or wide among large ones: {_some(tiny)}."
        yield Finding("warning", "tiny", text)
    long = [s for s in readable if max(s.look.height, s.look.width) > LONG_SIDES * min(s.look.height, s.look.width)]
    if long:
        what = f"{_pictures_of(len(long))} more than {LONG_SIDES:g} times as long as wide"
        text = f"{what}: a crop sees little of {_some(long)}."
        yield Finding("note", "long", text)


def _pictures_of(number: int) -> str:
    return "1 picture is" if number == 1 else f"{number:,} pictures are"


def _kind(channels: int) -> str:
    return {1: "grey", 2: "grey with transparency", 3: "in colour", 4: "with a fourth channel (transparency or CMYK)"}[
        channels
    ]


def _groups(twins: Sequence[Twins]) -> str:
    return "1 group" if len(twins) == 1 else f"{len(twins):,} groups"


def _first(check: DataCheck, twins: Sequence[Twins]) -> str:
    names = [check.seen[place].name for place in twins[0].places]
    return " = ".join(names[:3]) + (" and more" if len(names) > 3 or len(twins) > 1 else "")


def _split_names(check: DataCheck, twins: Sequence[Twins]) -> str:
    splits = {check.seen[place].split for each in twins for place in each.places}
    return " and ".join(split for split in ("train", "val", "test") if split in splits)


def _some(seen: Sequence[Seen]) -> str:
    return _listed([each.name for each in seen])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
