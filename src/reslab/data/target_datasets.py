"""Images with a target each that moves with them: what they have in common, and masks of the class of each pixel."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reslab.data.cache import file_digests
from reslab.data.decode_limits import DecodeLimits, current_limits
from reslab.data.formats.file_listing import relative_name
from reslab.data.image_datasets import ImageDataset, IndexableImages, WrappedImageDataset, item_to_tensor
from reslab.data.masks import VOID, MaskEncoding, read_mask_size, read_stored_mask, stored_mask
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind


class SampleTransform(Protocol):
    """From an image (C, H, W), its target and its index to the network's input and the target that belongs to it."""

    def apply_sample(self, pixels: Tensor, target: Any, index: int) -> tuple[Tensor, Any]:
        """Return the network's input and target of the image with this index."""


class TargetImageDataset(IndexableImages):
    """Images with a structured target each, which geometric transforms move with its image.

    `load_target(i)` is a nest of `torchvision.tv_tensors` of the size of image i. After the transform `finish_target`
    completes it, and `collate_targets` makes the target of a batch. `has_listed_batches` is True if the images of a
    batch are a list, each of its own size. `labels` are zeros, as there is no class of an image to balance or stratify.
    """

    images: ImageDataset
    has_listed_batches: ClassVar[bool] = False

    @cached_property
    def labels(self) -> Tensor:  # type: ignore[override]
        return torch.zeros(len(self.images), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, i: int) -> str:
        return self.images.name(i)

    def load_image(self, i: int) -> Tensor:
        return self.images.load_image(i)

    def preview(self, i: int) -> Tensor:
        return self.images.preview(i)

    @abstractmethod
    def subset(self, indices: Sequence[int]) -> "TargetImageDataset":
        """Return the images at `indices` with their targets, in this order."""

    @abstractmethod
    def load_target(self, i: int) -> Any:
        """Return the target of image i."""

    def load_sample(self, i: int) -> tuple[Tensor, Any]:
        """Return image i and its target."""
        return self.load_image(i), self.load_target(i)

    def finish_target(self, target: Any) -> Any:
        """Return the target of a transformed sample."""
        return target

    @abstractmethod
    def collate_targets(self, targets: Sequence[Any]) -> Any:
        """Return the target of a batch."""

    @abstractmethod
    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """Return height and width of every image."""

    @abstractmethod
    def target_digest(self) -> bytes:
        """Return a hash of the content of all targets."""


@dataclass(frozen=True, eq=False)
class MaskFiles:
    """The masks of images in files, each decoded on demand by `encoding`."""

    paths: tuple[Path, ...]
    encoding: MaskEncoding
    root: Path | None = None
    limits: DecodeLimits = field(default_factory=current_limits)

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, i: int) -> np.ndarray:
        """Return mask i, (H, W) uint8. Raises ValueError naming the file."""
        path = self.paths[i]
        stored = read_stored_mask(path, self.limits)
        try:
            return self.encoding.decode(stored)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def name(self, i: int) -> str:
        """Return the path of mask i relative to `root`."""
        return relative_name(self.root, self.paths[i]) if self.root else self.paths[i].as_posix()

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Return height and width of every mask, read from the headers."""
        with ThreadPoolExecutor() as pool:
            return tuple(pool.map(lambda path: read_mask_size(path, self.limits), self.paths))

    def digest(self) -> bytes:
        """Return a hash of the names and contents of all files, and of the encoding."""
        digest = hashlib.sha256(repr(self.encoding.to_dict()).encode())
        for i, content_hash in enumerate(file_digests(self.paths)):
            digest.update(f"{self.name(i)}:{content_hash}\n".encode("utf-8", "surrogateescape"))
        return digest.digest()

    def subset(self, indices: Sequence[int]) -> "MaskFiles":
        """Return the masks of these indices."""
        return replace(self, paths=tuple(self.paths[i] for i in indices))


@dataclass(frozen=True, eq=False)
class MaskTensor:
    """The masks of images in memory: (N, H, W) of class numbers, 255 where a pixel is void.

    Raises ValueError for another shape or type, or numbers outside of 0..255.
    """

    masks: Tensor

    def __post_init__(self) -> None:
        if self.masks.ndim != 3 or self.masks.is_floating_point() or self.masks.is_complex():
            got = f"{self.masks.dtype} of shape {tuple(self.masks.shape)}"
            nearest = "masks.argmax(1)" if self.masks.ndim == 4 else "masks.to(torch.uint8)"
            raise invalid("masks (N, H, W) of class numbers, whole numbers", got, nearest)
        if self.masks.numel() and not (int(self.masks.min()) >= 0 and int(self.masks.max()) <= VOID):
            got = f"{int(self.masks.min())} to {int(self.masks.max())}"
            raise invalid("class numbers from 0, and 255 for void, in masks", got, "masks.masked_fill(masks < 0, 255)")

    def __len__(self) -> int:
        return len(self.masks)

    def load(self, i: int) -> np.ndarray:
        """Return mask i, (H, W) uint8."""
        return self.masks[i].to(torch.uint8).numpy()

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Return height and width of every mask."""
        height, width = self.masks.shape[1:]
        return ((height, width),) * len(self.masks)

    def digest(self) -> bytes:
        """Return a hash of all masks."""
        shape = str(tuple(self.masks.shape)).encode()
        return hashlib.sha256(shape + self.masks.to(torch.uint8).cpu().contiguous().numpy().tobytes()).digest()

    def subset(self, indices: Sequence[int]) -> "MaskTensor":
        """Return the masks of these indices."""
        return MaskTensor(self.masks[torch.as_tensor(indices, dtype=torch.int64)])


@dataclass(frozen=True, eq=False)
class MaskItems:
    """The masks of a map-style dataset of (image, mask) items, fetched on demand.

    An item's mask is a Pillow image, or an array or a tensor (H, W) or (1, H, W), of class numbers and 255 for void.
    """

    dataset: Any
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, i: int) -> np.ndarray:
        """Return mask i, (H, W) uint8. Raises ValueError for what is no mask."""
        return item_to_mask(self.dataset[self.indices[i]][1])

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Return height and width of every mask, for which every item is fetched."""
        shapes = (self.load(i).shape for i in range(len(self)))
        return tuple((height, width) for height, width in shapes)

    def digest(self) -> bytes:
        """Return nothing: like its images, the masks that a dataset makes on demand do not count."""
        return b""

    def subset(self, indices: Sequence[int]) -> "MaskItems":
        """Return the masks of these indices."""
        return replace(self, indices=tuple(self.indices[i] for i in indices))


def item_to_mask(mask: Any) -> np.ndarray:
    """Return an item's mask as (H, W) uint8. Raises ValueError unless it has whole numbers from 0 to 255."""
    array = np.array(stored_mask(mask).values) if isinstance(mask, Image.Image) else np.asarray(mask)
    array = array[0] if array.ndim == 3 and len(array) == 1 else array
    if array.ndim != 2 or array.dtype.kind not in "biu":
        got = f"{array.dtype} of shape {array.shape}" if array.dtype.kind != "O" else f"a {type(mask).__name__}"
        required = "items (image, mask), the mask a Pillow image or whole numbers (H, W)"
        raise invalid(required, got, next_step="return the class number of each pixel")
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0 or high > VOID:
        raise invalid("class numbers from 0, and 255 for void, in masks", f"{low} to {high}")
    return array.astype(np.uint8)


@dataclass(frozen=True, eq=False, repr=False)
class MaskImageDataset(TargetImageDataset):
    """Images with a mask each: the class of every pixel, 255 where it is void.

    `images` and `masks` are in files, in memory, or both items of a dataset. `load_target(i)` is a `tv_tensors.Mask`
    (H, W) uint8 of the size of the image; `dataset[i]` is (tensor, mask), float32 (C, H, W) and int64 (H, W),
    preprocessed as in evaluation.
    Raises ValueError unless there are as many masks as images, on loading one of another size than its image too.
    """

    target_kind = TargetKind.MASK

    images: ImageDataset
    masks: MaskFiles | MaskTensor | MaskItems
    input_transform: SampleTransform | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.masks):
            raise invalid(f"one mask for each of {len(self.images)} images", f"{len(self.masks)} masks")

    def load_target(self, i: int) -> Tensor:
        """Return mask i, a `tv_tensors.Mask` (H, W) uint8."""
        from torchvision import tv_tensors

        mask: Tensor = tv_tensors.Mask(torch.from_numpy(self.masks.load(i)))
        return mask

    def load_sample(self, i: int) -> tuple[Tensor, Tensor]:
        """Return image i and its mask, of one item where both are of a dataset's items."""
        if not (isinstance(self.masks, MaskItems) and isinstance(self.images, WrappedImageDataset)):
            return self.load_image(i), self.load_target(i)
        from torchvision import tv_tensors

        image, mask = self.masks.dataset[self.masks.indices[i]][:2]
        pixels = item_to_tensor(image, self.images.channels)
        return pixels, tv_tensors.Mask(torch.from_numpy(item_to_mask(mask)))

    def collate_targets(self, targets: Sequence[Tensor]) -> Tensor:
        """Return masks (N, H, W) uint8 of masks of one size."""
        return torch.stack([target.as_subclass(Tensor) for target in targets])

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} of {len(self)} images")
        index = int(i) % len(self)
        pixels, mask = self.load_sample(index)
        if self.input_transform is None:
            pixels = pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels.float()
        else:
            try:
                pixels, mask = self.input_transform.apply_sample(pixels, mask, index)
            except ValueError as error:
                raise ValueError(f"{self.name(index)}: {error}") from error
        return pixels, mask.as_subclass(Tensor).to(torch.int64)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} images with masks)"

    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """Return height and width of every mask, which are those of its image."""
        return self._sizes

    @cached_property
    def _sizes(self) -> tuple[tuple[int, int], ...]:
        return self.masks.sizes()

    @cached_property
    def num_classes(self) -> int:
        """The number of classes that the masks need, their largest number plus 1; every mask is read."""
        with ThreadPoolExecutor() as pool:
            largest = pool.map(lambda i: _largest_class(self.masks.load(i)), range(len(self)))
            return max(largest, default=-1) + 1

    def target_digest(self) -> bytes:
        """Return a hash of the content of all masks."""
        return self.masks.digest()

    def subset(self, indices: Sequence[int]) -> "MaskImageDataset":
        return replace(self, images=self.images.subset(indices), masks=self.masks.subset(indices))


def _largest_class(mask: np.ndarray) -> int:
    return int(mask.astype(np.int16).max(initial=-1, where=mask != VOID))
