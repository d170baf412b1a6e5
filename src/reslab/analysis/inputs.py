"""The images that a network is analyzed on, with their targets: of a dataset or random, all of one size."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.target import Labels, join_labels
from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import ImageDataset
from reslab.data.loader import eval_loader, eval_sizes
from reslab.data.target_datasets import TargetImageDataset
from reslab.nn.dense_factory import build_dense_network
from reslab.nn.init import init_empty_weights
from reslab.nn.metadata import ModelMetadata
from reslab.nn.module_network import ModuleArch
from reslab.spec.arch import Arch
from reslab.spec.dense import DenseArch
from reslab.spec.errors import invalid
from reslab.spec.task import DEFAULT_TASK, TargetKind
from reslab.spec.zoo.dense import arch_kind
from reslab.training.run import Run
from reslab.training.run_data import DataOptions, open_data_for_run, reopen_data
from reslab.training.tasks.registry import find_task_type, restore_task
from reslab.training.tasks.task_type import TaskType

# As `data`: noise in place of the images of a dataset.
RANDOM_IMAGES = "random"
_DEFAULT_NUM_LARGE_IMAGES, _DEFAULT_NUM_IMAGES, _MAX_SMALL_IMAGE_SIZE = 16, 128, 64

AnyArch = Arch | ModuleArch | DenseArch


@dataclass(frozen=True)
class ImageOptions:
    """The images to analyze a model on: `num_images` of `data`, drawn with `seed`.

    `data` is a name, a folder or a dataset; `random` draws noise, and None takes the run's own data, else the digits.
    """

    data: Any = None
    data_dir: str | Path | None = None
    num_images: int | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class AnalysisInputs:
    """Normalized `images` (N, C, H, W), their `labels` and the `task`; `data` is None for random images.

    A network for detection normalizes images itself: they are from 0 to 1.
    """

    images: Tensor
    labels: Labels
    task: TaskType
    data: DatasetSplits | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, or of the values."""
        return self.task.classes


def load_inputs(
    arch: AnyArch,
    options: ImageOptions,
    run: Run | None = None,
    trained_model: nn.Module | None = None,
) -> AnalysisInputs:
    """Load the images of `options`: random images of the held-out split of its data, else of `run`, else of the digits.

    For a fresh network they have its size and channels; for a `trained_model`, its channels and the size it is
    evaluated at. Images with masks or boxes of several sizes get the most frequent one, their targets with them.
    Raises ValueError if there are more classes than a trained network has, if the channels cannot be converted, or if
    the data are of a task for other networks.
    """
    fields = _task_fields(run, trained_model)
    if isinstance(options.data, str) and options.data == RANDOM_IMAGES:
        return random_inputs(arch, options.num_images or default_num_images(arch.image_size), options.seed, fields)
    task_name = fields["name"] if fields else None
    if options.data is None and run is not None:
        dataset = reopen_data(run.metadata["data"], None, options.data_dir)
    else:
        _check_has_data(arch, options, task_name)
        data_options = DataOptions(data_dir=options.data_dir, task=task_name or _task_of_arch(arch))
        dataset = open_data_for_run(run, options.data, data_options)
    task = restore_task(fields, dataset.classes) if fields else find_task_type(dataset.task).for_data(dataset)
    _check_kind(arch, task)
    if trained_model is not None:
        dataset = _with_trained_preprocess(dataset, trained_model)
    num_images = options.num_images or default_num_images(arch.image_size)
    if not task.spec.labels_whole_image:
        dataset = task.prepare_data(dataset, trained_model or _build_empty(arch))
        return _draw_targets(dataset, task, arch.in_channels, num_images=num_images, seed=options.seed)
    images, labels = _draw_images(dataset.split(dataset.eval_split), dataset, num_images, options.seed)
    images = _convert_channels(images, arch.in_channels)
    if trained_model is None and tuple(images.shape[-2:]) != tuple(arch.image_size):
        images = functional.interpolate(images, arch.image_size, mode="bilinear", antialias=True)
    return AnalysisInputs(images, labels, task, dataset)


def _task_fields(run: Run | None, network: nn.Module | None) -> dict[str, Any] | None:
    """Return the task that a run or a trained network records; classification if it records none; None for neither."""
    if run is None and network is None:
        return None
    fields = getattr(network, "task", None) or (run.metadata.get("task") if run else None)
    if fields:
        return dict(fields)
    arch = getattr(network, "arch", None)
    return {"name": _task_of_arch(arch) or DEFAULT_TASK}


def _task_of_arch(arch: Any) -> str | None:
    """Return the task of a network for segmentation or detection; None for one of several tasks."""
    return str(arch.kind) if isinstance(arch, DenseArch) else None


def _check_has_data(arch: AnyArch, options: ImageOptions, task: str | None) -> None:
    name = task or _task_of_arch(arch)
    if options.data is None and name not in (None, DEFAULT_TASK):
        raise invalid(f"images for {name}", "none", next_step="--data NAME, a folder, or random")


def _check_kind(arch: AnyArch, task: TaskType) -> None:
    """Raise ValueError if the network is of the zoo and cannot have the outputs of the task."""
    if isinstance(arch, ModuleArch) or arch_kind(arch) == task.model_kind:
        return
    required = f"data for {arch_kind(arch)}, as {arch.name} is" if isinstance(arch, DenseArch) else ""
    required = required or f"data with targets of whole images for {arch.name}"
    raise invalid(required, f"data for {task.spec.name}", next_step="--data of another folder, or --data random")


def random_inputs(
    arch: AnyArch, num_images: int, seed: int, task_fields: dict[str, Any] | None = None
) -> AnalysisInputs:
    """Return images of noise in the network's input size, with random targets of its task.

    The noise is standard normal, and uniform in [0, 1] for networks that normalize images themselves.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, *arch.input_size)
    normalizes = isinstance(arch, DenseArch) and arch.resizes_images
    images = torch.rand(shape, generator=generator) if normalizes else torch.randn(shape, generator=generator)
    fields = task_fields or {"name": _task_of_arch(arch) or DEFAULT_TASK}
    num_classes = arch.num_classes - (arch.num_background if isinstance(arch, DenseArch) else 0)
    task = restore_task(fields, tuple(str(index) for index in range(num_classes)))
    labels = _RANDOM_LABELS[task.spec.target](images, num_classes, generator)
    if task.spec.target is TargetKind.VALUES:  # standard normal ones would be far from the mean of the unit
        assert isinstance(labels, Tensor)
        labels = task.decode(labels).float()
    return AnalysisInputs(images, labels, task)


def _random_boxes(images: Tensor, num_classes: int, generator: torch.Generator) -> tuple[Any, ...]:
    """Return for each image one object, a quarter of the image in size, at a random place."""
    height, width = images.shape[-2:]
    targets = list[dict[str, Any]]()
    for _ in images:
        corner = torch.rand(2, generator=generator) * torch.tensor([width / 2, height / 2])
        box = torch.cat((corner, corner + torch.tensor([width / 2, height / 2])))[None]
        mask = torch.zeros((1, height, width), dtype=torch.uint8)
        x1, y1, x2, y2 = (int(side) for side in box[0])
        mask[0, y1:y2, x1:x2] = 1
        none = torch.zeros(1, dtype=torch.bool)
        labels = torch.randint(1, num_classes + 1, (1,), generator=generator)
        area = torch.tensor([height * width / 4])
        target = {"boxes": box, "labels": labels, "masks": mask, "area": area, "crowd": none, "difficult": none}
        targets.append({**target, "image_id": len(targets)})
    return tuple(targets)


_RANDOM_LABELS: dict[TargetKind, Callable[[Tensor, int, torch.Generator], Labels]] = {
    TargetKind.CLASS: lambda images, outputs, generator: torch.randint(outputs, images.shape[:1], generator=generator),
    TargetKind.MULTI_HOT: lambda images, outputs, generator: torch.randint(
        2, (len(images), outputs), generator=generator
    ).float(),
    TargetKind.VALUES: lambda images, outputs, generator: torch.randn((len(images), outputs), generator=generator),
    TargetKind.MASK: lambda images, outputs, generator: torch.randint(
        outputs, (len(images), *images.shape[2:]), generator=generator
    ),
    TargetKind.BOXES: _random_boxes,
}


def default_num_images(sizes: tuple[int, ...]) -> int:
    """Return the default number of images: fewer where they are large."""
    return _DEFAULT_NUM_IMAGES if max(sizes) <= _MAX_SMALL_IMAGE_SIZE else _DEFAULT_NUM_LARGE_IMAGES


def _with_trained_preprocess(data: DatasetSplits, network: nn.Module) -> DatasetSplits:
    """Return the data with the preprocessing that the network was trained with, if the channels agree."""
    assert isinstance(network, ModelMetadata)
    if data.num_classes > network.arch.num_classes:
        required = f"data of at most {network.arch.num_classes} classes, as the network has"
        raise invalid(required, f"{data.name} with {data.num_classes}")
    preprocess = network.preprocess
    return (
        replace(data, preprocess=preprocess) if preprocess and preprocess.channels == data.preprocess.channels else data
    )


def _draw_indices(num_available: int, num_images: int, seed: int) -> list[int]:
    """Return random images in the split's order: the first ones of a dataset sorted by class would share one class."""
    order = torch.randperm(num_available, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:num_images].tolist())


def _draw_images(dataset: ImageDataset, data: DatasetSplits, num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    subset = dataset.subset(_draw_indices(len(dataset), num_images, seed))
    x, y, _ = next(iter(eval_loader(subset, len(subset), data.preprocess, "cpu")))
    return x, y


def _build_empty(arch: AnyArch) -> nn.Module:
    """Return the network without weights."""
    if not isinstance(arch, DenseArch):
        return nn.Module()
    with init_empty_weights():
        return build_dense_network(arch)


def _draw_targets(data: DatasetSplits, task: TaskType, channels: int, *, num_images: int, seed: int) -> AnalysisInputs:
    """Return random images of the held-out split with their masks or boxes, resized together to one size."""
    dataset = data.split(data.eval_split)
    assert isinstance(dataset, TargetImageDataset)
    subset = dataset.subset(_draw_indices(len(dataset), num_images, seed))
    preprocess = data.preprocess
    sizes = Counter(eval_sizes(subset, preprocess))
    if len(sizes) > 1:
        (height, width), _ = sizes.most_common(1)[0]
        preprocess = replace(preprocess, transform=f"{preprocess.transform} resize({height},{width})".strip())
    batches = [(x, y) for x, y, _ in eval_loader(subset, len(subset), preprocess, "cpu")]
    images = _convert_channels(torch.cat([as_tensor(x) for x, _ in batches]), channels)
    return AnalysisInputs(images, join_labels([y for _, y in batches]), task, data)


def as_tensor(images: Tensor | Sequence[Tensor]) -> Tensor:
    """Return images of one size (N, C, H, W), given as a tensor or a list."""
    return images if isinstance(images, Tensor) else torch.stack(list(images))


def labels_to(labels: Labels, device: torch.device) -> Labels:
    """Return the targets on a device."""
    if isinstance(labels, Tensor):
        return labels.to(device)
    return tuple({key: _move(value, device) for key, value in target.items()} for target in labels)


def _move(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def are_equal_labels(first: Any, second: Any) -> bool:
    """Return True if the targets are those of the same images: equal, of any device."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first.cpu(), second.cpu())
    if isinstance(first, dict) and isinstance(second, dict):
        return all(are_equal_labels(first[key], second[key]) for key in ("boxes", "labels"))
    if len(first) != len(second):
        return False
    return all(are_equal_labels(a, b) for a, b in zip(first, second, strict=True))


def _convert_channels(images: Tensor, channels: int) -> Tensor:
    """Return the images with `channels` channels: gray images are repeated, color images averaged to gray."""
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1).contiguous()
    if channels == 1:
        return images.mean(dim=1, keepdim=True)
    raise invalid(f"images with {channels} channels, or gray images", f"{images.shape[1]} channels")
