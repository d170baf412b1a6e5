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

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import ImageDataset
from reslab.data.loader import eval_loader
from reslab.data.rng import step_seed, temporary_seed
from reslab.nn.checkpoints.safetensors_io import unwrap_model
from reslab.nn.factory import load_network, resolve_arch
from reslab.nn.network import ResidualNetwork
from reslab.nn.third_party import LIBRARIES, create_third_party_model
from reslab.runtime.device import choose_device
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid, nearest, unknown_name
from reslab.spec.zoo import ARCHS
from reslab.training.run import Run, list_runs, load
from reslab.training.run_data import open_train_data, reopen_data

# He et al. 2016, Fig. 4 (a) to (e).
HE2016_ORDERS = ("original", "bn-after-add", "relu-before-add", "relu-preact", "full-preact")


@dataclass(frozen=True)
class TargetSpec:
    """One network: a name of the zoo with `axes`, or a `file` of weights, or a `run` (`step` 0 without a file is its
    beginning), or a `library` that has a network of the name behind its slash."""

    name: str
    arch_name: str = ""
    arch_overrides: Mapping[str, Any] = field(default_factory=dict)
    weights_file: Path | None = None
    run: Run | None = None
    step: int | None = None
    library: str = ""


def parse_target(
    text: str, weights: str = "weights", arch_overrides: Mapping[str, Any] | None = None
) -> list[TargetSpec]:
    """The networks that `text` names: one, or several for `order=*` and `at="all"`.

    Raises ValueError for a name that is neither a run, a file nor a network, and a step that was not kept.
    """
    name, *axis_settings = text.split(":")
    if name in ARCHS and not Path(name).exists():
        _check_untrained(text, weights)
        return _zoo_targets(text, name, axis_settings, arch_overrides or {})
    library, slash, _ = text.partition("/")
    if slash and library in LIBRARIES and not Path(text).exists():
        _check_untrained(text, weights)
        _check_no_overrides(text, arch_overrides)
        return [TargetSpec(text, library=library)]
    base, separator, step = text.rpartition("@")
    path = Path(base) if separator and not Path(text).exists() else Path(text)
    if not path.exists():
        candidates = [*ARCHS, *(str(run.path) for run in list_runs())]
        raise unknown_name(
            "run, file of weights or network", name, candidates, "`reslab models` and `reslab runs` list them"
        )
    _check_no_overrides(text, arch_overrides)
    if path.is_dir():
        run = Run(path)
        return _run_targets(run, str(path), step if path != Path(text) else weights)
    parent_run = Run(path.parent) if (path.parent / "run.json").is_file() else None
    return [TargetSpec(text, weights_file=path, run=parent_run)]


def _check_untrained(text: str, weights: str) -> None:
    if weights not in ("weights", "init"):
        raise invalid("--at only with runs", f"--at {weights} and {text}, a network before training", "--at init")


def _check_no_overrides(text: str, arch_overrides: Mapping[str, Any] | None) -> None:
    if arch_overrides:
        raise invalid("model.KEY only for networks of the zoo", f"{', '.join(arch_overrides)} and {text}")


def _zoo_targets(text: str, name: str, axis_settings: list[str], arch_overrides: Mapping[str, Any]) -> list[TargetSpec]:
    overrides = dict(arch_overrides)
    for setting in axis_settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise invalid("NAME:AXIS=VALUE", text, f"{name}:merge=none")
        overrides[key] = value
    if overrides.get("order") != "*":
        return [TargetSpec(text, name, overrides)]
    return [
        TargetSpec(text.replace("order=*", f"order={order}"), name, {**overrides, "order": order})
        for order in HE2016_ORDERS
    ]


def _run_targets(run: Run, name: str, weights: str) -> list[TargetSpec]:
    """A run at its kept weights, its beginning, all its snapshots, or one of them."""
    if weights == "weights":
        return [TargetSpec(name, run=run)]
    snapshots = dict(run.snapshots())
    if weights == "all":
        if not snapshots:
            raise invalid("a run with snapshots", str(run.path), next_step="train with --snapshots '1 epoch'")
        return [TargetSpec(f"{name}@{step}", weights_file=file, run=run, step=step) for step, file in snapshots.items()]
    step = _parse_step(weights, run)
    if step and step not in snapshots:
        nearest_step = min(snapshots, key=lambda other: abs(other - step), default=None)
        available = (
            "no snapshot; train with --snapshots '1 epoch'" if nearest_step is None else f"{len(snapshots)} snapshots"
        )
        raise invalid(
            f"a step of {run.path} that was kept",
            f"{step} ({available})",
            "" if nearest_step is None else f"@{nearest_step}",
        )
    return [TargetSpec(f"{name}@{step}", weights_file=snapshots.get(step), run=run, step=step)]


def _parse_step(weights: str, run: Run) -> int:
    if weights == "init":
        return 0
    if weights.isdigit():
        return int(weights)
    suggestion = (nearest(weights, ("weights", "init", "all")) or ["init"])[0]
    raise invalid(
        "weights, init, all or a step",
        repr(weights),
        suggestion,
        f"`reslab inspect QUESTION {run.path} --at {suggestion}`",
    )


RANDOM = "random"
_DEFAULT_NUM_LARGE_IMAGES, _DEFAULT_NUM_IMAGES, _MAX_SMALL_IMAGE_SIZE = 16, 128, 64


@dataclass(frozen=True, eq=False)
class AnalysisInputs:
    """Normalised `images` (N, C, H, W), `labels` (N,), names of `classes`; `data` is None of random ones."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    data: DatasetSplits | None = None


def load_inputs(
    arch: Arch,
    data: Any,
    data_dir: str | Path | None,
    num_images: int | None,
    seed: int,
    run: Run | None = None,
    trained_model: ResidualNetwork | None = None,
) -> AnalysisInputs:
    """Pictures of the held-out split, drawn by `seed`: of `data`, else of the run's own, else of the digits.

    A fresh network gets them in its own size and channels; a trained one in its channels, as its evaluation has them.
    Raises ValueError where classes are more than a trained network has, or channels cannot be brought to its own.
    """
    if data == RANDOM:
        return random_inputs(arch, num_images or default_num_images(arch.image_size), seed)
    use_run_data = data is None and run is not None
    dataset = (
        reopen_data(run.metadata["data"], None, data_dir) if use_run_data and run else open_train_data(data, data_dir)
    )
    if trained_model is not None:
        dataset = _with_trained_preprocess(dataset, trained_model)
    images, labels = _draw_images(dataset.split(dataset.eval_split), dataset, num_images, arch, seed)
    images = _convert_channels(images, arch.in_channels)
    if trained_model is None and tuple(images.shape[-2:]) != tuple(arch.image_size):
        images = functional.interpolate(images, arch.image_size, mode="bilinear", antialias=True)
    return AnalysisInputs(images, labels, dataset.classes, dataset)


def random_inputs(arch: Arch, num_images: int, seed: int) -> AnalysisInputs:
    """Standard normal numbers of the network's input size, with labels drawn evenly."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((num_images, *arch.input_size), generator=generator)
    labels = torch.randint(arch.num_classes, (num_images,), generator=generator)
    return AnalysisInputs(images, labels, tuple(str(index) for index in range(arch.num_classes)))


def default_num_images(sizes: tuple[int, ...]) -> int:
    """How many pictures are taken where it is not told: fewer of large ones."""
    return _DEFAULT_NUM_IMAGES if max(sizes) <= _MAX_SMALL_IMAGE_SIZE else _DEFAULT_NUM_LARGE_IMAGES


def _with_trained_preprocess(data: DatasetSplits, network: ResidualNetwork) -> DatasetSplits:
    """The data with the preprocessing that the network was trained with, where its pictures can be had so."""
    if data.num_classes > network.arch.num_classes:
        required = f"data of at most {network.arch.num_classes} classes, as the network has"
        raise invalid(required, f"{data.name} with {data.num_classes}")
    preprocess = network.preprocess
    return (
        replace(data, preprocess=preprocess) if preprocess and preprocess.channels == data.preprocess.channels else data
    )


def _draw_images(
    dataset: ImageDataset, data: DatasetSplits, num_images: int | None, arch: Arch, seed: int
) -> tuple[Tensor, Tensor]:
    """`num_images` of the split by chance, in the split's order; data sets in class order would give one class."""
    count = num_images or default_num_images(arch.image_size)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    subset = dataset.subset(sorted(order[:count].tolist()))
    x, y, _ = next(iter(eval_loader(subset, len(subset), data.preprocess, "cpu")))
    return x, y


def _convert_channels(images: Tensor, channels: int) -> Tensor:
    """Grey pictures repeated, coloured ones averaged to grey."""
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1).contiguous()
    if channels == 1:
        return images.mean(dim=1, keepdim=True)
    raise invalid(f"pictures of {channels} channels, or grey ones", f"{images.shape[1]} channels")


@dataclass(frozen=True, eq=False)
class AnalysisTarget:
    """A network and pictures: `model` in float32 and eval mode; `images` (N, C, H, W) normalised, `labels` (N,) int64.

    `name` as it was asked for (`resnet56_cifar`, `runs/a`, `runs/a@390`); `run` and `step` where it comes of a run, and
    `data` the set that the pictures are of, None where they are random or were handed over.
    """

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    data: DatasetSplits | None = None
    classes: tuple[str, ...] = ()
    run: Run | None = None
    step: int | None = None


def open_targets(
    names: Sequence[str],
    *,
    data: Any = None,
    data_dir: str | Path | None = None,
    num_images: int | None = None,
    seed: int = 0,
    weights: str = "weights",
    arch_overrides: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> list[AnalysisTarget]:
    """The subjects that `places` name, each with the same pictures where they share data and size.

    A place is a run's folder, `RUN@STEP` (a snapshot), a `model.safetensors`, or a network of the zoo with fresh
    weights from `seed`, axes behind colons (`resnet20_cifar:order=full-preact:merge=none`; `order=*` is each of the five
    of He et al. 2016, Fig. 4), or `torchvision/NAME` or `timm/NAME`, with fresh weights too. `at` is for runs:
    `weights`, `init`, `all` snapshots, or a step. `axes` are for the zoo.
    Pictures: the run's held-out split, else the bundled digits brought to the network's size and channels; `data` names
    others, `random` draws normal noise. `num_images` is 128 where not told, 16 of pictures above 64x64.
    Raises ValueError for a place, step or axis that is not there (with the nearest), and pictures that do not fit.
    """
    if not names:
        raise invalid("at least one run or network", "none", next_step="`reslab models` and `reslab runs` list them")
    if num_images is not None and num_images < 2:
        raise invalid("at least 2 images (one has no batch statistics)", num_images, nearest="2")
    specs = [spec for name in names for spec in parse_target(name, weights, arch_overrides or {})]
    return [_open_target(spec, data, data_dir, num_images, seed, choose_device(device)) for spec in specs]


def target_from_module(model: nn.Module, images: Tensor, labels: Tensor, name: str = "") -> AnalysisTarget:
    """Any module with pictures: `images` float (N, C, H, W) as it takes them, `labels` int64 (N,), N at least 1.

    What torch.compile or DistributedDataParallel wrapped is asked itself. It is put into eval mode, and nothing else of
    it changes. Raises ValueError for other shapes and types.
    """
    if images.ndim != 4 or labels.shape != images.shape[:1] or not len(images):
        got = f"{tuple(images.shape)} and {tuple(labels.shape)}"
        raise invalid("images (N, C, H, W) and labels (N,), N at least 1", got)
    if not images.is_floating_point() or labels.dtype != torch.int64:
        got = f"{images.dtype} and {labels.dtype}"
        raise invalid(
            "images in floating point and labels in torch.int64", got, next_step="images.float(), labels.long()"
        )
    model = unwrap_model(model)
    return AnalysisTarget(name or type(model).__name__, model.eval(), images, labels)


def _open_target(
    spec: TargetSpec, data: Any, data_dir: Any, num_images: int | None, seed: int, device: torch.device
) -> AnalysisTarget:
    if spec.arch_name:
        return _open_zoo_target(spec, data, data_dir, num_images, seed, device)
    if spec.library:
        return _open_third_party_target(spec, data, data_dir, num_images, seed, device)
    network = _load_network(spec)
    if data is None and spec.run is None:
        raise invalid(f"pictures to show {spec.name}", "none", next_step="--data NAME, a folder, or random")
    inputs = load_inputs(network.arch, data, data_dir, num_images, seed, run=spec.run, trained_model=network)
    return _make_target(spec, network, inputs, device)


def _open_zoo_target(
    spec: TargetSpec, data: Any, data_dir: Any, num_images: int | None, seed: int, device: torch.device
) -> AnalysisTarget:
    """A network of the zoo with fresh weights; of more classes than its own where the data have more."""
    arch = resolve_arch(spec.arch_name, spec.arch_overrides)
    inputs = load_inputs(arch, data, data_dir, num_images, seed)
    if len(inputs.classes) > arch.num_classes:
        arch = resolve_arch(arch, {"num_classes": len(inputs.classes)})
    return _make_target(spec, init_network(arch, seed), inputs, device)


def _open_third_party_target(
    spec: TargetSpec, data: Any, data_dir: Any, num_images: int | None, seed: int, device: torch.device
) -> AnalysisTarget:
    """A network of torchvision or timm with fresh weights, 1000 classes, and pictures of its own size."""
    with temporary_seed(step_seed(seed, -1)):
        model, (channels, height, width) = create_third_party_model(spec.name)
    input_arch = replace(ARCHS["resnet50"], in_channels=channels, image_size=(height, width))
    return _make_target(spec, model, load_inputs(input_arch, data, data_dir, num_images, seed), device)


def init_network(arch: Arch, seed: int) -> ResidualNetwork:
    """The network with the initial weights that a run of this seed begins with."""
    with temporary_seed(step_seed(seed, -1)):
        return ResidualNetwork(arch)


def _load_network(spec: TargetSpec) -> ResidualNetwork:
    if spec.weights_file is not None:
        return load_network(spec.weights_file)
    assert spec.run is not None
    if spec.step is None:
        return load(spec.run)
    # No snapshot was kept of the start: the run's own seed draws the same weights.
    assert spec.step == 0
    arch, pretrained = spec.run.arch, spec.run.metadata["pretrained"]
    if arch is None or pretrained:
        got = f"{spec.run.path}, which began from {pretrained or 'a foreign module'}"
        raise invalid("a run that began from fresh weights, or kept them", got, next_step="train with --snapshots")
    return init_network(arch, int(spec.run.metadata["seed"]))


def _make_target(spec: TargetSpec, network: nn.Module, inputs: AnalysisInputs, device: torch.device) -> AnalysisTarget:
    return AnalysisTarget(
        spec.name,
        network.to(device).float().eval(),
        inputs.images.to(device),
        inputs.labels.to(device),
        inputs.data,
        inputs.classes,
        spec.run,
        spec.step,
    )


def describe_target(target: AnalysisTarget) -> dict[str, str]:
    """What a page tells of a subject: its network, its pictures."""
    arch = getattr(target.model, "arch", None)
    description = {"model": f"{arch.name}, order {arch.order}, mix {arch.mix}" if arch else type(target.model).__name__}
    shape = "x".join(str(side) for side in target.images.shape[1:])
    data_name = target.data.name if target.data else "random numbers"
    return {**description, "images": f"{len(target.images)} of {data_name}, {shape}"}
