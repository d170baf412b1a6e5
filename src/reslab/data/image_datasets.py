"""Labeled images, read one by one from a tensor in memory, files, WebDataset shards or a torch dataset."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reslab.data.decode import ChooseScale, pil_to_tensor, read_image
from reslab.data.decode_limits import DecodeLimits, current_limits
from reslab.data.formats.file_listing import relative_name
from reslab.data.targets import TARGET_RULES, check_labels, describe_labels
from reslab.data.webdataset.http import read_range
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind


@runtime_checkable
class ImageDataset(Protocol):
    """N labeled images: `load_image(i)` for the network, `preview(i)` uint8 (C, H, W) to show.

    `labels` are those of the `target_kind` (`TargetKind`): (N,) int64 for classes.
    """

    @property
    def labels(self) -> Tensor:
        """The targets of all images, one row each."""

    @property
    def target_kind(self) -> TargetKind:
        """The kind of the targets."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, i: int) -> tuple[Tensor, Any]:
        """Return image i as the network's input, and its target."""

    def name(self, i: int) -> str:
        """Return the name of image i, for messages and tables."""

    def load_image(self, i: int) -> Tensor:
        """Return image i (C, H, W) as the network's transforms take it."""

    def preview(self, i: int) -> Tensor:
        """Return image i as uint8 (C, H, W)."""

    def subset(self, indices: Sequence[int]) -> "ImageDataset":
        """Return the images at `indices`, in this order."""


InputTransform = Callable[[Tensor, int], Tensor]
"""From an image (C, H, W) and its index to the network's input."""


class IndexableImages(ABC):
    """Adds `dataset[i]`, a pair (tensor, label) as of torch's map-style datasets, so that a DataLoader takes it.

    The tensor is float32 (C, H, W) by `input_transform`, which `DatasetSplits` sets to the preprocessing of evaluation;
    without one uint8 is scaled to [0, 1]. The label is an int for a class, else the image's row of `labels`.
    """

    labels: Tensor
    target_kind: TargetKind
    input_transform: InputTransform | None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load_image(self, i: int) -> Tensor:
        """Return image i (C, H, W) as the network's transforms take it."""

    def with_input_transform(self, transform: InputTransform) -> Any:
        """Return the dataset with another input transform."""
        return replace(self, input_transform=transform)  # type: ignore[type-var]

    def __getitem__(self, i: int) -> tuple[Tensor, Any]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} of {len(self)} images")
        index = int(i) % len(self)
        transform = self.input_transform or _scale
        return transform(self.load_image(index), index), TARGET_RULES[self.target_kind].item(self.labels[index])

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} images, {describe_labels(self.labels, self.target_kind)})"


def _scale(pixels: Tensor, _: int) -> Tensor:
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels.float()


@dataclass(frozen=True, eq=False, repr=False)
class TensorImageDataset(IndexableImages):
    """Images of one size in memory: `images` (N, C, H, W), uint8 or already scaled floats; `labels` (N,) int64,
    or those of another `target_kind`.

    With `dims=1` they are signals (N, C, T), with `dims=3` volumes or clips (N, C, D, H, W).
    Raises ValueError if shapes, types or lengths do not fit.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...] | None = None
    input_transform: InputTransform | None = None
    dims: int = 2
    target_kind: TargetKind = TargetKind.CLASS

    def __post_init__(self) -> None:
        if self.images.ndim != self.dims + 2:
            next_step = "add the channel dimension: images[:, None]" if self.images.ndim == self.dims + 1 else ""
            required = {1: "signals of shape (N, C, T)", 3: "volumes of shape (N, C, D, H, W)"}.get(
                self.dims, "images of shape (N, C, H, W)"
            )
            raise invalid(required, f"shape {tuple(self.images.shape)}", next_step=next_step)
        if self.images.dtype != torch.uint8 and not self.images.is_floating_point():
            required = "images in uint8 (0 to 255) or floating point"
            raise invalid(required, str(self.images.dtype), nearest="images.to(torch.uint8)")
        check_labels(self.labels, len(self.images), self.target_kind, self.name)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, i: int) -> str:
        return self.names[i] if self.names else f"#{i}"

    def load_image(self, i: int) -> Tensor:
        return self.images[i]

    def preview(self, i: int) -> Tensor:
        image = self.images[i]
        if self.dims == 1:
            return to_uint8(_draw_signal(image))
        return to_uint8(image if self.dims == 2 else image[:, image.shape[1] // 2])

    def subset(self, indices: Sequence[int]) -> "TensorImageDataset":
        index_tensor = torch.as_tensor(indices, dtype=torch.int64)
        names = tuple(self.name(i) for i in index_tensor.tolist())
        return replace(self, images=self.images[index_tensor], labels=self.labels[index_tensor], names=names)


@dataclass(frozen=True, eq=False, repr=False)
class FileImageDataset(IndexableImages):
    """Images in files, each decoded on demand to uint8 (channels, H, W) of its own size; names are relative to `root`.

    Raises ValueError if the labels do not fit the paths.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    channels: int = 3
    root: Path | None = None
    input_transform: InputTransform | None = None
    limits: DecodeLimits = field(default_factory=current_limits)
    target_kind: TargetKind = TargetKind.CLASS

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.paths), self.target_kind, self.name)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, i: int) -> str:
        path = self.paths[i]
        return relative_name(self.root, path) if self.root else os.fspath(path)

    def num_bytes(self, i: int) -> int:
        """Return the size of an image's file."""
        return self.paths[i].stat().st_size

    def read_bytes(self, i: int) -> bytes:
        """Return the content of an image's file."""
        return self.paths[i].read_bytes()

    def load_image(self, i: int, choose_scale: ChooseScale | None = None) -> Tensor:
        return read_image(self.paths[i], self.channels, limits=self.limits, choose_scale=choose_scale)

    def preview(self, i: int) -> Tensor:
        return self.load_image(i)

    def subset(self, indices: Sequence[int]) -> "FileImageDataset":
        paths = tuple(self.paths[i] for i in indices)
        labels = self.labels[torch.as_tensor(indices, dtype=torch.int64)]
        return replace(self, paths=paths, labels=labels)


@dataclass(frozen=True, eq=False, repr=False)
class WrappedImageDataset(IndexableImages):
    """The images of a map-style dataset of (image, label) items: image i is item `indices[i]`, fetched on demand.

    An item's image is a tensor (C, H, W), uint8 or already scaled floats, or a Pillow image.
    """

    dataset: Any
    labels: Tensor
    channels: int
    indices: tuple[int, ...]
    input_transform: InputTransform | None = None
    target_kind: TargetKind = TargetKind.CLASS

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.indices), self.target_kind, self.name)

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, i: int) -> str:
        return f"#{self.indices[i]}"

    def load_image(self, i: int) -> Tensor:
        return item_to_tensor(self.dataset[self.indices[i]][0], self.channels)

    def preview(self, i: int) -> Tensor:
        return to_uint8(self.load_image(i))

    def subset(self, indices: Sequence[int]) -> "WrappedImageDataset":
        labels = self.labels[torch.as_tensor(indices, dtype=torch.int64)]
        return replace(self, labels=labels, indices=tuple(self.indices[i] for i in indices))


@dataclass(frozen=True)
class ImageLocation:
    """The position of an image's bytes in a shard, its key and extension there, and the hash of its bytes if known.

    A shard is a path or a URL.
    """

    shard: Path | str
    key: str
    offset: int
    num_bytes: int
    extension: str
    digest: str = ""

    def read_bytes(self) -> bytes:
        """Return the image's bytes."""
        if isinstance(self.shard, str):
            return read_range(self.shard, self.offset, self.num_bytes)
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.num_bytes)


@dataclass(frozen=True, eq=False, repr=False)
class ShardImageDataset(IndexableImages):
    """Images in WebDataset shards, decoded on demand to uint8 (channels, H, W); a name is SHARD/KEY.EXTENSION.

    Raises ValueError if the labels do not fit the locations.
    """

    locations: tuple[ImageLocation, ...]
    labels: Tensor
    channels: int = 3
    root: Path | str | None = None
    input_transform: InputTransform | None = None
    limits: DecodeLimits = field(default_factory=current_limits)
    target_kind: TargetKind = TargetKind.CLASS

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.locations), self.target_kind, self.name)

    def __len__(self) -> int:
        return len(self.locations)

    @property
    def is_remote(self) -> bool:
        """True if a shard is a URL."""
        return any(isinstance(location.shard, str) for location in self.locations)

    def name(self, i: int) -> str:
        return location_name(self.locations[i], self.root)

    def num_bytes(self, i: int) -> int:
        """Return the size of an encoded image."""
        return self.locations[i].num_bytes

    def read_bytes(self, i: int) -> bytes:
        """Return an encoded image."""
        return self.locations[i].read_bytes()

    def load_image(self, i: int, choose_scale: ChooseScale | None = None) -> Tensor:
        return read_image(self.read_bytes(i), self.channels, self.name(i), self.limits, choose_scale)

    def preview(self, i: int) -> Tensor:
        return self.load_image(i)

    def subset(self, indices: Sequence[int]) -> "ShardImageDataset":
        locations = tuple(self.locations[i] for i in indices)
        labels = self.labels[torch.as_tensor(indices, dtype=torch.int64)]
        return replace(self, locations=locations, labels=labels)


def location_name(location: ImageLocation, root: Path | str | None) -> str:
    """Return `train-000.tar/cat/0001.jpg`: unlike the key alone it is unique among several shards."""
    if isinstance(location.shard, str):
        shard = location.shard.split("?")[0].removeprefix(f"{root}/")
    else:
        shard = relative_name(Path(root), location.shard) if root else location.shard.as_posix()
    return f"{shard}/{location.key}.{location.extension}"


# Threads decode a small image in less time than they wait for the interpreter's lock, so that few of them take many.
_SMALL_PIXELS, _SMALL_CHUNK, _SMALL_THREADS = 64 * 64, 64, 2


def decode_all(dataset: FileImageDataset | ShardImageDataset) -> TensorImageDataset:
    """Decode every image, in threads (Pillow and torchvision release the GIL), into one tensor in memory.

    Raises ValueError naming the first image of another size.
    """

    def load(indices: range) -> list[np.ndarray]:
        return [dataset.load_image(i).numpy() for i in indices]

    is_small = len(dataset) > 0 and dataset.load_image(0)[0].numel() <= _SMALL_PIXELS
    size, num_threads = (_SMALL_CHUNK, _SMALL_THREADS) if is_small else (1, None)
    chunks = [range(start, min(start + size, len(dataset))) for start in range(0, len(dataset), size)]
    with ThreadPoolExecutor(num_threads) as pool:
        images = [image for chunk in pool.map(load, chunks) for image in chunk]
    pixels = stack_images(images, [dataset.name(i) for i in range(len(dataset))])
    return TensorImageDataset(pixels, dataset.labels, target_kind=dataset.target_kind)


def stack_images(images: list[np.ndarray], names: Sequence[str]) -> Tensor:
    """Stack images (C, H, W) to a tensor (N, C, H, W). Raises ValueError naming the first image of another size."""
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            height, width = images[0].shape[1:]
            required = f"images of one size, {height}x{width} like {names[0]}"
            raise invalid(required, f"{name} of {image.shape[1]}x{image.shape[2]}")
    return torch.from_numpy(np.stack(images))


def item_to_tensor(image: Any, channels: int) -> Tensor:
    """Return an item's image as a tensor (C, H, W). Raises ValueError unless it is a tensor or a Pillow image."""
    if isinstance(image, Image.Image):
        return pil_to_tensor(image, channels)
    if not isinstance(image, Tensor) or image.ndim not in (2, 3):
        got = f"a tensor of shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
        raise invalid("items (image, label), the image a tensor (C, H, W) or a Pillow image", got)
    return image[None] if image.ndim == 2 else image


def _draw_signal(signal: Tensor, height: int = 32) -> Tensor:
    """Return a drawing (1, height, T) of a signal (C, T): a black point on white for every value."""
    signal = signal.float()
    low, high = signal.amin(), signal.amax()
    rows = ((high - signal) / (high - low).clamp_min(1e-12) * (height - 1)).round().long()
    drawing = torch.ones(1, height, signal.shape[1])
    drawing[0, rows, torch.arange(signal.shape[1]).expand_as(rows)] = 0
    return drawing


def to_uint8(pixels: Tensor) -> Tensor:
    """Return pixels as uint8: floats within [0, 1] times 255, other floats stretched from their minimum to maximum."""
    if pixels.dtype == torch.uint8:
        return pixels
    low, high = pixels.amin(), pixels.amax()
    if low < 0 or high > 1:
        pixels = (pixels - low) / (high - low).clamp_min(1e-12)
    return (pixels * 255).round().to(torch.uint8)
