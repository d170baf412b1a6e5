"""What was asked of `train`, word for word; None is what was not said.

What a recipe wishes for beside the steps: a network, its axes, data, first weights; where nobody says otherwise.

What is trained where nothing was asked for: a network and a recipe that suit the pictures.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from torch import nn

from reslab.data.dataset import DatasetSplits
from reslab.data.transforms.normalize import compute_mean_image, encode_mean_image
from reslab.nn.checkpoints.pretrained import Pretrained
from reslab.spec.arch import Arch, parse_arch_overrides
from reslab.spec.config import override
from reslab.spec.errors import invalid, nearest
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.layout import stem_ops
from reslab.spec.optim import parse_duration
from reslab.spec.order import op_stride
from reslab.spec.preprocess import Preprocess
from reslab.spec.recipe import Recipe
from reslab.spec.recipes import RECIPES, get_recipe
from reslab.spec.zoo import ARCHS
from reslab.training.loop import LossFn

PUBLISHED_WEIGHTS = "published weights"
AUTO = "auto"
_RECIPE_ARGUMENTS = ("model", "data", "val_fraction", "pretrained")  # arguments that are keys of a recipe, too


@dataclass(frozen=True)
class TrainOptions:
    """The arguments of `train` that say what is trained. `settings` are the recipe's, `axes` the network's;
    `recipe_arch_overrides` those that the recipe sets where they were not said."""

    model: str | Arch | nn.Module | None = None
    data: Any = None
    recipe: str | Recipe | None = None
    seed: int | None = None
    recipe_overrides: Mapping[str, Any] = field(default_factory=dict)
    arch_overrides: Mapping[str, Any] = field(default_factory=dict)
    pretrained: Pretrained | None = None
    loss: LossFn | None = None
    data_dir: str | Path | None = None
    val_fraction: float | None = None
    skip_bad_images: bool = False
    recipe_arch_overrides: tuple[str, ...] = ()
    num_images: int | None = None
    snapshot_every: str | None = None
    auto_batch: bool = False

    def __post_init__(self) -> None:
        for key in _RECIPE_ARGUMENTS:
            value = getattr(self, key)
            if value is not None and key in self.recipe_overrides:
                _check_conflict(f"{key} {value}", key, value, self.recipe_overrides[key])


def split_overrides(
    overrides: Mapping[str, Any] | None, epochs: float | None, batch_size: int | None, lr: float | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe's settings and the network's (`model.order`), the familiar arguments among them.

    Raises ValueError where a setting says otherwise than the argument for the same value.
    """
    arch_overrides = {
        key.removeprefix("model."): value for key, value in (overrides or {}).items() if key.startswith("model.")
    }
    recipe_overrides = {key: value for key, value in (overrides or {}).items() if not key.startswith("model.")}
    duration = None if epochs is None else f"{epochs:g} epoch{'s' * (epochs != 1)}"
    arguments = (
        ("duration", f"epochs {epochs:g}" if epochs else "", duration),
        ("batch_size", f"batch {batch_size}", batch_size),
    )
    for key, description, value in (*arguments, ("optimizer.lr", f"lr {lr}", lr)):
        if value is None:
            continue
        if key in recipe_overrides:
            _check_conflict(description, key, value, recipe_overrides[key])
        recipe_overrides[key] = value
    return recipe_overrides, arch_overrides


def _check_conflict(description: str, key: str, value: Any, override_value: Any) -> None:
    """ValueError where a setting is not what an argument, told by `words`, says."""
    if value == override_value or _normalize_value(key, value) == _normalize_value(key, override_value):
        return
    got = f"{description} and the setting {key}={override_value}"
    raise invalid(f"one value of {key}", got, next_step="leave one of them out")


def _normalize_value(key: str, value: Any) -> Any:
    """A value as the recipe has it; what the recipe could not hold stays as it is."""
    try:
        recipe = override(Recipe("", ""), {key: value})
    except ValueError:
        return value
    if key == "duration":
        return parse_duration(recipe.duration)
    return recipe.optimizer.lr if key == "optimizer.lr" else getattr(recipe, key)


def parse_batch_size(batch_size: int | str | None) -> tuple[int | None, bool]:
    """The global batch (None: the recipe's), and whether its parts are to be chosen; ValueError for another word."""
    if batch_size == AUTO:
        return None, True
    if isinstance(batch_size, str):
        if not batch_size.isdigit() or not int(batch_size):
            raise invalid("a batch of at least 1, or auto", repr(batch_size), nearest=AUTO)
        return int(batch_size), False
    return batch_size, False


def describe_pretrained(pretrained: Pretrained | None) -> str | None:
    """How the first weights are written down: the file or tag, or that they are the published ones."""
    if not pretrained:
        return None
    if isinstance(pretrained, Mapping):
        return "a state dict"
    return PUBLISHED_WEIGHTS if pretrained is True else str(pretrained)


def qualified_name(value: Callable[..., Any] | None) -> str | None:
    """How a callable of the user's own is written down: its module and name."""
    if value is None:
        return None
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{getattr(value, '__module__', None) or type(value).__module__}.{name}"


RECIPE_DEFAULT_KEYS = (
    "model",
    "arch",
    "data",
    "pretrained",
    "val_fraction",
    "eval_transform",
    "normalize",
)


def recipe_defaults(options: TrainOptions) -> Recipe:
    """The recipe that was named, or an empty one, with what was set of its wishes."""
    base = Recipe("", "") if options.recipe is None else options.recipe
    overrides = {
        key: value for key, value in options.recipe_overrides.items() if key.partition(".")[0] in RECIPE_DEFAULT_KEYS
    }
    return override(get_recipe(base) if isinstance(base, str) else base, overrides, kind="recipe key")


def apply_recipe_defaults(options: TrainOptions) -> tuple[TrainOptions, tuple[str, ...]]:
    """`asked` with the wishes of its recipe where nothing else was said; what a person should be told."""
    defaults, messages = recipe_defaults(options), []
    changes: dict[str, Any] = {}
    if options.data is None and defaults.data:
        changes["data"] = defaults.data
        messages.append(f"data {defaults.data}, that of the recipe {defaults.name}")
    if options.val_fraction is None and defaults.val_fraction and not isinstance(options.data, DatasetSplits):
        changes["val_fraction"] = defaults.val_fraction
        messages.append(
            f"{defaults.val_fraction:.0%} of the training pictures are split off for validation, as the recipe has it"
        )
    if not isinstance(options.model, nn.Module):
        if options.model is None and defaults.model:
            changes["model"] = defaults.model
        if options.pretrained is None and defaults.pretrained:
            changes["pretrained"] = True
        if defaults.arch:
            changes["recipe_arch_overrides"] = defaults.arch
            messages.append(f"axes of the network that the recipe sets: {', '.join(defaults.arch)}")
    return replace(options, **changes), tuple(messages)


def merge_arch_overrides(arch: Arch, options: TrainOptions) -> dict[str, Any]:
    """Return the overrides of the network `arch`: the user's, and the recipe's for axes that the user did not set.

    A recipe's merge modifiers join the network's own merge: `drop-path(0.05)` and `gate(-6)` become
    `drop-path(0.05) gate(-6)`. Raises ValueError for a plain network, which has no merge to modify.
    """
    recipe_overrides: dict[str, Any] = {
        axis: value
        for axis, value in parse_arch_overrides(options.recipe_arch_overrides).items()
        if axis not in options.arch_overrides
    }
    if "zero_init_residual" in options.arch_overrides:
        recipe_overrides.pop("last_norm_weight", None)
    if "merge" in recipe_overrides and arch.merge != "add":
        recipe_merge = recipe_overrides["merge"]
        if arch.merge == "none":
            required = f"a network with shortcuts for the recipe's merge={recipe_merge}"
            raise invalid(required, "merge=none", next_step="choose it yourself: --set model.merge=none")
        recipe_overrides["merge"] = arch.merge if recipe_merge in arch.merge else f"{recipe_merge} {arch.merge}"
    return recipe_overrides | dict(options.arch_overrides)


def with_eval_preprocess(data: DatasetSplits, recipe: Recipe) -> DatasetSplits:
    """The data, evaluated and normalised as the recipe has it; a single number is every channel's.

    Raises ValueError where the recipe's normalisation is for another number of channels, or of pictures in files.
    """
    preprocess = data.preprocess
    transform = recipe.eval_transform or preprocess.transform
    if recipe.normalize.per_pixel_mean:
        mean_image = compute_mean_image(data.split("train"))
        means, ones = tuple(round(value, 6) for value in mean_image.mean((1, 2)).tolist()), (1.0,) * preprocess.channels
        return replace(
            data, preprocess=Preprocess(preprocess.channels, transform, means, ones, encode_mean_image(mean_image))
        )
    if not recipe.normalize.mean:
        return (
            data
            if transform == preprocess.transform
            else replace(data, preprocess=replace(preprocess, transform=transform))
        )
    num_means = len(recipe.normalize.mean)
    if num_means not in (1, preprocess.channels):
        raise invalid(f"a mean for each of {preprocess.channels} channels, or one for all", recipe.normalize.mean)
    repeats = preprocess.channels // num_means
    return replace(
        data,
        preprocess=replace(
            preprocess, transform=transform, mean=recipe.normalize.mean * repeats, std=recipe.normalize.std * repeats
        ),
    )


SMALL_INPUT_SIDE = 64


def default_model(input_size: tuple[int, ...]) -> str:
    """`resnet20_cifar` for pictures under 64 pixels, else `resnet18`."""
    return "resnet20_cifar" if min(input_size[1:]) < SMALL_INPUT_SIDE else "resnet18"


def default_recipe(data_name: str, input_size: tuple[int, ...], pretrained: bool) -> Recipe:
    """The recipe for a data set of this name and input size (C, H, W), its crop made to fit."""
    channels, side = input_size[0], min(input_size[1:])
    if side >= SMALL_INPUT_SIDE:
        return _fit_crops(RECIPES["photos" if pretrained else "photos-scratch"], side)
    if data_name == "digits" or side < 16:
        return _fit_crops(RECIPES["digits"], side)
    return _fit_crops(RECIPES["fashion" if channels == 1 else "cifar"], side)


def _fit_crops(recipe: Recipe, side: int) -> Recipe:
    """The recipe with its pad and crops for pictures of `side`; unchanged where they are."""
    ops = parse_ops(recipe.train_transform)
    crop = next(op for op in ops if op.name.endswith("crop"))
    crop_size = int(crop.args[0])
    if crop_size == side:
        return recipe
    return replace(recipe, train_transform=" ".join(str(_scale_op(op, side / crop_size)) for op in ops))


def _scale_op(op: Op, factor: float) -> Op:
    if op.name != "pad" and not op.name.endswith("crop"):
        return op
    return replace(op, args=(max(1, round(float(op.args[0]) * factor)), *op.args[1:]))


def warn_about_stem(arch: Arch, input_size: tuple[int, ...]) -> None:
    """Warn where a stem made for ImageNet meets pictures under 64 pixels, and name the `_cifar` twin."""
    strides = [op_stride(op) for op in stem_ops(arch)]
    side = min(input_size[1:])
    if prod(strides) < 4 or side >= SMALL_INPUT_SIDE or not arch.depths:
        return
    cifar_names = [name for name in ARCHS if name.endswith("_cifar")]
    cifar_name = f"{arch.name}_cifar"
    suggestion = (
        cifar_name if cifar_name in cifar_names else next(iter(nearest(cifar_name, cifar_names, 1)), "resnet20_cifar")
    )
    warnings.warn(
        f"{arch.name} begins by dividing the sides by {prod(strides)}, for ImageNet: of {side} pixels "
        f"{-(-side // prod(strides))} are left; for pictures under {SMALL_INPUT_SIDE} pixels take {suggestion!r}",
        stacklevel=2,
    )
