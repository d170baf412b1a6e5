"""The names of splits, of the named datasets and of their classes, and the error for a name that is no dataset.

This module imports nothing that takes time, so that the command line refuses a wrong name at once.
"""

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from reslab.spec.errors import invalid, nearest, unknown_name

SPLIT_TITLES = {"train": "training", "val": "validation", "test": "test"}
"""The splits in their order: the name in code, files and flags, and the word in texts for people."""

_MAX_SHOWN_LENGTH = 100

DATASET_NAMES = (
    "digits",
    "mnist",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "cifar2",
    "birds-airplanes",
    "drawn-shapes",
    "imagenet",
)
"""The keys of `reslab.data.named.DATASETS`, in order."""


def missing_classes_message(split: str, names: Sequence[str], num_classes: int) -> str:
    """Return the message about these classes, of which a split has no image."""
    shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    noun = "class" if len(names) == 1 else "classes"
    return f"no {SPLIT_TITLES[split]} image has the {noun} {shown}, of {num_classes} classes"


def require_dataset_name(name_or_path: str) -> None:
    """Raise ValueError if it is neither the name of a dataset nor a path or URL."""
    is_path = "/" in name_or_path or "\\" in name_or_path
    if name_or_path.lower() not in DATASET_NAMES and not is_path and not dataset_path(name_or_path).exists():
        raise unknown_dataset(name_or_path)


def dataset_path(location: str | os.PathLike[str]) -> Path:
    """Return the path that is meant, `~` expanded.

    Raises ValueError for what the system cannot look up: an empty text, a name that is too long, a folder it may not
    enter, the home of an unknown user.
    """
    text = os.fspath(location)
    if not text:
        raise invalid("the name or path of a dataset", "an empty text", next_step="./ names the folder you are in")
    try:
        path = Path(text).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: a null byte
        shown = repr(text) if len(text) <= _MAX_SHOWN_LENGTH else f"{text[:_MAX_SHOWN_LENGTH]!r}..."
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise invalid("a path that can be looked up", f"{shown} ({reason})", next_step="check the path") from None
    return path


_WITHOUT_READER = """
coco svhn stl10 tinyimagenet imagenette imagewoof places365 food101 flowers102 caltech101 oxfordpets stanfordcars
fgvcaircraft inaturalist imagenet21k emnist kmnist cinic10 celeba voc cityscapes ade20k
"""
UNSUPPORTED_DATASETS = {
    "kinetics": "videos",
    **dict.fromkeys(_WITHOUT_READER.split(), ""),
}
"""Well-known datasets without a reader, in lower case without separators: the task, or empty for classification."""


def unknown_dataset(name: str) -> ValueError:
    """Return the error for a name that is no dataset here: a well-known one of others, or an unknown one."""
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    match = next(
        (known for known in UNSUPPORTED_DATASETS if re.fullmatch(rf"(pascal|ms|mini)?{known}(20\d\d)?", key)), ""
    )
    known_text = f"one of {', '.join(DATASET_NAMES)}, or a folder, CSV file or shards"
    if match and UNSUPPORTED_DATASETS[match]:
        got = f"{name}, a dataset for {UNSUPPORTED_DATASETS[match]}, which is not supported yet"
        return invalid(f"a dataset for classification: {known_text}", got)
    if match:
        next_step = "download it, and name its folder with one folder per class or of images with masks "
        next_step += "or boxes, or a CSV file of its labels"
        return invalid(known_text, f"{name}, which is not read by its name", next_step=next_step)
    folders = nearest(name, (path.name for path in Path().iterdir() if path.is_dir()), 1)
    next_step = f"or the folder ./{folders[0]}" if folders else "a folder of class folders is named by its path"
    return unknown_name("dataset or folder", name, DATASET_NAMES, next_step)


DIGIT_CLASSES = tuple("0123456789")
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# The fine labels, in alphabetical order (Krizhevsky 2009).
_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_CLASSES: tuple[str, ...] = tuple(_CIFAR100_NAMES.split())

# SHA-256 of the 1,000 WordNet ids of ILSVRC 2012 in lexicographic order, one a line.
_ILSVRC2012_WNIDS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


def readable_class_names(wnids: Sequence[str]) -> tuple[str, ...]:
    """Return names such as "tench" for n01440764 if these are the 1,000 classes of ILSVRC 2012; else return the ids.

    The names are those of torchvision's published weights; where two classes share one, the id follows the name.
    """
    if hashlib.sha256("\n".join(wnids).encode(errors="surrogateescape")).hexdigest() != _ILSVRC2012_WNIDS_SHA256:
        return tuple(wnids)
    from torchvision.models._meta import _IMAGENET_CATEGORIES  # here, because torchvision takes a second to import

    ambiguous_names = {name for name, count in Counter(_IMAGENET_CATEGORIES).items() if count > 1}
    pairs = zip(wnids, _IMAGENET_CATEGORIES, strict=True)
    return tuple(f"{name} ({wnid})" if name in ambiguous_names else name for wnid, name in pairs)
