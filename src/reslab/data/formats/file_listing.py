"""List the image files of folders, each real file once, and record what is left out; and read PASCAL VOC's lists."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reslab.data.dataset_names import SPLIT_TITLES
from reslab.spec.errors import invalid


def relative_name(root: Path, path: Path) -> str:
    """Return the path relative to `root` if it is inside, else the whole path, with forward slashes."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def split_lists(folder: Path) -> dict[str, Path]:
    """Return the list of each split: train, val and test, else trainval or the only list as train.

    Raises ValueError if none is for training.
    """
    by_name = {path.stem.lower(): path for path in sorted(folder.glob("*.txt"))}
    lists = {split: by_name[split] for split in SPLIT_TITLES if split in by_name}
    if "train" not in lists:
        whole = by_name.get("trainval") or (next(iter(by_name.values())) if len(by_name) == 1 else None)
        if whole is None:
            raise invalid(f"train.txt in {folder}", ", ".join(path.name for path in by_name.values()) or "no list")
        lists = {"train": whole, **{split: path for split, path in lists.items() if split == "test" and path != whole}}
    return lists


def read_list(path: Path) -> list[str]:
    """Return the names in a list, one a line. Raises ValueError if it is not in UTF-8."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise invalid(f"{path} in UTF-8", str(error), next_step="save it as UTF-8") from None
    return [name for name in (line.strip() for line in lines) if name]


SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "$recycle.bin", "recycler", "__macosx", "system volume information", "lost+found"}
)
"""Folders that operating systems and storage devices add, in lower case: thumbnails, metadata and deleted files."""
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "icon\r"})
_NUM_EXAMPLES = 3


@dataclass(frozen=True)
class IgnoredFiles:
    """Files and folders of a dataset that are not read.

    `other_files` have no image extension, `repeated` lead to a file or folder that is read already (links and hard
    links), `unlabeled` are images beside class folders, `system_folders` belong to the operating system, and
    `folders` are folders without labeled images beside the splits.
    """

    other_files: tuple[Path, ...] = ()
    repeated: tuple[Path, ...] = ()
    unlabeled: tuple[Path, ...] = ()
    system_folders: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()

    def __add__(self, other: "IgnoredFiles") -> "IgnoredFiles":
        return IgnoredFiles(
            self.other_files + other.other_files,
            self.repeated + other.repeated,
            self.unlabeled + other.unlabeled,
            self.system_folders + other.system_folders,
            self.folders + other.folders,
        )

    def messages(self, root: Path) -> tuple[str, ...]:
        """Return a message for each kind of ignored file; names are relative to `root`."""
        texts = []
        if self.other_files:
            endings = Counter(path.suffix.lower() or "no ending" for path in self.other_files)
            counts = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(5))
            more = " and others" if len(endings) > 5 else ""
            noun = "1 file is" if len(self.other_files) == 1 else f"{len(self.other_files):,} files are"
            texts.append(f"{noun} ignored, by ending not an image: {counts}{more} ({_names(self.other_files, root)})")
        if self.repeated:
            noun = "1 path is" if len(self.repeated) == 1 else f"{len(self.repeated):,} paths are"
            text = f"{noun} ignored, as they lead to a file or folder that is read already"
            texts.append(f"{text} ({_names(self.repeated, root)})")
        if self.unlabeled:
            noun = "1 image is" if len(self.unlabeled) == 1 else f"{len(self.unlabeled):,} images are"
            texts.append(f"{noun} ignored, in no class folder and so without a label ({_names(self.unlabeled, root)})")
        if self.folders:
            texts.append(f"folders beside the splits are ignored: {_names(self.folders, root)}")
        return tuple(texts)


def _names(paths: Sequence[Path], root: Path) -> str:
    names = [path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path) for path in paths]
    return ", ".join(names[:_NUM_EXAMPLES]) + (" ..." if len(names) > _NUM_EXAMPLES else "")


def is_visible(name: str) -> bool:
    """Return True for a folder or file that is neither hidden nor of the operating system."""
    return not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS and name.lower() not in _SYSTEM_FILES


def list_images_once(
    folders: Sequence[Path],
    is_image: Callable[[str], bool],
    parents: Iterable[Path] = (),
    *,
    unique_files: bool = True,
) -> tuple[list[list[Path]], IgnoredFiles]:
    """Return the image files in each folder and its subfolders, and what is ignored; paths are in lexicographic order.

    A file that several paths lead to is listed once: at its real place if that is in the folders, else at the first
    link to it (`unique_files=False`: at every path). Links to one of the `parents` (the folders above), or to a folder
    that is listed, are never followed.
    """
    walk = _Walk(is_image, unique_files)
    for parent in parents:
        walk.is_new(parent)
    images: list[list[Path]] = [[] for _ in folders]
    pending: list[tuple[int, Path]] = []
    # All real files first: a link must not take a file away from the folder that it lies in.
    for k, folder in sorted(enumerate(folders), key=lambda pair: pair[1].is_symlink()):
        if walk.is_new(folder):
            pending += [(k, link) for link in walk.visit(folder, images[k])]
        else:
            walk.repeated.append(folder)
    while pending:
        k, link = pending.pop(0)
        pending += [(k, inner) for inner in walk.follow(link, images[k])]
    sorted_images = [sorted(paths, key=lambda path: path.as_posix()) for paths in images]
    ignored = IgnoredFiles(
        other_files=tuple(sorted(walk.other_files)),
        repeated=tuple(sorted(walk.repeated)),
        system_folders=tuple(sorted(walk.system_folders)),
    )
    return sorted_images, ignored


class _Walk:
    """The files and folders seen so far by (device, inode), and what was left out."""

    def __init__(self, is_image: Callable[[str], bool], unique_files: bool) -> None:
        self.is_image, self.unique_files = is_image, unique_files
        self.other_files: list[Path] = []
        self.repeated: list[Path] = []
        self.system_folders: list[Path] = []
        self._seen: dict[tuple[int, int], str] = {}

    def is_new(self, path: Path) -> bool:
        """Note a path, links followed, and return True if nothing noted before is the same file or folder."""
        status = path.stat()
        return self._note((status.st_dev, status.st_ino), os.fspath(path))

    def _note(self, identity: tuple[int, int], path: str) -> bool:
        first = self._seen.setdefault(identity, path)
        # Some file systems have no inodes (0), or list others than `stat` returns: then equal numbers say nothing.
        return first is path or identity[1] == 0 or not os.path.samefile(first, path)

    def visit(self, folder: Path, images: list[Path]) -> list[Path]:
        """Add the images in a folder and its real subfolders; return the links found, in order."""
        links: list[Path] = []
        device = folder.stat().st_dev
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
        for entry in entries:
            path = Path(entry.path)
            if not is_visible(entry.name):
                if entry.name.lower() in SYSTEM_FOLDERS:
                    self.system_folders.append(path)
            elif entry.is_symlink():
                links.append(path)
            elif entry.is_dir(follow_symlinks=False):
                if self.is_new(path):
                    links += self.visit(path, images)
            elif not self.is_image(entry.name):
                self.other_files.append(path)
            elif not self.unique_files or self._note((device, entry.inode()), entry.path):
                images.append(path)
            else:
                self.repeated.append(path)
        return links

    def follow(self, link: Path, images: list[Path]) -> list[Path]:
        """Add what a link leads to unless it was seen; return the links found in it. A broken image link is added."""
        is_folder = link.is_dir()
        if not is_folder and not self.is_image(link.name):
            self.other_files.append(link)
        elif not link.exists() or not (is_folder or self.unique_files):
            images.append(link)  # decoding reports a broken one
        elif not self.is_new(link):
            self.repeated.append(link)
        elif is_folder:
            return self.visit(link, images)
        else:
            images.append(link)
        return []
