"""The image size of a run: one size for the training crop, the evaluation crop and the network's described input.

`image_size` (the recipe's, `--size`) sets all three. Otherwise the size follows from the data, from a training
transform that the user set, or from a network that is described for smaller images than the data's.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.named import DATASETS
from reslab.data.targets import TARGET_RULES
from reslab.nn.dense import DenseNetwork
from reslab.nn.module_network import GraphModel, ModuleFactory, ModuleNetwork
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.recipe import Recipe
from reslab.spec.task import TargetKind
from reslab.spec.transform_grammar import TransformCall, TransformValue, bind_args, parse_transforms
from reslab.spec.transforms import TRANSFORMS
from reslab.spec.zoo.dense import find_dense_arch, has_dense_axes
from reslab.spec.zoo.resolve import resolve_arch

CROP_FRACTION = 7 / 8  # as center-crop(224) of resize(256)
_MAX_SIZE_RATIO = 2.0
_RESAMPLING = ("resize", "random-resized-crop", "random-scale-crop", "random-resize")
# The arguments of each transform that are lengths in pixels. The last of the transforms that is not one of _NOT_LAST
# sets the size.
_SIZE_ARGS = {
    "pad": ("size",),
    "crop": ("size",),
    "center-crop": ("size",),
    "resize": ("size", "width"),
    "random-resized-crop": ("size",),
    "random-scale-crop": ("size", "min_side", "max_side"),
    "random-resize": ("side",),
    "pad-to": ("size",),
}
_NOT_LAST = ("pad", "pad-to", "random-resize")


@dataclass(frozen=True)
class ImageSize:
    """The size that a run's transforms are fitted to, and messages for the user.

    * `size`: the side in pixels; 0: the transforms stay as they are.
    * `eval_transform`: the evaluation transform; None: the data's own.
    * `fits_transforms`: False if it is the network that resizes images, and transforms stay as they are.
    """

    size: int = 0
    eval_transform: str | None = None
    messages: tuple[str, ...] = ()
    fits_transforms: bool = True


def output_size(transform: str) -> int | None:
    """Return the side of the images that a transform ends with; None if it keeps the size of its input."""
    calls = [call for call in parse_transforms(transform) if call.name in _SIZE_ARGS and call.name not in _NOT_LAST]
    return int(bind_args(calls[-1])[0]) if calls else None


def resamples(transform: str) -> bool:
    """Return True if a transform changes the scale of the images, and does not only pad and crop."""
    return any(call.name in _RESAMPLING for call in parse_transforms(transform))


def scale_transform(transform: str, factor: float) -> str:
    """Return a transform with its pads, crops and sizes multiplied by `factor`, each at least 1 pixel."""
    return " ".join(str(_scale_call(call, factor)) for call in parse_transforms(transform))


def _scale_call(call: TransformCall, factor: float) -> TransformCall:
    names = _SIZE_ARGS.get(call.name, ())
    spec = TRANSFORMS[call.name].args if names else ()
    args = tuple(_scale(arg, factor) if names and spec[i].name in names else arg for i, arg in enumerate(call.args))
    kwargs = tuple((key, _scale(arg, factor) if key in names else arg) for key, arg in call.kwargs)
    return replace(call, args=args, kwargs=kwargs)


def _scale(value: TransformValue, factor: float) -> TransformValue:
    # A number of 0 stands for none, as in the width of resize; a text is a mode.
    return max(1, round(value * factor)) if isinstance(value, int) and value else value


def fit_eval_transform(transform: str, size: int, image_size: tuple[int, int] | None, keeps_whole: bool = False) -> str:
    """Return the evaluation transform that ends at `size` pixels.

    The given one is scaled if it has a size; otherwise images of one size (`image_size`) are resized to it, and images
    of different sizes resized and center-cropped as ImageNet's; with `keeps_whole` the shorter side is resized, and
    nothing is cropped.
    """
    current = output_size(transform)
    if current is not None:
        return scale_transform(transform, size / current) if current != size else transform
    if keeps_whole:
        return f"resize({size})"
    if image_size is not None:
        if image_size == (size, size):
            return transform
        return f"resize({size})" if image_size[0] == image_size[1] else f"resize({size}) center-crop({size})"
    return f"resize({round(size / CROP_FRACTION)}) center-crop({size})"


def fit_train_transform(transform: str, size: int, image_size: tuple[int, int] | None) -> str:
    """Return the training transform that ends at `size` pixels: the given one scaled.

    One that only pads and crops is applied to images that were resized to `size` first.
    """
    current = output_size(transform)
    scaled = transform if current in (None, size) else scale_transform(transform, size / (current or size))
    if resamples(transform) or image_size == (size, size):
        return scaled
    is_square = image_size is not None and image_size[0] == image_size[1]
    resize = f"resize({size})" if is_square else f"resize({size}) center-crop({size})"
    return f"{resize} {scaled}".strip()


def fixed_image_size(data: DatasetSplits) -> tuple[int, int] | None:
    """Return (height, width) of the data's images if they all have one size, else None."""
    images = data.split(data.eval_split)
    if isinstance(images, TensorImageDataset):
        height, width = images.images.shape[-2:]
    elif data.preprocess.transform == "" and data.location:
        height, width = images.load_image(0).shape[-2:]
    else:
        return None
    return int(height), int(width)


def described_dims(model: Any, overrides: Mapping[str, Any]) -> int:
    """Return the dimensions of the maps that a network takes: 1 for signals, 2 for images, 3 for volumes."""
    arch = _described_arch(model, overrides)
    return 2 if arch is None else arch.dims


def _described_arch(model: Any, overrides: Mapping[str, Any]) -> Arch | None:
    if isinstance(model, nn.Module):
        return model.arch if isinstance(model, ResidualNetwork) else None
    if model is None or isinstance(model, ModuleFactory) or find_dense_arch(model) or has_dense_axes(overrides):
        return None  # a network for segmentation or detection takes images of any size
    return resolve_arch(model, overrides)


def described_size(model: Any, overrides: Mapping[str, Any]) -> int | None:
    """Return the side of the square images that a network is described for; None if it is not a network of ours."""
    arch = _described_arch(model, overrides)
    is_square = arch is not None and arch.dims == 2 and len(set(arch.image_size)) == 1
    return arch.image_size[0] if arch is not None and is_square else None


def choose_image_size(
    data: DatasetSplits, recipe: Recipe, user_keys: Mapping[str, Any], described: int | None
) -> ImageSize:
    """Return the size of a run; `recipe` has the user's overrides, `user_keys` are those of them that were given.

    Raises ValueError if the user gave several sizes that differ.
    """
    if TARGET_RULES[data.target_kind].resized_by_network:
        return ImageSize(recipe.image_size, fits_transforms=False)
    if recipe.image_size:
        _check_one_size(recipe, user_keys)
        return _make_image_size(recipe.image_size, data, recipe)
    if TARGET_RULES[data.target_kind].whole_images:
        return ImageSize()
    eval_transform = recipe.eval_transform or data.preprocess.transform
    train_size = output_size(recipe.train_transform) if "train_transform" in user_keys else None
    if train_size is not None:
        can_follow = resamples(recipe.train_transform) or fixed_image_size(data) is None
        if "eval_transform" in user_keys or not can_follow or train_size == output_size(eval_transform):
            return ImageSize()
        return replace(_make_image_size(train_size, data, recipe), size=0)
    if described is None or "eval_transform" in user_keys or not _has_own_sizes(data):
        return ImageSize()
    image_size = fixed_image_size(data)
    current = output_size(eval_transform) or (min(image_size) if image_size else None)
    if current is None or described >= current:
        return ImageSize()
    message = f"the network is described for {described}x{described} images, so they are resized to that"
    return replace(
        _make_image_size(described, data, recipe), messages=(f"{message}; for another size, --size {current}",)
    )


def _has_own_sizes(data: DatasetSplits) -> bool:
    """Return True for images in files and photographs; named datasets of small images and tensors keep their size."""
    return bool(data.preprocess.transform) or (bool(data.location) and data.name not in DATASETS)


def _make_image_size(size: int, data: DatasetSplits, recipe: Recipe) -> ImageSize:
    eval_transform = recipe.eval_transform or data.preprocess.transform
    keeps_whole = TARGET_RULES[data.target_kind].whole_images
    return ImageSize(size, fit_eval_transform(eval_transform, size, fixed_image_size(data), keeps_whole))


def _check_one_size(recipe: Recipe, user_keys: Mapping[str, Any]) -> None:
    for key in ("train_transform", "eval_transform"):
        size = output_size(getattr(recipe, key))
        if key in user_keys and size not in (None, recipe.image_size):
            got = f"size {recipe.image_size} and {key}={getattr(recipe, key)!r}"
            raise invalid("one image size", got, nearest=f"--size {size}", next_step=f"or leave {key} out")


def check_sizes(
    recipe: Recipe,
    user_keys: Mapping[str, Any],
    input_size: tuple[int, ...],
    target_kind: TargetKind = TargetKind.CLASS,
) -> tuple[str, ...]:
    """Compare the sizes of training and evaluation; return a message if the user set both and they are far apart.

    Where images are evaluated whole, a training crop may have any size.

    Raises ValueError if they differ by more than a factor of two and the user set only one of them.
    """
    train_size, eval_size = output_size(recipe.train_transform), min(input_size[1:])
    if train_size is None or TARGET_RULES[target_kind].whole_images:
        return ()
    if 1 / _MAX_SIZE_RATIO <= train_size / eval_size <= _MAX_SIZE_RATIO:
        return ()
    got = f"{train_size}x{train_size} images in training and {'x'.join(map(str, input_size[1:]))} in evaluation"
    if "train_transform" in user_keys and "eval_transform" in user_keys:
        return (f"the sizes differ: {got}; for one size, --size {train_size}",)
    raise invalid("one image size", got, nearest=f"--size {train_size} or --size {eval_size}")


def resize_preprocess(
    preprocess: Preprocess, size: int, image_size: tuple[int, int] | None = None, keeps_whole: bool = False
) -> Preprocess:
    """Return a preprocessing that ends at `size` pixels (`fit_eval_transform`).

    Raises ValueError if it has a mean of each pixel.
    """
    if preprocess.mean_image and image_size != (size, size):
        raise invalid("the network's own size, as it has a mean of each pixel", f"--size {size}")
    return replace(preprocess, transform=fit_eval_transform(preprocess.transform, size, image_size, keeps_whole))


ModelT = TypeVar("ModelT", bound=ResidualNetwork | ModuleNetwork | DenseNetwork | GraphModel)


def with_image_size(network: ModelT, size: int) -> ModelT:
    """Return the network, with the same weights, described for images of `size` pixels and preprocessing them so.

    Raises ValueError if the network can only take images of its own size, or has too large a stride.
    """
    own_size = network.arch.image_size
    if own_size == (size, size) and not isinstance(network, DenseNetwork):
        return network  # a network for segmentation or detection takes images of other sizes than its own
    if isinstance(network, GraphModel):
        raise invalid(f"images of {own_size[0]}x{own_size[1]}, the size of {network.path}", f"--size {size}")
    if isinstance(network, ResidualNetwork) and network.needs_fixed_size:
        expected = "x".join(map(str, own_size))
        got = f"--size {size}"
        raise invalid(f"images of {expected} for {network.arch.name}, whose head flattens maps of one size", got)
    if isinstance(network, ResidualNetwork) and size < network.total_stride:
        raise invalid(f"a size of at least {network.total_stride}, the total stride", size, str(network.total_stride))
    if isinstance(network, DenseNetwork) and network.arch.resizes_images:
        detector: Any = copy.deepcopy(network)
        detector.set_size(size)
        return detector
    resized = copy.copy(network)
    resized.arch = replace(network.arch, image_size=(size, size))
    if network.preprocess is not None:
        keeps_whole = isinstance(network, DenseNetwork)
        resized.set_metadata(preprocess=resize_preprocess(network.preprocess, size, keeps_whole=keeps_whole))
    return resized
