"""The options of `train`, and the defaults that a recipe or the data provide for those left out."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from reslab.data.dataset import DatasetSplits
from reslab.data.dataset_names import dataset_path
from reslab.data.named import DATASETS
from reslab.data.targets import TARGET_RULES
from reslab.data.transforms.normalize import compute_mean_image, encode_mean_image
from reslab.data.transforms.third_party import TransformSource, split_functions
from reslab.nn.checkpoints.pretrained import Pretrained
from reslab.nn.module_network import ModuleFactory, as_factory
from reslab.spec.arch import Arch, parse_arch_overrides
from reslab.spec.config import override
from reslab.spec.dense import DenseArch, ModelKind
from reslab.spec.errors import invalid, nearest
from reslab.spec.layout import stem_stride
from reslab.spec.optim import parse_duration
from reslab.spec.preprocess import Preprocess
from reslab.spec.recipe import Recipe, expand_recipe_keys
from reslab.spec.recipes import RECIPES, get_recipe
from reslab.spec.task import DEFAULT_TASK, TASKS, Task
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.dense import override_dense_arch
from reslab.spec.zoo.resolve import get_arch, resolve_arch
from reslab.training.image_size import output_size, scale_transform
from reslab.training.losses import LossFn
from reslab.training.run_data import DataOptions

PUBLISHED_WEIGHTS = "published weights"
AUTO = "auto"
SMALL_INPUT_SIDE = 64
RECIPE_DEFAULT_KEYS = (
    "model",
    "arch",
    "data",
    "pretrained",
    "val_fraction",
    "image_size",
    "train_transform",
    "eval_transform",
    "normalize",
)
_RECIPE_ARGUMENTS = ("model", "data", "val_fraction", "pretrained")  # arguments of `train` that are recipe keys, too


@dataclass(frozen=True)
class TrainOptions(DataOptions):
    """The arguments of `train` that decide what is trained; None means not given.

    `recipe_overrides` change the recipe, `arch_overrides` the network; `recipe_arch_overrides` are the recipe's own
    changes of the network, which apply to axes that the user did not set; a `model` that is a factory, or names
    one or a library's network, becomes a `ModuleFactory`, whose arguments are `arch_overrides`. `transform_functions`
    are the user's own transforms, which `train_transform` names as `callable(NAME)`.
    """

    model: str | Arch | DenseArch | nn.Module | ModuleFactory | Callable[..., nn.Module] | None = None
    data: Any = None
    recipe: str | Path | Recipe | None = None
    seed: int | None = None
    recipe_overrides: Mapping[str, Any] = field(default_factory=dict)
    arch_overrides: Mapping[str, Any] = field(default_factory=dict)
    pretrained: Pretrained | None = None
    allow_extra: bool = False
    loss: LossFn | None = None
    recipe_arch_overrides: tuple[str, ...] = ()
    snapshot_every: str | None = None
    auto_batch: bool = False
    transform_functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", as_factory(self.model) or self.model)
        _check_kinds(self.model, self.data, self.recipe)
        for key in _RECIPE_ARGUMENTS:
            value = getattr(self, key)
            if value is not None and key in self.recipe_overrides:
                _check_conflict(f"{key} {value}", key, value, self.recipe_overrides[key])


def split_transform(
    overrides: Mapping[str, Any] | None, transform: TransformSource | None
) -> tuple[dict[str, Any], dict[str, Callable[..., Any]]]:
    """Return the overrides with the expression of `train_transform`, and the functions that it names.

    The transform comes from the argument or the override, each an expression, a function or a list of both. Raises
    ValueError if the two contradict each other.
    """
    result = dict(overrides or {})
    functions: dict[str, Callable[..., Any]] = {}
    for value in (result.get("train_transform"), transform):
        if value is None:
            continue
        expression, new_functions = split_functions(value)
        if value is transform and "train_transform" in result:
            _check_conflict(f"train_transform {expression}", "train_transform", expression, result["train_transform"])
        result["train_transform"] = expression
        functions |= new_functions
    return result, functions


def _check_kinds(model: Any, data: Any, recipe: Any) -> None:
    """Raise ValueError if a model, a dataset or a recipe was given in the place of another."""
    tables: dict[str, Mapping[str, Any]] = {"model": ARCHS, "data": DATASETS, "recipe": RECIPES}
    for kind, value in (("model", model), ("data", data), ("recipe", recipe)):
        if not isinstance(value, str | Path) or str(value) in tables[kind]:
            continue
        if kind == "data" and dataset_path(value).exists():
            continue
        other = next((name for name, table in tables.items() if str(value) in table), None)
        if other is None and kind != "data" and Path(value).expanduser().is_dir():
            other = "data"
        if other is not None:
            noun = {"model": "a model", "data": "a dataset", "recipe": "a recipe"}
            raise invalid(f"{noun[kind]} as {kind}", f"{value}, {noun[other]}", nearest=f"--{other} {value}")


def split_overrides(
    overrides: Mapping[str, Any] | None,
    *,
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    image_size: int | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the overrides of the recipe, with the arguments that have a key there, and those of the network.

    Overrides of the network begin with `model.` (`model.order`), which is removed. Raises ValueError if an override
    contradicts the argument for the same value. Keys may be shortened: see `expand_recipe_keys`.
    """
    arch_overrides = {
        key.removeprefix("model."): value for key, value in (overrides or {}).items() if key.startswith("model.")
    }
    recipe_overrides = {
        key: value for key, value in expand_recipe_keys(overrides or {}).items() if not key.startswith("model.")
    }
    duration = None if epochs is None else f"{epochs:g} epoch{'s' * (epochs != 1)}"
    arguments = (
        ("duration", f"epochs {epochs:g}" if epochs else "", duration),
        ("batch_size", f"batch size {batch_size}", batch_size),
        ("optimizer.lr", f"lr {lr}", lr),
        ("image_size", f"size {image_size}", image_size),
    )
    for key, description, value in arguments:
        if value is None:
            continue
        if key in recipe_overrides:
            _check_conflict(description, key, value, recipe_overrides[key])
        recipe_overrides[key] = value
    return recipe_overrides, arch_overrides


def _check_conflict(description: str, key: str, value: Any, override_value: Any) -> None:
    """Raise ValueError if an override differs from the argument for the same value."""
    if value == override_value or _normalize_value(key, value) == _normalize_value(key, override_value):
        return
    got = f"{description} and the setting {key}={override_value}"
    raise invalid(f"one value of {key}", got, next_step="leave one of them out")


def _normalize_value(key: str, value: Any) -> Any:
    """Return a value as the recipe would hold it; one that the recipe rejects is returned as it is."""
    try:
        recipe = override(Recipe("", ""), {key: value})
    except ValueError:
        return value
    if key == "duration":
        return parse_duration(recipe.duration)
    return recipe.optimizer.lr if key == "optimizer.lr" else getattr(recipe, key)


def parse_batch_size(batch_size: int | str | None) -> tuple[int | None, bool]:
    """Return the global batch size (None: the recipe's) and whether micro-batches are chosen by memory (`auto`)."""
    if batch_size == AUTO:
        return None, True
    if isinstance(batch_size, str):
        if not batch_size.isdigit() or not int(batch_size):
            raise invalid("a batch size of at least 1, or auto", repr(batch_size), nearest=AUTO)
        return int(batch_size), False
    return batch_size, False


def describe_pretrained(pretrained: Pretrained | None) -> str | None:
    """Return what run.json records of the initial weights: the file or tag, or that they are the published ones."""
    if not pretrained:
        return None
    if isinstance(pretrained, Mapping):
        return "a state dict"
    return PUBLISHED_WEIGHTS if pretrained is True else str(pretrained)


def qualified_name(value: Callable[..., Any] | None) -> str | None:
    """Return the module and name of a user's callable, as run.json records it."""
    if value is None:
        return None
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{getattr(value, '__module__', None) or type(value).__module__}.{name}"


def recipe_defaults(options: TrainOptions) -> Recipe:
    """Return the named recipe (an empty one without a name) with the overrides of its defaults for model and data."""
    base = Recipe("", "") if options.recipe is None else get_recipe(options.recipe)
    overrides = {
        key: value for key, value in options.recipe_overrides.items() if key.partition(".")[0] in RECIPE_DEFAULT_KEYS
    }
    return override(base, overrides, kind="recipe key")


def apply_recipe_defaults(options: TrainOptions) -> tuple[TrainOptions, tuple[str, ...]]:
    """Fill in what the recipe provides for options that were not given; return them and messages for the user."""
    defaults, messages = recipe_defaults(options), []
    changes: dict[str, Any] = {}
    if options.data is None and defaults.data:
        changes["data"] = defaults.data
        messages.append(f"data {defaults.data}, from the recipe {defaults.name}")
    if options.val_fraction is None and defaults.val_fraction and not isinstance(options.data, DatasetSplits):
        changes["val_fraction"] = defaults.val_fraction
        changes["is_default_fraction"] = "val_fraction" not in options.recipe_overrides
        messages.append(f"the recipe splits off {defaults.val_fraction:.0%} of the training images for validation")
    if not isinstance(options.model, nn.Module | ModuleFactory):
        if options.model is None and defaults.model:
            changes["model"] = defaults.model
        if options.pretrained is None and defaults.pretrained:
            changes["pretrained"] = True
        if defaults.arch:
            changes["recipe_arch_overrides"] = defaults.arch
            messages.append(f"the recipe changes the network: {', '.join(defaults.arch)}")
    return replace(options, **changes), tuple(messages)


def resolve_arch_for_data(
    model: str | Arch,
    data: DatasetSplits,
    input_size: tuple[int, ...],
    *,
    overrides: Mapping[str, Any],
    recipe_overrides: tuple[str, ...] = (),
) -> Arch:
    """Return the architecture with the user's overrides, else the recipe's, else the data's classes, channels and size.

    A recipe's merge is combined with the network's own: `drop-path(0.05)` comes before `gate(-6)`. Raises ValueError if
    the two cannot be combined.
    """
    base = get_arch(model)
    data_axes: dict[str, Any] = {
        "num_classes": data.num_classes,
        "in_channels": input_size[0],
        "image_size": tuple(input_size[1:]),
    }
    recipe_axes: dict[str, Any] = dict(parse_arch_overrides(recipe_overrides))
    if "zero_init_residual" in overrides:  # torchvision's name of this axis
        recipe_axes.pop("last_norm_weight", None)
    if "in_chans" in overrides:  # timm's name of this axis
        data_axes.pop("in_channels")
    if "merge" in recipe_axes and "merge" not in overrides:
        recipe_axes["merge"] = _combine_merges(recipe_axes["merge"], base.merge)
    return resolve_arch(base, {**data_axes, **recipe_axes, **overrides})


def resolve_dense_arch(
    arch: DenseArch,
    data: DatasetSplits,
    input_size: tuple[int, ...],
    *,
    overrides: Mapping[str, Any],
    recipe_overrides: tuple[str, ...] = (),
    keeps_normalization: bool = False,
    image_size: int = 0,
) -> DenseArch:
    """Return the architecture with the user's overrides, else the recipe's, else the data's classes, channels and size.

    `keeps_normalization`: that of the weights it starts from, in place of the data's. `image_size`: the one to
    which the network resizes images, if it does; 0: its own.
    """
    axes = {
        "num_classes": data.num_classes + arch.num_background,
        "in_channels": input_size[0],
        "image_size": (input_size[1], input_size[2]),
        **({} if keeps_normalization else arch.normalization_axes(data.preprocess.mean, data.preprocess.std)),
        **(arch.size_axes(image_size) if image_size else {}),
        **parse_arch_overrides(recipe_overrides),
        **overrides,
    }
    return override_dense_arch(arch, axes)


def _combine_merges(recipe_merge: str, merge: str) -> str:
    if merge == "add" or recipe_merge in merge:
        return recipe_merge if merge == "add" else merge
    if merge == "none":
        next_step = "choose it yourself: --set model.merge=none"
        raise invalid(f"a network with shortcuts for the recipe's merge={recipe_merge}", "merge=none", "", next_step)
    return f"{recipe_merge} {merge}"


def with_eval_preprocess(data: DatasetSplits, recipe: Recipe) -> DatasetSplits:
    """Return the data with the recipe's evaluation transform and normalization, where it sets them.

    Raises ValueError if the normalization is for another number of channels, or a mean per pixel for images in files.
    """
    preprocess, normalize = data.preprocess, recipe.normalize
    channels, transform = preprocess.channels, recipe.eval_transform or preprocess.transform
    if normalize.per_pixel_mean:
        mean_image = compute_mean_image(data.split("train"))
        means, ones = tuple(round(value, 6) for value in mean_image.mean((1, 2)).tolist()), (1.0,) * channels
        return replace(data, preprocess=Preprocess(channels, transform, means, ones, encode_mean_image(mean_image)))
    if not normalize.mean:
        return data if transform == preprocess.transform else _with_preprocess(data, transform=transform)
    num_means = len(normalize.mean)
    if num_means not in (1, channels):
        raise invalid(f"a mean for each of {channels} channels, or one for all", normalize.mean)
    repeats = channels // num_means
    return _with_preprocess(data, transform=transform, mean=normalize.mean * repeats, std=normalize.std * repeats)


def _with_preprocess(data: DatasetSplits, **changes: Any) -> DatasetSplits:
    return replace(data, preprocess=replace(data.preprocess, **changes))


_DEFAULT_MODELS = {
    ModelKind.CLASSIFICATION: ("resnet20_cifar", "resnet18"),
    ModelKind.SEGMENTATION: ("unet_resnet20_cifar", "unet_resnet18"),
    ModelKind.DETECTION: ("fasterrcnn_resnet18_fpn_320", "fasterrcnn_resnet18_fpn_320"),
}


def default_model(input_size: tuple[int, ...], kind: ModelKind = ModelKind.CLASSIFICATION) -> str:
    """Return `resnet20_cifar` for images under 64 pixels, else `resnet18`; for other tasks networks on it."""
    small, large = _DEFAULT_MODELS[kind]
    return small if min(input_size[1:]) < SMALL_INPUT_SIDE else large


def default_recipe(
    data_name: str,
    input_size: tuple[int, ...],
    pretrained: bool,
    resized: bool = False,
    task: Task = TASKS[DEFAULT_TASK],
) -> Recipe:
    """Return the default recipe for a dataset of this name and input size (C, H, W), with crops that fit.

    That of the task if it has one of its own. `resized`: the images have different sizes, all resized to the input
    size.
    """
    channels, side = input_size[0], min(input_size[1:])
    if task.recipe:
        recipe = RECIPES[task.recipe]
        return recipe if TARGET_RULES[task.target].resized_by_network else _fit_crops(recipe, side)
    if side >= SMALL_INPUT_SIDE or resized:
        return _fit_crops(RECIPES["photos" if pretrained else "photos-scratch"], side)
    if data_name == "digits" or side < 16:
        return _fit_crops(RECIPES["digits"], side)
    return _fit_crops(RECIPES["fashion" if channels == 1 else "cifar"], side)


def _fit_crops(recipe: Recipe, side: int) -> Recipe:
    """Return the recipe with padding and crops scaled to images of `side` pixels."""
    crop_size = output_size(recipe.train_transform)
    assert crop_size is not None, recipe
    if crop_size == side:
        return recipe
    return replace(recipe, train_transform=scale_transform(recipe.train_transform, side / crop_size))


def warn_about_stem(arch: Arch, input_size: tuple[int, ...]) -> None:
    """Warn if a stem made for larger images gets images under 64 pixels, and suggest the `_cifar` network."""
    stride, side = stem_stride(arch), min(input_size[1:])
    published = ARCHS.get(arch.name)
    is_made_for_size = published is not None and side >= min(published.image_size)
    if stride < 4 or side >= SMALL_INPUT_SIDE or is_made_for_size or not arch.depths:
        return
    cifar_names = [name for name in ARCHS if name.endswith("_cifar")]
    cifar_name = f"{arch.name}_cifar"
    suggestion = (
        cifar_name if cifar_name in cifar_names else next(iter(nearest(cifar_name, cifar_names, 1)), "resnet20_cifar")
    )
    warnings.warn(
        f"the stem of {arch.name} is made for ImageNet: it divides the sides by {stride} and leaves "
        f"{-(-side // stride)} of {side} pixels; use {suggestion!r} for images under {SMALL_INPUT_SIDE} pixels",
        stacklevel=2,
    )
