"""List folders of class folders, strictly for training, with an error for everything that can be wrong with them."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from reslab.data.image_datasets import SPLIT_TITLES, FileImageDataset
from reslab.data.image_formats import IMAGE_EXTENSIONS, is_image_name
from reslab.spec.errors import invalid, nearest

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
SPLIT_OF_FOLDER = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
_ARCHIVE_EXTENSIONS = (".zip", ".tar.gz", ".tgz", ".7z", ".rar")


@dataclass(frozen=True)
class LabeledFiles:
    """The image files of one split with their labels, ordered by class and name; class names in label order."""

    folder: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def to_dataset(self, root: Path | None) -> FileImageDataset:
        """Return the files as RGB images; names are relative to `root`, or whole paths without one."""
        return FileImageDataset(self.paths, torch.tensor(self.labels, dtype=torch.int64), 3, root)


def find_split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split: train/ with val/ (or valid/, validation/) and test/; else `root` as train.

    Raises ValueError if `root` is not a folder, a split has two folders, or there is a val/ or test/ without train/.
    """
    check_folder(root)
    split_folders: dict[str, Path] = {}
    for split, names in SPLIT_FOLDERS.items():
        existing = [root / name for name in names if subfolders(root / name)]
        if len(existing) > 1:
            got = f"both {' and '.join(f'{path.name}/' for path in existing)}"
            required = f"one {SPLIT_TITLES[split]} folder in {root}"
            raise invalid(required, got, nearest=f"{existing[0].name}/", next_step="keep one")
        if existing:
            split_folders[split] = existing[0]
    if "train" in split_folders:
        if "val" not in split_folders:
            _check_flat_validation(root)
        return split_folders
    other_names = {path.name for path in subfolders(root)}
    if split_folders and other_names == {path.name for path in split_folders.values()}:
        got = f"only {', '.join(sorted(f'{name}/' for name in other_names))}"
        raise invalid(f"a folder train/ in {root}", got, nearest="train/")
    return {"train": root}


def _check_flat_validation(root: Path) -> None:
    # A validation folder without class folders would otherwise be ignored silently.
    for folder in (root / name for name in SPLIT_FOLDERS["val"]):
        image_paths = list_image_files(folder)
        if image_paths:
            raise invalid(
                f"class folders in {folder}",
                f"{len(image_paths):,} images directly in it, without labels",
                next_step=f"move them into {folder}/CLASS/, list them in a CSV file (path,label,split), "
                "or for ImageNet use --data imagenet",
            )


def check_folder(root: Path) -> None:
    """Raise ValueError with the most similar folder names if `root` is not a folder."""
    if root.is_dir():
        return
    if root.exists():
        raise invalid("a folder of class folders", f"{root}, which is a file", nearest=str(root.parent))
    siblings = [path.name for path in subfolders(root.parent)] if root.parent.is_dir() else []
    suggestions = ", ".join(str(root.parent / name) for name in nearest(root.name, siblings))
    raise invalid("a folder of class folders", f"{root}, no such folder", suggestions, "check the path")


def list_labeled_files(folder: Path) -> LabeledFiles:
    """List the images in a folder's class folders and their subfolders, without hidden files.

    Raises ValueError if there are fewer than two class folders, or one without images.
    """
    class_folders = subfolders(folder)
    if not class_folders:
        raise _no_class_folders(folder)
    files = {path.name: find_image_files(path) for path in class_folders}
    empty = [name for name, paths in files.items() if not paths]
    if empty:
        extensions = ", ".join(IMAGE_EXTENSIONS)
        if len(empty) == len(files):
            raise invalid(f"images ({extensions}) in the class folders of {folder}", f"none in {_join_folders(empty)}")
        required = f"at least one image ({extensions}) in every class folder of {folder}"
        next_step = "add images to these folders or remove them"
        raise invalid(required, f"none in {_join_folders(empty)}", next_step=next_step)
    if len(files) < 2:
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


def subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder in lexicographic order; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    folders = (path for path in folder.iterdir() if path.is_dir() and _is_visible(path))
    return sorted(folders, key=lambda path: path.name)


def find_image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders in lexicographic order of their paths."""
    paths: list[Path] = []
    for directory, dir_names, file_names in os.walk(folder, followlinks=True):
        dir_names[:] = [name for name in dir_names if _is_visible(Path(name))]
        paths += [Path(directory, name) for name in file_names if is_image_name(name)]
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def list_image_files(folder: Path) -> list[Path]:
    """Return the image files directly in a folder in lexicographic order; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_image_name(path.name) and path.is_file())


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != "__MACOSX"


def _join_folders(names: list[str]) -> str:
    return ", ".join(f"{name}/" for name in names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _no_class_folders(folder: Path) -> ValueError:
    archives = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(_ARCHIVE_EXTENSIONS))
    if archives:
        got, next_step = f"archives ({', '.join(archives[:3])})", "unpack them first (plain .tar shards can stay)"
    elif image_paths := find_image_files(folder):
        got = f"{len(image_paths)} images directly in it"
        next_step = f"move them into one folder a class, {folder}/CLASS/IMAGE"
    else:
        got, next_step = "no folder in it", f"make one folder a class, {folder}/CLASS/IMAGE"
    return invalid(f"class folders in {folder}", got, next_step=next_step)
