"""The images that an export is verified on, and those that calibrate int8."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import ImageDataset
from reslab.data.loader import eval_loader
from reslab.deploy.export.quantization import check_int8, check_num_calibration_images
from reslab.deploy.predictor import class_names
from reslab.nn.module_network import AnyNetwork
from reslab.spec.errors import invalid
from reslab.training.run import Run
from reslab.training.run_data import DataOptions, open_train_data, reopen_data

_BATCH_SIZE = 32
_SEED = 0
_MAX_CALIBRATION_IMAGES, _MIN_CALIBRATION_IMAGES, _CALIBRATION_PIXELS = 1024, 256, 2**22


@dataclass(frozen=True)
class VerificationData:
    """Labeled, prepared images of the `split` of `data`, and the number of calibration images for int8."""

    data: DatasetSplits
    split: str
    images: ImageDataset
    num_calibration_images: int

    @property
    def num_images(self) -> int:
        """The number of images to compare on."""
        return len(self.images)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalized images (n, C, H, W) with their targets, in order."""
        for x, y, _ in eval_loader(self.images, _BATCH_SIZE, self.data.preprocess, "cpu"):
            yield x, y

    def calibration_images(self) -> Tensor:
        """Return a random sample of normalized training images (of the evaluation split if there is no training).

        Where they have several sizes, all are resized to the most frequent one.
        """
        split = "train" if "train" in self.data.splits else self.split
        sampled = _sample_images(self.data.split(split), self.num_calibration_images)
        check_num_calibration_images(len(sampled))
        batches = [x for x, _, _ in eval_loader(sampled, _BATCH_SIZE, self.data.preprocess, "cpu")]
        sizes = Counter(size for x in batches for size in [tuple(x.shape[-2:])] * len(x))
        size = sizes.most_common(1)[0][0]
        return torch.cat([_resized(x, size) for x in batches])


def load_verification_data(
    network: AnyNetwork, run: Run | None, data: Any, data_dir: str | Path | None, num_images: int | None
) -> VerificationData:
    """Return the evaluation images of `data`, by default the run's own; all of them or a sample of `num_images`.

    Raises ValueError without data and run, and if classes or channels differ from the network's.
    """
    if num_images is not None and num_images < 1:
        raise invalid("at least 1 image to compare on", num_images, nearest="1")
    opened_data = _open_data(run, data, data_dir)
    num_classes = len(class_names(network))
    if opened_data.num_classes != num_classes:
        required = f"data of {num_classes} classes, as the network has"
        raise invalid(
            required, f"{opened_data.name} with {opened_data.num_classes}", next_step="name the data it was trained for"
        )
    preprocess = network.preprocess or opened_data.preprocess
    if preprocess.channels != opened_data.preprocess.channels:
        raise invalid(
            f"images of {preprocess.channels} channels", f"{opened_data.name} of {opened_data.preprocess.channels}"
        )
    opened_data = replace(opened_data, preprocess=preprocess)
    images = opened_data.split(opened_data.eval_split)
    sampled = images if num_images is None else _sample_images(images, num_images)
    return VerificationData(
        opened_data, opened_data.eval_split, sampled, choose_num_calibration_images(network.arch.height_width)
    )


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return x if x.shape[-2:] == size else functional.interpolate(x, size, mode="bilinear", antialias=True)


def choose_num_calibration_images(image_size: tuple[int, int]) -> int:
    """Return 1,024 for images of up to 64x64 pixels, down to 256 for 128x128 and more, which have more values each."""
    height, width = image_size
    return max(_MIN_CALIBRATION_IMAGES, min(_MAX_CALIBRATION_IMAGES, _CALIBRATION_PIXELS // (height * width)))


def load_calibration_images(source: str | Path, network: AnyNetwork) -> Tensor:
    """Return calibration images for int8: training images of the run in the folder `source`.

    Raises ValueError if `source` is not a run's folder, its data is not available, or there is no int8 of the network.
    """
    check_int8(network)
    if not (Path(source) / "run.json").is_file():
        step = "name the run's folder, or export it first: reslab export RUN --to onnx --precision int8"
        raise invalid("a run, whose training images calibrate int8", f"{source}, a weights file", next_step=step)
    return load_verification_data(network, Run(source), None, None, None).calibration_images()


def _open_data(run: Run | None, data: Any, data_dir: str | Path | None) -> DatasetSplits:
    if data is not None:
        return open_train_data(data, DataOptions(data_dir=data_dir))
    if run is None:
        step = "name a dataset or a folder: --data NAME|FOLDER (a run has its own)"
        raise invalid("images to verify the export on", "weights without a run", next_step=step)
    return reopen_data(run.metadata["data"], None, data_dir)


def _sample_images(images: ImageDataset, num_images: int) -> ImageDataset:
    """Return a fixed random sample of the images; the first ones may all be of one class."""
    if num_images >= len(images):
        return images
    permutation = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SEED))
    return images.subset(sorted(permutation[:num_images].tolist()))
