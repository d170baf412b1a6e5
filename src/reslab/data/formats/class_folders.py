"""Listing folders of class folders: which classes, which files, and everything that can be wrong with them."""

import os
from dataclasses import dataclass
from pathlib import Path

from reslab.spec.errors import invalid, nearest

IMAGE_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_ARCHIVE_EXTENSIONS = (".zip", ".tar.gz", ".tgz", ".7z", ".rar")
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class LabeledFiles:
    """The picture files of one split with their labels, by class and name; classes in lexicographic order."""

    folder: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]


def find_split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits: train/ with val/ (valid/, validation/) and test/; else the folder itself as train.

    Raises ValueError where there is no such folder, two names of one split, or a val/ or test/ without a train/.
    """
    check_folder(root)
    split_folders: dict[str, Path] = {}
    for split, names in SPLIT_FOLDERS.items():
        existing = [root / name for name in names if subfolders(root / name)]
        if len(existing) > 1:
            existing_text = " and ".join(f"{path.name}/" for path in existing)
            raise invalid(
                f"one {split} folder in {root}",
                f"{existing_text} side by side",
                nearest=f"{existing[0].name}/",
                next_step="keep one",
            )
        if existing:
            split_folders[split] = existing[0]
    if "train" in split_folders:
        _check_flat_validation(root, split_folders)
        return split_folders
    other_names = {path.name for path in subfolders(root)}
    if split_folders and other_names == {path.name for path in split_folders.values()}:
        raise invalid(
            f"a folder train/ in {root}",
            f"only {', '.join(sorted(f'{name}/' for name in other_names))}",
            nearest="train/",
        )
    return {"train": root}


def _check_flat_validation(root: Path, split_folders: dict[str, Path]) -> None:
    """A validation folder without class folders would be passed over in silence."""
    for folder in () if "val" in split_folders else (root / name for name in SPLIT_FOLDERS["val"]):
        image_paths = list_image_files(folder)
        if image_paths:
            raise invalid(
                f"class folders in {folder}",
                f"{len(image_paths):,} pictures lying in it directly, whose classes nothing tells",
                next_step=f"sort them into {folder}/CLASS/, name them in a CSV file (path,label,split), "
                "or for ImageNet: --data imagenet",
            )


def check_folder(root: Path) -> None:
    """Raises ValueError where `root` is not a folder, naming its nearest neighbour."""
    if root.is_dir():
        return
    if root.exists():
        raise invalid("a folder of class folders", f"{root}, which is a file", nearest=str(root.parent))
    siblings = [path.name for path in subfolders(root.parent)] if root.parent.is_dir() else []
    suggestions = ", ".join(str(root.parent / name) for name in nearest(root.name, siblings))
    raise invalid(
        "a folder of class folders", f"{root}, no such folder", nearest=suggestions, next_step="check the path"
    )


def list_labeled_files(folder: Path) -> LabeledFiles:
    """Every picture of a folder of class folders, those in deeper folders too; hidden files are passed over.

    Raises ValueError where there are no class folders, only one, or empty ones.
    """
    class_folders = subfolders(folder)
    if not class_folders:
        raise _no_class_folders(folder)
    files = {path.name: find_image_files(path) for path in class_folders}
    empty = [name for name, paths in files.items() if not paths]
    if len(empty) == len(files):
        raise invalid(
            f"pictures ({', '.join(IMAGE_EXTENSIONS)}) in the class folders of {folder}",
            f"none in {_format_folders(empty)}",
        )
    if empty:
        next_step = "add pictures to them or remove the folders"
        raise invalid(
            f"at least one picture ({', '.join(IMAGE_EXTENSIONS)}) in every class folder of {folder}",
            f"none in {_format_folders(empty)}",
            "",
            next_step,
        )
    if len(files) < 2:
        raise invalid(
            f"at least 2 class folders in {folder}",
            f"a single class, {next(iter(files))!r}",
            next_step="add a folder for a second class",
        )
    classes = tuple(files)
    paths = tuple(path for class_paths in files.values() for path in class_paths)
    labels = tuple(label for label, class_paths in enumerate(files.values()) for _ in class_paths)
    return LabeledFiles(folder, classes, paths, labels)


def check_same_classes(splits: dict[str, LabeledFiles]) -> tuple[str, ...]:
    """The classes all splits share; raises ValueError naming those that one has and another has not."""
    train = splits["train"]
    for split, other in splits.items():
        only_train = sorted(set(train.classes) - set(other.classes))
        only_other = sorted(set(other.classes) - set(train.classes))
        if only_train or only_other:
            differences = [f"{_format_folders(only_train)} only in {train.folder}"] * bool(only_train)
            differences += [f"{_format_folders(only_other)} only in {other.folder}"] * bool(only_other)
            suggestions = [
                f"{matches[0]} for {name}" for name in only_other if (matches := nearest(name, only_train, 1))
            ]
            next_step = "rename, add or remove the folders"
            raise invalid(
                f"the same class folders in train and {split}",
                "; ".join(differences),
                ", ".join(suggestions),
                next_step,
            )
    return train.classes


def subfolders(folder: Path) -> list[Path]:
    """The visible folders inside, in lexicographic order; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and _is_visible(path)), key=lambda path: path.name
    )


def find_image_files(folder: Path) -> list[Path]:
    """The picture files of a folder and of the folders in it, in lexicographic order of their paths."""
    paths: list[Path] = []
    for directory, dir_names, file_names in os.walk(folder, followlinks=True):
        dir_names[:] = [name for name in dir_names if _is_visible(Path(name))]
        paths += [Path(directory, name) for name in file_names if is_image_file(name)]
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def relative_name(root: Path, path: Path) -> str:
    """A file's name: relative to the root where it lies in it, else whole."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def list_image_files(folder: Path) -> list[Path]:
    """The picture files that lie in a folder directly, in lexicographic order; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_image_file(path.name) and path.is_file())


def is_image_file(name: str) -> bool:
    """Whether a file's name is that of a picture, and not hidden."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS)


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != "__MACOSX"


def _format_folders(names: list[str]) -> str:
    return ", ".join(f"{name}/" for name in names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _no_class_folders(folder: Path) -> ValueError:
    archives = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(_ARCHIVE_EXTENSIONS))
    if archives:
        got, next_step = f"packed files ({', '.join(archives[:3])})", "unpack them first (shards may stay plain .tar)"
    elif image_paths := find_image_files(folder):
        got, next_step = (
            f"{len(image_paths)} pictures lying in it directly",
            f"sort them into one folder a class, {folder}/CLASS/PICTURE",
        )
    else:
        got, next_step = "no folder in it", f"make one folder a class, {folder}/CLASS/PICTURE"
    return invalid(f"class folders in {folder}", got, next_step=next_step)
