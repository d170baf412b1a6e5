"""ImageNet (ILSVRC 2012) in the layouts it is kept in: class folders, or validation pictures in one flat folder."""

from dataclasses import replace
from pathlib import Path

import torch

from reslab.data.dataset_info import Entry, Found, places
from reslab.data.divided import PHOTOGRAPHS
from reslab.data.formats.class_folders import ClassFiles, list_classes, loose_pictures, same_classes, subfolders
from reslab.data.formats.class_names import readable
from reslab.data.formats.imagenet import find_flat_labels
from reslab.data.image_datasets import FileImages
from reslab.spec.errors import refuse

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
    raise refuse(
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
