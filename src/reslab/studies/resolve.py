"""A row at a scale made definite: the network, the recipe and the data that it means here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from reslab.data.dataset import Data
from reslab.data.registry import DATA_SETS
from reslab.nn.cost import layer_table
from reslab.nn.factory import resolve_arch
from reslab.nn.network import Network
from reslab.spec.arch import Arch
from reslab.spec.errors import refuse
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe, adjust, read_axes
from reslab.spec.recipes import get_recipe
from reslab.spec.study import Asked as Question
from reslab.spec.study import Cut, Row, Study
from reslab.training.options import Asked, fulfilled, judged_as, split_settings, wishes
from reslab.training.run_data import find_data, input_size
from reslab.training.setup import asked_arch, settled

# For the price of what cannot be opened here.
_PUBLISHED_SIZES = {
    "imagenet": (1_281_167, 50_000, 1000),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "cifar2": (10_000, 2_000, 2),
    "fashion-mnist": (60_000, 10_000, 10),
    "mnist": (60_000, 10_000, 10),
}


@dataclass(frozen=True)
class Definite:
    """A row of a study at a scale; `absent` says why its data cannot be opened here, `fingerprint` is theirs.

    `recipe` is None for a network at initialisation, `arch` for an ensemble. `settings` are `train`'s.
    """

    row: Row
    cut: Cut
    scale: str
    data: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    num_images: int | None = None
    arch: Arch | None = None
    recipe: Recipe | None = None
    fingerprint: str = ""
    num_train: int = 0
    num_judged: int = 0
    absent: str = ""
    views: str = ""

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return max(1, self.num_train // self.recipe.batch) if self.recipe else 1

    @property
    def num_steps(self) -> int:
        """Steps of training; 0 at initialisation."""
        return parse_duration(self.recipe.length).num_steps(self.steps_per_epoch) if self.recipe else 0


def settings_of(row: Row, cut: Cut) -> dict[str, str]:
    """The row's axes and settings, and those of the cut in their place."""
    found = {f"model.{axis}": value for axis, value in read_axes(row.axes).items()}
    for setting in (*row.settings, *cut.settings):
        key, _, value = setting.partition("=")
        found[key.strip()] = value.strip()
    if not (row.recipe or cut.recipe):
        return {key: value for key, value in found.items() if key.startswith("model.")}
    return found


def questions_of(study: Study, row: Row, cut: Cut) -> tuple[Question, ...]:
    """What is asked of a row's network, with the scale's changes (`lesion.num_images=64`)."""
    found = []
    for asked in study.asked:
        if asked.rows and row.name not in asked.rows:
            continue
        own = [setting.removeprefix(f"{asked.question}.") for setting in cut.asking]
        own = [setting for setting, told in zip(own, cut.asking, strict=True) if setting != told]
        number = next((int(text[11:]) for text in own if text.startswith("num_images=")), asked.num_images)
        rest = tuple(text for text in own if not text.startswith("num_images="))
        found.append(replace(asked, settings=(*asked.settings, *rest), num_images=number))
    return tuple(found)


def definite(study: Study, row: Row, scale: str, data_dir: str | Path | None, device: torch.device) -> Definite:
    """What a row is at a scale, with the data in `data_dir`. Raises ValueError for what means nothing."""
    cut = study.cut(row, scale)
    if row.members:
        return Definite(row, cut, scale)
    name = cut.data or row.data
    settings = settings_of(row, cut)
    recipe = row.recipe and (cut.recipe or row.recipe)
    views = study.views(row, scale)
    found = Definite(row, cut, scale, name, settings, cut.num_images or None, views=views)
    chosen, axes = split_settings(settings, None, None, None)
    asked = Asked(cut.model or row.model, name, recipe or None, 0, chosen, axes, data_dir=data_dir)
    asked, _ = fulfilled(asked)
    kept = recipe_of(recipe, chosen, device)
    try:
        data = opened(name, str(data_dir or ""), asked.val_fraction, found.num_images)
    except (ValueError, OSError) as error:
        return _unopened(found, asked, kept, str(error))
    data = judged_as(data, wishes(asked))
    arch = asked_arch(cut.model or row.model, asked, data, input_size(data))
    sizes = len(data.split("train")), len(data.split(data.held_out))
    return replace(found, arch=arch, recipe=kept, fingerprint=data.fingerprint, num_train=sizes[0], num_judged=sizes[1])


def recipe_of(name: str, settings: Mapping[str, Any], device: torch.device) -> Recipe | None:
    """The recipe with its settings, its precision that of the device; None for no training."""
    return settled(adjust(get_recipe(name), settings)[0], device) if name else None


@cache
def opened(name: str, data_dir: str, val_fraction: float | None, num_images: int | None) -> Data:
    """The data, opened once a process."""
    return find_data(name, data_dir or None, val_fraction, num_images=num_images)


def _unopened(found: Definite, asked: Asked, recipe: Recipe | None, why: str) -> Definite:
    """A row whose data are not here, as it would be."""
    if found.data.lower() not in DATA_SETS:
        raise refuse("the name of a data set", found.data, next_step=why)
    num_train, num_judged, num_classes = _PUBLISHED_SIZES.get(found.data, (0, 0, 0))
    axes = {"num_classes": num_classes, **asked.axes} if num_classes else dict(asked.axes)
    assert isinstance(asked.model, str)
    found = replace(found, num_train=found.num_images or num_train, num_judged=num_judged)
    return replace(found, arch=resolve_arch(asked.model, axes), recipe=recipe, absent=why)


@dataclass(frozen=True)
class Weight:
    """What a network weighs for one image: multiply-adds, parameters, numbers that a training step keeps."""

    macs: int
    params: int
    kept: int


@cache
def weight(arch: Arch) -> Weight:
    """Counted on the meta device, nothing allocated. `kept`: outputs of convolutions and activations, which the
    backward pass reads."""
    with torch.device("meta"):
        model = Network(arch)
    table = layer_table(model, arch.input_size)
    kept = sum(torch.Size(layer.output_shape).numel() for layer in table if "Norm" not in layer.kind)
    return Weight(sum(layer.macs for layer in table), sum(layer.params for layer in table), kept)
