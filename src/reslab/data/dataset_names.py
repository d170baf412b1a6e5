"""The names of the named datasets, and the error for a name that is none of them.

This module imports nothing that takes time, so that the command line refuses a wrong name at once.
"""

import re
from pathlib import Path

from reslab.spec.errors import invalid, nearest, unknown_name

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
"""The keys of `reslab.data.registry.DATASETS`, in order."""


def require_dataset_name(name_or_path: str) -> None:
    """Raise ValueError if it is neither the name of a dataset nor a path or URL."""
    is_path = "/" in name_or_path or "\\" in name_or_path
    if name_or_path.lower() not in DATASET_NAMES and not is_path and not Path(name_or_path).expanduser().exists():
        raise unknown_dataset(name_or_path)


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
        next_step = "download it, and name its folder with one folder a class or of images with masks "
        next_step += "or boxes, or a CSV file of its labels"
        return invalid(known_text, f"{name}, which is not read by its name", next_step=next_step)
    folders = nearest(name, (path.name for path in Path().iterdir() if path.is_dir()), 1)
    next_step = f"or the folder ./{folders[0]}" if folders else "a folder of class folders is named by its path"
    return unknown_name("dataset or folder", name, DATASET_NAMES, next_step)
