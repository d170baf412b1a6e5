"""Names and paths to data: the table of named data sets, and `open_data`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reslab.data.cifar import CIFAR10_FILES, CIFAR100_FILES, read_cifar
from reslab.data.cifar100_names import CIFAR100_CLASSES
from reslab.data.dataset import Data, channel_statistics
from reslab.data.digits import read_digits
from reslab.data.entry import Entry, Found
from reslab.data.idx import read_mnist_like
from reslab.data.photos import open_folder
from reslab.data.split import carve, carve_again, check_fraction
from reslab.spec.errors import unknown
from reslab.spec.preprocess import Preprocess

_TEN_DIGITS = tuple("0123456789")
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

DATA_SETS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "digits",
            "Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits (its test part), in scikit-learn",
            read_digits,
            _TEN_DIGITS,
            channels=1,
        ),
        Entry(
            "mnist",
            "LeCun, Bottou, Bengio, Haffner 1998, Gradient-Based Learning Applied to Document Recognition",
            read_mnist_like,
            _TEN_DIGITS,
            channels=1,
            mean=(0.1307,),
            std=(0.3081,),
            statistics_source="of the 60,000 training pictures; the numbers of PyTorch's MNIST example",
            system_dirs=("/usr/share/datasets/mnist",),
            layout="MNIST",
        ),
        Entry(
            "fashion-mnist",
            "Xiao, Rasul, Vollgraf 2017, Fashion-MNIST, arXiv:1708.07747",
            read_mnist_like,
            _FASHION,
            channels=1,
            mean=(0.2860,),
            std=(0.3530,),
            statistics_source="of the 60,000 training pictures",
            system_dirs=("/usr/share/datasets/fashion-mnist",),
            layout="FashionMNIST",
        ),
        Entry(
            "cifar10",
            "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
            read_cifar,
            _CIFAR10,
            channels=3,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            statistics_source="of the 50,000 training pictures, all pixels together",
            layout=CIFAR10_FILES,
        ),
        Entry(
            "cifar100",
            "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images (fine labels)",
            read_cifar,
            CIFAR100_CLASSES,
            channels=3,
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            statistics_source="of the 50,000 training pictures, all pixels together",
            layout=CIFAR100_FILES,
        ),
    )
}


def open_data(
    name_or_path: str | Path,
    data_dir: str | Path | None = None,
    val_fraction: float | None = None,
    split_seed: int = 0,
    skip_bad_images: bool = False,
    split_record: Mapping[str, Any] | None = None,
) -> Data:
    """A named data set (`DATA_SETS`), or the pictures of a folder; a name wins over a folder, which `./name` reaches.

    `data_dir` is searched for a named set before the cache and the system. `val_fraction` holds out a stratified part
    of the training pictures (0.2 of a folder without val/ or test/, else none unless asked). `split_record`, of an
    earlier opening, gives the same splits again. Raises ValueError as `folders`, `cifar`, `idx` and `split` say.
    """
    text = str(name_or_path)
    entry = None if isinstance(name_or_path, Path) else DATA_SETS.get(text.lower())
    if entry is not None:
        return _open_named(
            entry, Path(data_dir).expanduser() if data_dir else None, val_fraction, split_seed, split_record
        )
    path = Path(text).expanduser()
    if not path.exists() and isinstance(name_or_path, str) and "/" not in text and "\\" not in text:
        raise unknown(
            "data set or folder",
            text,
            [*DATA_SETS, *_folders_here()],
            "`reslab train FOLDER` takes a folder of class folders",
        )
    return open_folder(path, val_fraction, split_seed, skip_bad_images, split_record)


def _folders_here() -> list[str]:
    return [path.name for path in Path().iterdir() if path.is_dir() and not path.name.startswith(".")]


def _open_named(
    entry: Entry, data_dir: Path | None, val_fraction: float | None, split_seed: int, record: Mapping[str, Any] | None
) -> Data:
    if val_fraction is not None:
        check_fraction(val_fraction)
    found = entry.read(entry, data_dir)
    splits: dict[str, Any] = dict(found.splits)
    made: dict[str, Any] = dict(found.split_record or {"how": "given"})
    classes = found.classes or entry.classes
    if record is not None and record.get("into") == "val":
        splits, made = {**carve_again(splits["train"], record), "test": splits["test"]}, dict(record)
    elif record is None and val_fraction is not None:
        parts, made = carve(splits["train"], val_fraction, split_seed, classes)
        splits = {**parts, "test": splits["test"]}
    return Data(entry.name, entry.source, classes, _preprocess(entry, found), splits, made, location=found.location)


def _preprocess(entry: Entry, found: Found) -> Preprocess:
    mean, std = (entry.mean, entry.std) if entry.mean else channel_statistics(found.splits["train"].images)
    return Preprocess(entry.channels, "", mean, std)


def list_data() -> list[Entry]:
    """The named data sets, in the table's order."""
    return list(DATA_SETS.values())
