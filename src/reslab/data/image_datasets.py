"""Labelled pictures: in memory as one tensor, in files, or in somebody's data set.

Pictures that lie in tar files, on this machine or by URL, read one by one where they lie.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from reslab.data.decode import pil_to_tensor, read_image
from reslab.data.formats.class_folders import relative_name
from reslab.data.webdataset.http import read_range
from reslab.spec.errors import invalid


@runtime_checkable
class ImageDataset(Protocol):
    """N labelled pictures: `labels` (N,) int64, a name each, and `raw(i)` to look at: uint8 (C, H, W)."""

    @property
    def labels(self) -> Tensor: ...
    def __len__(self) -> int: ...
    def name(self, i: int) -> str: ...
    def load_image(self, i: int) -> Tensor: ...
    def preview(self, i: int) -> Tensor: ...
    def subset(self, indices: Sequence[int]) -> "ImageDataset": ...


@dataclass(frozen=True, eq=False)
class TensorImageDataset:
    """Pictures of one size in memory: `images` (N, C, H, W) uint8, or float already scaled; `labels` (N,) int64.

    Raises ValueError where shapes, types or lengths do not fit.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4:
            raise invalid(
                "images of shape (N, C, H, W)",
                f"shape {tuple(self.images.shape)}",
                next_step=_shape_hint(self.images),
            )
        if self.images.dtype != torch.uint8 and not self.images.is_floating_point():
            raise invalid(
                "images in uint8 (0 to 255) or floating point", str(self.images.dtype), nearest="images.to(torch.uint8)"
            )
        check_labels(self.labels, len(self.images))

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, i: int) -> str:
        return self.names[i] if self.names else f"#{i}"

    def load_image(self, i: int) -> Tensor:
        return self.images[i]

    def preview(self, i: int) -> Tensor:
        return to_uint8(self.images[i])

    def subset(self, indices: Sequence[int]) -> "TensorImageDataset":
        index_tensor = torch.as_tensor(indices, dtype=torch.int64)
        names = tuple(self.name(i) for i in index_tensor.tolist())
        return TensorImageDataset(self.images[index_tensor], self.labels[index_tensor], names)


@dataclass(frozen=True, eq=False)
class FileImageDataset:
    """Pictures in files, decoded when asked for to uint8 (channels, H, W), each its size; names relative to `root`.

    Raises ValueError where the number of labels is not the number of paths.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    channels: int = 3
    root: Path | None = None

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.paths))

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, i: int) -> str:
        path = self.paths[i]
        return relative_name(self.root, path) if self.root else os.fspath(path)

    def num_bytes(self, i: int) -> int:
        """The length of a picture's file."""
        return self.paths[i].stat().st_size

    def read_bytes(self, i: int) -> bytes:
        """The bytes of a picture's file."""
        return self.paths[i].read_bytes()

    def load_image(self, i: int) -> Tensor:
        return read_image(self.paths[i], self.channels)

    def preview(self, i: int) -> Tensor:
        return self.load_image(i)

    def subset(self, indices: Sequence[int]) -> "FileImageDataset":
        paths = tuple(self.paths[i] for i in indices)
        return FileImageDataset(
            paths, self.labels[torch.as_tensor(indices, dtype=torch.int64)], self.channels, self.root
        )


@dataclass(frozen=True, eq=False)
class WrappedImageDataset:
    """The pictures of a map-style data set of (picture, label) items: item `indices[i]` is asked for when it is needed.

    A picture is a tensor (C, H, W), uint8 or float already scaled, or a Pillow image.
    """

    dataset: Any
    labels: Tensor
    channels: int
    indices: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.indices:
            object.__setattr__(self, "indices", tuple(range(len(self.labels))))
        check_labels(self.labels, len(self.indices))

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
        return WrappedImageDataset(self.dataset, labels, self.channels, tuple(self.indices[i] for i in indices))


def item_to_tensor(image: Any, channels: int) -> Tensor:
    """An item's picture as a tensor (C, H, W); raises ValueError where it is neither a tensor nor a Pillow image."""
    if isinstance(image, Image.Image):
        return pil_to_tensor(image, channels)
    if not isinstance(image, Tensor) or image.ndim not in (2, 3):
        got = f"a tensor of shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
        raise invalid("items of (picture, label), the picture a tensor (C, H, W) or a Pillow image", got)
    return image[None] if image.ndim == 2 else image


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels as uint8: uint8 as it is, floats within [0, 1] times 255, other floats stretched from least to largest."""
    if pixels.dtype == torch.uint8:
        return pixels
    low, high = pixels.amin(), pixels.amax()
    if low < 0 or high > 1:
        pixels = (pixels - low) / (high - low).clamp_min(1e-12)
    return (pixels * 255).round().to(torch.uint8)


def _shape_hint(images: Tensor) -> str:
    return "add the channel: images[:, None]" if images.ndim == 3 else ""


def check_labels(labels: Tensor, num_images: int) -> None:
    """Raises ValueError where labels are not int64 (N,), one a picture, from 0 up."""
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise invalid(
            "labels (N,) in int64", f"{labels.dtype} of shape {tuple(labels.shape)}", nearest="labels.long().flatten()"
        )
    if len(labels) != num_images:
        raise invalid(f"one label a picture, {num_images} of them", f"{len(labels)} labels")
    if len(labels) and int(labels.min()) < 0:
        raise invalid("labels from 0 up", f"label {int(labels.min())}", nearest="0")


@dataclass(frozen=True)
class ImageLocation:
    """Where a picture's bytes lie: in which shard, from which byte on, how many; what it is called and how it ends.

    A shard is a file's path, or a URL.
    """

    shard: Path | str
    key: str
    offset: int
    num_bytes: int
    extension: str

    def read_bytes(self) -> bytes:
        """The bytes of the picture's file."""
        if isinstance(self.shard, str):
            return read_range(self.shard, self.offset, self.num_bytes)
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.num_bytes)


@dataclass(frozen=True, eq=False)
class ShardImageDataset:
    """Pictures in WebDataset shards, decoded when asked for to uint8 (channels, H, W); names are SHARD/KEY.ENDING.

    Raises ValueError where the number of labels is not the number of spots.
    """

    locations: tuple[ImageLocation, ...]
    labels: Tensor
    channels: int = 3
    root: Path | str | None = None

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.locations))

    def __len__(self) -> int:
        return len(self.locations)

    @property
    def is_remote(self) -> bool:
        """Whether the shards are not on this machine."""
        return any(isinstance(location.shard, str) for location in self.locations)

    def name(self, i: int) -> str:
        return location_name(self.locations[i], self.root)

    def num_bytes(self, i: int) -> int:
        """The length of a picture's file."""
        return self.locations[i].num_bytes

    def read_bytes(self, i: int) -> bytes:
        """The bytes of a picture's file."""
        return self.locations[i].read_bytes()

    def load_image(self, i: int) -> Tensor:
        return read_image(self.read_bytes(i), self.channels, self.name(i), self.locations[i].extension)

    def preview(self, i: int) -> Tensor:
        return self.load_image(i)

    def subset(self, indices: Sequence[int]) -> "ShardImageDataset":
        locations = tuple(self.locations[i] for i in indices)
        return ShardImageDataset(
            locations, self.labels[torch.as_tensor(indices, dtype=torch.int64)], self.channels, self.root
        )


def location_name(location: ImageLocation, root: Path | str | None) -> str:
    """`train-000.tar/cat/0001.jpg`: unlike a key alone, never the same in two shards."""
    if isinstance(location.shard, str):
        shard = location.shard.split("?")[0].removeprefix(f"{root}/")
    else:
        shard = relative_name(Path(root), location.shard) if root else location.shard.as_posix()
    return f"{shard}/{location.key}.{location.extension}"
