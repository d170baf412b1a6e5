"""What a question is put to: a network in eval mode, and labelled pictures as it takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.pictures import Pictures, find_pictures
from reslab.analysis.places import Place, read_place
from reslab.data.dataset import Data
from reslab.data.rng import seeded
from reslab.nn.checkpoints.safetensors_io import load_weights, unwrap
from reslab.nn.factory import resolve_arch
from reslab.nn.network import Network
from reslab.nn.third_party import create_foreign
from reslab.runtime.device import choose_device
from reslab.spec.arch import Arch
from reslab.spec.errors import refuse
from reslab.spec.zoo import ARCHS
from reslab.training.loading import load
from reslab.training.loop import noise_seed
from reslab.training.run import Run


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and pictures: `model` in float32 and eval mode; `images` (N, C, H, W) normalised, `labels` (N,) int64.

    `name` as it was asked for (`resnet56_cifar`, `runs/a`, `runs/a@390`); `run` and `step` where it comes of a run, and
    `data` the set that the pictures are of, None where they are random or were handed over.
    """

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    data: Data | None = None
    classes: tuple[str, ...] = ()
    run: Run | None = None
    step: int | None = None


def open_subjects(
    places: Sequence[str],
    *,
    data: Any = None,
    data_dir: str | Path | None = None,
    num_images: int | None = None,
    seed: int = 0,
    at: str = "weights",
    axes: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> list[Subject]:
    """The subjects that `places` name, each with the same pictures where they share data and size.

    A place is a run's folder, `RUN@STEP` (a snapshot), a `model.safetensors`, or a network of the zoo with fresh
    weights from `seed`, axes behind colons (`resnet20_cifar:order=full-preact:mix=none`; `order=*` is each of the five
    of He et al. 2016, Fig. 4), or `torchvision/NAME` or `timm/NAME`, with fresh weights too. `at` is for runs:
    `weights`, `init`, `all` snapshots, or a step. `axes` are for the zoo.
    Pictures: the run's held-out split, else the bundled digits brought to the network's size and channels; `data` names
    others, `random` draws normal noise. `num_images` is 128 where not told, 16 of pictures above 64x64.
    Raises ValueError for a place, step or axis that is not there (with the nearest), and pictures that do not fit.
    """
    if not places:
        raise refuse("at least one run or network", "none", next_step="`reslab models` and `reslab runs` list them")
    if num_images is not None and num_images < 2:
        raise refuse("at least 2 images (one has no batch statistics)", num_images, nearest="2")
    found = [each for text in places for each in read_place(text, at, axes or {})]
    return [_open(place, data, data_dir, num_images, seed, choose_device(device)) for place in found]


def subject_of(model: nn.Module, images: Tensor, labels: Tensor, name: str = "") -> Subject:
    """Any module with pictures: `images` float (N, C, H, W) as it takes them, `labels` int64 (N,), N at least 1.

    What torch.compile or DistributedDataParallel wrapped is asked itself. It is put into eval mode, and nothing else of
    it changes. Raises ValueError for other shapes and types.
    """
    if images.ndim != 4 or labels.shape != images.shape[:1] or not len(images):
        got = f"{tuple(images.shape)} and {tuple(labels.shape)}"
        raise refuse("images (N, C, H, W) and labels (N,), N at least 1", got)
    if not images.is_floating_point() or labels.dtype != torch.int64:
        got = f"{images.dtype} and {labels.dtype}"
        raise refuse(
            "images in floating point and labels in torch.int64", got, next_step="images.float(), labels.long()"
        )
    model = unwrap(model)
    return Subject(name or type(model).__name__, model.eval(), images, labels)


def _open(place: Place, data: Any, data_dir: Any, num_images: int | None, seed: int, device: torch.device) -> Subject:
    if place.arch_name:
        return _open_fresh(place, data, data_dir, num_images, seed, device)
    if place.library:
        return _open_foreign(place, data, data_dir, num_images, seed, device)
    network = _saved_network(place)
    if data is None and place.run is None:
        raise refuse(f"pictures to show {place.name}", "none", next_step="--data NAME, a folder, or random")
    pictures = find_pictures(network.arch, data, data_dir, num_images, seed, run=place.run, trained=network)
    return _subject(place, network, pictures, device)


def _open_fresh(
    place: Place, data: Any, data_dir: Any, num_images: int | None, seed: int, device: torch.device
) -> Subject:
    """A network of the zoo with fresh weights; of more classes than its own where the data have more."""
    arch = resolve_arch(place.arch_name, place.axes)
    pictures = find_pictures(arch, data, data_dir, num_images, seed)
    if len(pictures.classes) > arch.num_classes:
        arch = resolve_arch(arch, {"num_classes": len(pictures.classes)})
    return _subject(place, fresh_network(arch, seed), pictures, device)


def _open_foreign(
    place: Place, data: Any, data_dir: Any, num_images: int | None, seed: int, device: torch.device
) -> Subject:
    """A network of torchvision or timm with fresh weights, 1000 classes, and pictures of its own size."""
    with seeded(noise_seed(seed, -1)):
        model, (channels, height, width) = create_foreign(place.name)
    taken = replace(ARCHS["resnet50"], in_channels=channels, image_size=(height, width))
    return _subject(place, model, find_pictures(taken, data, data_dir, num_images, seed), device)


def fresh_network(arch: Arch, seed: int) -> Network:
    """The network with the initial weights that a run of this seed begins with."""
    with seeded(noise_seed(seed, -1)):
        return Network(arch)


def _saved_network(place: Place) -> Network:
    if place.file is not None:
        return load_weights(place.file)
    assert place.run is not None
    if place.step is None:
        return load(place.run)
    # No snapshot was kept of the start: the run's own seed draws the same weights.
    assert place.step == 0
    arch, started = place.run.arch, place.run.facts["pretrained"]
    if arch is None or started:
        got = f"{place.run.path}, which began from {started or 'a foreign module'}"
        raise refuse("a run that began from fresh weights, or kept them", got, next_step="train with --snapshots")
    return fresh_network(arch, int(place.run.facts["seed"]))


def _subject(place: Place, network: nn.Module, pictures: Pictures, device: torch.device) -> Subject:
    return Subject(
        place.name,
        network.to(device).float().eval(),
        pictures.images.to(device),
        pictures.labels.to(device),
        pictures.data,
        pictures.classes,
        place.run,
        place.step,
    )


def facts(subject: Subject) -> dict[str, str]:
    """What a page tells of a subject: its network, its pictures."""
    arch = getattr(subject.model, "arch", None)
    told = {"network": f"{arch.name}, order {arch.order}, mix {arch.mix}" if arch else type(subject.model).__name__}
    shape = "x".join(str(side) for side in subject.images.shape[1:])
    of = subject.data.name if subject.data else "random numbers"
    return {**told, "pictures": f"{len(subject.images)} of {of}, {shape}"}
