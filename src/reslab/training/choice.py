"""What is trained where nothing was asked for: a network and a recipe that suit the pictures."""

import warnings
from dataclasses import replace
from math import prod

from reslab.spec.arch import Arch
from reslab.spec.errors import nearest
from reslab.spec.geometry import word_stride
from reslab.spec.grammar import Word, parse_words
from reslab.spec.recipe import Recipe
from reslab.spec.recipes import RECIPES
from reslab.spec.zoo import ARCHS

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
    words = parse_words(recipe.augment)
    crop = next(word for word in words if word.name.endswith("crop"))
    before = int(crop.args[0])
    if before == side:
        return recipe
    return replace(recipe, augment=" ".join(str(_scaled(word, side / before)) for word in words))


def _scaled(word: Word, factor: float) -> Word:
    if word.name != "pad" and not word.name.endswith("crop"):
        return word
    return replace(word, args=(max(1, round(float(word.args[0]) * factor)), *word.args[1:]))


def warn_of_stem(arch: Arch, input_size: tuple[int, ...]) -> None:
    """Warn where a stem made for ImageNet meets pictures under 64 pixels, and name the `_cifar` twin."""
    strides = [word_stride(word) for word in arch.stem_words]
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
