"""What a recipe wishes for beside the steps: a network, its axes, data, first weights; where nobody says otherwise."""

from dataclasses import replace
from typing import Any

from torch import nn

from reslab.data.dataset import Data
from reslab.data.transforms.normalize import take_mean_image, write_mean_image
from reslab.nn.factory import resolve_arch
from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.errors import refuse
from reslab.spec.preprocess import Preprocess
from reslab.spec.recipe import Recipe, read_axes
from reslab.spec.recipes import get_recipe
from reslab.training.options import Asked

WISHES = ("model", "axes", "data", "pretrained", "val_fraction", "test", "mean", "std", "pixel_mean")


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
        if wish.axes:
            given["wished_axes"] = wish.axes
            notes.append(f"axes of the network that the recipe sets: {', '.join(wish.axes)}")
    return replace(asked, **given), tuple(notes)


def with_axes(arch: Arch, asked: Asked) -> Arch:
    """`arch` with the axes that were said, and the recipe's where they were not.

    Words of a recipe for the mix stand beside the network's own join: `drop-path(0.05)` before `gate(-6)`. Raises
    ValueError where both mean nothing together.
    """
    arch = resolve_arch(arch, asked.axes)
    wished = {axis: value for axis, value in read_axes(asked.wished_axes).items() if axis not in asked.axes}
    if "zero_init_residual" in asked.axes:
        wished.pop("last_norm_weight", None)
    own = arch.mix
    if "mix" in wished and own != "add":
        if own == "none":
            step = "name the mix yourself: --set model.mix=none"
            raise refuse(f"a network with shortcuts for the recipe's mix={wished['mix']}", "mix=none", next_step=step)
        wished["mix"] = own if wished["mix"] in own else f"{wished['mix']} {own}"
    return resolve_arch(arch, wished)


def judged_as(data: Data, recipe: Recipe) -> Data:
    """The data, evaluated and normalised as the recipe has it; a single number is every channel's.

    Raises ValueError where the recipe's normalisation is for another number of channels, or of pictures in files.
    """
    before = data.preprocess
    words = recipe.test or before.words
    if recipe.pixel_mean:
        mean = take_mean_image(data.split("train"))
        averages, ones = tuple(round(value, 6) for value in mean.mean((1, 2)).tolist()), (1.0,) * before.channels
        return replace(data, preprocess=Preprocess(before.channels, words, averages, ones, write_mean_image(mean)))
    if not recipe.mean:
        return data if words == before.words else replace(data, preprocess=replace(before, words=words))
    count = len(recipe.mean)
    if count not in (1, before.channels):
        raise refuse(f"a mean for each of {before.channels} channels, or one for all", recipe.mean)
    times = before.channels // count
    return replace(data, preprocess=replace(before, words=words, mean=recipe.mean * times, std=recipe.std * times))
