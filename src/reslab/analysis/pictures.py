"""The pictures a question is put with: of a data set, brought to what the network takes, or random numbers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reslab.data.dataset import Data
from reslab.data.image_datasets import Images
from reslab.data.loader import eval_batches
from reslab.nn.network import Network
from reslab.spec.arch import Arch
from reslab.spec.errors import refuse
from reslab.training.run import Run
from reslab.training.run_data import find_data, reopen_data

RANDOM = "random"
_FEW, _MANY, _SMALL_SIDE = 16, 128, 64


@dataclass(frozen=True, eq=False)
class Pictures:
    """Normalised `images` (N, C, H, W), `labels` (N,), names of `classes`; `data` is None of random ones."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    data: Data | None = None


def find_pictures(
    arch: Arch,
    data: Any,
    data_dir: str | Path | None,
    num_images: int | None,
    seed: int,
    run: Run | None = None,
    trained: Network | None = None,
) -> Pictures:
    """Pictures of the held-out split, drawn by `seed`: of `data`, else of the run's own, else of the digits.

    A fresh network gets them in its own size and channels; a trained one in its channels, as its evaluation has them.
    Raises ValueError where classes are more than a trained network has, or channels cannot be brought to its own.
    """
    if data == RANDOM:
        return random_pictures(arch, num_images or default_number(arch.image_size), seed)
    known = data is None and run is not None
    found = reopen_data(run.facts["data"], None, data_dir) if known and run else find_data(data, data_dir)
    if trained is not None:
        found = _as_trained(found, trained)
    images, labels = _draw(found.split(found.held_out), found, num_images, arch, seed)
    images = _to_channels(images, arch.in_channels)
    if trained is None and tuple(images.shape[-2:]) != tuple(arch.image_size):
        images = functional.interpolate(images, arch.image_size, mode="bilinear", antialias=True)
    return Pictures(images, labels, found.classes, found)


def random_pictures(arch: Arch, num_images: int, seed: int) -> Pictures:
    """Standard normal numbers of the network's input size, with labels drawn evenly."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((num_images, *arch.input_size), generator=generator)
    labels = torch.randint(arch.num_classes, (num_images,), generator=generator)
    return Pictures(images, labels, tuple(str(index) for index in range(arch.num_classes)))


def default_number(sizes: tuple[int, ...]) -> int:
    """How many pictures are taken where it is not told: fewer of large ones."""
    return _MANY if max(sizes) <= _SMALL_SIDE else _FEW


def _as_trained(data: Data, network: Network) -> Data:
    """The data with the preprocessing that the network was trained with, where its pictures can be had so."""
    if data.num_classes > network.arch.num_classes:
        required = f"data of at most {network.arch.num_classes} classes, as the network has"
        raise refuse(required, f"{data.name} with {data.num_classes}")
    own = network.preprocess
    return replace(data, preprocess=own) if own and own.channels == data.preprocess.channels else data


def _draw(images: Images, data: Data, num_images: int | None, arch: Arch, seed: int) -> tuple[Tensor, Tensor]:
    """`num_images` of the split by chance, in the split's order; data sets in class order would give one class."""
    wanted = num_images or default_number(arch.image_size)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    chosen = images.subset(sorted(order[:wanted].tolist()))
    x, y, _ = next(iter(eval_batches(chosen, len(chosen), data.preprocess, "cpu")))
    return x, y


def _to_channels(images: Tensor, channels: int) -> Tensor:
    """Grey pictures repeated, coloured ones averaged to grey."""
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1).contiguous()
    if channels == 1:
        return images.mean(dim=1, keepdim=True)
    raise refuse(f"pictures of {channels} channels, or grey ones", f"{images.shape[1]} channels")
