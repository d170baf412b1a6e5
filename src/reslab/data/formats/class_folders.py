"""List folders of class folders, strictly for training, with an error for everything that can be wrong with them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from reslab.data.dataset_names import SPLIT_TITLES
from reslab.data.formats.file_listing import SYSTEM_FOLDERS, IgnoredFiles, is_visible, list_images_once
from reslab.data.image_datasets import FileImageDataset
from reslab.data.image_formats import IMAGE_EXTENSIONS, is_image_name
from reslab.data.targets import TARGET_RULES
from reslab.spec.errors import invalid, nearest
from reslab.spec.task import DEFAULT_TASK, find_task

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation", "holdout"),
}
"""The names of each split's folder, files and rows; "eval" is a test split, as for Hugging Face's datasets."""
SPLIT_OF_FOLDER = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
_ARCHIVE_EXTENSIONS = (".zip", ".tar.gz", ".tgz", ".7z", ".rar")


@dataclass(frozen=True)
class LabeledFiles:
    """The image files of one split with their labels, ordered by class and name; class names in label order.

    Labels are those of the task: the index of a class, or the numbers, of each image; `task_reason` says
    why the task was inferred.
    """

    folder: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int | tuple[float, ...], ...]
    task: str = DEFAULT_TASK
    task_reason: str = ""

    def to_dataset(self, root: Path | None) -> FileImageDataset:
        """Return the files as RGB images; names are relative to `root`, or whole paths without one."""
        target_kind = find_task(self.task).target
        labels = torch.tensor(self.labels, dtype=TARGET_RULES[target_kind].dtype)
        return FileImageDataset(self.paths, labels, 3, root, target_kind=target_kind)


@dataclass(frozen=True)
class FolderLayout:
    """The folder of each split, and what lies beside these folders and is not read."""

    split_folders: dict[str, Path]
    ignored: IgnoredFiles = field(default_factory=IgnoredFiles)


def split_of_folder(name: str) -> str | None:
    """Return the split that a folder's name stands for, in any case: `Valid` is val; None for other names."""
    return SPLIT_OF_FOLDER.get(name.lower())


def find_split_folders(root: Path) -> FolderLayout:
    """Return the folder of each split (`SPLIT_FOLDERS`, in any case) if there is a training one; else `root` as train.

    Raises ValueError if `root` is not a folder, a split has two folders or its images have no class folders, there are
    splits without training images, or a folder with images beside train/ is of no known split. Test images without
    class folders are ignored.
    """
    check_folder(root)
    folders = subfolders(root)
    candidates = {split: [path for path in folders if split_of_folder(path.name) == split] for split in SPLIT_FOLDERS}
    split_folders: dict[str, Path] = {}
    for split, paths in candidates.items():
        existing = [path for path in paths if subfolders(path)]
        if len(existing) > 1:
            got = f"both {' and '.join(f'{path.name}/' for path in existing)}"
            required = f"one {SPLIT_TITLES[split]} folder in {root}"
            raise invalid(required, got, nearest=f"{existing[0].name}/", next_step="keep one")
        if existing:
            split_folders[split] = existing[0]
    others = [path for path in folders if path not in split_folders.values()]
    if "train" in split_folders:
        return FolderLayout(split_folders, _check_beside_splits(root, others))
    if folders and all(split_of_folder(path.name) for path in folders):
        _raise_without_training(root, folders, candidates)
    return FolderLayout({"train": root})


def _check_beside_splits(root: Path, others: list[Path]) -> IgnoredFiles:
    """Return what is beside the split folders; raise ValueError for images that would be dropped."""
    unlabeled, without_images = list_image_files(root), []
    for folder in others:
        split = split_of_folder(folder.name)
        if split is None and any_image_below(folder):
            known = ", ".join(f"{name}/" for name in SPLIT_OF_FOLDER)
            raise invalid(
                f"only folders of splits beside the training images in {root} ({known})",
                f"{folder.name}/ with images",
                next_step="rename it, for example to val/ or test/, or move it out",
            )
        image_paths = list_image_files(folder)
        if not image_paths:
            without_images.append(folder)
        elif split == "test":
            unlabeled += image_paths
        else:
            raise _flat_split_error(folder, len(image_paths))
    return IgnoredFiles(unlabeled=tuple(unlabeled), folders=tuple(without_images))


def _raise_without_training(root: Path, folders: list[Path], candidates: dict[str, list[Path]]) -> None:
    for folder in candidates["train"]:
        if image_paths := list_image_files(folder):
            raise _flat_split_error(folder, len(image_paths))
    if not candidates["train"]:
        got = f"only {', '.join(sorted(f'{path.name}/' for path in folders))}"
        raise invalid(f"a folder train/ in {root}", got, nearest="train/")


def _flat_split_error(folder: Path, num_images: int) -> ValueError:
    return invalid(
        f"class folders in {folder}",
        f"{num_images:,} images directly in it, without labels",
        next_step=f"move them into {folder}/CLASS/, list them in a CSV file (path,label,split), "
        "or for ImageNet use --data imagenet",
    )


def check_not_nested(folder: Path) -> tuple[str, ...]:
    """Return a message if the class folders in a folder hold only folders, whose images all get the outer class.

    Raises ValueError if the outer folders look like splits: by their names, or as all hold the same inner folders.
    """
    inner_names: dict[str, set[str]] = {}
    for class_folder in subfolders(folder):
        if any(is_image_name(name) for name in os.listdir(class_folder)):
            continue
        names = {path.name.casefold() for path in subfolders(class_folder) if any_image_below(path)}
        if len(names) >= 2:
            inner_names[class_folder.name] = names
    split_like = [name for name in inner_names if set(re.split(r"[^a-z]+", name.lower())) & set(SPLIT_OF_FOLDER)]
    if not inner_names or (not split_like and len(inner_names) < len(subfolders(folder))):
        return ()
    examples = ", ".join(f"{name}/{inner}/" for name, inner_of in inner_names.items() for inner in sorted(inner_of)[:2])
    same_inner = len(inner_names) > 1 and len(set.intersection(*inner_names.values())) > 1
    if split_like or same_inner:
        nearest_names = ", ".join(f"{name}/" for name in SPLIT_FOLDERS)
        raise invalid(
            f"class folders with images in {folder}, or folders of splits ({', '.join(SPLIT_OF_FOLDER)})",
            f"folders that hold only folders: {examples[:200]}",
            nearest=nearest_names,
            next_step="rename folders of splits; where the inner folders are no classes, list the images in a CSV file",
        )
    return (f"class folders of {folder.name}/ hold only folders ({examples[:200]}): the outer folder is the class",)


def any_image_below(folder: Path) -> bool:
    """Return True if there is an image file in a folder or its real subfolders."""
    return any(is_image_name(name) for _, _, names in os.walk(folder) for name in names)


def check_folder(root: Path) -> None:
    """Raise ValueError with the most similar folder names if `root` is not a folder."""
    if root.is_dir():
        return
    if root.exists() and root.name.lower().endswith(_ARCHIVE_EXTENSIONS):
        raise invalid("a folder of class folders", f"{root}, an archive", next_step="unpack it, and name its folder")
    if root.exists():
        raise invalid("a folder of class folders", f"{root}, which is a file", nearest=str(root.parent))
    siblings = [path.name for path in subfolders(root.parent)] if root.parent.is_dir() else []
    suggestions = ", ".join(str(root.parent / name) for name in nearest(root.name, siblings))
    raise invalid("a folder of class folders", f"{root}, no such folder", suggestions, "check the path")


def list_labeled_files(folder: Path) -> LabeledFiles:
    """List the images in a folder's class folders and their subfolders, without hidden files.

    A file counts at every path, as published datasets have copies, which some file systems store as hard links.
    Raises ValueError if there are fewer than two class folders, or one without images.
    """
    return list_labeled_splits({"train": folder}, unique_files=False)[0]["train"]


def list_labeled_splits(
    split_folders: Mapping[str, Path], *, unique_files: bool = True
) -> tuple[dict[str, LabeledFiles], IgnoredFiles]:
    """List the images of the class folders of every split, each real file once, and what is ignored.

    Raises ValueError as `list_labeled_files`, and if a split has only links to the images of another one; splits other
    than training may have a single class.
    """
    class_folders = {split: subfolders(folder) for split, folder in split_folders.items()}
    for split, folder in split_folders.items():
        if not class_folders[split]:
            raise _no_class_folders(folder)
    images_by_split, ignored = list_class_images(split_folders, unique_files=unique_files)
    files = {
        split: _label_files(split_folders[split], images, min_classes=2 if split == "train" else 1)
        for split, images in images_by_split.items()
    }
    return files, ignored


def list_class_images(
    split_folders: Mapping[str, Path], *, unique_files: bool = True
) -> tuple[dict[str, dict[str, list[Path]]], IgnoredFiles]:
    """Return the images of every class of every split, also of empty classes, each real file once; and the ignored."""
    pairs = [(split, path) for split, folder in split_folders.items() for path in subfolders(folder)]
    parents = {parent.resolve() for folder in split_folders.values() for parent in (folder, *folder.resolve().parents)}
    images, ignored = list_images_once([path for _, path in pairs], is_image_name, parents, unique_files=unique_files)
    by_split: dict[str, dict[str, list[Path]]] = {split: {} for split in split_folders}
    for (split, path), paths in zip(pairs, images, strict=True):
        if path not in ignored.repeated:
            by_split[split][path.name] = paths
    folders = split_folders.values()
    system_folders = tuple(
        path for folder in folders for path in _entries(folder) if path.name.lower() in SYSTEM_FOLDERS
    )
    return by_split, ignored + IgnoredFiles(system_folders=system_folders)


def _label_files(folder: Path, files: Mapping[str, list[Path]], min_classes: int) -> LabeledFiles:
    if not files:
        required = f"images of its own in {folder}"
        raise invalid(required, "only links to folders that other splits have", next_step="remove the folder")
    empty = [name for name, paths in files.items() if not paths]
    if empty:
        extensions = ", ".join(IMAGE_EXTENSIONS)
        if len(empty) == len(files):
            raise invalid(f"images ({extensions}) in the class folders of {folder}", f"none in {_join_folders(empty)}")
        required = f"at least one image ({extensions}) in every class folder of {folder}"
        next_step = "add images to these folders or remove them"
        raise invalid(required, f"none in {_join_folders(empty)}", next_step=next_step)
    if len(files) < min_classes:
        got = f"a single class, {next(iter(files))!r}"
        raise invalid(f"at least 2 class folders in {folder}", got, next_step="add a folder for a second class")
    paths = tuple(path for class_paths in files.values() for path in class_paths)
    labels = tuple(label for label, class_paths in enumerate(files.values()) for _ in class_paths)
    return LabeledFiles(folder, tuple(files), paths, labels)


def check_same_classes(splits: dict[str, LabeledFiles]) -> tuple[str, ...]:
    """Return the classes of all splits. Raises ValueError naming those that only one of two splits has."""
    train = splits["train"]
    for split, other in splits.items():
        only_train = sorted(set(train.classes) - set(other.classes))
        only_other = sorted(set(other.classes) - set(train.classes))
        if only_train or only_other:
            differences = [f"{_join_folders(only_train)} only in {train.folder}"] * bool(only_train)
            differences += [f"{_join_folders(only_other)} only in {other.folder}"] * bool(only_other)
            pairs = [(name, nearest(name, only_train, 1)) for name in only_other]
            suggestions = ", ".join(f"{matches[0]} for {name}" for name, matches in pairs if matches)
            required = f"the same class folders for training and {SPLIT_TITLES[split]}"
            raise invalid(required, "; ".join(differences), suggestions, "rename, add or remove folders")
    return train.classes


def align_classes(splits: Mapping[str, LabeledFiles]) -> dict[str, LabeledFiles]:
    """Return the splits with labels that number the classes of the training images, of which others may lack some.

    Raises ValueError naming the classes that only another split has.
    """
    train = splits["train"]
    label_of = {name: label for label, name in enumerate(train.classes)}
    aligned = {}
    for split, files in splits.items():
        if not label_of.keys() >= set(files.classes):
            check_same_classes({"train": train, split: files})
        labels = []
        for label in files.labels:
            assert isinstance(label, int), f"required: the number of a class; got: {label}"
            labels.append(label_of[files.classes[label]])
        aligned[split] = replace(files, classes=train.classes, labels=tuple(labels))
    return aligned


def subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder in lexicographic order; empty if there is no such folder."""
    return [path for path in _entries(folder) if is_visible(path.name) and path.is_dir()]


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else []


def find_image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders in lexicographic order of their paths.

    Links are followed, but no folder is entered twice.
    """
    if not folder.is_dir():
        return []
    return list_images_once([folder], is_image_name, folder.resolve().parents, unique_files=False)[0][0]


def list_image_files(folder: Path) -> list[Path]:
    """Return the image files directly in a folder in lexicographic order; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_image_name(path.name) and path.is_file())


def _join_folders(names: list[str]) -> str:
    return ", ".join(f"{name}/" for name in names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _no_class_folders(folder: Path) -> ValueError:
    archives = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(_ARCHIVE_EXTENSIONS))
    if archives:
        got, next_step = f"archives ({', '.join(archives[:3])})", "unpack them first (plain .tar shards can stay)"
    elif image_paths := find_image_files(folder):
        got = f"{len(image_paths)} images directly in it"
        next_step = f"move them into one folder per class, {folder}/CLASS/IMAGE"
    else:
        got, next_step = "no folder in it", f"make one folder per class, {folder}/CLASS/IMAGE"
    return invalid(f"class folders in {folder}", got, next_step=next_step)
