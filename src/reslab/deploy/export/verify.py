"""Verification of an export against its network on real images, and the images that calibrate int8."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import ImageDataset
from reslab.data.loader import eval_loader
from reslab.deploy.backends.backend import ForwardFn
from reslab.runtime.device import deterministic_mode
from reslab.spec.errors import invalid
from reslab.training.model_source import Network
from reslab.training.run import Run
from reslab.training.run_data import open_train_data, reopen_data

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
        """Yield normalized images (n, C, H, W) with their labels (n,), in order."""
        for x, y, _ in eval_loader(self.images, _BATCH_SIZE, self.data.preprocess, "cpu"):
            yield x, y

    def calibration_images(self) -> Tensor:
        """Return a random sample of normalized training images (of the evaluation split if there is no training)."""
        split = "train" if "train" in self.data.splits else self.split
        sampled = _sample_images(self.data.split(split), self.num_calibration_images)
        return torch.cat([x for x, _, _ in eval_loader(sampled, _BATCH_SIZE, self.data.preprocess, "cpu")])


def load_verification_data(
    network: Network, run: Run | None, data: Any, data_dir: str | Path | None, num_images: int | None
) -> VerificationData:
    """Return the evaluation images of `data`, by default the run's own; all of them or a sample of `num_images`.

    Raises ValueError without data and run, and if classes or channels differ from the network's.
    """
    if num_images is not None and num_images < 1:
        raise invalid("at least 1 image to compare on", num_images, nearest="1")
    opened_data = _open_data(run, data, data_dir)
    if opened_data.num_classes != network.arch.num_classes:
        required = f"data of {network.arch.num_classes} classes, as the network has"
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


def choose_num_calibration_images(image_size: tuple[int, int]) -> int:
    """Return 1,024 for images of up to 64x64 pixels, down to 256 for 128x128 and more, which have more values each."""
    height, width = image_size
    return max(_MIN_CALIBRATION_IMAGES, min(_MAX_CALIBRATION_IMAGES, _CALIBRATION_PIXELS // (height * width)))


def load_calibration_images(source: str | Path, network: Network) -> Tensor:
    """Return calibration images for int8: training images of the run in the folder `source`.

    Raises ValueError if `source` is not a run's folder, or its data is not available.
    """
    if not (Path(source) / "run.json").is_file():
        step = "name the run's folder, or export it first: reslab export RUN --to onnx --precision int8"
        raise invalid("a run, whose training images calibrate int8", f"{source}, a weights file", next_step=step)
    return load_verification_data(network, Run(source), None, None, None).calibration_images()


def _open_data(run: Run | None, data: Any, data_dir: str | Path | None) -> DatasetSplits:
    if data is not None:
        return open_train_data(data, data_dir)
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


MAX_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class ExportComparison:
    """The comparison of network and export on `num_images` images.

    `max_difference` is the maximum over the images of max |exported - original| / max |original|, with the inner maxima
    over the classes. `agreement` is the fraction of images with the same predicted class; `top1` and `exported_top1`
    are the accuracies, as fractions.
    """

    num_images: int
    max_difference: float
    num_agreeing: int
    num_correct: int
    exported_num_correct: int

    @property
    def agreement(self) -> float:
        """The fraction of images on which both predict the same class."""
        return self.num_agreeing / self.num_images

    @property
    def top1(self) -> float:
        """The accuracy of the network."""
        return self.num_correct / self.num_images

    @property
    def exported_top1(self) -> float:
        """The accuracy of the export."""
        return self.exported_num_correct / self.num_images

    @property
    def accuracy_drop_points(self) -> float:
        """The drop in accuracy, in percentage points; negative for a gain."""
        return 100 * (self.num_correct - self.exported_num_correct) / self.num_images


def compare_outputs(
    original: ForwardFn, exported: ForwardFn, batches: Iterable[tuple[Tensor, Tensor]]
) -> ExportComparison:
    """Compare both on every batch (x, y). Raises ValueError without a batch, and if the output shapes differ."""
    counts = torch.zeros(4, dtype=torch.int64)
    max_difference = 0.0
    for x, y in batches:
        with torch.no_grad(), deterministic_mode():
            expected = original(x).double().cpu()
        actual = exported(x).double().cpu()
        if actual.shape != expected.shape:
            raise invalid(f"outputs of shape {tuple(expected.shape)}", tuple(actual.shape))
        scale = expected.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
        difference = (actual - expected).abs().amax(1) / scale
        # NaN counts as infinitely far; max() would otherwise drop it.
        max_difference = max(max_difference, float(difference.nan_to_num(float("inf")).max()))
        original_classes, exported_classes = expected.argmax(1), actual.argmax(1)
        matches = [
            original_classes == exported_classes,
            original_classes == y,
            exported_classes == y,
            torch.ones_like(y, dtype=torch.bool),
        ]
        counts += torch.tensor([int(matched.sum()) for matched in matches])
    if not counts[3]:
        raise invalid("at least one image to compare on", "none")
    agreeing, correct, exported_correct, total = counts.tolist()
    return ExportComparison(total, max_difference, agreeing, correct, exported_correct)


def failed_checks(comparison: ExportComparison, precision: str, max_drop: float) -> list[str]:
    """Return messages about the failed checks of an export; empty if it passes.

    float32 requires a difference of at most MAX_DIFFERENCE and the same class on every image; other precisions a drop
    of at most `max_drop` points of accuracy.
    """
    if precision != "float32":
        message = f"{comparison.accuracy_drop_points:.2f} points of accuracy lost, at most {max_drop:g} allowed"
        return [message] if comparison.accuracy_drop_points > max_drop else []
    failures = []
    if not comparison.max_difference <= MAX_DIFFERENCE:
        failures.append(f"outputs differ by {comparison.max_difference:.2g}, at most {MAX_DIFFERENCE:g} allowed")
    if comparison.num_agreeing < comparison.num_images:
        failures.append(
            f"different classes on {comparison.num_images - comparison.num_agreeing} of {comparison.num_images} images"
        )
    return failures
