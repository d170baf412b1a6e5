"""A row at a scale made definite: the network, the recipe and the data that it means here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from reslab.data.dataset import DatasetSplits
from reslab.data.registry import DATASETS
from reslab.nn.cost import layer_table
from reslab.nn.factory import resolve_arch
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch, parse_arch_overrides
from reslab.spec.errors import invalid
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe, apply_recipe_overrides
from reslab.spec.recipes import get_recipe
from reslab.spec.study import AnalysisRequest as Question
from reslab.spec.study import RowSpec, ScalePreset, Study
from reslab.training.options import (
    TrainOptions,
    apply_recipe_defaults,
    recipe_defaults,
    split_overrides,
    with_eval_preprocess,
)
from reslab.training.run_data import infer_input_size, open_train_data
from reslab.training.setup import resolve_arch_for_data, resolve_precision

# For the price of what cannot be opened here.
_DATASET_SIZES = {
    "imagenet": (1_281_167, 50_000, 1000),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "cifar2": (10_000, 2_000, 2),
    "fashion-mnist": (60_000, 10_000, 10),
    "mnist": (60_000, 10_000, 10),
}


@dataclass(frozen=True)
class ResolvedRow:
    """A row of a study at a scale; `absent` says why its data cannot be opened here, `fingerprint` is theirs.

    `recipe` is None for a network at initialisation, `arch` for an ensemble. `settings` are `train`'s.
    """

    spec: RowSpec
    preset: ScalePreset
    scale: str
    data: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)
    num_images: int | None = None
    arch: Arch | None = None
    recipe: Recipe | None = None
    fingerprint: str = ""
    num_train: int = 0
    num_eval: int = 0
    unavailable_reason: str = ""
    tta: str = ""

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return max(1, self.num_train // self.recipe.batch_size) if self.recipe else 1

    @property
    def num_steps(self) -> int:
        """Steps of training; 0 at initialisation."""
        return parse_duration(self.recipe.duration).num_steps(self.steps_per_epoch) if self.recipe else 0


def row_overrides(row: RowSpec, preset: ScalePreset) -> dict[str, str]:
    """The row's axes and settings, and those of the cut in their place."""
    overrides = {f"model.{axis}": value for axis, value in parse_arch_overrides(row.arch_overrides).items()}
    for override in (*row.overrides, *preset.overrides):
        key, _, value = override.partition("=")
        overrides[key.strip()] = value.strip()
    if not (row.recipe or preset.recipe):
        return {key: value for key, value in overrides.items() if key.startswith("model.")}
    return overrides


def row_analyses(study: Study, row: RowSpec, preset: ScalePreset) -> tuple[Question, ...]:
    """What is asked of a row's network, with the scale's changes (`lesion.num_images=64`)."""
    requests = []
    for request in study.analyses:
        if request.rows and row.name not in request.rows:
            continue
        own_overrides = [override.removeprefix(f"{request.analysis}.") for override in preset.analysis_overrides]
        own_overrides = [
            override
            for override, original in zip(own_overrides, preset.analysis_overrides, strict=True)
            if override != original
        ]
        num_images = next(
            (int(text[11:]) for text in own_overrides if text.startswith("num_images=")), request.num_images
        )
        overrides = tuple(text for text in own_overrides if not text.startswith("num_images="))
        requests.append(replace(request, overrides=(*request.overrides, *overrides), num_images=num_images))
    return tuple(requests)


def resolve_row(
    study: Study, row: RowSpec, scale: str, data_dir: str | Path | None, device: torch.device
) -> ResolvedRow:
    """What a row is at a scale, with the data in `data_dir`. Raises ValueError for what means nothing."""
    preset = study.preset_for(row, scale)
    if row.members:
        return ResolvedRow(row, preset, scale)
    data_name = preset.data or row.data
    overrides = row_overrides(row, preset)
    recipe_name = row.recipe and (preset.recipe or row.recipe)
    tta = study.tta_for(row, scale)
    resolved = ResolvedRow(row, preset, scale, data_name, overrides, preset.num_images or None, tta=tta)
    recipe_overrides, arch_overrides = split_overrides(overrides, None, None, None)
    options = TrainOptions(
        preset.model or row.model,
        data_name,
        recipe_name or None,
        0,
        recipe_overrides,
        arch_overrides,
        data_dir=data_dir,
    )
    options, _ = apply_recipe_defaults(options)
    recipe = resolve_recipe(recipe_name, recipe_overrides, device)
    try:
        data = open_cached_data(data_name, str(data_dir or ""), options.val_fraction, resolved.num_images)
    except (ValueError, OSError) as error:
        return _resolve_unavailable(resolved, options, recipe, str(error))
    data = with_eval_preprocess(data, recipe_defaults(options))
    arch = resolve_arch_for_data(preset.model or row.model, options, data, infer_input_size(data))
    sizes = len(data.split("train")), len(data.split(data.eval_split))
    return replace(
        resolved, arch=arch, recipe=recipe, fingerprint=data.fingerprint, num_train=sizes[0], num_eval=sizes[1]
    )


def resolve_recipe(name: str, overrides: Mapping[str, Any], device: torch.device) -> Recipe | None:
    """The recipe with its settings, its precision that of the device; None for no training."""
    return resolve_precision(apply_recipe_overrides(get_recipe(name), overrides)[0], device) if name else None


@cache
def open_cached_data(name: str, data_dir: str, val_fraction: float | None, num_images: int | None) -> DatasetSplits:
    """The data, opened once a process."""
    return open_train_data(name, data_dir or None, val_fraction, num_images=num_images)


def _resolve_unavailable(
    resolved: ResolvedRow, options: TrainOptions, recipe: Recipe | None, reason: str
) -> ResolvedRow:
    """A row whose data are not here, as it would be."""
    if resolved.data.lower() not in DATASETS:
        raise invalid("the name of a data set", resolved.data, next_step=reason)
    num_train, num_eval, num_classes = _DATASET_SIZES.get(resolved.data, (0, 0, 0))
    arch_overrides = (
        {"num_classes": num_classes, **options.arch_overrides} if num_classes else dict(options.arch_overrides)
    )
    assert isinstance(options.model, str)
    resolved = replace(resolved, num_train=resolved.num_images or num_train, num_eval=num_eval)
    return replace(resolved, arch=resolve_arch(options.model, arch_overrides), recipe=recipe, unavailable_reason=reason)


@dataclass(frozen=True)
class ModelCost:
    """What a network weighs for one image: multiply-adds, parameters, numbers that a training step keeps."""

    macs: int
    params: int
    num_activations: int


@cache
def model_cost(arch: Arch) -> ModelCost:
    """Counted on the meta device, nothing allocated. `kept`: outputs of convolutions and activations, which the
    backward pass reads."""
    with torch.device("meta"):
        model = ResidualNetwork(arch)
    table = layer_table(model, arch.input_size)
    num_activations = sum(torch.Size(layer.output_shape).numel() for layer in table if "Norm" not in layer.kind)
    return ModelCost(sum(layer.macs for layer in table), sum(layer.params for layer in table), num_activations)
