"""The network of a new run: built from what the user gave, with its first weights, and checked on one batch."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.data.dataset import DatasetSplits
from reslab.data.dataset_names import SPLIT_TITLES
from reslab.data.loader import eval_loader, eval_sizes
from reslab.data.rng import step_seed, temporary_seed
from reslab.data.target_datasets import TargetImageDataset
from reslab.nn.checkpoints.pretrained import Pretrained, load_pretrained
from reslab.nn.checkpoints.published import WeightsUnavailableError
from reslab.nn.checkpoints.read import read_checkpoint
from reslab.nn.dense import DenseNetwork
from reslab.nn.dense_factory import build_dense_network, is_whole_network, load_backbone, load_dense_weights
from reslab.nn.factory import named_weights
from reslab.nn.init import fit_input_layers, unfitted_layers
from reslab.nn.module_network import ModuleFactory
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch
from reslab.spec.config import to_dict
from reslab.spec.dense import DenseArch, ModelKind
from reslab.spec.errors import invalid
from reslab.spec.zoo.dense import dense_arch_for
from reslab.training.checkpoint import find_weights_path
from reslab.training.evaluation.loop import check_loss, precision_advice
from reslab.training.losses import LossFn
from reslab.training.module_loading import build_published, load_state
from reslab.training.nonfinite import is_finite, non_finite_images
from reslab.training.options import (
    PUBLISHED_WEIGHTS,
    SMALL_INPUT_SIDE,
    TrainOptions,
    default_model,
    describe_pretrained,
    qualified_name,
    resolve_arch_for_data,
    resolve_dense_arch,
    warn_about_stem,
)
from reslab.training.tasks.task_type import TaskType

InitialModel = tuple[nn.Module, str | None, tuple[str, ...]]
"""A network, the description of its initial weights (None: random), and messages for the user."""

_NUM_FIT_IMAGES, _FIT_BATCH_SIZE = 512, 32


def check_module(model: nn.Module, custom_loss: LossFn | None, task: TaskType, input_size: Sequence[int]) -> None:
    """Try a user's own module or loss on two images of zeros. Raises ValueError if it does not fit the data."""
    was_training, device = model.training, next((weight.device for weight in model.parameters()), torch.device("cpu"))
    model.eval()
    images = torch.zeros((2, *input_size), device=device)
    try:
        with torch.no_grad():
            advice = precision_advice(model, images.dtype)
            with _user_code(f"a network that takes images {tuple(images.shape)} in {images.dtype}", advice):
                outputs = task.predict(model, images)
            task.check_outputs(outputs)
            if custom_loss is not None:
                targets = task.example_targets(outputs)
                shapes = f"outputs {tuple(outputs.shape)} and labels {_describe_shape(targets)}"
                with _user_code(f"loss(outputs, labels) of {shapes}"):
                    loss_value = custom_loss(outputs, targets)
                check_loss(loss_value)
    finally:
        model.train(was_training)


def _describe_shape(targets: torch.Tensor) -> str:
    return f"{str(tuple(targets.shape)).replace(' ', '')} in {str(targets.dtype).removeprefix('torch.')}"


@contextlib.contextmanager
def _user_code(required: str, advice: str = "") -> Iterator[None]:
    """Turn an error of the user's own module or loss into one that says what it was called with."""
    try:
        yield
    except Exception as error:
        raise invalid(required, f"{type(error).__name__}: {error}", advice) from error


def check_finite_start(model: nn.Module, data: DatasetSplits) -> None:
    """Raise ValueError if an initial weight, or a pixel of images in memory, is NaN or infinite."""
    bad_weights = [
        name for name, tensor in model.state_dict().items() if tensor.is_floating_point() and not is_finite(tensor)
    ]
    if bad_weights:
        got = f"NaN or infinite values in {', '.join(bad_weights[:3])}"
        raise invalid("finite initial weights", got, next_step="load other weights")
    for split, images in data.splits.items():
        names = non_finite_images(images)
        if names:
            got = f"NaN or infinite values in {', '.join(names[:4])}" + (", ..." if len(names) > 4 else "")
            raise invalid(f"finite {SPLIT_TITLES[split]} images", got, next_step="repair or remove them")


def build_model(
    options: TrainOptions,
    data: DatasetSplits,
    kind: ModelKind,
    input_size: tuple[int, ...],
    seed: int,
    image_size: int = 0,
) -> InitialModel:
    """Return the network at step 0, with its first weights.

    `kind` is what the task needs; `image_size` is the size for networks that resize images themselves, 0: their own.
    Raises ValueError for a network of another kind.
    """
    factory = module_factory(options, data.num_classes, input_size)
    if factory is not None:
        with temporary_seed(step_seed(seed, -1)):
            return (*_build_from_factory(factory, options.pretrained), ())
    if isinstance(options.model, nn.Module):
        _check_module_options(options)
        if isinstance(options.model, ResidualNetwork):
            options.model.check_input(torch.empty((1, *input_size), device="meta"))
        return options.model, None, ()
    if options.model is not None and not isinstance(options.model, str | Arch | DenseArch):
        raise invalid("a name, an Arch, a module or a factory as model", f"a {type(options.model).__name__}")
    model_name = options.model or default_model(input_size, kind)
    dense_arch = dense_arch_for(kind, model_name, (input_size[-2], input_size[-1]), options.arch_overrides)
    if dense_arch is not None:
        with temporary_seed(step_seed(seed, -1)):
            return build_dense_model(dense_arch, options, data, input_size, image_size)
    assert not isinstance(model_name, DenseArch)
    arch = resolve_arch_for_data(
        model_name,
        data,
        input_size,
        overrides=options.arch_overrides,
        recipe_overrides=options.recipe_arch_overrides,
    )
    warn_about_stem(arch, input_size)
    with temporary_seed(step_seed(seed, -1)):
        if options.pretrained is None and options.model is None and min(input_size[1:]) >= SMALL_INPUT_SIDE:
            model, pretrained, messages = _try_pretrained(arch)
        else:
            weights = named_weights(model_name, options.pretrained) if options.model else options.pretrained
            model = create_model_quietly(arch, weights, options.allow_extra, tuple(options.arch_overrides))
            pretrained = describe_pretrained(weights)
            messages = load_messages(model)
    model.check_input(torch.empty((1, *input_size), device="meta"))
    return model, pretrained, messages


def fit_first_layers(model: nn.Module, data: DatasetSplits, task: TaskType) -> None:
    """Compute the weights that follow from training images, such as a `whitened` convolution's, where they are missing.

    The images are up to 512, evenly spaced in the training set, prepared as for evaluation.
    """
    if not unfitted_layers(model):
        return
    images = data.split("train")
    indices = torch.linspace(0, len(images) - 1, min(_NUM_FIT_IMAGES, len(images))).long().tolist()
    subset, device = images.subset(indices), next(model.parameters()).device

    def iter_images() -> Iterator[Any]:
        for x, *_ in eval_loader(subset, _FIT_BATCH_SIZE, data.preprocess, device):
            yield from (x[i : i + 1] for i in range(len(x)))

    fit_input_layers(model, lambda image: task.predict(model, image), iter_images)


def module_factory(options: TrainOptions, num_classes: int, input_size: tuple[int, ...]) -> ModuleFactory | None:
    """Return the factory of a network that is not of the zoo, with the user's arguments and the sizes of the data."""
    if not isinstance(options.model, ModuleFactory):
        return None
    return options.model.with_arguments(options.arch_overrides).for_data(num_classes, input_size[0])


def _build_from_factory(factory: ModuleFactory, pretrained: Any) -> tuple[nn.Module, str | None]:
    """Build the module, with published weights or those of a file, and a new head where the classes are others."""
    if not pretrained:
        return factory.build(), None
    if isinstance(pretrained, str | Path) and Path(pretrained).exists():
        module = factory.build()
        load_state(module, read_checkpoint(pretrained), new_head=True)
    elif factory.library:
        module, _ = build_published(factory, pretrained, new_head=True)
    else:
        raise invalid(f"a file of weights for {factory.reference}", repr(pretrained), next_step="--pretrained FILE")
    return module, describe_pretrained(pretrained)


def create_model_quietly(
    arch: Arch, pretrained: Any, allow_extra: bool = False, chosen_axes: tuple[str, ...] = ()
) -> ResidualNetwork:
    """Create the network; its head or first convolution is adapted to the data's classes and channels.

    `chosen_axes`: those that the user set, so that no warning names other networks with the same weights.
    """
    logger = logging.getLogger("reslab.nn.checkpoints.load")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what it would log is among the run's messages, and shown once
    try:
        model = ResidualNetwork(arch)
        if pretrained is not None and pretrained is not False:
            load_pretrained(
                model,
                pretrained,
                adapt=("num_classes", "in_channels"),
                allow_extra=allow_extra,
                chosen_axes=chosen_axes,
            )
    finally:
        logger.setLevel(level)
    return model


def _try_pretrained(arch: Arch) -> tuple[ResidualNetwork, str | None, tuple[str, ...]]:
    """Create the network with published weights, or with random ones if they are unavailable."""
    try:
        model = create_model_quietly(arch, True)
    except (OSError, WeightsUnavailableError) as error:
        next_step = error.next_step if isinstance(error, WeightsUnavailableError) else str(error)
        message = (
            f"{arch.name} starts from random weights because the pretrained weights are unavailable: expect to need "
            f"many images and longer training (for pretrained weights: {next_step})"
        )
        return create_model_quietly(arch, None), None, (message,)
    message = f"{arch.name} starts from published weights: the head is new, the rest is fine-tuned"
    return model, PUBLISHED_WEIGHTS, (message, *load_messages(model))


def _check_module_options(options: TrainOptions) -> None:
    if options.arch_overrides:
        raise invalid(
            "a network by name for overrides of its axes",
            f"a module and model.{next(iter(options.arch_overrides))}",
            next_step="change the module itself",
        )
    if options.pretrained:
        raise invalid(
            "a network by name for pretrained weights",
            "a module and pretrained",
            next_step="load the weights into the module",
        )


def model_metadata(
    model: nn.Module, factory: ModuleFactory | None, kind: ModelKind, num_classes: int, input_size: tuple[int, ...]
) -> dict[str, Any]:
    """Return what run.json records of the network, with the kind of network that the task needs.

    `arch` is None for one that is not of the zoo; `factory` then builds it again, if that is known.
    """
    record: dict[str, Any] = {"kind": str(kind)}
    if isinstance(model, ResidualNetwork | DenseNetwork):
        return {"name": model.arch.name, "reference": model.arch.reference, "arch": to_dict(model.arch), **record}
    return {
        **record,
        "name": factory.name if factory else type(model).__name__,
        "reference": f"user module {qualified_name(type(model))}",
        "arch": None,
        "factory": None if factory is None else factory.to_dict(),
        "input_size": list(input_size),
        "num_classes": num_classes,
    }


def build_dense_model(
    arch: DenseArch, options: TrainOptions, data: DatasetSplits, input_size: tuple[int, ...], image_size: int = 0
) -> InitialModel:
    """Return the network for the data's classes, channels and size, with the overrides of recipe and user.

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
