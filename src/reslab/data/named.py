"""The named datasets: their table, and how one is opened."""

from pathlib import Path
from typing import Any

from reslab.data.dataset import IMAGENET_MEAN, IMAGENET_STD, DatasetSplits, SplitMethod, channel_statistics
from reslab.data.dataset_info import DatasetInfo
from reslab.data.dataset_names import (
    CIFAR10_CLASSES,
    CIFAR100_CLASSES,
    DIGIT_CLASSES,
    FASHION_MNIST_CLASSES,
    SPLIT_TITLES,
)
from reslab.data.formats.cifar import CIFAR10_LAYOUT, CIFAR100_LAYOUT, read_cifar, read_cifar2
from reslab.data.formats.imagenet import read_imagenet
from reslab.data.formats.small import SHAPES, read_digits, read_drawn, read_drawn_shapes, read_mnist
from reslab.data.image_datasets import ImageDataset, TensorImageDataset
from reslab.data.splits import PHOTO_EVAL_TRANSFORM, SplitOptions, rare_class_messages, restore_split, split_off
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            reference="Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits (its test part), in "
            "scikit-learn",
            read=read_digits,
            classes=DIGIT_CLASSES,
            channels=1,
            test_fraction=0.2,  # 359 images
        ),
        DatasetInfo(
            name="mnist",
            reference="LeCun, Bottou, Bengio, Haffner 1998, Gradient-Based Learning Applied to Document Recognition",
            read=read_mnist,
            classes=DIGIT_CLASSES,
            channels=1,
            mean=(0.1307,),
            std=(0.3081,),
            statistics_source="of the 60,000 training images; the values of PyTorch's MNIST example",
            system_dirs=("/usr/share/datasets/mnist",),
            layout="MNIST",
        ),
        DatasetInfo(
            name="fashion-mnist",
            reference="Xiao, Rasul, Vollgraf 2017, Fashion-MNIST, arXiv:1708.07747",
            read=read_mnist,
            classes=FASHION_MNIST_CLASSES,
            channels=1,
            mean=(0.2860,),
            std=(0.3530,),
            statistics_source="of the 60,000 training images",
            system_dirs=("/usr/share/datasets/fashion-mnist",),
            layout="FashionMNIST",
        ),
        DatasetInfo(
            name="cifar10",
            reference="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
            read=read_cifar,
            classes=CIFAR10_CLASSES,
            channels=3,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            statistics_source="of the 50,000 training images, over all pixels",
            layout=CIFAR10_LAYOUT,
        ),
        DatasetInfo(
            name="cifar100",
            reference="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images (fine labels)",
            read=read_cifar,
            classes=CIFAR100_CLASSES,
            channels=3,
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            statistics_source="of the 50,000 training images, over all pixels",
            layout=CIFAR100_LAYOUT,
        ),
        DatasetInfo(
            name="cifar2",
            reference="Stevens, Antiga, Viehmann 2020, Deep Learning with PyTorch, chapters 7 and 8: two classes of "
            "CIFAR-10",
            read=read_cifar2,
            classes=("airplane", "bird"),
            channels=3,
            mean=(0.4915, 0.4823, 0.4468),
            std=(0.2470, 0.2435, 0.2616),
            statistics_source="the book's, of all CIFAR-10 training images",
            layout=CIFAR10_LAYOUT,
        ),
        DatasetInfo(
            name="birds-airplanes",
            reference="our own: drawn by code, a stand-in for cifar2 that needs no download",
            read=read_drawn,
            classes=("airplane", "bird"),
            channels=3,
        ),
        DatasetInfo(
            name="drawn-shapes",
            reference="our own: drawn by code, images with boxes that need no download",
            read=read_drawn_shapes,
            classes=SHAPES,
            channels=3,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            statistics_source="none: detectors normalize images themselves",
            task="detection",
        ),
        DatasetInfo(
            name="imagenet",
            reference="Russakovsky et al. 2015, ImageNet Large Scale Visual Recognition Challenge (ILSVRC 2012), "
            "arXiv:1409.0575",
            read=read_imagenet,
            classes=(),
            channels=3,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            statistics_source="of a part of the training images; the values of PyTorch's ImageNet example",
            eval_transform=PHOTO_EVAL_TRANSFORM,
        ),
    )
}

_TEST_SPLIT_SEED = 0


def open_named(info: DatasetInfo, data_dir: Path | None, options: SplitOptions) -> DatasetSplits:
    """Open a named dataset in `data_dir`, the cache or the system's folders, with the splits of the options.

    Raises ValueError if it is not there or has a validation split already, where one is to be split off.
    """
    result = info.read(info, data_dir)
    splits: dict[str, ImageDataset] = dict(result.splits)
    record: dict[str, Any] = {"method": SplitMethod.GIVEN}
    classes = result.classes or info.classes
    if info.test_fraction:
        splits, record = split_off(splits["train"], info.test_fraction, _TEST_SPLIT_SEED, classes, into="test")
    preprocess = _make_preprocess(info, splits.get("train"))
    if options.record is not None and options.record.get("into") == "val":
        splits, record = {**splits, **restore_split(splits["train"], options.record)}, dict(options.record)
    elif (
        options.record is None
        and options.val_fraction is not None
        and not (options.is_default_fraction and "val" in splits)
    ):
        if "val" in splits or "train" not in splits:
            got = f"{', '.join(splits)} and a fraction"
            raise invalid(f"one validation split for {info.name}", got, next_step="drop --val-fraction")
        parts, record = split_off(
            splits["train"], options.val_fraction, options.seed, classes, keep_rare=options.keeps_rare_classes
        )
        splits.update(parts)
    return DatasetSplits(
        name=info.name,
        source=info.reference,
        classes=classes,
        preprocess=preprocess,
        splits={name: splits[name] for name in SPLIT_TITLES if name in splits},
        split_record=record,
        location=result.location,
        messages=rare_class_messages(record),
        task=info.task,
    )


def _make_preprocess(info: DatasetInfo, images: ImageDataset | None) -> Preprocess:
    """Return the preprocessing with the dataset's mean and std, or those of all training images (with validation)."""
    if info.mean:
        return Preprocess(info.channels, info.eval_transform, info.mean, info.std)
    assert isinstance(images, TensorImageDataset)
    return Preprocess(info.channels, info.eval_transform, *channel_statistics(images.images))
