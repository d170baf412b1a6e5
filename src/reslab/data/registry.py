"""Names and paths to data: the table of named data sets, and `open_data`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reslab.data.dataset import DatasetSplits, channel_statistics
from reslab.data.dataset_info import DatasetInfo, ReadResult
from reslab.data.formats.cifar import CIFAR10_LAYOUT, CIFAR100_LAYOUT, read_cifar, read_cifar2
from reslab.data.formats.class_names import CIFAR100_CLASSES
from reslab.data.formats.csv_table import open_csv
from reslab.data.formats.image_folder import IMAGENET_MEAN, IMAGENET_STD, open_image_folder
from reslab.data.formats.imagenet import IMAGENET_EVAL_TRANSFORM, read_imagenet
from reslab.data.formats.small import read_digits, read_mnist
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.splits import check_fraction, restore_split, split_off
from reslab.data.webdataset.dataset import find_shards, open_shards, open_url_shards
from reslab.data.webdataset.remote import is_url
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.preprocess import Preprocess

_DIGIT_CLASSES = tuple("0123456789")
_FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            "digits",
            "Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits (its test part), in scikit-learn",
            read_digits,
            _DIGIT_CLASSES,
            channels=1,
        ),
        DatasetInfo(
            "mnist",
            "LeCun, Bottou, Bengio, Haffner 1998, Gradient-Based Learning Applied to Document Recognition",
            read_mnist,
            _DIGIT_CLASSES,
            channels=1,
            mean=(0.1307,),
            std=(0.3081,),
            statistics_source="of the 60,000 training pictures; the numbers of PyTorch's MNIST example",
            system_dirs=("/usr/share/datasets/mnist",),
            layout="MNIST",
        ),
        DatasetInfo(
            "fashion-mnist",
            "Xiao, Rasul, Vollgraf 2017, Fashion-MNIST, arXiv:1708.07747",
            read_mnist,
            _FASHION_MNIST_CLASSES,
            channels=1,
            mean=(0.2860,),
            std=(0.3530,),
            statistics_source="of the 60,000 training pictures",
            system_dirs=("/usr/share/datasets/fashion-mnist",),
            layout="FashionMNIST",
        ),
        DatasetInfo(
            "cifar10",
            "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
            read_cifar,
            _CIFAR10_CLASSES,
            channels=3,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            statistics_source="of the 50,000 training pictures, all pixels together",
            layout=CIFAR10_LAYOUT,
        ),
        DatasetInfo(
            "cifar100",
            "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images (fine labels)",
            read_cifar,
            CIFAR100_CLASSES,
            channels=3,
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            statistics_source="of the 50,000 training pictures, all pixels together",
            layout=CIFAR100_LAYOUT,
        ),
        DatasetInfo(
            "cifar2",
            "Stevens, Antiga, Viehmann 2020, Deep Learning with PyTorch, chapters 7 and 8: two classes of CIFAR-10",
            read_cifar2,
            ("airplane", "bird"),
            channels=3,
            mean=(0.4915, 0.4823, 0.4468),
            std=(0.2470, 0.2435, 0.2616),
            statistics_source="the book's, of all of CIFAR-10's training pictures",
            layout=CIFAR10_LAYOUT,
        ),
        DatasetInfo(
            "imagenet",
            "Russakovsky et al. 2015, ImageNet Large Scale Visual Recognition Challenge (ILSVRC 2012), arXiv:1409.0575",
            read_imagenet,
            (),
            channels=3,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            statistics_source="of a part of the training pictures; the numbers of PyTorch's ImageNet example",
            eval_transform=IMAGENET_EVAL_TRANSFORM,
        ),
    )
}


def open_dataset(
    name_or_path: str | Path,
    data_dir: str | Path | None = None,
    val_fraction: float | None = None,
    split_seed: int = 0,
    skip_bad_images: bool = False,
    split_record: Mapping[str, Any] | None = None,
) -> DatasetSplits:
    """A named data set (`DATA_SETS`), or a path: a folder of class folders, a CSV file, WebDataset shards, also by URL.

    A name wins over a folder of that name, which `./name` reaches. `data_dir` is searched for a named set before the
    cache and the system. `val_fraction` holds out a stratified part of the training pictures (0.2 of a path without a
    val or test part, else none unless asked). `split_record`, of an earlier opening, gives the same splits again.
    Raises ValueError as `folders`, `table`, `shard_data`, `imagenet`, `cifar`, `idx` and `split` say.
    """
    text = str(name_or_path)
    info = None if isinstance(name_or_path, Path) else DATASETS.get(text.lower())
    if info is not None:
        return _open_named(
            info, Path(data_dir).expanduser() if data_dir else None, val_fraction, split_seed, split_record
        )
    if is_url(text):
        return open_url_shards(text, val_fraction, split_seed, skip_bad_images, split_record)
    path = Path(text).expanduser()
    if not path.exists() and isinstance(name_or_path, str) and "/" not in text and "\\" not in text:
        raise unknown_name(
            "data set or folder",
            text,
            [*DATASETS, *_local_folders()],
            "`reslab train FOLDER` takes a folder of class folders",
        )
    return find_path_reader(path)(path, val_fraction, split_seed, skip_bad_images, split_record)


def find_path_reader(path: Path) -> Callable[..., DatasetSplits]:
    """What opens a path: a CSV file, shards, else a folder of class folders (which also says what is wrong with it)."""
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        return open_csv
    return open_shards if find_shards(path) else open_image_folder


def _local_folders() -> list[str]:
    return [path.name for path in Path().iterdir() if path.is_dir() and not path.name.startswith(".")]


def _open_named(
    info: DatasetInfo,
    data_dir: Path | None,
    val_fraction: float | None,
    split_seed: int,
    record: Mapping[str, Any] | None,
) -> DatasetSplits:
    if val_fraction is not None:
        check_fraction(val_fraction)
    result = info.read(info, data_dir)
    splits: dict[str, Any] = dict(result.splits)
    other_splits = {name: dataset for name, dataset in splits.items() if name != "train"}
    new_record: dict[str, Any] = dict(result.split_record or {"method": "given"})
    classes = result.classes or info.classes
    if record is not None and record.get("into") == "val":
        splits, new_record = {**restore_split(splits["train"], record), **other_splits}, dict(record)
    elif record is None and val_fraction is not None:
        if "val" in other_splits or "train" not in splits:
            raise invalid(
                f"one validation set for {info.name}",
                f"{', '.join(splits)} and a fraction",
                next_step="leave --val-fraction away",
            )
        parts, new_record = split_off(splits["train"], val_fraction, split_seed, classes)
        splits = {**parts, **other_splits}
    return DatasetSplits(
        info.name, info.reference, classes, _make_preprocess(info, result), splits, new_record, location=result.location
    )


def _make_preprocess(info: DatasetInfo, result: ReadResult) -> Preprocess:
    if info.mean:
        return Preprocess(info.channels, info.eval_transform, info.mean, info.std)
    dataset = result.splits["train"]
    assert isinstance(dataset, TensorImageDataset)
    return Preprocess(info.channels, info.eval_transform, *channel_statistics(dataset.images))


def list_datasets() -> list[DatasetInfo]:
    """The named data sets, in the table's order."""
    return list(DATASETS.values())
