"""ImageNet (ILSVRC 2012): class folders, or validation images in one flat folder with a file of their labels."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from reslab.data.dataset_info import DatasetInfo, ReadResult, search_dirs
from reslab.data.dataset_names import readable_class_names
from reslab.data.formats.class_folders import (
    LabeledFiles,
    check_same_classes,
    list_image_files,
    list_labeled_files,
    subfolders,
)
from reslab.spec.errors import invalid

_WNID = re.compile(r"n\d{8}")
_IMAGE_NUMBER = re.compile(r"_(\d{8})\.")
_LABEL_DIRS = ("", "val", "ILSVRC2012_devkit_t12/data", "devkit/data", "data")
TINY_IMAGENET_LABELS = "val_annotations.txt"
_KAGGLE_DIR = Path("ILSVRC") / "Data" / "CLS-LOC"


def read_imagenet(info: DatasetInfo, data_dir: Path | None) -> ReadResult:
    """Read train/WNID/*.JPEG, and val/WNID/*.JPEG or a flat val/ with a file of its labels; either may be missing.

    Classes are in the lexicographic order of their WordNet ids, as for published weights, and have readable names if
    all thousand are there. The images are not checked, which would take an hour: a broken one raises an error when it
    is read. Raises ValueError if there is neither split, labels of a flat val/ are missing, or the classes differ.
    """
    searched = search_dirs(info, data_dir)
    for directory in searched:
        for root in (directory, directory / _KAGGLE_DIR):
            if subfolders(root / "train") or subfolders(root / "val") or list_image_files(root / "val"):
                return _read_layout(directory, root)
    raise invalid(
        "imagenet on this machine (downloading it needs an account)",
        f"nothing in {', '.join(map(str, searched))}",
        next_step="pass the folder that contains train/WNID/*.JPEG and val/ as --data-dir",
    )


def _read_layout(directory: Path, root: Path) -> ReadResult:
    files_by_split = {"train": list_labeled_files(root / "train")} if subfolders(root / "train") else {}
    if subfolders(root / "val"):
        files_by_split["val"] = list_labeled_files(root / "val")
    elif list_image_files(root / "val"):
        files_by_split["val"] = _list_flat_val(directory, root / "val", files_by_split.get("train"))
    classes = check_same_classes(files_by_split) if "train" in files_by_split else files_by_split["val"].classes
    splits = {split: files.to_dataset(root) for split, files in files_by_split.items()}
    return ReadResult(splits, str(root), readable_class_names(classes))


def _list_flat_val(directory: Path, folder: Path, train: LabeledFiles | None) -> LabeledFiles:
    """List a flat validation folder, with the classes of the training images if there are any."""
    paths = list_image_files(folder)
    wnids = find_flat_labels(directory, folder, [path.name for path in paths], train.classes if train else ())
    files = LabeledFiles(folder, tuple(sorted(set(wnids))), tuple(paths), ())
    if train is not None:
        # A subset of the validation images need not have every class; `check_same_classes` reports unknown ones.
        files = replace(files, classes=tuple(sorted({*files.classes, *train.classes})))
    label_of = {wnid: label for label, wnid in enumerate(files.classes)}
    return replace(files, labels=tuple(label_of[wnid] for wnid in wnids))


def list_annotated_files(folder: Path, classes: tuple[str, ...]) -> LabeledFiles:
    """List Tiny ImageNet's validation images: `images/` and val_annotations.txt, lines of image name, class and box.

    Raises ValueError naming the first image without a line, or line of a class that training lacks.
    """
    file, label_of = folder / TINY_IMAGENET_LABELS, {name: label for label, name in enumerate(classes)}
    class_of = dict(line.split("\t")[:2] for line in file.read_text().splitlines() if "\t" in line)
    paths = list_image_files(folder / "images")
    if not paths:
        raise invalid(f"images in {folder / 'images'}, as {file} labels them", "none")
    for path in paths:
        if class_of.get(path.name) not in label_of:
            got = repr(class_of[path.name]) if path.name in class_of else "no line of it"
            raise invalid(f"a class that training images have, for {path.name} in {file}", got)
    return LabeledFiles(folder, classes, tuple(paths), tuple(label_of[class_of[path.name]] for path in paths))


def find_flat_labels(root: Path, folder: Path, names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return the WordNet id of each image, from the first label file in the data's folders or beside them.

    LOC_val_solution.csv (Kaggle's): ImageId,PredictionString, which begins with the id.
    imagenet_2012_validation_synset_labels.txt: an id a line, in the order of the images' numbers.
    val.txt (Caffe's): image name and index of the class among the sorted ids.
    ILSVRC2012_validation_ground_truth.txt (the development kit's): an ILSVRC2012_ID a line; meta.mat beside it maps
    these to ids. Raises ValueError if there is no such file, or it lacks an image.
    """
    for directory in (base / subfolder for base in dict.fromkeys((root, folder.parent)) for subfolder in _LABEL_DIRS):
        for name, read_labels in _LABEL_READERS.items():
            file = directory / name
            if file.is_file():
                return _lookup_wnids(file, names, read_labels(file, classes))
    raise invalid(
        f"the labels of the {len(names):,} images in {folder}: one of {', '.join(_LABEL_READERS)} in {root}",
        "none of them",
        next_step="add one of the files, or move the images into val/WNID/",
    )


def _lookup_wnids(file: Path, names: Sequence[str], wnid_by_key: dict[str, str]) -> list[str]:
    """Return the ids of images that the file lists by stem or by number."""
    wnids = []
    for name in names:
        match = _IMAGE_NUMBER.search(name)
        wnid = wnid_by_key.get(Path(name).stem) or (wnid_by_key.get(str(int(match[1]))) if match else None)
        if wnid is None or not _WNID.fullmatch(wnid):
            got = repr(wnid) if wnid else f"{len(wnid_by_key):,} others"
            raise invalid(f"the WordNet id of {name} in {file}", got)
        wnids.append(wnid)
    return wnids


def _by_number(values: Iterable[str]) -> dict[str, str]:
    return {str(number): value for number, value in enumerate(values, 1)}


def _read_kaggle(file: Path, _: Sequence[str]) -> dict[str, str]:
    with file.open(newline="") as lines:
        return {row[0]: row[1].split(" ")[0] for row in csv.reader(lines) if len(row) > 1}


def _read_wnid_lines(file: Path, _: Sequence[str]) -> dict[str, str]:
    return _by_number(file.read_text().split())


def _read_caffe(file: Path, classes: Sequence[str]) -> dict[str, str]:
    if not classes:
        raise invalid(f"train/ beside {file}, whose class indices count its sorted folders", "no train/")
    pairs = [line.split() for line in file.read_text().splitlines() if line.strip()]
    for pair in pairs:
        if len(pair) != 2 or not pair[1].isdigit() or int(pair[1]) >= len(classes):
            raise invalid(f"lines of an image name and a number below {len(classes)} in {file}", " ".join(pair))
    return {Path(name).stem: classes[int(label)] for name, label in pairs}


def _read_devkit(file: Path, _: Sequence[str]) -> dict[str, str]:
    meta_path = file.parent / "meta.mat"
    if not meta_path.is_file():
        raise invalid(f"meta.mat beside {file}, which maps its numbers to WordNet ids", "no such file")
    wnid_of = _read_devkit_wnids(meta_path)
    numbers = file.read_text().split()
    unknown_numbers = sorted(set(numbers) - set(wnid_of))
    if unknown_numbers:
        raise invalid(f"class numbers in {file} that {meta_path} has", ", ".join(unknown_numbers[:5]))
    return _by_number(wnid_of[number] for number in numbers)


def _read_devkit_wnids(meta_path: Path) -> dict[str, str]:
    """Return ILSVRC2012_ID -> WordNet id of the 1,000 leaves of the synset tree."""
    from scipy.io import loadmat  # only this layout needs it

    synsets = loadmat(meta_path, squeeze_me=True)["synsets"]
    return {
        str(int(synset["ILSVRC2012_ID"])): str(synset["WNID"]) for synset in synsets if int(synset["num_children"]) == 0
    }


_LABEL_READERS = {
    "LOC_val_solution.csv": _read_kaggle,
    "imagenet_2012_validation_synset_labels.txt": _read_wnid_lines,
    "val.txt": _read_caffe,
    "ILSVRC2012_validation_ground_truth.txt": _read_devkit,
}
