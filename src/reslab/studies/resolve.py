"""Resolve a row of a study at a scale: the network, the recipe and the data that it stands for on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from reslab.data.dataset import DatasetSplits
from reslab.data.registry import DATASETS
from reslab.nn.cost import layer_table
from reslab.nn.init import init_empty_weights
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch, parse_arch_overrides
from reslab.spec.errors import invalid
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe, apply_recipe_overrides
from reslab.spec.study import FULL_PRESET, AnalysisRequest, RowSpec, ScalePreset, Study
from reslab.spec.toml_files import find_recipe
from reslab.spec.zoo.resolve import resolve_arch
from reslab.training.options import (
    TrainOptions,
    apply_recipe_defaults,
    recipe_defaults,
    resolve_arch_for_data,
    split_overrides,
    with_eval_preprocess,
)
from reslab.training.run_data import infer_input_size, open_train_data
from reslab.training.setup_recipe import resolve_precision

# Training images, test images and classes, to estimate the cost of datasets that are not available.
_DATASET_SIZES = {
    "imagenet": (1_281_167, 50_000, 1000),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "cifar2": (10_000, 2_000, 2),
    "fashion-mnist": (60_000, 10_000, 10),
    "mnist": (60_000, 10_000, 10),
}
_NUM_IMAGES_KEY = "num_images="


@dataclass(frozen=True)
class ResolvedRow:
    """A row of a study at a scale, with its network, recipe and data on this machine.

    `recipe` is None for a network at initialization, `arch` for an ensemble. `overrides` are those of `train`.
    `unavailable_reason` says why the data cannot be opened, `fingerprint` identifies them.
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
        """Steps of training; 0 for a network at initialization."""
        return parse_duration(self.recipe.duration).num_steps(self.steps_per_epoch) if self.recipe else 0


def row_overrides(row: RowSpec, preset: ScalePreset) -> dict[str, str]:
    """Return the overrides of the row, replaced by those of the preset; without a recipe, only the network's."""
    overrides = {f"model.{axis}": value for axis, value in parse_arch_overrides(row.arch_overrides).items()}
    for override in (*row.overrides, *preset.overrides):
        key, _, value = override.partition("=")
        overrides[key.strip()] = value.strip()
    if not (row.recipe or preset.recipe):
        return {key: value for key, value in overrides.items() if key.startswith("model.")}
    return overrides


@cache
def source_arch(row: RowSpec) -> Arch:
    """Return the network of a row as in the source, without the changes of a scale (except for its classes)."""
    return resolve_arch(row.model, split_overrides(row_overrides(row, FULL_PRESET))[1])


def row_analyses(study: Study, row: RowSpec, preset: ScalePreset) -> tuple[AnalysisRequest, ...]:
    """Return the analyses of a row, with the overrides of the preset (`lesion.num_images=64`)."""
    return tuple(
        _override_request(request, preset) for request in study.analyses if not request.rows or row.name in request.rows
    )


def _override_request(request: AnalysisRequest, preset: ScalePreset) -> AnalysisRequest:
    prefix = f"{request.analysis}."
    own = [text.removeprefix(prefix) for text in preset.analysis_overrides if text.startswith(prefix)]
    num_images = [int(text.removeprefix(_NUM_IMAGES_KEY)) for text in own if text.startswith(_NUM_IMAGES_KEY)]
    options = tuple(text for text in own if not text.startswith(_NUM_IMAGES_KEY))
    return replace(
        request,
        overrides=(*request.overrides, *options),
        num_images=num_images[0] if num_images else request.num_images,
    )


def resolve_row(
    study: Study, row: RowSpec, scale: str, data_dir: str | Path | None, device: torch.device
) -> ResolvedRow:
    """Resolve a row at a scale, with the data in `data_dir`. Raises ValueError if the row is invalid."""
    preset = study.preset_for(row, scale)
    if row.members:
        return ResolvedRow(row, preset, scale)
    recipe_name = row.recipe and (preset.recipe or row.recipe)
    overrides = row_overrides(row, preset)
    recipe_overrides, arch_overrides = split_overrides(overrides)
    options = TrainOptions(
        model=preset.model or row.model,
        data=preset.data or row.data,
        recipe=recipe_name or None,
        seed=0,
        recipe_overrides=recipe_overrides,
        arch_overrides=arch_overrides,
        data_dir=data_dir,
    )
    options, _ = apply_recipe_defaults(options)
    resolved = ResolvedRow(
        spec=row,
        preset=preset,
        scale=scale,
        data=preset.data or row.data,
        overrides=overrides,
        num_images=preset.num_images or None,
        recipe=resolve_recipe(recipe_name, recipe_overrides, device),
        tta=study.tta_for(row, scale),
    )
    try:
        data = open_cached_data(
            resolved.data,
            str(data_dir or ""),
            options.val_fraction,
            resolved.num_images,
            is_default_fraction=options.is_default_fraction,
        )
    except (ValueError, OSError) as error:
        return _estimate_unavailable(resolved, options, str(error))
    data = with_eval_preprocess(data, recipe_defaults(options))
    return replace(
        resolved,
        arch=resolve_arch_for_data(
            preset.model or row.model,
            data,
            infer_input_size(data),
            overrides=arch_overrides,
            recipe_overrides=options.recipe_arch_overrides,
        ),
        fingerprint=data.fingerprint,
        num_train=len(data.split("train")),
        num_eval=len(data.split(data.eval_split)),
    )


def resolve_recipe(name: str, overrides: Mapping[str, Any], device: torch.device) -> Recipe | None:
    """Return the recipe with its overrides, in the precision of the device; None for an empty name."""
    return resolve_precision(apply_recipe_overrides(find_recipe(name), overrides)[0], device) if name else None


@cache
def open_cached_data(
    name: str, data_dir: str, val_fraction: float | None, num_images: int | None, *, is_default_fraction: bool
) -> DatasetSplits:
    """Return the data, opened once a process."""
    return open_train_data(
        name, data_dir or None, val_fraction, num_images=num_images, is_default_fraction=is_default_fraction
    )


def _estimate_unavailable(resolved: ResolvedRow, options: TrainOptions, reason: str) -> ResolvedRow:
    """Return a row whose data are not available, with the known sizes of its dataset."""
    if resolved.data.lower() not in DATASETS:
        raise invalid("the name of a dataset", resolved.data, next_step=reason)
    num_train, num_eval, num_classes = _DATASET_SIZES.get(resolved.data, (0, 0, 0))
    arch_overrides = dict(options.arch_overrides)
    if num_classes:
        arch_overrides = {"num_classes": num_classes, **arch_overrides}
    assert isinstance(options.model, str)
    return replace(
        resolved,
        arch=resolve_arch(options.model, arch_overrides),
        num_train=resolved.num_images or num_train,
        num_eval=num_eval,
        unavailable_reason=reason,
    )


@dataclass(frozen=True)
class ModelCost:
    """The cost of a network for one image: multiply-adds, parameters, and values that a training step keeps."""

    macs: int
    params: int
    num_activations: int


@cache
def model_cost(arch: Arch) -> ModelCost:
    """Count the cost on the meta device, without allocating anything.

    `num_activations` counts the outputs of convolutions and activations, which the backward pass reads.
    """
    with init_empty_weights():
        model = ResidualNetwork(arch)
    table = layer_table(model, arch.input_size)
    return ModelCost(
        macs=sum(layer.macs for layer in table),
        params=sum(layer.params for layer in table),
        num_activations=sum(torch.Size(layer.output_shape).numel() for layer in table if "Norm" not in layer.kind),
    )
