"""The real pictures that an export has to prove itself on, and those that int8 measures its scales on.

An exported network held against the one it was made from, on real pictures.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.data.dataset import Data
from reslab.data.image_datasets import Images
from reslab.data.loader import eval_batches
from reslab.deploy.backends.backend import Answer
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import exact_arithmetic
from reslab.spec.errors import invalid
from reslab.training.run import Run
from reslab.training.run_data import find_data, reopen_data

_BATCH = 32
_SEED = 0
_MOST_IMAGES, _LEAST_IMAGES, _PIXELS = 1024, 256, 2**22


@dataclass(frozen=True)
class Evidence:
    """Labelled pictures of the `split` of `data`, prepared as the network takes them, and how many others the scales
    of int8 are measured on."""

    data: Data
    split: str
    images: Images
    num_calibration_images: int

    @property
    def num_images(self) -> int:
        """How many pictures there are to judge on."""
        return len(self.images)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised pictures (n, C, H, W) with their labels (n,), in order."""
        for x, y, _ in eval_batches(self.images, _BATCH, self.data.preprocess, "cpu"):
            yield x, y

    def calibration_images(self) -> Tensor:
        """Pictures of the training split (of the held-out one where there is none), drawn evenly, normalised."""
        split = "train" if "train" in self.data.splits else self.split
        chosen = _drawn(self.data.split(split), self.num_calibration_images)
        return torch.cat([x for x, _, _ in eval_batches(chosen, _BATCH, self.data.preprocess, "cpu")])


def find_evidence(
    network: ResidualNetwork, run: Run | None, data: Any, data_dir: str | Path | None, num_images: int | None
) -> Evidence:
    """Pictures of the held-out split of `data`, else of the run's own; all of them, or `num_images` drawn evenly.

    Raises ValueError where there is neither, and where classes or channels are not the network's.
    """
    if num_images is not None and num_images < 1:
        raise invalid("at least 1 image to compare on", num_images, nearest="1")
    found = _open(run, data, data_dir)
    if found.num_classes != network.arch.num_classes:
        required = f"data of {network.arch.num_classes} classes, as the network has"
        raise invalid(required, f"{found.name} with {found.num_classes}", next_step="name the data it was trained for")
    preprocess = network.preprocess or found.preprocess
    if preprocess.channels != found.preprocess.channels:
        raise invalid(f"pictures of {preprocess.channels} channels", f"{found.name} of {found.preprocess.channels}")
    found = replace(found, preprocess=preprocess)
    images = found.split(found.held_out)
    judged = images if num_images is None else _drawn(images, num_images)
    return Evidence(found, found.held_out, judged, num_calibration_images(network.arch.image_size))


def num_calibration_images(image_size: tuple[int, int]) -> int:
    """1,024 of up to 64x64 pixels, 256 of 128x128 and more, which have more values each."""
    height, width = image_size
    return max(_LEAST_IMAGES, min(_MOST_IMAGES, _PIXELS // (height * width)))


def run_images(source: str | Path, network: ResidualNetwork) -> Tensor:
    """Pictures that the scales of int8 are measured on: training pictures of the run in this folder.

    Raises ValueError where `source` is no run's folder, and where its data is not there.
    """
    if not (Path(source) / "run.json").is_file():
        step = "name the run's folder, or export it first: reslab export RUN --to onnx --precision int8"
        raise invalid(
            "a run, whose training pictures set the scales of int8", f"{source}, weights alone", next_step=step
        )
    return find_evidence(network, Run(source), None, None, None).calibration_images()


def _open(run: Run | None, data: Any, data_dir: str | Path | None) -> Data:
    if data is not None:
        return find_data(data, data_dir)
    if run is None:
        step = "name a data set or a folder: --data NAME|FOLDER (a run knows its own)"
        raise invalid("real pictures to hold the export against", "weights alone", next_step=step)
    return reopen_data(run.facts["data"], None, data_dir)


def _drawn(images: Images, num_images: int) -> Images:
    """So many of the pictures, the same ones every time; data sets in the order of their classes would give one."""
    if num_images >= len(images):
        return images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SEED))
    return images.subset(sorted(order[:num_images].tolist()))


LARGEST_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """What `num_images` pictures showed.

    `largest_difference` is the largest over the pictures of max |exported - original| / max |original|, the maxima over
    the classes. `agreement` is the fraction of pictures with the same largest output; `top1` and `exported_top1` are
    the accuracies, fractions.
    """

    num_images: int
    largest_difference: float
    num_agreeing: int
    num_correct: int
    exported_num_correct: int

    @property
    def agreement(self) -> float:
        """The fraction of pictures on which both name the same class."""
        return self.num_agreeing / self.num_images

    @property
    def top1(self) -> float:
        """The accuracy of the network itself."""
        return self.num_correct / self.num_images

    @property
    def exported_top1(self) -> float:
        """The accuracy of what was exported."""
        return self.exported_num_correct / self.num_images

    @property
    def drop_points(self) -> float:
        """Accuracy lost, in points (hundredths); negative where it was gained."""
        return 100 * (self.num_correct - self.exported_num_correct) / self.num_images


def compare(original: Answer, exported: Answer, batches: Iterable[tuple[Tensor, Tensor]]) -> Comparison:
    """Both asked for every batch (x, y). Raises ValueError where there is none, and where the shapes differ."""
    counts = torch.zeros(4, dtype=torch.int64)
    largest = 0.0
    for x, y in batches:
        with torch.no_grad(), exact_arithmetic():
            expected = original(x).double().cpu()
        found = exported(x).double().cpu()
        if found.shape != expected.shape:
            raise invalid(f"outputs of shape {tuple(expected.shape)}", tuple(found.shape))
        scale = expected.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
        apart = (found - expected).abs().amax(1) / scale
        # Not a number is as far away as can be, and would be lost in a maximum.
        largest = max(largest, float(apart.nan_to_num(float("inf")).max()))
        ours, theirs = expected.argmax(1), found.argmax(1)
        hits = [ours == theirs, ours == y, theirs == y, torch.ones_like(y, dtype=torch.bool)]
        counts += torch.tensor([int(hit.sum()) for hit in hits])
    if not counts[3]:
        raise invalid("at least one picture to compare on", "none")
    agreeing, correct, exported_correct, total = counts.tolist()
    return Comparison(total, largest, agreeing, correct, exported_correct)


def faults(found: Comparison, precision: str, max_drop: float) -> list[str]:
    """Why the export does not count, in words; empty where it does.

    float32: a difference of at most LARGEST_DIFFERENCE, and the same class on every picture. Less precise ones: at most
    `max_drop` points of accuracy lost.
    """
    if precision != "float32":
        lost = f"{found.drop_points:.2f} points of accuracy lost, where {max_drop:g} are allowed"
        return [lost] if found.drop_points > max_drop else []
    told = []
    if not found.largest_difference <= LARGEST_DIFFERENCE:
        told.append(f"outputs {found.largest_difference:.2g} apart, where {LARGEST_DIFFERENCE:g} is allowed")
    if found.num_agreeing < found.num_images:
        told.append(f"another class on {found.num_images - found.num_agreeing} of {found.num_images} pictures")
    return told
