"""Which class a picture of ImageNet's flat validation folder is of: the four files that tell it.

ImageNet (ILSVRC 2012) in the layouts it is kept in: class folders, or validation pictures in one flat folder.
"""

import csv
import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reslab.data.dataset_info import Entry, Found, places
from reslab.data.formats.class_folders import ClassFiles, list_classes, loose_pictures, same_classes, subfolders
from reslab.data.formats.class_names import readable
from reslab.data.image_datasets import FileImages
from reslab.data.splits import PHOTOGRAPHS
from reslab.spec.errors import invalid

_WNID = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"_(\d{8})\.")
_PLACES = ("", "val", "ILSVRC2012_devkit_t12/data", "devkit/data", "data")
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
FILES = ("LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt", "val.txt", _GROUND_TRUTH)


def find_flat_labels(place: Path, folder: Path, names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The WordNet id of each picture, from the first file of `FILES` found in the data's folders or beside them.

    LOC_val_solution.csv (Kaggle's): ImageId,PredictionString that begins with the id. ..._synset_labels.txt: an id a
    line, in the order of the pictures' numbers. val.txt (Caffe's): name and number of the class among the sorted ids.
    ILSVRC2012_validation_ground_truth.txt (the development kit's): an ILSVRC2012_ID a line, which its meta.mat beside
    it turns into ids. Raises ValueError where there is none, or it does not tell a picture's class.
    """
    for directory in (inner / part for inner in dict.fromkeys((place, folder.parent)) for part in _PLACES):
        for name, read in zip(FILES, (_kaggle, _lines, _caffe, _devkit), strict=True):
            file = directory / name
            if file.is_file():
                return _each(file, names, read(file, classes))
    raise invalid(
        f"the labels of the {len(names):,} pictures lying in {folder}: one of {', '.join(FILES)} in {place}",
        "none of them",
        next_step="add one of the files, or sort the pictures into val/WNID/",
    )


def _each(file: Path, names: Sequence[str], told: dict[str, str]) -> list[str]:
    """What the file tells by a picture's stem, or by its number."""
    found = []
    for name in names:
        number = _NUMBER.search(name)
        wnid = told.get(Path(name).stem) or (told.get(str(int(number[1]))) if number else None)
        if wnid is None or not _WNID.fullmatch(wnid):
            raise invalid(f"the WordNet id of {name} in {file}", repr(wnid) if wnid else f"{len(told):,} others")
        found.append(wnid)
    return found


def _numbered(values: Iterable[str]) -> dict[str, str]:
    return {str(number): value for number, value in enumerate(values, 1)}


def _kaggle(file: Path, _: Sequence[str]) -> dict[str, str]:
    with file.open(newline="") as lines:
        return {row[0]: row[1].split(" ")[0] for row in csv.reader(lines) if len(row) > 1}


def _lines(file: Path, _: Sequence[str]) -> dict[str, str]:
    return _numbered(file.read_text().split())


def _caffe(file: Path, classes: Sequence[str]) -> dict[str, str]:
    if not classes:
        raise invalid(f"train/ beside {file}, whose sorted folders its numbers count", "no train/")
    pairs = [line.split() for line in file.read_text().splitlines() if line.strip()]
    for pair in pairs:
        if len(pair) != 2 or not pair[1].isdigit() or int(pair[1]) >= len(classes):
            raise invalid(f"lines of a name and a number below {len(classes)} in {file}", " ".join(pair))
    return {Path(name).stem: classes[int(label)] for name, label in pairs}


def _devkit(file: Path, _: Sequence[str]) -> dict[str, str]:
    meta = file.parent / "meta.mat"
    if not meta.is_file():
        raise invalid(f"meta.mat beside {file}, which tells its numbers' WordNet ids", "no such file")
    wnid_of = _wnids(meta)
    numbers = file.read_text().split()
    unknown = sorted(set(numbers) - set(wnid_of))
    if unknown:
        raise invalid(f"numbers of classes that {meta} has in {file}", ", ".join(unknown[:5]))
    return _numbered(wnid_of[number] for number in numbers)


def _wnids(meta: Path) -> dict[str, str]:
    """ILSVRC2012_ID -> WNID of the 1,000 leaves of the tree of synsets."""
    # scipy comes with scikit-learn and has no annotations.
    matlab: Any = importlib.import_module("scipy.io")
    synsets = matlab.loadmat(meta, squeeze_me=True)["synsets"]
    return {
        str(int(synset["ILSVRC2012_ID"])): str(synset["WNID"]) for synset in synsets if int(synset["num_children"]) == 0
    }


IMAGENET_WORDS = PHOTOGRAPHS
_KAGGLE = Path("ILSVRC") / "Data" / "CLS-LOC"


def read_imagenet(entry: Entry, data_dir: Path | None) -> Found:
    """train/WNID/*.JPEG, and val/WNID/*.JPEG or a flat val/ with a file of its labels (see `synsets`).

    Classes are in the lexicographic order of their WordNet ids, which is that of published weights, and called by their
    names where all thousand are there (else by the ids). Either split may be absent. The files are not looked through,
    which would take an hour; a broken one is named when it is met.
    Raises ValueError where there is neither split, labels of a flat val/ are missing, or classes differ.
    """
    looked = places(entry, data_dir)
    for place in looked:
        for inner in (place, place / _KAGGLE):
            if subfolders(inner / "train") or subfolders(inner / "val") or loose_pictures(inner / "val"):
                return _found(place, inner)
    raise invalid(
        "imagenet on this machine (it may not be downloaded without an account)",
        f"nothing in {', '.join(map(str, looked))}",
        next_step="name the folder of train/WNID/*.JPEG and val/ with --data-dir",
    )


def _found(place: Path, inner: Path) -> Found:
    listed = {"train": list_classes(inner / "train")} if subfolders(inner / "train") else {}
    if subfolders(inner / "val"):
        listed["val"] = list_classes(inner / "val")
    elif loose_pictures(inner / "val"):
        listed["val"] = _flat(place, inner / "val", listed.get("train"))
    classes = same_classes(listed) if "train" in listed else listed["val"].classes
    return Found({split: _images(files, inner) for split, files in listed.items()}, str(inner), readable(classes))


def _images(files: ClassFiles, root: Path) -> FileImages:
    return FileImages(files.paths, torch.tensor(files.labels, dtype=torch.int64), 3, root)


def _flat(place: Path, folder: Path, train: ClassFiles | None) -> ClassFiles:
    """The pictures of a flat folder with their classes, those of train where it is there."""
    paths = loose_pictures(folder)
    wnids = find_flat_labels(place, folder, [path.name for path in paths], train.classes if train else ())
    listed = ClassFiles(folder, tuple(sorted(set(wnids))), tuple(paths), ())
    if train is not None:
        # A few pictures of all, say, need not show every class; one that train has not is a mistake.
        listed = replace(listed, classes=tuple(sorted({*listed.classes, *train.classes})))
    place_of = {wnid: label for label, wnid in enumerate(listed.classes)}
    return replace(listed, labels=tuple(place_of[wnid] for wnid in wnids))
