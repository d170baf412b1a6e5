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

from reslab.data.decode import picture_tensor, read_picture
from reslab.data.formats.class_folders import name_in
from reslab.data.webdataset.http import read_range
from reslab.spec.errors import invalid


@runtime_checkable
class Images(Protocol):
    """N labelled pictures: `labels` (N,) int64, a name each, and `raw(i)` to look at: uint8 (C, H, W)."""

    @property
    def labels(self) -> Tensor: ...
    def __len__(self) -> int: ...
    def name(self, i: int) -> str: ...
    def pixels(self, i: int) -> Tensor: ...
    def raw(self, i: int) -> Tensor: ...
    def subset(self, indices: Sequence[int]) -> "Images": ...


@dataclass(frozen=True, eq=False)
class TensorImages:
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
                next_step=_shape_advice(self.images),
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

    def pixels(self, i: int) -> Tensor:
        return self.images[i]

    def raw(self, i: int) -> Tensor:
        return to_look_at(self.images[i])

    def subset(self, indices: Sequence[int]) -> "TensorImages":
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        names = tuple(self.name(i) for i in chosen.tolist())
        return TensorImages(self.images[chosen], self.labels[chosen], names)


@dataclass(frozen=True, eq=False)
class FileImages:
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
        return name_in(self.root, path) if self.root else os.fspath(path)

    def num_bytes(self, i: int) -> int:
        """The length of a picture's file."""
        return self.paths[i].stat().st_size

    def read(self, i: int) -> bytes:
        """The bytes of a picture's file."""
        return self.paths[i].read_bytes()

    def pixels(self, i: int) -> Tensor:
        return read_picture(self.paths[i], self.channels)

    def raw(self, i: int) -> Tensor:
        return self.pixels(i)

    def subset(self, indices: Sequence[int]) -> "FileImages":
        paths = tuple(self.paths[i] for i in indices)
        return FileImages(paths, self.labels[torch.as_tensor(indices, dtype=torch.int64)], self.channels, self.root)


@dataclass(frozen=True, eq=False)
class ItemImages:
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

    def pixels(self, i: int) -> Tensor:
        return item_pixels(self.dataset[self.indices[i]][0], self.channels)

    def raw(self, i: int) -> Tensor:
        return to_look_at(self.pixels(i))

    def subset(self, indices: Sequence[int]) -> "ItemImages":
        labels = self.labels[torch.as_tensor(indices, dtype=torch.int64)]
        return ItemImages(self.dataset, labels, self.channels, tuple(self.indices[i] for i in indices))


def item_pixels(picture: Any, channels: int) -> Tensor:
    """An item's picture as a tensor (C, H, W); raises ValueError where it is neither a tensor nor a Pillow image."""
    if isinstance(picture, Image.Image):
        return picture_tensor(picture, channels)
    if not isinstance(picture, Tensor) or picture.ndim not in (2, 3):
        got = (
            f"a tensor of shape {tuple(picture.shape)}"
            if isinstance(picture, Tensor)
            else f"a {type(picture).__name__}"
        )
        raise invalid("items of (picture, label), the picture a tensor (C, H, W) or a Pillow image", got)
    return picture[None] if picture.ndim == 2 else picture


def to_look_at(pixels: Tensor) -> Tensor:
    """Pixels as uint8: uint8 as it is, floats within [0, 1] times 255, other floats stretched from least to largest."""
    if pixels.dtype == torch.uint8:
        return pixels
    low, high = pixels.amin(), pixels.amax()
    if low < 0 or high > 1:
        pixels = (pixels - low) / (high - low).clamp_min(1e-12)
    return (pixels * 255).round().to(torch.uint8)


def _shape_advice(images: Tensor) -> str:
    return "add the channel: images[:, None]" if images.ndim == 3 else ""


def check_labels(labels: Tensor, num_pictures: int) -> None:
    """Raises ValueError where labels are not int64 (N,), one a picture, from 0 up."""
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise invalid(
            "labels (N,) in int64", f"{labels.dtype} of shape {tuple(labels.shape)}", nearest="labels.long().flatten()"
        )
    if len(labels) != num_pictures:
        raise invalid(f"one label a picture, {num_pictures} of them", f"{len(labels)} labels")
    if len(labels) and int(labels.min()) < 0:
        raise invalid("labels from 0 up", f"label {int(labels.min())}", nearest="0")


@dataclass(frozen=True)
class Spot:
    """Where a picture's bytes lie: in which shard, from which byte on, how many; what it is called and how it ends.

    A shard is a file's path, or a URL.
    """

    shard: Path | str
    key: str
    start: int
    num_bytes: int
    ending: str

    def read(self) -> bytes:
        """The bytes of the picture's file."""
        if isinstance(self.shard, str):
            return read_range(self.shard, self.start, self.num_bytes)
        with self.shard.open("rb") as file:
            file.seek(self.start)
            return file.read(self.num_bytes)


@dataclass(frozen=True, eq=False)
class ShardImages:
    """Pictures in WebDataset shards, decoded when asked for to uint8 (channels, H, W); names are SHARD/KEY.ENDING.

    Raises ValueError where the number of labels is not the number of spots.
    """

    spots: tuple[Spot, ...]
    labels: Tensor
    channels: int = 3
    root: Path | str | None = None

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.spots))

    def __len__(self) -> int:
        return len(self.spots)

    @property
    def by_url(self) -> bool:
        """Whether the shards are not on this machine."""
        return any(isinstance(spot.shard, str) for spot in self.spots)

    def name(self, i: int) -> str:
        return spot_name(self.spots[i], self.root)

    def num_bytes(self, i: int) -> int:
        """The length of a picture's file."""
        return self.spots[i].num_bytes

    def read(self, i: int) -> bytes:
        """The bytes of a picture's file."""
        return self.spots[i].read()

    def pixels(self, i: int) -> Tensor:
        return read_picture(self.read(i), self.channels, self.name(i), self.spots[i].ending)

    def raw(self, i: int) -> Tensor:
        return self.pixels(i)

    def subset(self, indices: Sequence[int]) -> "ShardImages":
        spots = tuple(self.spots[i] for i in indices)
        return ShardImages(spots, self.labels[torch.as_tensor(indices, dtype=torch.int64)], self.channels, self.root)


def spot_name(spot: Spot, root: Path | str | None) -> str:
    """`train-000.tar/cat/0001.jpg`: unlike a key alone, never the same in two shards."""
    if isinstance(spot.shard, str):
        shard = spot.shard.split("?")[0].removeprefix(f"{root}/")
    else:
        shard = name_in(Path(root), spot.shard) if root else spot.shard.as_posix()
    return f"{shard}/{spot.key}.{spot.ending}"
