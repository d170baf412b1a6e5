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

from reslab.data.dataset import Data
from reslab.data.transforms.normalize import take_mean_image, write_mean_image
from reslab.nn.checkpoints.pretrained import Pretrained
from reslab.nn.factory import resolve_arch
from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.errors import invalid, nearest
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.layout import op_stride
from reslab.spec.optim import parse_duration
from reslab.spec.preprocess import Preprocess
from reslab.spec.recipe import Recipe, parse_arch_overrides
from reslab.spec.recipes import RECIPES, get_recipe
from reslab.spec.zoo import ARCHS
from reslab.training.loop import Loss

PUBLISHED = "published weights"
AUTO = "auto"
_BOTH_WAYS = ("model", "data", "val_fraction", "pretrained")  # arguments that are keys of a recipe, too


@dataclass(frozen=True)
class Asked:
    """The arguments of `train` that say what is trained. `settings` are the recipe's, `axes` the network's;
    `wished_axes` those that the recipe sets where they were not said."""

    model: str | Arch | nn.Module | None = None
    data: Any = None
    recipe: str | Recipe | None = None
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Any] = field(default_factory=dict)
    pretrained: Pretrained | None = None
    loss: Loss | None = None
    data_dir: str | Path | None = None
    val_fraction: float | None = None
    skip_bad_images: bool = False
    wished_axes: tuple[str, ...] = ()
    num_images: int | None = None
    snapshots: str | None = None
    auto_batch: bool = False

    def __post_init__(self) -> None:
        for key in _BOTH_WAYS:
            said = getattr(self, key)
            if said is not None and key in self.settings:
                _refuse_another(f"{key} {said}", key, said, self.settings[key])


def split_settings(
    settings: Mapping[str, Any] | None, epochs: float | None, batch: int | None, lr: float | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe's settings and the network's (`model.order`), the familiar arguments among them.

    Raises ValueError where a setting says otherwise than the argument for the same value.
    """
    axes = {key.removeprefix("model."): value for key, value in (settings or {}).items() if key.startswith("model.")}
    chosen = {key: value for key, value in (settings or {}).items() if not key.startswith("model.")}
    length = None if epochs is None else f"{epochs:g} epoch{'s' * (epochs != 1)}"
    said = (("duration", f"epochs {epochs:g}" if epochs else "", length), ("batch_size", f"batch {batch}", batch))
    for key, words, value in (*said, ("optimizer.lr", f"lr {lr}", lr)):
        if value is None:
            continue
        if key in chosen:
            _refuse_another(words, key, value, chosen[key])
        chosen[key] = value
    return chosen, axes


def _refuse_another(words: str, key: str, said: Any, setting: Any) -> None:
    """ValueError where a setting is not what an argument, told by `words`, says."""
    if said == setting or _read(key, said) == _read(key, setting):
        return
    got = f"{words} and the setting {key}={setting}"
    raise invalid(f"one value of {key}", got, next_step="leave one of them out")


def _read(key: str, value: Any) -> Any:
    """A value as the recipe has it; what the recipe could not hold stays as it is."""
    try:
        recipe = override(Recipe("", ""), {key: value})
    except ValueError:
        return value
    if key == "duration":
        return parse_duration(recipe.duration)
    return recipe.optimizer.lr if key == "optimizer.lr" else getattr(recipe, key)


def read_batch(batch: int | str | None) -> tuple[int | None, bool]:
    """The global batch (None: the recipe's), and whether its parts are to be chosen; ValueError for another word."""
    if batch == AUTO:
        return None, True
    if isinstance(batch, str):
        if not batch.isdigit() or not int(batch):
            raise invalid("a batch of at least 1, or auto", repr(batch), nearest=AUTO)
        return int(batch), False
    return batch, False


def pretrained_name(pretrained: Pretrained | None) -> str | None:
    """How the first weights are written down: the file or tag, or that they are the published ones."""
    if not pretrained:
        return None
    if isinstance(pretrained, Mapping):
        return "a state dict"
    return PUBLISHED if pretrained is True else str(pretrained)


def callable_name(value: Callable[..., Any] | None) -> str | None:
    """How a callable of the user's own is written down: its module and name."""
    if value is None:
        return None
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{getattr(value, '__module__', None) or type(value).__module__}.{name}"


WISHES = (
    "model",
    "arch_overrides",
    "data",
    "pretrained",
    "val_fraction",
    "eval_transform",
    "mean",
    "std",
    "pixel_mean",
)


def wishes(asked: Asked) -> Recipe:
    """The recipe that was named, or an empty one, with what was set of its wishes."""
    base = Recipe("", "") if asked.recipe is None else asked.recipe
    said = {key: value for key, value in asked.settings.items() if key in WISHES}
    return override(get_recipe(base) if isinstance(base, str) else base, said, kind="recipe key")


def fulfilled(asked: Asked) -> tuple[Asked, tuple[str, ...]]:
    """`asked` with the wishes of its recipe where nothing else was said; what a person should be told."""
    wish, notes = wishes(asked), []
    given: dict[str, Any] = {}
    if asked.data is None and wish.data:
        given["data"] = wish.data
        notes.append(f"data {wish.data}, that of the recipe {wish.name}")
    if asked.val_fraction is None and wish.val_fraction and not isinstance(asked.data, Data):
        given["val_fraction"] = wish.val_fraction
        notes.append(
            f"{wish.val_fraction:.0%} of the training pictures are split off for validation, as the recipe has it"
        )
    if not isinstance(asked.model, nn.Module):
        if asked.model is None and wish.model:
            given["model"] = wish.model
        if asked.pretrained is None and wish.pretrained:
            given["pretrained"] = True
        if wish.arch_overrides:
            given["wished_axes"] = wish.arch_overrides
            notes.append(f"axes of the network that the recipe sets: {', '.join(wish.arch_overrides)}")
    return replace(asked, **given), tuple(notes)


def with_axes(arch: Arch, asked: Asked) -> Arch:
    """`arch` with the axes that were said, and the recipe's where they were not.

    Words of a recipe for the mix stand beside the network's own join: `drop-path(0.05)` before `gate(-6)`. Raises
    ValueError where both mean nothing together.
    """
    arch = resolve_arch(arch, asked.axes)
    wished = {axis: value for axis, value in parse_arch_overrides(asked.wished_axes).items() if axis not in asked.axes}
    if "zero_init_residual" in asked.axes:
        wished.pop("last_norm_weight", None)
    own = arch.merge
    if "merge" in wished and own != "add":
        if own == "none":
            step = "name the mix yourself: --set model.merge=none"
            raise invalid(
                f"a network with shortcuts for the recipe's merge={wished['mix']}", "merge=none", next_step=step
            )
        wished["merge"] = own if wished["merge"] in own else f"{wished['mix']} {own}"
    return resolve_arch(arch, wished)


def judged_as(data: Data, recipe: Recipe) -> Data:
    """The data, evaluated and normalised as the recipe has it; a single number is every channel's.

    Raises ValueError where the recipe's normalisation is for another number of channels, or of pictures in files.
    """
    before = data.preprocess
    words = recipe.eval_transform or before.transform
    if recipe.pixel_mean:
        mean = take_mean_image(data.split("train"))
        averages, ones = tuple(round(value, 6) for value in mean.mean((1, 2)).tolist()), (1.0,) * before.channels
        return replace(data, preprocess=Preprocess(before.channels, words, averages, ones, write_mean_image(mean)))
    if not recipe.mean:
        return data if words == before.transform else replace(data, preprocess=replace(before, transform=words))
    count = len(recipe.mean)
    if count not in (1, before.channels):
        raise invalid(f"a mean for each of {before.channels} channels, or one for all", recipe.mean)
    times = before.channels // count
    return replace(data, preprocess=replace(before, transform=words, mean=recipe.mean * times, std=recipe.std * times))


SMALL_SIDE = 64


def default_model(input_size: tuple[int, ...]) -> str:
    """`resnet20_cifar` for pictures under 64 pixels, else `resnet18`."""
    return "resnet20_cifar" if min(input_size[1:]) < SMALL_SIDE else "resnet18"


def default_recipe(data: str, input_size: tuple[int, ...], pretrained: bool) -> Recipe:
    """The recipe for a data set of this name and input size (C, H, W), its crop made to fit."""
    channels, side = input_size[0], min(input_size[1:])
    if side >= SMALL_SIDE:
        return _fitted(RECIPES["photos" if pretrained else "photos-scratch"], side)
    if data == "digits" or side < 16:
        return _fitted(RECIPES["digits"], side)
    return _fitted(RECIPES["fashion" if channels == 1 else "cifar"], side)


def _fitted(recipe: Recipe, side: int) -> Recipe:
    """The recipe with its pad and crops for pictures of `side`; unchanged where they are."""
    words = parse_ops(recipe.train_transform)
    crop = next(word for word in words if word.name.endswith("crop"))
    before = int(crop.args[0])
    if before == side:
        return recipe
    return replace(recipe, train_transform=" ".join(str(_scaled(word, side / before)) for word in words))


def _scaled(word: Op, factor: float) -> Op:
    if word.name != "pad" and not word.name.endswith("crop"):
        return word
    return replace(word, args=(max(1, round(float(word.args[0]) * factor)), *word.args[1:]))


def warn_of_stem(arch: Arch, input_size: tuple[int, ...]) -> None:
    """Warn where a stem made for ImageNet meets pictures under 64 pixels, and name the `_cifar` twin."""
    strides = [op_stride(word) for word in arch.stem_ops]
    side = min(input_size[1:])
    if prod(strides) < 4 or side >= SMALL_SIDE or not arch.depths:
        return
    twins = [name for name in ARCHS if name.endswith("_cifar")]
    exact = f"{arch.name}_cifar"
    twin = exact if exact in twins else next(iter(nearest(exact, twins, 1)), "resnet20_cifar")
    warnings.warn(
        f"{arch.name} begins by dividing the sides by {prod(strides)}, for ImageNet: of {side} pixels "
        f"{-(-side // prod(strides))} are left; for pictures under {SMALL_SIDE} pixels take {twin!r}",
        stacklevel=2,
    )
