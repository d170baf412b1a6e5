"""Apply a transform expression such as `pad(4) crop(32) flip mixup(0.2)` to images, samples and batches.

A new transform is one entry of `TRANSFORMS` (spec/transforms.py) and one of `FUNCTIONS` (steps.py).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reslab.data.decode import ChooseScale
from reslab.data.rng import RandomDraws
from reslab.data.transforms.mixup import BatchMixer
from reslab.data.transforms.steps import check_regions, make_step
from reslab.data.transforms.third_party import TransformSource, split_functions
from reslab.spec.errors import invalid
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
