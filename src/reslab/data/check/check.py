"""`reslab data check`: every picture of a data set read once, and what a person should know before training on it.

What lies at a path, faults and all: the splits as far as they can be made out, and what is wrong with the layout.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from reslab.data.check.duplicates import Look, Twins, find_exact, find_near, look_at
from reslab.data.formats.class_folders import (
    SPLIT_FOLDERS,
    ClassFiles,
    check_folder,
    find_splits,
    list_classes,
    loose_pictures,
    pictures_in,
    same_classes,
    subfolders,
)
from reslab.data.formats.csv_table import list_table
from reslab.data.image_datasets import FileImages, Images, ShardImages
from reslab.data.registry import DATA_SETS, open_data
from reslab.data.splits import evaluation_words
from reslab.data.webdataset.dataset import find_shards, shard_classes
from reslab.data.webdataset.tar import index_shard
from reslab.spec.errors import unknown_name


@dataclass(frozen=True, eq=False)
class Inventory:
    """The pictures of a path by split; `loose` are those without a class, `fault` why training would refuse it."""

    name: str
    location: str
    classes: tuple[str, ...]
    splits: Mapping[str, Images]
    loose: Mapping[str, FileImages]
    fault: str = ""


def take_inventory(name_or_path: str | Path, data_dir: Path | None = None) -> Inventory:
    """The pictures of a named data set, a folder, a CSV file or shards, without looking at any.

    Raises ValueError where there is nothing there, or a CSV file or a shard cannot be read as one.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and text.lower() in DATA_SETS:
        data = open_data(text, data_dir)
        return Inventory(data.name, data.location, data.classes, data.splits, {})
    path = Path(text).expanduser()
    if not path.exists() and "/" not in text:
        raise unknown_name("data set, folder or file", text, DATA_SETS, "`reslab data check PATH` takes a path")
    path = path.resolve()
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        return _of_table(path)
    return _of_shards(path) if find_shards(path) else _of_folder(path)


def _of_table(path: Path) -> Inventory:
    listed = list_table(path)
    return Inventory(path.stem, str(path), listed["train"].classes, _images(listed, path.parent), {})


def _of_shards(path: Path) -> Inventory:
    root = path.parent if path.is_file() else path
    found = {split: [s for shard in shards for s in index_shard(shard)] for split, shards in find_shards(path).items()}
    classes = shard_classes(root, {split: [s.label for s in samples] for split, samples in found.items()})
    place_of = {name: label for label, name in enumerate(classes)}
    splits = {}
    for split, samples in found.items():
        labels = [place_of[s.label] if s.label in place_of else int(s.label) for s in samples]
        spots = tuple(sample.spot for sample in samples)
        splits[split] = ShardImages(spots, torch.tensor(labels, dtype=torch.int64), 3, root)
    return Inventory(path.stem if path.is_file() else path.name, str(path), classes, splits, {})


def _of_folder(root: Path) -> Inventory:
    check_folder(root)
    folders = _split_folders(root)
    found = {split: {path.name: pictures_in(path) for path in subfolders(folder)} for split, folder in folders.items()}
    classes = tuple(sorted({name for files in found.values() for name in files}))
    listed = {}
    for split, files in found.items():
        pairs = [(path, classes.index(name)) for name, inside in files.items() for path in inside]
        paths, labels = tuple(path for path, _ in pairs), tuple(label for _, label in pairs)
        listed[split] = ClassFiles(folders[split], classes, paths, labels)
    loose = {split: found_loose for split, folder in folders.items() if (found_loose := loose_pictures(folder))}
    return Inventory(
        root.name,
        str(root),
        classes,
        {split: images for split, images in _images(listed, root).items() if len(images)},
        {split: FileImages(tuple(p), torch.zeros(len(p), dtype=torch.int64), 3, root) for split, p in loose.items()},
        _fault(lambda: same_classes({split: list_classes(folder) for split, folder in find_splits(root).items()})),
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """train/, val/ and test/ where train/ is there, in whatever state; else the folder itself."""
    found = {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    known = {split: folder for split, folder in found.items() if folder is not None}
    # A class may be called train: its pictures then lie in it directly, and its neighbours are no splits.
    others = {path.name for path in subfolders(root)} - {folder.name for folder in known.values()}
    if "train" not in known or (others and not subfolders(known["train"])):
        return {"train": root}
    return known


def _fault(strict: Callable[[], object]) -> str:
    try:
        strict()
    except ValueError as error:
        return str(error)
    return ""


def _images(listed: Mapping[str, ClassFiles], root: Path) -> dict[str, Images]:
    return {
        split: FileImages(files.paths, torch.tensor(files.labels, dtype=torch.int64), 3, root)
        for split, files in listed.items()
    }


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
