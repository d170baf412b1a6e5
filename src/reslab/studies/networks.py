"""The networks of a study's rows: classifiers and detectors, their architecture for the data, and their cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.data.dataset import DatasetSplits
from reslab.nn.cost import LayerSummary, layer_table
from reslab.nn.dense_factory import build_dense_network
from reslab.nn.init import init_empty_weights
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch
from reslab.spec.dense import DenseArch, override_dense_arch
from reslab.spec.zoo.dense import find_dense_arch
from reslab.spec.zoo.resolve import resolve_arch
from reslab.training.dense_model import resolve_dense_arch
from reslab.training.options import resolve_arch_for_data
from reslab.training.run_data import infer_input_size

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
