"""Transform expressions such as `pad(4) crop(32) flip mixup(0.2)`, applied to images, samples and batches."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reslab.data.decode import ChooseScale, pil_to_tensor, read_image
from reslab.data.rng import RandomDraws
from reslab.data.transforms.mixup import BatchMixer
from reslab.data.transforms.normalize import Normalize
from reslab.data.transforms.steps import check_regions, make_step
from reslab.data.transforms.third_party import TransformSource, split_functions
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.transform_grammar import TransformCall, bind_args, check_transforms, parse_transforms
from reslab.spec.transforms import BATCH_NAMES


class TransformPipeline:
    """The transforms of an expression, applied in order; random numbers depend on the samples' keys alone.

    `functions` are the user's, by the name in `callable(NAME)`. Raises ValueError for an unknown transform, wrong
    arguments, or `mixup` and `cutmix`, which only a training batch can have (`parse_train_transform`).
    """

    def __init__(self, expression: str, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.expression = expression
        self._steps = tuple(make_step(call, functions or {}) for call in parse_transforms(expression))

    @property
    def alternates(self) -> bool:
        """True if a transform reads `RandomDraws.alternating_bit`, which the keys then need."""
        return any(step.functions.alternates for step in self._steps)

    def apply_batch(self, images: Tensor, keys: Tensor) -> Tensor:
        """Transform (N, C, H, W) to (N, C, H', W'); `keys` (N,) int64 on the same device, as of `hash_keys`."""
        for index, step in enumerate(self._steps):
            images = step.apply_batch(images, RandomDraws(keys, index))
        return images

    def apply_image(self, image: Tensor, key: int) -> Tensor:
        """Transform one image (C, H, W) of any size, as `apply_batch` does under the same key."""
        return self.apply_draws(image, self.sample_draws(torch.tensor([key]))[0])

    def sample_draws(self, keys: Tensor) -> list[list[RandomDraws]]:
        """Return the draws of each sample, one for every operation.

        Samples share them lazily: to draw for all samples at once is as fast as to draw for one.
        """
        draws_by_op = [RandomDraws(keys, index).per_sample() for index in range(len(self._steps))]
        return [[draws[i] for draws in draws_by_op] for i in range(len(keys))]

    def apply_draws(self, image: Tensor, draws_by_op: Sequence[RandomDraws]) -> Tensor:
        """Transform one image (C, H, W) with the draws of `sample_draws`."""
        for step, draws in zip(self._steps, draws_by_op, strict=True):
            image = step.apply_image(image, draws)
        return image

    def choose_scale(self, draws_by_op: Sequence[RandomDraws]) -> ChooseScale | None:
        """Return the function that says by how much a file may be reduced when it is decoded; None: not at all.

        Only the first transform decides, because it alone gets the image as it is read.
        """
        if not self._steps or not self._steps[0].reads_scaled:
            return None
        return partial(self._steps[0].scale, draws_by_op[0])

    def apply_sample(self, image: Tensor, target: Any, key: int) -> tuple[Tensor, Any]:
        """Transform one image (C, H, W), and the boxes, masks and keypoints (tv_tensors) in its target with it.

        `target` is any nest of dictionaries, lists and tuples; what else is in it stays. Boxes are clipped by crops.
        Raises ValueError for boxes or masks of another size than the image, or beside a transform that has no way to
        move them.
        """
        return self.apply_sample_draws(image, target, self.sample_draws(torch.tensor([key]))[0])

    def apply_sample_draws(self, image: Tensor, target: Any, draws_by_op: Sequence[RandomDraws]) -> tuple[Tensor, Any]:
        """Transform one image and its target, as `apply_sample` does, with the draws of `sample_draws`."""
        check_regions(image, target)
        image = image.as_subclass(Tensor)
        for step, draws in zip(self._steps, draws_by_op, strict=True):
            image, target = step.apply_sample(image, target, draws)
        return image, target


def parse_train_transform(
    transform: TransformSource, functions: Mapping[str, Callable[..., Any]] | None = None
) -> tuple[TransformPipeline, BatchMixer | None]:
    """Return the transform of each image and the mixing of a batch: `... flip mixup(0.2) cutmix(1)`.

    `transform` is an expression, a function of an image, or a list of both; `functions` are those that an expression
    names as `callable(NAME)`. Raises ValueError as `TransformPipeline`
    does, and if `mixup` or `cutmix` are not at the end.
    """
    expression, own_functions = split_functions(transform)
    calls = check_transforms(expression)
    mix_calls = [call for call in calls if call.name in BATCH_NAMES]
    image_calls = [call for call in calls if call.name not in BATCH_NAMES]
    if mix_calls and list(calls) != image_calls + mix_calls:
        reordered = " ".join(map(str, image_calls + mix_calls))
        raise invalid("mixup and cutmix at the end of the transform", expression, nearest=reordered)
    pipeline = TransformPipeline(" ".join(map(str, image_calls)), {**(functions or {}), **own_functions})
    return pipeline, _make_batch_mixer(mix_calls) if mix_calls else None


def _make_batch_mixer(mix_calls: Sequence[TransformCall]) -> BatchMixer:
    alphas: dict[str, float] = {}
    for call in mix_calls:
        if call.name in alphas:
            raise invalid(f"{call.name} once in a transform", " ".join(map(str, mix_calls)), nearest=str(call))
        (alpha,) = bind_args(call)
        alphas[call.name] = float(alpha)
    return BatchMixer(**alphas)


def prepare_image(image: Any, preprocess: Preprocess, image_size: tuple[int, int] | None) -> Tensor:
    """Return the input (1, C, H, W), float32, for an image: Pillow, a path, or uint8 pixels.

    Pixels are an array (H, W), (H, W, C) or a tensor (C, H, W); after the transform, images of another size than
    `image_size` (height, width) are fitted to it. Raises ValueError for other types and shapes, or a file that cannot
    be read.
    """
    pixels = TransformPipeline(preprocess.transform).apply_image(to_pixels(image, preprocess.channels), 0)
    if image_size is not None:
        pixels = fit_image_size(pixels, image_size)
    return Normalize(preprocess, torch.device("cpu"))(pixels[None])


def to_pixels(image: Any, channels: int) -> Tensor:
    """Return uint8 pixels (channels, H, W) of an image: a path, bytes of a file, Pillow, (H, W[, C]) or (C, H, W)."""
    if isinstance(image, str | os.PathLike | bytes):
        return read_image(image if isinstance(image, bytes) else os.fspath(image), channels)
    if isinstance(image, Image.Image):
        return pil_to_tensor(image, channels)
    if not isinstance(image, np.ndarray | Tensor):
        raise invalid("a path, bytes of an image file, a Pillow image, or uint8 pixels", f"a {type(image).__name__}")
    if str(image.dtype).removeprefix("torch.") != "uint8":
        nearest = "(image * 255).round() as uint8, for pixels from 0 to 1"
        raise invalid("pixels in uint8, from 0 to 255", image.dtype, nearest)
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] in (1, 3):
        image = image.permute(1, 2, 0).cpu().numpy()
    array = np.asarray(image)
    array = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        required = "pixels of shape (H, W), (H, W, 3) or (H, W, 4) in an array, (C, H, W) in a tensor"
        raise invalid(required, tuple(image.shape))
    return pil_to_tensor(Image.fromarray(array), channels)


def fit_image_size(pixels: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return pixels (C, H, W) of this height and width; others are resized by the shorter side and center-cropped."""
    if tuple(pixels.shape[1:]) == image_size:
        return pixels
    height, width = image_size
    side = max(height, width)  # the shorter side becomes the network's longer one, so that the crop always fits
    square = TransformPipeline(f"resize({side}) center-crop({side})").apply_image(pixels, 0)
    top, left = (side - height) // 2, (side - width) // 2
    return square[:, top : top + height, left : left + width]
