"""`reslab data check`: every picture of a data set read once, and what a person should know before training on it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from reslab.data.check.duplicates import Twins, find_exact, find_near
from reslab.data.divided import evaluation_words
from reslab.data.image_datasets import FileImages, Images
from reslab.data.inventory import Inventory, take_inventory
from reslab.data.looks import Look, look_at

NO_CLASS = "(no class)"


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture that was looked at: its split, its class (NO_CLASS where it lies loose), its place in its images."""

    split: str
    label: str
    images: Images
    place: int
    look: Look

    @property
    def name(self) -> str:
        """The file's name; a number alone (`#12`) says its split too."""
        return f"{self.split}/{self.look.name}" if self.look.name.startswith("#") else self.look.name


@dataclass(frozen=True, eq=False)
class DataCheck:
    """What a check found. `counts[split][class]` are the pictures with a class, readable or not; `seen` all pictures.

    `twins` group places in `seen`: the same pixels (`exact`) or nearly the same look.
    """

    inventory: Inventory
    seen: tuple[Seen, ...]
    counts: Mapping[str, Mapping[str, int]]
    twins: tuple[Twins, ...]

    @property
    def unreadable(self) -> tuple[Seen, ...]:
        return tuple(seen for seen in self.seen if seen.look.error)

    @property
    def readable(self) -> tuple[Seen, ...]:
        return tuple(seen for seen in self.seen if not seen.look.error)

    @property
    def shared(self) -> tuple[Twins, ...]:
        """The twins that stand in more than one split."""
        return tuple(t for t in self.twins if len({self.seen[k].split for k in t.places}) > 1)

    @property
    def contradicting(self) -> tuple[Twins, ...]:
        """The same pixels under more than one class."""
        return tuple(t for t in self.twins if t.exact and len(self._labels(t)) > 1)

    def _labels(self, twins: Twins) -> set[str]:
        return {self.seen[k].label for k in twins.places} - {NO_CLASS}

    @property
    def imbalance(self) -> float:
        """The largest class of train by the smallest; infinite where a class has none, 1 where there is no train."""
        numbers = list(self.counts.get("train", {}).values())
        if not numbers:
            return 1.0
        return max(numbers) / min(numbers) if min(numbers) else float("inf")

    @property
    def words(self) -> str:
        """The evaluation's words, as they follow from the sizes."""
        return evaluation_words((seen.look.height, seen.look.width) for seen in self.readable)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return {
            "name": self.inventory.name,
            "location": self.inventory.location,
            "classes": list(self.inventory.classes),
            "num_images": len(self.seen),
            "splits": {
                split: {"num_images": sum(counts.values()), "per_class": dict(counts)}
                for split, counts in self.counts.items()
            },
            "flat": {split: len(images) for split, images in self.inventory.loose.items()},
            "unreadable": [{"path": s.name, "error": s.look.error} for s in self.unreadable],
            "duplicates": [self._names(t) for t in self.twins if t.exact],
            "near_duplicates": [{"paths": self._names(t), "bits": t.bits} for t in self.twins if not t.exact],
            "shared": [{"paths": self._names(t), "exact": t.exact} for t in self.shared],
            "contradicting": [self._names(t) for t in self.contradicting],
            "sizes": sizes([s.look for s in self.readable]),
            "channels": {str(k): n for k, n in sorted(Counter(s.look.channels for s in self.readable).items())},
            "turned": sum(s.look.turned for s in self.readable),
            "blank": [s.name for s in self.readable if s.look.blank],
            "imbalance": self.imbalance,
            "fault": self.inventory.fault,
        }

    def _names(self, twins: Twins) -> list[str]:
        return [self.seen[k].name for k in twins.places]


def check_data(name_or_path: str | Path, data_dir: Path | None = None) -> DataCheck:
    """Read everything at a path (or of a named data set) once, faults and all.

    Raises ValueError only where there is nothing to read; what training would refuse is `inventory.fault`.
    """
    inventory = take_inventory(name_or_path, data_dir)
    seen: list[Seen] = []
    for split, images in inventory.splits.items():
        labels = [inventory.classes[label] for label in images.labels.tolist()]
        seen += _seen(split, images, labels)
    for split, loose in inventory.loose.items():
        seen += _seen(split, loose, [NO_CLASS] * len(loose))
    looks = [each.look for each in seen]
    twins = (*find_exact(looks), *find_near(looks))
    return DataCheck(inventory, tuple(seen), _counts(inventory), twins)


def _seen(split: str, images: Images | FileImages, labels: list[str]) -> list[Seen]:
    looks = enumerate(zip(look_at(images), labels, strict=True))
    return [Seen(split, label, images, place, look) for place, (look, label) in looks]


def _counts(inventory: Inventory) -> dict[str, dict[str, int]]:
    return {
        split: {
            name: int(number)
            for name, number in zip(
                inventory.classes, images.labels.bincount(minlength=len(inventory.classes)).tolist(), strict=True
            )
        }
        for split, images in inventory.splits.items()
    }


def sizes(looks: list[Look]) -> dict[str, Any]:
    """Smallest, median and largest height and width in pixels, how many different sizes, and the commonest."""
    if not looks:
        return {}
    heights, widths = [look.height for look in looks], [look.width for look in looks]
    commonest, times = Counter(zip(heights, widths, strict=True)).most_common(1)[0]
    return {
        "height": {"min": min(heights), "median": int(median(heights)), "max": max(heights)},
        "width": {"min": min(widths), "median": int(median(widths)), "max": max(widths)},
        "num_sizes": len(set(zip(heights, widths, strict=True))),
        "commonest": {"height": commonest[0], "width": commonest[1], "num_images": times},
    }
