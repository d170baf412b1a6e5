"""The real pictures that an export has to prove itself on, and those that int8 measures its scales on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.data.dataset import Data
from reslab.data.image_datasets import Images
from reslab.data.loader import eval_batches
from reslab.nn.network import Network
from reslab.spec.errors import refuse
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
    network: Network, run: Run | None, data: Any, data_dir: str | Path | None, num_images: int | None
) -> Evidence:
    """Pictures of the held-out split of `data`, else of the run's own; all of them, or `num_images` drawn evenly.

    Raises ValueError where there is neither, and where classes or channels are not the network's.
    """
    if num_images is not None and num_images < 1:
        raise refuse("at least 1 image to compare on", num_images, nearest="1")
    found = _open(run, data, data_dir)
    if found.num_classes != network.arch.num_classes:
        required = f"data of {network.arch.num_classes} classes, as the network has"
        raise refuse(required, f"{found.name} with {found.num_classes}", next_step="name the data it was trained for")
    preprocess = network.preprocess or found.preprocess
    if preprocess.channels != found.preprocess.channels:
        raise refuse(f"pictures of {preprocess.channels} channels", f"{found.name} of {found.preprocess.channels}")
    found = replace(found, preprocess=preprocess)
    images = found.split(found.held_out)
    judged = images if num_images is None else _drawn(images, num_images)
    return Evidence(found, found.held_out, judged, num_calibration_images(network.arch.image_size))


def num_calibration_images(image_size: tuple[int, int]) -> int:
    """1,024 of up to 64x64 pixels, 256 of 128x128 and more, which have more values each."""
    height, width = image_size
    return max(_LEAST_IMAGES, min(_MOST_IMAGES, _PIXELS // (height * width)))


def run_images(source: str | Path, network: Network) -> Tensor:
    """Pictures that the scales of int8 are measured on: training pictures of the run in this folder.

    Raises ValueError where `source` is no run's folder, and where its data is not there.
    """
    if not (Path(source) / "run.json").is_file():
        step = "name the run's folder, or export it first: reslab export RUN --to onnx --precision int8"
        raise refuse(
            "a run, whose training pictures set the scales of int8", f"{source}, weights alone", next_step=step
        )
    return find_evidence(network, Run(source), None, None, None).calibration_images()


def _open(run: Run | None, data: Any, data_dir: str | Path | None) -> Data:
    if data is not None:
        return find_data(data, data_dir)
    if run is None:
        step = "name a data set or a folder: --data NAME|FOLDER (a run knows its own)"
        raise refuse("real pictures to hold the export against", "weights alone", next_step=step)
    return reopen_data(run.facts["data"], None, data_dir)


def _drawn(images: Images, num_images: int) -> Images:
    """So many of the pictures, the same ones every time; data sets in the order of their classes would give one."""
    if num_images >= len(images):
        return images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SEED))
    return images.subset(sorted(order[:num_images].tolist()))
