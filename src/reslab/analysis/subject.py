"""What a question is put to: a network in eval mode, and labelled pictures as it takes them.

Where a network to ask is: a run, a step of it, weights in a file, a name of the zoo with axes.

The pictures a question is put with: of a data set, brought to what the network takes, or random numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.data.dataset import Data
from reslab.data.image_datasets import Images
from reslab.data.loader import eval_batches
from reslab.data.rng import seeded
from reslab.nn.checkpoints.safetensors_io import load_weights, unwrap
from reslab.nn.factory import resolve_arch
from reslab.nn.network import Network
from reslab.nn.third_party import LIBRARIES, create_foreign
from reslab.runtime.device import choose_device
from reslab.spec.arch import Arch
from reslab.spec.errors import nearest, refuse, unknown
from reslab.spec.zoo import ARCHS
from reslab.training.loop import noise_seed
from reslab.training.run import Run, list_runs, load
from reslab.training.run_data import find_data, reopen_data

# He et al. 2016, Fig. 4 (a) to (e).
FIVE_ORDERS = ("original", "bn-after-add", "relu-before-add", "relu-preact", "full-preact")


@dataclass(frozen=True)
class Place:
    """One network: a name of the zoo with `axes`, or a `file` of weights, or a `run` (`step` 0 without a file is its
    beginning), or a `library` that has a network of the name behind its slash."""

    name: str
    arch_name: str = ""
    axes: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None
    run: Run | None = None
    step: int | None = None
    library: str = ""


def read_place(text: str, at: str = "weights", axes: Mapping[str, Any] | None = None) -> list[Place]:
    """The networks that `text` names: one, or several for `order=*` and `at="all"`.

    Raises ValueError for a name that is neither a run, a file nor a network, and a step that was not kept.
    """
    name, *given = text.split(":")
    if name in ARCHS and not Path(name).exists():
        _check_fresh(text, at)
        return _of_zoo(text, name, given, axes or {})
    library, slash, _ = text.partition("/")
    if slash and library in LIBRARIES and not Path(text).exists():
        _check_fresh(text, at)
        _check_no_axes(text, axes)
        return [Place(text, library=library)]
    path, at_sign, step = text.rpartition("@")
    place = Path(path) if at_sign and not Path(text).exists() else Path(text)
    if not place.exists():
        known = [*ARCHS, *(str(run.path) for run in list_runs())]
        raise unknown("run, file of weights or network", name, known, "`reslab models` and `reslab runs` list them")
    _check_no_axes(text, axes)
    if place.is_dir():
        run = Run(place)
        return _of_run(run, str(place), step if place != Path(text) else at)
    run_of_file = Run(place.parent) if (place.parent / "run.json").is_file() else None
    return [Place(text, file=place, run=run_of_file)]


def _check_fresh(text: str, at: str) -> None:
    if at not in ("weights", "init"):
        raise refuse("--at only with runs", f"--at {at} and {text}, a network before training", "--at init")


def _check_no_axes(text: str, axes: Mapping[str, Any] | None) -> None:
    if axes:
        raise refuse("model.KEY only for networks of the zoo", f"{', '.join(axes)} and {text}")


def _of_zoo(text: str, name: str, given: list[str], axes: Mapping[str, Any]) -> list[Place]:
    found = dict(axes)
    for setting in given:
        key, equals, value = setting.partition("=")
        if not equals:
            raise refuse("NAME:AXIS=VALUE", text, f"{name}:mix=none")
        found[key] = value
    if found.get("order") != "*":
        return [Place(text, name, found)]
    return [Place(text.replace("order=*", f"order={order}"), name, {**found, "order": order}) for order in FIVE_ORDERS]


def _of_run(run: Run, name: str, at: str) -> list[Place]:
    """A run at its kept weights, its beginning, all its snapshots, or one of them."""
    if at == "weights":
        return [Place(name, run=run)]
    kept = dict(run.snapshots())
    if at == "all":
        if not kept:
            raise refuse("a run with snapshots", str(run.path), next_step="train with --snapshots '1 epoch'")
        return [Place(f"{name}@{step}", file=file, run=run, step=step) for step, file in kept.items()]
    step = _step_number(at, run)
    if step and step not in kept:
        near = min(kept, key=lambda other: abs(other - step), default=None)
        known = "no snapshot; train with --snapshots '1 epoch'" if near is None else f"{len(kept)} snapshots"
        raise refuse(f"a step of {run.path} that was kept", f"{step} ({known})", "" if near is None else f"@{near}")
    return [Place(f"{name}@{step}", file=kept.get(step), run=run, step=step)]


def _step_number(at: str, run: Run) -> int:
    if at == "init":
        return 0
    if at.isdigit():
        return int(at)
    near = (nearest(at, ("weights", "init", "all")) or ["init"])[0]
    raise refuse("weights, init, all or a step", repr(at), near, f"`reslab inspect QUESTION {run.path} --at {near}`")


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
