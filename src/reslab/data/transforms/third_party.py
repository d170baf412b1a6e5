"""Transforms of torchvision by name and functions of the user, each run under a seed of its own for every sample.

Both may draw from the global generators of torch, numpy and Python: these are seeded with the sample's draw and
restored afterwards, so that a result depends on (seed, epoch, sample) alone. torchvision is imported by the functions.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from reslab.data.decode import pil_to_tensor
from reslab.data.rng import RandomDraws, temporary_seed
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.transform_grammar import TransformCall, TransformValue
from reslab.spec.transforms import CUSTOM_NAME, TORCHVISION_NAME, TRANSFORMS

_BATCH_CLASSES = {"MixUp": "mixup", "CutMix": "cutmix"}


def run_seeded(transform: Callable[..., Any], draws: RandomDraws, *inputs: Any) -> Any:
    """Call a transform under the seed of the sample."""
    with temporary_seed(int(draws.bits(0)[0])):
        return transform(*inputs)


def color_jitter(image: Tensor, draws: RandomDraws, *strengths: float) -> Tensor:
    """Apply torchvision's ColorJitter with the strengths of brightness, contrast, saturation and hue."""
    from torchvision.transforms import v2

    brightness, contrast, saturation, hue = strengths
    output: Tensor = run_seeded(v2.ColorJitter(brightness, contrast, saturation, hue), draws, image)
    return output


def erase(image: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """Make a random box black, by torchvision's RandomErasing."""
    from torchvision.transforms import v2

    output: Tensor = run_seeded(v2.RandomErasing(probability), draws, image)
    return output


def rand_augment_torchvision(image: Tensor, draws: RandomDraws, operations: int, magnitude: int) -> Tensor:
    """Apply torchvision's RandAugment."""
    from torchvision.transforms import v2

    output: Tensor = run_seeded(v2.RandAugment(operations, magnitude), draws, image)
    return output


def trivial_augment(image: Tensor, draws: RandomDraws) -> Tensor:
    """Apply torchvision's TrivialAugmentWide."""
    from torchvision.transforms import v2

    output: Tensor = run_seeded(v2.TrivialAugmentWide(), draws, image)
    return output


def auto_augment(image: Tensor, draws: RandomDraws, policy: str) -> Tensor:
    """Apply torchvision's AutoAugment with a policy that was learned on a dataset."""
    from torchvision.transforms import v2

    output: Tensor = run_seeded(v2.AutoAugment(v2.AutoAugmentPolicy(policy)), draws, image)
    return output


def augmix(image: Tensor, draws: RandomDraws, severity: int, *options: float) -> Tensor:
    """Apply torchvision's AugMix; options are width, depth (0: 1 to 3) and alpha."""
    from torchvision.transforms import v2

    width, depth, alpha = options
    transform = v2.AugMix(severity, int(width), int(depth) or -1, alpha)
    output: Tensor = run_seeded(transform, draws, image)
    return output


def torchvision_transform(call: TransformCall) -> Callable[..., Any]:
    """Return the transform that `torchvision(CLASS, arguments)` names.

    Raises ValueError for an unknown class, or arguments that it rejects.
    """
    name, args = str(call.args[0]), call.args[1:]
    return _build(TransformCall(name, args, call.kwargs), call)


def _build(call: TransformCall, whole: TransformCall) -> Callable[..., Any]:
    if call.name == TORCHVISION_NAME:
        return torchvision_transform(call)
    if call.name in _BATCH_CLASSES:
        raise invalid("a transform of single images", str(whole), TRANSFORMS[_BATCH_CLASSES[call.name]].example)
    classes = _torchvision_classes()
    if call.name not in classes:
        raise unknown_name(
            "transform of torchvision", call.name, classes, f"example: {TRANSFORMS[TORCHVISION_NAME].example}"
        )
    args = [_to_python("", value, whole) for value in call.args]
    kwargs = {key: _to_python(key, value, whole) for key, value in call.kwargs}
    transform_class = classes[call.name]
    try:
        transform: Callable[..., Any] = transform_class(*args, **kwargs)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        signature = str(inspect.signature(transform_class)).partition(" ->")[0]
        raise invalid(f"{call.name}{signature} of torchvision", f"{whole}: {error}") from None
    return transform


@cache
def _torchvision_classes() -> dict[str, Any]:
    from torchvision.transforms import v2

    public = {name: value for name, value in vars(v2).items() if not name.startswith("_")}
    return {
        name: value
        for name, value in public.items()
        if isinstance(value, type) and issubclass(value, torch.nn.Module | v2.Compose) and name != "Transform"
    }


def _to_python(key: str, value: TransformValue, whole: TransformCall) -> Any:
    """Return an argument as torchvision takes it: lists, nested transforms, and its enums by their values."""
    if isinstance(value, tuple):
        return [_to_python(key, item, whole) for item in value]
    if isinstance(value, TransformCall):
        return _build(value, whole)
    if key == "dtype" and isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype):
        return getattr(torch, value)
    if key in ("policy", "interpolation") and isinstance(value, str):
        from torchvision.transforms import v2

        enum = v2.AutoAugmentPolicy if key == "policy" else v2.InterpolationMode
        names = [member.value for member in enum]
        if value not in names:
            raise unknown_name(key, value, names)
        return enum(value)
    return value


def apply_function(function: Callable[..., Any], name: str, image: Tensor, draws: RandomDraws) -> Tensor:
    """Call a user's or torchvision's transform with a copy of the image (C, H, W) in the memory of the CPU.

    Raises ValueError for a result of another type or shape.
    """
    # A copy, because it may change the image in place; on the CPU, because only that generator is seeded.
    output = run_seeded(function, draws, image.detach().to("cpu", copy=True))
    return _check_image(output, name, image)


def apply_function_to_sample(
    function: Callable[..., Any], name: str, image: Tensor, target: Any, draws: RandomDraws
) -> tuple[Tensor, Any]:
    """Call a transform with a copy of the image, as `tv_tensors.Image`, and its target; it returns both."""
    from torchvision import tv_tensors

    output = run_seeded(function, draws, tv_tensors.Image(image.detach().to("cpu", copy=True)), target)
    if not isinstance(output, tuple | list) or len(output) != 2:
        raise invalid(f"an image and its target from {name}", f"a {type(output).__name__}")
    return _check_image(output[0], name, image), output[1]


def _check_image(output: Any, name: str, image: Tensor) -> Tensor:
    if isinstance(output, Image.Image):
        output = pil_to_tensor(output, image.shape[0])
    if not isinstance(output, Tensor):
        next_step = "torch.from_numpy(array).permute(2, 0, 1)" if type(output).__module__ == "numpy" else ""
        raise invalid(f"an image tensor (C, H, W) from {name}", f"a {type(output).__name__}", next_step)
    if output.ndim != 3 or not (output.dtype == torch.uint8 or output.is_floating_point()):
        required = f"an image (C, H, W) in uint8 or floats from {name}"
        raise invalid(required, f"{output.dtype} of shape {tuple(output.shape)}")
    return output.as_subclass(Tensor).to(image.device)


TransformSource = str | Callable[..., Any] | Sequence[str | Callable[..., Any]]
"""An expression, a function of an image, or a list of both."""


def split_functions(transform: TransformSource) -> tuple[str, dict[str, Callable[..., Any]]]:
    """Return the expression of a list of transforms, with `callable(NAME)` for each function, and functions by name.

    NAME is module and name of the function, which a run records: `callable(my_project.sharpen)`.
    """
    parts = [transform] if isinstance(transform, str) or callable(transform) else list(transform)
    functions: dict[str, Callable[..., Any]] = {}
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not callable(part):
            raise invalid("transforms as text or functions", f"a {type(part).__name__}", "['crop(32)', function]")
        name = _unused_name(_function_name(part), part, functions)
        functions[name] = part
        texts.append(f"{CUSTOM_NAME}({name})")
    return " ".join(texts), functions


def _unused_name(name: str, function: Callable[..., Any], functions: Mapping[str, Callable[..., Any]]) -> str:
    """Return the name, with a number if another function has it, such as a second lambda."""
    names = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    return next(other for other in names if functions.get(other, function) is function)


def _function_name(function: Callable[..., Any]) -> str:
    """Return module and name without the brackets of `<lambda>` and `<locals>`."""
    owner = function if hasattr(function, "__qualname__") else type(function)
    name = f"{getattr(owner, '__module__', None) or 'module'}.{owner.__qualname__}"
    return "".join(letter for letter in name if letter.isalnum() or letter in "._")
