"""Transform expressions such as `pad(4) crop(32) flip mixup(0.2)`: their operations, their parser, their application.

A new transform is one function and one line of `TRANSFORM_OPS`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from reslab.data.rng import RandomDraws, temporary_seed
from reslab.data.transforms import ops
from reslab.data.transforms.mixup import BatchMixer
from reslab.data.transforms.rand_augment import rand_augment
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops


@dataclass(frozen=True)
class TransformArg:
    """An argument of an operation: a number within bounds, or one of `choices`; optional if it has a default."""

    name: str
    value_type: type = int
    minimum: float = 1
    maximum: float = math.inf
    choices: tuple[str, ...] = ()
    default: float | str | None = None


@dataclass(frozen=True)
class TransformOp:
    """An operation: an example, its reference, its arguments, and its function for a batch, for one image, or for both.

    `apply_batch(images, draws, *args)` takes (N, C, H, W), `apply_image(image, draws, *args)` takes (C, H, W). A
    missing one follows from the other.
    """

    example: str
    reference: str
    args: tuple[TransformArg, ...]
    apply_batch: Callable[..., Tensor] | None = None
    apply_image: Callable[..., Tensor] | None = None


@dataclass(frozen=True)
class BatchMixOp:
    """An operation that mixes the images of a batch and their labels; its argument is alpha of Beta(alpha, alpha)."""

    example: str
    reference: str


def _torchvision_op(
    example: str, reference: str, args: tuple[TransformArg, ...], make_transform: Callable[..., Any]
) -> TransformOp:
    """Return a random transform of torchvision, whose draws from the global generator depend on the sample alone."""

    def apply_image(image: Tensor, draws: RandomDraws, *values: Any) -> Tensor:
        with temporary_seed(int(draws.bits(0)[0])):
            output: Tensor = make_transform(*values)(image)
        return output

    return TransformOp(example, reference, args, apply_image=apply_image)


_SIZE_ARG = TransformArg("size")
_INTERPOLATION_ARG = TransformArg("interpolation", str, choices=("bilinear", "bicubic"), default="bilinear")
_STRENGTH_ARG = TransformArg("strength", float, 0, 10, default=0.0)
_PROBABILITY_ARG = TransformArg("probability", float, 0, 1, default=0.5)
_ALPHA_ARG = TransformArg("alpha", float, 1e-3)
_HE2015 = "He et al. 2015, arXiv:1512.03385, section 4.2"
_SZEGEDY2014 = "Szegedy et al. 2014, arXiv:1409.4842, section 6; scale and aspect as torchvision"

TRANSFORM_OPS: dict[str, TransformOp] = {
    "pad": TransformOp(
        "pad(4)",
        _HE2015,
        (_SIZE_ARG, TransformArg("mode", str, choices=("zero", "reflect"), default="zero")),
        ops.pad,
    ),
    "crop": TransformOp("crop(32)", _HE2015, (_SIZE_ARG,), ops.crop),
    "flip": TransformOp("flip", _HE2015, (_PROBABILITY_ARG,), ops.flip, ops.flip_image),
    "resize": TransformOp(
        "resize(256)",
        "torchvision",
        (_SIZE_ARG, TransformArg("width", int, 1, default=0), _INTERPOLATION_ARG),
        ops.resize,
    ),
    "center-crop": TransformOp("center-crop(224)", "torchvision", (_SIZE_ARG,), ops.center_crop),
    "random-resized-crop": TransformOp(
        "random-resized-crop(224)",
        _SZEGEDY2014,
        (_SIZE_ARG, TransformArg("min_area", float, 1e-4, 1, default=0.08), _INTERPOLATION_ARG),
        ops.random_resized_crop,
        ops.random_resized_crop_image,
    ),
    "random-scale-crop": TransformOp(
        "random-scale-crop(224,256,480)",
        "Simonyan and Zisserman 2014, arXiv:1409.1556, section 3.1; He et al. 2015, section 3.4",
        (_SIZE_ARG, TransformArg("min_side"), TransformArg("max_side")),
        ops.random_scale_crop,
    ),
    "lighting": TransformOp(
        "lighting(0.1)",
        "Krizhevsky, Sutskever, Hinton 2012, ImageNet Classification with Deep CNNs, section 4.1",
        (TransformArg("std", float, 0, 1),),
        ops.lighting,
    ),
    "color-jitter": _torchvision_op(
        "color-jitter(0.4,0.4,0.4)",
        "Howard 2013, arXiv:1312.5402, as torchvision: brightness, contrast, saturation, hue",
        (
            TransformArg("brightness", float, 0, 10),
            _STRENGTH_ARG,
            _STRENGTH_ARG,
            TransformArg("hue", float, 0, 0.5, default=0.0),
        ),
        lambda brightness, contrast, saturation, hue: v2.ColorJitter(brightness, contrast, saturation, hue),
    ),
    "randaugment": TransformOp(
        "randaugment(9,0.5)",
        "Cubuk et al. 2019, arXiv:1909.13719, in timm's increasing form: magnitude of 10, its deviation, operations",
        (
            TransformArg("magnitude", float, 0, 10, default=9.0),
            TransformArg("std", float, 0, 5, default=0.5),
            TransformArg("operations", default=2),
        ),
        rand_augment,
    ),
    "randaugment-torchvision": _torchvision_op(
        "randaugment-torchvision(2,9)",
        "Cubuk et al. 2019, arXiv:1909.13719, as torchvision: operations, magnitude of 30",
        (TransformArg("operations", default=2), TransformArg("magnitude", int, 0, 30, default=9)),
        lambda operations, magnitude: v2.RandAugment(operations, magnitude),
    ),
    "trivial-augment": _torchvision_op(
        "trivial-augment",
        "Müller and Hutter 2021, arXiv:2103.10158, as torchvision",
        (),
        lambda: v2.TrivialAugmentWide(),
    ),
    "erase": _torchvision_op(
        "erase(0.1)",
        "Zhong et al. 2017, arXiv:1708.04896, as torchvision, with black",
        (_PROBABILITY_ARG,),
        lambda p: v2.RandomErasing(p),
    ),
}

BATCH_MIX_OPS: dict[str, BatchMixOp] = {
    "mixup": BatchMixOp("mixup(0.2)", "Zhang et al. 2017, arXiv:1710.09412, Eq. 1"),
    "cutmix": BatchMixOp("cutmix(1)", "Yun et al. 2019, arXiv:1905.04899, Eq. 1 and 2; lambda corrected as timm"),
}


@dataclass(frozen=True)
class _TransformStep:
    op: TransformOp
    args: tuple[float | str, ...]

    def apply_batch(self, images: Tensor, draws: RandomDraws) -> Tensor:
        if self.op.apply_batch is not None:
            return self.op.apply_batch(images, draws, *self.args)
        pairs = zip(images, draws.per_sample(), strict=True)
        return torch.stack([self.apply_image(image, image_draws) for image, image_draws in pairs])

    def apply_image(self, image: Tensor, draws: RandomDraws) -> Tensor:
        if self.op.apply_image is not None:
            return self.op.apply_image(image, draws, *self.args)
        assert self.op.apply_batch is not None, self.op
        return self.op.apply_batch(image[None], draws, *self.args)[0]


class TransformPipeline:
    """The operations of a transform expression, applied in order; random numbers depend on the samples' keys alone.

    Raises ValueError for an unknown operation, wrong arguments, or `mixup` and `cutmix`, which only a training batch
    can have (`parse_train_transform`).
    """

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self._steps = tuple(_make_step(op) for op in parse_ops(expression))

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


def parse_train_transform(expression: str) -> tuple[TransformPipeline, BatchMixer | None]:
    """Return the transform of each image and the mixing of a batch: `... flip mixup(0.2) cutmix(1)`.

    Raises ValueError as `TransformPipeline` does, and if `mixup` or `cutmix` are not at the end.
    """
    all_ops = parse_ops(expression)
    mix_ops = [op for op in all_ops if op.name in BATCH_MIX_OPS]
    image_ops = [op for op in all_ops if op.name not in BATCH_MIX_OPS]
    if mix_ops and list(all_ops) != image_ops + mix_ops:
        reordered = " ".join(str(op) for op in image_ops + mix_ops)
        raise invalid("mixup and cutmix at the end of the transform", expression, nearest=reordered)
    return TransformPipeline(" ".join(str(op) for op in image_ops)), _make_batch_mixer(mix_ops) if mix_ops else None


def _make_batch_mixer(mix_ops: Sequence[Op]) -> BatchMixer:
    alphas: dict[str, float] = {}
    for op in mix_ops:
        if op.name in alphas:
            raise invalid(f"{op.name} once in a transform", " ".join(map(str, mix_ops)), nearest=str(op))
        (alpha,) = parse_transform_args(op, (_ALPHA_ARG,), BATCH_MIX_OPS[op.name].example)
        alphas[op.name] = float(alpha)
    return BatchMixer(**alphas)


def _make_step(op: Op) -> _TransformStep:
    if op.name in BATCH_MIX_OPS:
        got = f"{op}, which mixes the images of a training batch and their labels"
        raise invalid("transforms of single images here", got)
    if op.name not in TRANSFORM_OPS:
        raise unknown_name("transform", str(op), (*TRANSFORM_OPS, *BATCH_MIX_OPS), "example: 'pad(4) crop(32) flip'")
    transform_op = TRANSFORM_OPS[op.name]
    return _TransformStep(transform_op, parse_transform_args(op, transform_op.args, transform_op.example))


def parse_transform_args(op: Op, args: Sequence[TransformArg], example: str) -> tuple[float | str, ...]:
    """Return one value for each argument: those given, in order, else the defaults.

    A choice may skip the numbers before it: `resize(236,bicubic)` leaves the width between the two at its default.
    Raises ValueError if there are too many or too few, or one is of the wrong type or out of bounds.
    """
    if op.size is not None or op.stride not in (None, 1):
        raise invalid(f"arguments in parentheses, {example}", str(op), nearest=f"{op.name}({op.size})")
    remaining, values = list(op.args), []
    for index, arg in enumerate(args):
        if remaining and not _belongs_to_later(remaining[0], arg, args[index + 1 :]):
            values.append(_convert_arg(arg, remaining.pop(0), op, example))
        elif arg.default is not None:
            values.append(arg.default)
        else:
            raise _wrong_arg_count(op, args, example)
    if remaining:
        raise _wrong_arg_count(op, args, example)
    return tuple(values)


def _belongs_to_later(value: float | str, arg: TransformArg, later_args: Sequence[TransformArg]) -> bool:
    return isinstance(value, str) and not arg.choices and any(value in other.choices for other in later_args)


def _wrong_arg_count(op: Op, args: Sequence[TransformArg], example: str) -> ValueError:
    names = ", ".join(arg.name for arg in args) or "none"
    return invalid(f"{op.name} with its arguments ({names})", str(op), nearest=example)


def _convert_arg(arg: TransformArg, value: float | str, op: Op, example: str) -> float | str:
    if arg.choices:
        if value not in arg.choices:
            raise unknown_name(f"{arg.name} of {op.name}", value, arg.choices)
        return value
    has_valid_type = isinstance(value, int) or (arg.value_type is float and isinstance(value, float))
    if not has_valid_type or not arg.minimum <= float(value) <= arg.maximum:
        bounds = f"from {arg.minimum:g}" + ("" if arg.maximum == math.inf else f" to {arg.maximum:g}")
        type_text = "a whole number" if arg.value_type is int else "a number"
        raise invalid(f"{arg.name} of {op.name} as {type_text} {bounds}", str(op), nearest=example)
    return float(value) if arg.value_type is float else int(value)
