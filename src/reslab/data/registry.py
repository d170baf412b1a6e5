"""Names and paths to data: the table of named data sets, and `open_data`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reslab.data.dataset import Data, channel_statistics
from reslab.data.dataset_info import Entry, Found
from reslab.data.formats.cifar import CIFAR10_FILES, CIFAR100_FILES, read_cifar, read_cifar2
from reslab.data.formats.class_names import CIFAR100_CLASSES
from reslab.data.formats.csv_table import open_table
from reslab.data.formats.image_folder import IMAGENET_MEAN, IMAGENET_STD, open_folder
from reslab.data.formats.imagenet import IMAGENET_WORDS, read_imagenet
from reslab.data.formats.small import read_digits, read_mnist_like
from reslab.data.image_datasets import TensorImages
from reslab.data.splits import carve, carve_again, check_fraction
from reslab.data.webdataset.dataset import find_shards, open_shards, open_url_shards
from reslab.data.webdataset.remote import is_url
from reslab.spec.errors import invalid, unknown_name
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
        Entry(
            "cifar2",
            "Stevens, Antiga, Viehmann 2020, Deep Learning with PyTorch, chapters 7 and 8: two classes of CIFAR-10",
            read_cifar2,
            ("airplane", "bird"),
            channels=3,
            mean=(0.4915, 0.4823, 0.4468),
            std=(0.2470, 0.2435, 0.2616),
            statistics_source="the book's, of all of CIFAR-10's training pictures",
            layout=CIFAR10_FILES,
        ),
        Entry(
            "imagenet",
            "Russakovsky et al. 2015, ImageNet Large Scale Visual Recognition Challenge (ILSVRC 2012), arXiv:1409.0575",
            read_imagenet,
            (),
            channels=3,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            statistics_source="of a part of the training pictures; the numbers of PyTorch's ImageNet example",
            words=IMAGENET_WORDS,
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
    """A named data set (`DATA_SETS`), or a path: a folder of class folders, a CSV file, WebDataset shards, also by URL.

    A name wins over a folder of that name, which `./name` reaches. `data_dir` is searched for a named set before the
    cache and the system. `val_fraction` holds out a stratified part of the training pictures (0.2 of a path without a
    val or test part, else none unless asked). `split_record`, of an earlier opening, gives the same splits again.
    Raises ValueError as `folders`, `table`, `shard_data`, `imagenet`, `cifar`, `idx` and `split` say.
    """
    text = str(name_or_path)
    entry = None if isinstance(name_or_path, Path) else DATA_SETS.get(text.lower())
    if entry is not None:
        return _open_named(
            entry, Path(data_dir).expanduser() if data_dir else None, val_fraction, split_seed, split_record
        )
    if is_url(text):
        return open_url_shards(text, val_fraction, split_seed, skip_bad_images, split_record)
    path = Path(text).expanduser()
    if not path.exists() and isinstance(name_or_path, str) and "/" not in text and "\\" not in text:
        raise unknown_name(
            "data set or folder",
            text,
            [*DATA_SETS, *_folders_here()],
            "`reslab train FOLDER` takes a folder of class folders",
        )
    return path_reader(path)(path, val_fraction, split_seed, skip_bad_images, split_record)


def path_reader(path: Path) -> Callable[..., Data]:
    """What opens a path: a CSV file, shards, else a folder of class folders (which also says what is wrong with it)."""
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        return open_table
    return open_shards if find_shards(path) else open_folder


def _folders_here() -> list[str]:
    return [path.name for path in Path().iterdir() if path.is_dir() and not path.name.startswith(".")]


def _open_named(
    entry: Entry, data_dir: Path | None, val_fraction: float | None, split_seed: int, record: Mapping[str, Any] | None
) -> Data:
    if val_fraction is not None:
        check_fraction(val_fraction)
    found = entry.read(entry, data_dir)
    splits: dict[str, Any] = dict(found.splits)
    rest = {name: images for name, images in splits.items() if name != "train"}
    made: dict[str, Any] = dict(found.split_record or {"how": "given"})
    classes = found.classes or entry.classes
    if record is not None and record.get("into") == "val":
        splits, made = {**carve_again(splits["train"], record), **rest}, dict(record)
    elif record is None and val_fraction is not None:
        if "val" in rest or "train" not in splits:
            raise invalid(
                f"one validation set for {entry.name}",
                f"{', '.join(splits)} and a fraction",
                next_step="leave --val-fraction away",
            )
        parts, made = carve(splits["train"], val_fraction, split_seed, classes)
        splits = {**parts, **rest}
    return Data(entry.name, entry.source, classes, _preprocess(entry, found), splits, made, location=found.location)


def _preprocess(entry: Entry, found: Found) -> Preprocess:
    if entry.mean:
        return Preprocess(entry.channels, entry.words, entry.mean, entry.std)
    images = found.splits["train"]
    assert isinstance(images, TensorImages)
    return Preprocess(entry.channels, entry.words, *channel_statistics(images.images))


def list_data() -> list[Entry]:
    """The named data sets, in the table's order."""
    return list(DATA_SETS.values())
