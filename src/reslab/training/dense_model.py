"""The network of a new run for segmentation or detection: its architecture for the data, and initial weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.data.dataset import DatasetSplits
from reslab.data.loader import eval_sizes
from reslab.data.target_datasets import TargetImageDataset
from reslab.nn.checkpoints.pretrained import Pretrained
from reslab.nn.checkpoints.published import WeightsUnavailableError
from reslab.nn.dense import DenseNetwork
from reslab.nn.dense_factory import build_dense_network, is_whole_network, load_backbone, load_dense_weights
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import parse_arch_overrides
from reslab.spec.dense import DenseArch
from reslab.spec.zoo.dense import override_dense_arch
from reslab.training.checkpoint import find_weights_path
from reslab.training.options import SMALL_INPUT_SIDE, TrainOptions, describe_pretrained

InitialModel = tuple[nn.Module, str | None, tuple[str, ...]]
"""A network, the description of its initial weights (None: random), and messages for the user."""


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

    `keeps_normalization`: that of the weights it starts from, in place of the data's. `image_size`: as of
    `build_dense_model`.
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


def build_dense_model(
    arch: DenseArch, options: TrainOptions, data: DatasetSplits, input_size: tuple[int, ...], image_size: int = 0
) -> InitialModel:
    """Return the network for the data's classes, channels and size, with the overrides of recipe and user.

    `image_size` is the size to which the network resizes images, if it does; 0: its own.

    Without a model and weights that the user chose, the backbone starts from published weights where they are
    available. Raises ValueError for weights that do not fit.
    """
    arch = resolve_dense_arch(
        arch,
        data,
        input_size,
        overrides=options.arch_overrides,
        recipe_overrides=options.recipe_arch_overrides,
        keeps_normalization=bool(options.pretrained),
        image_size=image_size,
    )
    network = build_dense_network(arch)
    pretrained: Pretrained | None = options.pretrained
    messages: tuple[str, ...] = ()
    if options.pretrained is None and options.model is None and min(input_size[1:]) >= SMALL_INPUT_SIDE:
        pretrained, messages = _try_published_backbone(network)
    elif pretrained:
        load_initial_weights(network, pretrained, tuple(options.arch_overrides))
    check_input(network, data, input_size)
    return network, describe_pretrained(pretrained), (*messages, *load_messages(network))


def load_initial_weights(network: DenseNetwork, pretrained: Pretrained, chosen_axes: tuple[str, ...] = ()) -> None:
    """Load weights of the whole network, where they are of its kind, or else of a classification into the backbone.

    Layers of another number of classes keep their random initial values. Raises ValueError if the weights do not fit.
    """
    if isinstance(pretrained, str | Path) and Path(pretrained).is_dir():
        pretrained = find_weights_path(pretrained)
    if is_whole_network(network, pretrained):
        load_dense_weights(network, pretrained, new_classes=True)
    else:
        load_backbone(network, pretrained, chosen_axes)


def reopen_dense_model(arch: DenseArch, pretrained: Pretrained | None) -> DenseNetwork:
    """Return the network of a run with its initial weights, as far as they are still needed."""
    network = build_dense_network(arch)
    if pretrained:
        load_initial_weights(network, pretrained)
    return network


def _try_published_backbone(network: DenseNetwork) -> tuple[Any, tuple[str, ...]]:
    """Load published weights into the backbone, or leave random ones if they are unavailable."""
    name = network.arch.backbone.name
    try:
        load_backbone(network, True)
    except (OSError, WeightsUnavailableError) as error:
        next_step = error.next_step if isinstance(error, WeightsUnavailableError) else str(error)
        text = f"the backbone {name} starts from random weights because the pretrained weights are unavailable"
        return None, (f"{text}: expect to need many images and longer training (for pretrained weights: {next_step})",)
    return True, (f"the backbone {name} starts from published weights, the head is new",)


def check_input(network: DenseNetwork, data: DatasetSplits, input_size: tuple[int, ...]) -> None:
    """Raise ValueError if the backbone cannot take images of this size (C, H, W), or one of the data's, naming it."""
    _check_size(network, input_size)
    for dataset in data.splits.values():
        if not isinstance(dataset, TargetImageDataset):
            continue
        sizes = eval_sizes(dataset, data.preprocess)
        for size in dict.fromkeys(sizes):
            try:
                _check_size(network, (input_size[0], *size))
            except ValueError as error:
                step = "leave it out, or enlarge the images, such as --set 'eval_transform=resize(64)'"
                raise ValueError(f"{dataset.name(sizes.index(size))}: {error}; {step}") from error


def _check_size(network: DenseNetwork, size: tuple[int, ...]) -> None:
    network.residual_network.check_input(torch.empty((1, *network.arch.smallest_input(size)), device="meta"))


def load_messages(model: ResidualNetwork | DenseNetwork) -> tuple[str, ...]:
    """Return the messages of the report of loaded weights; empty without weights."""
    return () if model.load_report is None else (model.load_report.summary, *model.load_report.messages)
