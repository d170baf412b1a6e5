"""The functions behind every transform, and one step of a pipeline: a transform with its arguments."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from reslab.data.rng import RandomDraws
from reslab.data.transforms import kernels, ops, third_party
from reslab.data.transforms.rand_augment import rand_augment
from reslab.spec.errors import invalid
from reslab.spec.grammar import Param, signature_params
from reslab.spec.transform_grammar import TransformCall, bind_args
from reslab.spec.transforms import (
    BATCH_NAMES,
    CUSTOM_NAME,
    SCALED,
    TORCHVISION_NAME,
    TRANSFORMS,
    TransformArg,
    TransformKind,
    TransformSpec,
)


@dataclass(frozen=True)
class TransformFunctions:
    """The functions of a transform.

    `batch(images, draws, *args)` takes (N, C, H, W), `image(image, draws, *args)` takes (C, H, W); a missing one
    follows from the other. `move(inpt, draws, size, *args)` moves a mask or boxes of an image of `size`, and images too
    where neither of the others does. `scale(draws, height, width, *args)` returns by how much an image may be reduced
    when it is decoded. `color_only` requires 1 or 3 channels; `unit_range` floats from 0 to 1. `alternates`: the
    functions read `RandomDraws.alternating_bit`.
    """

    batch: Callable[..., Tensor] | None = None
    image: Callable[..., Tensor] | None = None
    move: Callable[..., Any] | None = None
    scale: Callable[..., int] | None = None
    color_only: bool = False
    unit_range: bool = False
    alternates: bool = False


FUNCTIONS: dict[str, TransformFunctions] = {
    "pad": TransformFunctions(ops.pad, move=kernels.pad),
    "pad-to": TransformFunctions(ops.pad_to, move=kernels.pad_to),
    "crop": TransformFunctions(ops.crop, move=kernels.crop),
    "flip": TransformFunctions(ops.flip, ops.flip_image, kernels.flip),
    "alternating-flip": TransformFunctions(ops.alternating_flip, move=kernels.alternating_flip, alternates=True),
    "vertical-flip": TransformFunctions(move=kernels.vertical_flip),
    "resize": TransformFunctions(ops.resize, move=kernels.resize),
    "center-crop": TransformFunctions(ops.center_crop, move=kernels.center_crop),
    "random-resized-crop": TransformFunctions(
        ops.random_resized_crop,
        ops.random_resized_crop_image,
        kernels.random_resized_crop,
        ops.random_resized_crop_scale,
    ),
    "random-resize": TransformFunctions(ops.random_resize, ops.random_resize_image, kernels.random_resize),
    "random-scale-crop": TransformFunctions(ops.random_scale_crop, move=kernels.random_scale_crop),
    "rotate": TransformFunctions(move=kernels.rotate),
    "affine": TransformFunctions(move=kernels.affine),
    "perspective": TransformFunctions(move=kernels.perspective),
    "elastic": TransformFunctions(move=kernels.elastic),
    "color-jitter": TransformFunctions(image=third_party.color_jitter, color_only=True, unit_range=True),
    "lighting": TransformFunctions(ops.lighting),
    "grayscale": TransformFunctions(image=kernels.grayscale, color_only=True),
    "gaussian-blur": TransformFunctions(image=kernels.gaussian_blur),
    "sharpness": TransformFunctions(image=kernels.sharpness, color_only=True, unit_range=True),
    "solarize": TransformFunctions(image=kernels.solarize, unit_range=True),
    "posterize": TransformFunctions(image=kernels.posterize, unit_range=True),
    "autocontrast": TransformFunctions(image=kernels.autocontrast, color_only=True, unit_range=True),
    "equalize": TransformFunctions(image=kernels.equalize, unit_range=True),
    "invert": TransformFunctions(image=kernels.invert, unit_range=True),
    "erase": TransformFunctions(image=third_party.erase),
    "cutout": TransformFunctions(ops.cutout),
    "randaugment": TransformFunctions(rand_augment),
    "randaugment-torchvision": TransformFunctions(
        image=third_party.rand_augment_torchvision, color_only=True, unit_range=True
    ),
    "trivial-augment": TransformFunctions(image=third_party.trivial_augment, color_only=True, unit_range=True),
    "auto-augment": TransformFunctions(image=third_party.auto_augment, color_only=True, unit_range=True),
    "augmix": TransformFunctions(image=third_party.augmix, color_only=True, unit_range=True),
}


_WITHOUT_TORCHVISION = {
    *(name for name, functions in FUNCTIONS.items() if functions.batch is not None),
    *("vertical-flip", *BATCH_NAMES, CUSTOM_NAME),
}


TransformFunctionT = TypeVar("TransformFunctionT", bound=Callable[..., Any])


def register_transform(
    name: str, *, kind: str = TransformKind.COLOR, reference: str = "", summary: str = "", unit_range: bool = False
) -> Callable[[TransformFunctionT], TransformFunctionT]:
    """Return a decorator that registers a transform of one image (C, H, W), uint8 or float from 0 to 1.

    The function takes the image, random numbers (`draws`, `reslab.data.rng.RandomDraws`) if it has such a parameter,
    and arguments by its signature. `kind`:

    * `color`: boxes and masks stay. `policy`: an image with boxes or masks is an error.
    * `geometric`: the function takes `inpt`, an image, a mask or boxes, and `size`, the image's height and width.

    `unit_range` requires floats from 0 to 1. Raises ValueError for a name that is taken, or a parameter without a type.
    """
    transform_kind = TransformKind(kind)
    if transform_kind not in (TransformKind.COLOR, TransformKind.POLICY, TransformKind.GEOMETRIC):
        raise invalid("kind color, policy or geometric", kind, "color")

    def register(function: TransformFunctionT) -> TransformFunctionT:
        params = signature_params(function, ("image", "inpt", "draws", "size"))
        args = tuple(_to_transform_arg(param) for param in params)
        required = ",".join(param.example for param in params if param.required)
        first_line = (function.__doc__ or "").strip().partition("\n")[0]
        spec = TransformSpec(
            name, transform_kind, summary or first_line, f"{name}({required})" if required else name, reference, args
        )
        TRANSFORMS.register(name, spec, function)
        call = _TransformCall(function, "draws" in inspect.signature(function).parameters)
        is_geometric = transform_kind is TransformKind.GEOMETRIC
        FUNCTIONS[name] = TransformFunctions(
            image=None if is_geometric else call, move=call if is_geometric else None, unit_range=unit_range
        )
        return function

    return register


@dataclass(frozen=True)
class _TransformCall:
    """A registered function, called with or without the draws."""

    function: Callable[..., Any]
    has_draws: bool

    def __call__(self, image: Any, draws: RandomDraws, *args: Any) -> Any:
        return self.function(image, draws, *args) if self.has_draws else self.function(image, *args)


def _to_transform_arg(param: Param) -> TransformArg:
    default = param.default if isinstance(param.default, float | int | str) else None
    return TransformArg(param.name, "", param.type, param.low, param.high, param.choices, default)


@dataclass(frozen=True)
class TransformStep:
    """A transform with the values of its arguments."""

    name: str
    kind: TransformKind
    functions: TransformFunctions
    args: tuple[float | str, ...]

    def apply_batch(self, images: Tensor, draws: RandomDraws) -> Tensor:
        """Transform (N, C, H, W)."""
        if self.functions.batch is not None:
            return self.functions.batch(images, draws, *self.args)
        pairs = zip(images, draws.per_sample(), strict=True)
        return torch.stack([self.apply_image(image, image_draws) for image, image_draws in pairs])

    def apply_image(self, image: Tensor, draws: RandomDraws) -> Tensor:
        """Transform (C, H, W)."""
        self._check_image(image)
        if self.functions.image is not None:
            return self.functions.image(image, draws, *self.args)
        if self.functions.batch is not None:
            return self.functions.batch(image[None], draws, *self.args)[0]
        assert self.functions.move is not None, self.name
        moved: Tensor = self.functions.move(image, draws, tuple(image.shape[-2:]), *self.args)
        return moved

    def apply_sample(self, image: Tensor, target: Any, draws: RandomDraws) -> tuple[Tensor, Any]:
        """Transform (C, H, W) and the boxes and masks in its target."""
        if self.kind is TransformKind.POLICY and find_regions(target):
            next_step = "compose geometric and color transforms instead, such as rotate(15) color-jitter(0.4)"
            raise invalid(f"an image without boxes and masks for {self.name}", "a target with them", "", next_step)
        moved = self.apply_image(image, draws)
        if self.kind is TransformKind.GEOMETRIC:
            target = tree_map(lambda part: self._move(part, draws, tuple(image.shape[-2:])), target)
        return moved, target

    def _move(self, part: Any, draws: RandomDraws, size: tuple[int, ...]) -> Any:
        if not is_region(part):
            return part
        assert self.functions.move is not None, self.name
        return self.functions.move(part, draws, size, *self.args)

    @property
    def reads_scaled(self) -> bool:
        """True if images may be reduced when they are decoded."""
        return self.functions.scale is not None and SCALED in self.args

    def scale(self, draws: RandomDraws, height: int, width: int) -> int:
        """Return by how much an image of this size may be reduced when it is decoded."""
        assert self.functions.scale is not None, self.name
        return self.functions.scale(draws, height, width, *self.args)

    def _check_image(self, image: Tensor) -> None:
        if self.functions.color_only and len(image) not in (1, 3):
            raise invalid(f"images of 1 or 3 channels for {self.name}", f"{len(image)} channels")
        if self.functions.unit_range and image.is_floating_point() and image.device.type != "meta":
            low, high = (float(bound) for bound in image.aminmax())
            if low < 0 or high > 1:
                next_step = "pass uint8 pixels, or set normalize.per_pixel_mean=false"
                raise invalid(f"pixels from 0 to 1 for {self.name}", f"{low:g} to {high:g}", next_step=next_step)


@dataclass(frozen=True)
class FunctionStep(TransformStep):
    """A transform of torchvision or a function of the user."""

    function: Callable[..., Any]

    def apply_image(self, image: Tensor, draws: RandomDraws) -> Tensor:
        """Transform (C, H, W)."""
        return third_party.apply_function(self.function, self.name, image, draws)

    def apply_sample(self, image: Tensor, target: Any, draws: RandomDraws) -> tuple[Tensor, Any]:
        """Transform (C, H, W) and its target together."""
        moved, new_target = third_party.apply_function_to_sample(self.function, self.name, image, target, draws)
        _check_types(target, new_target, self.name)
        return moved, new_target


def make_step(call: TransformCall, functions: Mapping[str, Callable[..., Any]]) -> TransformStep:
    """Return the step of a call; `functions` are the user's, by name.

    Raises ValueError for an unknown transform, wrong arguments, a function that is not given, or `mixup` and `cutmix`.
    """
    args = bind_args(call)
    if call.name not in _WITHOUT_TORCHVISION:
        import torchvision.transforms.v2  # noqa: F401 - now, so that not every worker process imports it
    if call.name in BATCH_NAMES:
        got = f"{call}, which mixes the images of a training batch and their labels"
        raise invalid("transforms of single images here", got)
    if call.name == CUSTOM_NAME:
        name = str(call.args[0]) if call.args else ""
        if name not in functions:
            next_step = "pass the function itself: train(train_transform=[..., function])"
            raise invalid(f"the function {name} of the transform", "its name alone", next_step=next_step)
        return FunctionStep(name, TransformKind.OPEN, TransformFunctions(), (), functions[name])
    if call.name == TORCHVISION_NAME:
        transform = third_party.torchvision_transform(call)
        return FunctionStep(str(call), TransformKind.OPEN, TransformFunctions(), (), transform)
    return TransformStep(call.name, TRANSFORMS[call.name].kind, FUNCTIONS[call.name], args)


def is_region(part: Any) -> bool:
    """Return True for torchvision's boxes, masks and keypoints."""
    from torchvision import tv_tensors

    return isinstance(part, tv_tensors.BoundingBoxes | tv_tensors.Mask | tv_tensors.KeyPoints)


def find_regions(target: Any) -> list[Any]:
    """Return the boxes, masks and keypoints in a target."""
    regions: list[Any] = []
    tree_map(lambda part: regions.append(part) if is_region(part) else None, target)
    return regions


def _check_types(target: Any, new_target: Any, name: str) -> None:
    """Raise ValueError if boxes or a mask have become a plain tensor, which later transforms would not move."""
    (before, structure), (after, new_structure) = tree_flatten(target), tree_flatten(new_target)
    if structure != new_structure:
        return
    for old, new in zip(before, after, strict=True):
        if is_region(old) and isinstance(new, Tensor) and not is_region(new):
            kind = type(old).__name__
            next_step = f"return tv_tensors.wrap(tensor, like={kind.lower()})"
            raise invalid(f"a tv_tensors.{kind} from {name}", "a plain tensor in its place", next_step=next_step)


def check_regions(image: Tensor, target: Any) -> None:
    """Raise ValueError unless boxes and masks are those of an image of this size."""
    from torchvision.transforms.v2.functional import get_size

    size = list(image.shape[-2:])
    for region in find_regions(target):
        if list(get_size(region)) != size:
            required = f"boxes and masks of {size[0]}x{size[1]}, like the image"
            raise invalid(required, "{}x{}".format(*get_size(region)))
