"""Listing folders of class folders: which classes, which files, and everything that can be wrong with them."""

import os
from dataclasses import dataclass
from pathlib import Path

from reslab.spec.errors import invalid, nearest

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".7z", ".rar")
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class ClassFiles:
    """The picture files of one split with their labels, by class and name; classes in lexicographic order."""

    folder: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]


def find_splits(root: Path) -> dict[str, Path]:
    """The folders of the splits: train/ with val/ (valid/, validation/) and test/; else the folder itself as train.

    Raises ValueError where there is no such folder, two names of one split, or a val/ or test/ without a train/.
    """
    check_folder(root)
    found: dict[str, Path] = {}
    for split, names in SPLIT_FOLDERS.items():
        there = [root / name for name in names if subfolders(root / name)]
        if len(there) > 1:
            names_there = " and ".join(f"{path.name}/" for path in there)
            raise invalid(
                f"one {split} folder in {root}",
                f"{names_there} side by side",
                nearest=f"{there[0].name}/",
                next_step="keep one",
            )
        if there:
            found[split] = there[0]
    if "train" in found:
        _check_flat_validation(root, found)
        return found
    others = {path.name for path in subfolders(root)}
    if found and others == {path.name for path in found.values()}:
        raise invalid(
            f"a folder train/ in {root}", f"only {', '.join(sorted(f'{name}/' for name in others))}", nearest="train/"
        )
    return {"train": root}


def _check_flat_validation(root: Path, found: dict[str, Path]) -> None:
    """A validation folder without class folders would be passed over in silence."""
    for folder in () if "val" in found else (root / name for name in SPLIT_FOLDERS["val"]):
        loose = loose_pictures(folder)
        if loose:
            raise invalid(
                f"class folders in {folder}",
                f"{len(loose):,} pictures lying in it directly, whose classes nothing tells",
                next_step=f"sort them into {folder}/CLASS/, name them in a CSV file (path,label,split), "
                "or for ImageNet: --data imagenet",
            )


def check_folder(root: Path) -> None:
    """Raises ValueError where `root` is not a folder, naming its nearest neighbour."""
    if root.is_dir():
        return
    if root.exists():
        raise invalid("a folder of class folders", f"{root}, which is a file", nearest=str(root.parent))
    beside = [path.name for path in subfolders(root.parent)] if root.parent.is_dir() else []
    near = ", ".join(str(root.parent / name) for name in nearest(root.name, beside))
    raise invalid("a folder of class folders", f"{root}, no such folder", nearest=near, next_step="check the path")


def list_classes(folder: Path) -> ClassFiles:
    """Every picture of a folder of class folders, those in deeper folders too; hidden files are passed over.

    Raises ValueError where there are no class folders, only one, or empty ones.
    """
    class_folders = subfolders(folder)
    if not class_folders:
        raise _no_class_folders(folder)
    files = {path.name: pictures_in(path) for path in class_folders}
    empty = [name for name, paths in files.items() if not paths]
    if len(empty) == len(files):
        raise invalid(
            f"pictures ({', '.join(EXTENSIONS)}) in the class folders of {folder}", f"none in {_listed(empty)}"
        )
    if empty:
        next_step = "add pictures to them or remove the folders"
        raise invalid(
            f"at least one picture ({', '.join(EXTENSIONS)}) in every class folder of {folder}",
            f"none in {_listed(empty)}",
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
    paths = tuple(path for found in files.values() for path in found)
    labels = tuple(label for label, found in enumerate(files.values()) for _ in found)
    return ClassFiles(folder, classes, paths, labels)


def same_classes(splits: dict[str, ClassFiles]) -> tuple[str, ...]:
    """The classes all splits share; raises ValueError naming those that one has and another has not."""
    train = splits["train"]
    for split, other in splits.items():
        only_train = sorted(set(train.classes) - set(other.classes))
        only_other = sorted(set(other.classes) - set(train.classes))
        if only_train or only_other:
            differ = [f"{_listed(only_train)} only in {train.folder}"] * bool(only_train)
            differ += [f"{_listed(only_other)} only in {other.folder}"] * bool(only_other)
            near = [f"{found[0]} for {name}" for name in only_other if (found := nearest(name, only_train, 1))]
            next_step = "rename, add or remove the folders"
            raise invalid(f"the same class folders in train and {split}", "; ".join(differ), ", ".join(near), next_step)
    return train.classes


def subfolders(folder: Path) -> list[Path]:
    """The visible folders inside, in lexicographic order; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.is_dir() and _visible(path)), key=lambda path: path.name)


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder and of the folders in it, in lexicographic order of their paths."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if _visible(Path(name))]
        found += [Path(place, name) for name in files if is_picture(name)]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def name_in(root: Path, path: Path) -> str:
    """A file's name: relative to the root where it lies in it, else whole."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def loose_pictures(folder: Path) -> list[Path]:
    """The picture files that lie in a folder directly, in lexicographic order; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_picture(path.name) and path.is_file())


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture, and not hidden."""
    return not name.startswith(".") and name.lower().endswith(EXTENSIONS)


def _visible(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != "__MACOSX"


def _listed(names: list[str]) -> str:
    return ", ".join(f"{name}/" for name in names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _no_class_folders(folder: Path) -> ValueError:
    archives = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(_ARCHIVES))
    if archives:
        got, next_step = f"packed files ({', '.join(archives[:3])})", "unpack them first (shards may stay plain .tar)"
    elif found := pictures_in(folder):
        got, next_step = (
            f"{len(found)} pictures lying in it directly",
            f"sort them into one folder a class, {folder}/CLASS/PICTURE",
        )
    else:
        got, next_step = "no folder in it", f"make one folder a class, {folder}/CLASS/PICTURE"
    return invalid(f"class folders in {folder}", got, next_step=next_step)
