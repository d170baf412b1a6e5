"""Resolve a row of a study at a scale: the network, the recipe and the data that it stands for on this machine.

Networks are classifiers and detectors; their cost is that of a training step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.data.dataset import DatasetSplits
from reslab.data.named import DATASETS
from reslab.nn.cost import LayerSummary, layer_table
from reslab.nn.dense_factory import build_dense_network
from reslab.nn.init import init_empty_weights
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch, parse_arch_overrides
from reslab.spec.dense import DenseArch
from reslab.spec.errors import invalid
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe, apply_recipe_overrides
from reslab.spec.recipes import find_recipe
from reslab.spec.study import DATA_FOLDERS, FULL_PRESET, AnalysisRequest, RowSpec, ScalePreset, Study
from reslab.spec.zoo.dense import find_dense_arch, override_dense_arch
from reslab.spec.zoo.resolve import resolve_arch
from reslab.training.options import (
    TrainOptions,
    apply_recipe_defaults,
    recipe_defaults,
    resolve_arch_for_data,
    resolve_dense_arch,
    split_overrides,
    with_eval_preprocess,
)
from reslab.training.run_data import DataOptions, infer_input_size, open_train_data
from reslab.training.setup_recipe import resolve_precision

AnyArch = Arch | DenseArch


def named_network(model: str, axes: Mapping[str, Any]) -> AnyArch:
    """Return the architecture of a name with axes overridden."""
    dense_arch = find_dense_arch(model)
    return resolve_arch(model, axes) if dense_arch is None else override_dense_arch(dense_arch, axes)


def network_for_data(
    model: str, data: DatasetSplits, axes: Mapping[str, Any], recipe_axes: tuple[str, ...], pretrained: bool
) -> AnyArch:
    """Return the architecture with the classes, channels and size of the data, as `train` makes it."""
    dense_arch, input_size = find_dense_arch(model), infer_input_size(data)
    if dense_arch is None:
        return resolve_arch_for_data(model, data, input_size, overrides=axes, recipe_overrides=recipe_axes)
    return resolve_dense_arch(
        dense_arch, data, input_size, overrides=axes, recipe_overrides=recipe_axes, keeps_normalization=pretrained
    )


@dataclass(frozen=True)
class ModelCost:
    """The cost of a network for one image: multiply-adds, parameters, and values that a training step keeps."""

    macs: int
    params: int
    num_activations: int


@cache
def model_cost(arch: AnyArch) -> ModelCost:
    """Count the cost on the meta device, without allocating anything.

    `num_activations` counts the outputs of convolutions and activations, which the backward pass reads. Of a detector
    only the backbone with its pyramid counts: what its heads do depends on the image.
    """
    with init_empty_weights():
        model = build_network(arch)
    table = _layers(model, arch)
    return ModelCost(
        macs=sum(layer.macs for layer in table),
        params=sum(parameter.numel() for parameter in model.parameters()),
        num_activations=sum(torch.Size(layer.output_shape).numel() for layer in table if "Norm" not in layer.kind),
    )


def build_network(arch: AnyArch) -> nn.Module:
    """Return the network of an architecture."""
    return build_dense_network(arch) if isinstance(arch, DenseArch) else ResidualNetwork(arch)


def _layers(model: nn.Module, arch: AnyArch) -> list[LayerSummary]:
    if isinstance(arch, DenseArch) and arch.resizes_images:
        backbone = model.backbone
        assert isinstance(backbone, nn.Module)
        return layer_table(backbone, arch.smallest_input(arch.input_size))
    return layer_table(model, arch.input_size)


def random_step_loss(model: nn.Module, arch: AnyArch, batch_size: int, device: torch.device) -> Tensor:
    """Return the loss of a network on random images, of which a detector's have one object each."""
    x = torch.rand(batch_size, *arch.input_size, device=device)
    if not isinstance(arch, DenseArch):
        return functional.cross_entropy(model(x).float(), torch.zeros(batch_size, dtype=torch.int64, device=device))
    height, width = arch.image_size
    box = torch.tensor([[width / 4, height / 4, width / 2, height / 2]], device=device)
    target = {"boxes": box, "labels": torch.ones(1, dtype=torch.int64, device=device)}
    losses: dict[str, Tensor] = model(list(x), [target] * batch_size)
    return torch.stack(list(losses.values())).sum()


# Training images, test images and classes, to estimate the cost of datasets that are not available.
_DATASET_SIZES = {
    "imagenet": (1_281_167, 50_000, 1000),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "cifar2": (10_000, 2_000, 2),
    "fashion-mnist": (60_000, 10_000, 10),
    "mnist": (60_000, 10_000, 10),
    "voc07+12": (16_551, 4_952, 20),
    "voc07++12": (15_680, 5_823, 20),
    "coco2014": (82_783, 40_504, 80),
    "bccd": (205, 72, 3),
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
    arch: AnyArch | None = None
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
def source_arch(row: RowSpec) -> AnyArch:
    """Return the network of a row as in the source, without the changes of a scale (except for its classes)."""
    return named_network(row.model, split_overrides(row_overrides(row, FULL_PRESET))[1])


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
            locate_data(resolved.data, data_dir),
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
        arch=network_for_data(
            preset.model or row.model,
            data,
            arch_overrides,
            options.recipe_arch_overrides,
            bool(options.pretrained),
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
    options = DataOptions(
        data_dir=data_dir or None,
        val_fraction=val_fraction,
        is_default_fraction=is_default_fraction,
        num_images=num_images,
    )
    return open_train_data(name, options)


def locate_data(name: str, data_dir: str | Path | None) -> str:
    """Return the folder in `data_dir` of data that are in `DATA_FOLDERS`, or the name of other data."""
    return str(Path(data_dir or "") / DATA_FOLDERS[name].folder) if name in DATA_FOLDERS else name


def _estimate_unavailable(resolved: ResolvedRow, options: TrainOptions, reason: str) -> ResolvedRow:
    """Return a row whose data are not available, with the known sizes of its dataset."""
    name = resolved.data
    if name.lower() not in DATASETS and name not in DATA_FOLDERS:
        raise invalid("the name of a dataset", name, next_step=reason)
    num_train, num_eval, num_classes = _DATASET_SIZES.get(name, (0, 0, 0))
    if name in DATA_FOLDERS and not Path(locate_data(name, options.data_dir)).exists():
        required = f"the folder {DATA_FOLDERS[name].folder} in the data directory: {DATA_FOLDERS[name].contents}"
        reason = str(invalid(required, "none", next_step="name the directory with --data-dir DIR"))
    assert isinstance(options.model, str)
    dense_arch = find_dense_arch(options.model)
    num_outputs = num_classes + (dense_arch.num_background if dense_arch else 0)
    axes = {**({"num_classes": num_outputs} if num_classes else {}), **options.arch_overrides}
    return replace(
        resolved,
        arch=named_network(options.model, axes),
        num_train=resolved.num_images or num_train,
        num_eval=num_eval,
        unavailable_reason=reason,
    )
