"""A new run: what was asked made into a network, a recipe, data and a folder, mistakes found before the folder.

What a recipe trains towards, and whether a network can be trained by it.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslab.data.dataset import DatasetSplits
from reslab.data.rng import step_seed, temporary_seed
from reslab.nn.checkpoints.download import WeightsUnavailableError
from reslab.nn.checkpoints.pretrained import load_pretrained
from reslab.nn.factory import get_arch, resolve_arch
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_num_threads, hardware_info, has_native_bf16
from reslab.runtime.provenance import command_line, git_commit, package_versions
from reslab.runtime.torchrun import DistributedEnv
from reslab.spec.arch import Arch, parse_arch_overrides
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.spec.grammar import parse_ops
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe, apply_recipe_overrides, scale_lr
from reslab.spec.recipes import get_recipe
from reslab.training.activation_checkpointing import checkpoint_activations
from reslab.training.checkpoint import snapshot_interval_steps
from reslab.training.evaluation.loop import check_outputs
from reslab.training.freezing import Freezing
from reslab.training.loop import LossFn
from reslab.training.losses import DistillationLoss, build_loss, compute_class_weights, load_teacher
from reslab.training.optim.factory import build_optimizer
from reslab.training.optim.lr_schedule import unreached_milestones
from reslab.training.options import (
    AUTO,
    PUBLISHED_WEIGHTS,
    SMALL_INPUT_SIDE,
    TrainOptions,
    apply_recipe_defaults,
    default_model,
    default_recipe,
    describe_pretrained,
    merge_arch_overrides,
    qualified_name,
    recipe_defaults,
    warn_about_stem,
    with_eval_preprocess,
)
from reslab.training.run import Run, make_run_path, require_empty_dir
from reslab.training.run_data import data_metadata, infer_input_size, make_train_loader, open_train_data


def build_objective(
    recipe: Recipe, data: DatasetSplits, device: torch.device | str, custom_loss: LossFn | None = None
) -> LossFn:
    """The recipe's loss, or the user's `own` in its place, beside the teacher's where there is one.

    Raises ValueError where the class weights or the teacher do not fit the data.
    """
    weights = compute_class_weights(recipe.class_weights, data.split("train").labels, data.classes)
    weights = None if weights is None else weights.to(device, torch.float32)
    loss = custom_loss or build_loss(recipe.loss, recipe.label_smoothing, weights)
    distill = recipe.distill
    if not distill.teacher:
        return loss
    teacher = load_teacher(distill.teacher, data, device)
    return DistillationLoss(loss, teacher, distill.alpha, distill.temperature)  # type: ignore[return-value]


def check_module(model: nn.Module, custom_loss: LossFn | None, data: DatasetSplits, input_size: Sequence[int]) -> None:
    """ValueError where a user's own module or loss does not fit the data: one picture of zeros is tried."""
    if isinstance(model, ResidualNetwork) and custom_loss is None:
        return
    was_training, device = model.training, next((weight.device for weight in model.parameters()), torch.device("cpu"))
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(torch.zeros((1, *input_size), device=device))
            check_outputs(outputs, data.num_classes)
            loss_value = (
                outputs.new_zeros(())
                if custom_loss is None
                else custom_loss(outputs, torch.zeros(1, dtype=torch.int64).to(device))
            )
    finally:
        model.train(was_training)
    if not isinstance(loss_value, Tensor) or loss_value.numel() != 1:
        got = f"shape {tuple(loss_value.shape)}" if isinstance(loss_value, Tensor) else f"a {type(loss_value).__name__}"
        raise invalid("a loss of one number, the mean over the batch", got, nearest="reduction='mean'")


def check_recipe(recipe: Recipe, model: nn.Module, data: DatasetSplits) -> None:
    """ValueError for what the recipe asks of optimizer, loss, teacher or network and cannot have."""
    _check_monitor_split(recipe, data)
    build_optimizer(model, recipe.optimizer)
    build_objective(recipe, data, "cpu")
    Freezing(model, recipe.unfreeze, steps_per_epoch=1)
    with checkpoint_activations(model, recipe.activation_checkpointing):
        pass


def _check_monitor_split(recipe: Recipe, data: DatasetSplits) -> None:
    """What decides on the run looks at a validation split, never at the test set."""
    purposes = {
        "whose error the schedule 'plateau' watches": recipe.schedule.name == "plateau",
        "which the patience watches": recipe.early_stopping.enabled,
    }
    for purpose, needs_val in purposes.items():
        if needs_val and "val" not in data.splits:
            got = f"{data.name} with {', '.join(data.splits)}"
            raise invalid(f"a validation split, {purpose}", got, nearest="--val-fraction 0.1")


@dataclass(frozen=True)
class TrainSetup:
    """All that a run needs to go; `input_size` is (C, H, W), `notes` are what a person should be told."""

    run: Run
    model: nn.Module
    data: DatasetSplits
    recipe: Recipe
    input_size: tuple[int, ...]
    messages: tuple[str, ...]


def setup_run(
    options: TrainOptions, output: str | Path | None, device: torch.device, env: DistributedEnv | None = None
) -> TrainSetup:
    """A new run in `output`, a new or empty folder (`runs/<time>-<model>-<data>` where None), of a job with `place`."""
    if output is not None:
        require_empty_dir(Path(output))
    options, default_messages = apply_recipe_defaults(options)
    data = open_train_data(
        options.data, options.data_dir, options.val_fraction, options.skip_bad_images, options.num_images
    )
    data = with_eval_preprocess(data, recipe_defaults(options))
    input_size = infer_input_size(data)
    seed = options.seed or 0
    model, pretrained, messages = build_model(options, data, input_size, seed)
    data = _use_pretrained_preprocess(data, model)
    if isinstance(model, ResidualNetwork):
        model.classes, model.preprocess = data.classes, data.preprocess
    recipe, recipe_messages = _resolve_recipe(options, data, input_size, bool(pretrained))
    recipe = resolve_precision(recipe, device)
    messages = (*default_messages, *_skipped_messages(data), *messages, *recipe_messages)
    env = env or DistributedEnv()
    loader = make_train_loader(recipe, data, seed, "cpu", env=env)  # words that do not fit fail here
    snapshot_interval_steps(options.snapshot_every or "0", loader.num_steps_per_epoch)
    check_recipe(recipe, model, data)
    check_module(model, options.loss, data, input_size)
    hardware = hardware_info(device, choose_num_threads(input_size, device))
    metadata = _run_metadata(options, data, model, recipe, pretrained, seed, hardware, messages)
    metadata |= {"world_size": env.world_size}
    path = Path(output) if output is not None else make_run_path(metadata["model"]["name"], data.name)
    return TrainSetup(Run.create(path, metadata), model, data, recipe, input_size, messages)


def build_model(
    options: TrainOptions, data: DatasetSplits, input_size: tuple[int, ...], seed: int
) -> tuple[nn.Module, str | None, tuple[str, ...]]:
    """The network at step 0, which weights it was given, and what a person should be told."""
    if isinstance(options.model, nn.Module):
        _check_module_options(options)
        return options.model, None, ()
    arch = resolve_arch_for_data(options.model or default_model(input_size), options, data, input_size)
    warn_about_stem(arch, input_size)
    with temporary_seed(step_seed(seed, -1)):
        if options.pretrained is None and options.model is None and min(input_size[1:]) >= SMALL_INPUT_SIDE:
            model, pretrained, messages = _try_pretrained(arch)
        else:
            model, pretrained = create_model_quietly(arch, options.pretrained), describe_pretrained(options.pretrained)
            messages = _load_messages(model)
    model.check_input(torch.empty((1, *input_size), device="meta"))
    return model, pretrained, messages


def create_model_quietly(arch: Arch, pretrained: Any) -> ResidualNetwork:
    """The network; a head or first convolution of other classes or channels is adapted to the data's."""
    logger = logging.getLogger("reslab.nn.checkpoints.load")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what it would log is among the run's notes, and told once
    try:
        model = ResidualNetwork(arch)
        if pretrained is not None and pretrained is not False:
            load_pretrained(model, pretrained, adapt=("num_classes", "in_channels"))
    finally:
        logger.setLevel(level)
    return model


def _skipped_messages(data: DatasetSplits) -> tuple[str, ...]:
    """The pictures that cannot be read and are left out, each by its path."""
    return tuple(f"left out: {path}: {reason.removeprefix(f'{path}: ')}" for path, reason in data.skipped_files)


def _load_messages(model: ResidualNetwork) -> tuple[str, ...]:
    return () if model.load_report is None else (model.load_report.summary, *model.load_report.messages)


def resolve_arch_for_data(
    model: str | Arch, options: TrainOptions, data: DatasetSplits, input_size: tuple[int, ...]
) -> Arch:
    """Return the network's architecture with all overrides, and the data's classes, channels and image size.

    An axis that the user or the recipe sets is not taken from the data.
    """
    base = get_arch(model)
    arch = resolve_arch(base, merge_arch_overrides(base, options))
    data_values: dict[str, Any] = {
        "num_classes": data.num_classes,
        "in_channels": input_size[0],
        "image_size": tuple(input_size[1:]),
    }
    overridden = (*options.arch_overrides, *parse_arch_overrides(options.recipe_arch_overrides))
    return replace(arch, **{name: value for name, value in data_values.items() if name not in overridden})


def _try_pretrained(arch: Arch) -> tuple[ResidualNetwork, str | None, tuple[str, ...]]:
    try:
        model = create_model_quietly(arch, True)
    except (OSError, WeightsUnavailableError) as error:
        hint = str(error).splitlines()[0].rpartition("; ")[2]
        message = (
            f"{arch.name} starts from random weights, as published ones could not be had: it learns from these "
            f"pictures alone, so expect to need many of them, and longer training "
            f"(to start from published weights, {hint})"
        )
        return create_model_quietly(arch, None), None, (message,)
    message = f"{arch.name} starts from published weights: its head is new, the rest is fine-tuned on these pictures"
    return model, PUBLISHED_WEIGHTS, (message, *_load_messages(model))


def _check_module_options(options: TrainOptions) -> None:
    if options.arch_overrides:
        raise invalid(
            "a network by name to set axes of",
            f"a module and model.{next(iter(options.arch_overrides))}",
            next_step="change the module itself",
        )
    if options.pretrained:
        raise invalid(
            "a network by name to load weights into",
            "a module and pretrained",
            next_step="load the weights into the module",
        )


def _use_pretrained_preprocess(data: DatasetSplits, model: nn.Module) -> DatasetSplits:
    """The data, normalised as the network's published weights want it."""
    preprocess = model.preprocess if isinstance(model, ResidualNetwork) else None
    if preprocess is None or preprocess.channels != data.preprocess.channels:
        return data
    return replace(data, preprocess=replace(data.preprocess, mean=preprocess.mean, std=preprocess.std, mean_image=""))


def _resolve_recipe(
    options: TrainOptions, data: DatasetSplits, input_size: tuple[int, ...], pretrained: bool
) -> tuple[Recipe, tuple[str, ...]]:
    base = options.recipe if options.recipe is not None else default_recipe(data.name, input_size, pretrained)
    base = get_recipe(base) if isinstance(base, str) else base
    recipe, messages = apply_recipe_overrides(base, options.recipe_overrides)
    num_samples = len(data.split("train"))
    if recipe.batch_size > num_samples:
        if "batch_size" in options.recipe_overrides:
            raise invalid(
                f"a batch of at most the {num_samples} training images", recipe.batch_size, nearest=str(num_samples)
            )
        recipe, scale_messages = scale_lr(replace(recipe, batch_size=num_samples), recipe.batch_size)
        messages = (*messages, f"only {num_samples} training images: they are one batch", *scale_messages)
    return recipe, (*messages, *_duration_messages(recipe, num_samples), *image_size_messages(recipe, input_size))


def image_size_messages(recipe: Recipe, input_size: tuple[int, ...]) -> tuple[str, ...]:
    """What to be told where the words bring training pictures to less than half, or over twice, the size judged."""
    crops = [op for op in parse_ops(recipe.train_transform) if op.name.endswith("crop")]
    if not crops or 0.5 <= int(crops[-1].args[0]) / min(input_size[1:]) <= 2:
        return ()
    crop_size = int(crops[-1].args[0])
    transform = f"resize({round(crop_size * 8 / 7)}) center-crop({crop_size})"
    return (
        f"trained on {crop_size}x{crop_size}, judged at {'x'.join(map(str, input_size[1:]))}: for one size, --set eval_transform='{transform}'",
    )


def resolve_precision(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with the precision that `auto` is on this device."""
    if recipe.precision != "auto":
        return recipe
    return replace(recipe, precision="bf16" if has_native_bf16(device) else "float32")


def _duration_messages(recipe: Recipe, num_samples: int) -> tuple[str, ...]:
    steps_per_epoch, num_dropped = divmod(num_samples, recipe.batch_size)
    total_steps = parse_duration(recipe.duration).num_steps(steps_per_epoch)
    if total_steps < 1:
        raise invalid("a length of at least one step", repr(recipe.duration), nearest="'1 epoch'")
    messages = []
    if num_dropped:
        messages.append(
            f"{num_samples:,} images are {steps_per_epoch:,} batches of {recipe.batch_size}: "
            f"{num_dropped} of them, others each epoch, are left out"
        )
    unreached = unreached_milestones(recipe.schedule, total_steps, steps_per_epoch)
    if unreached:
        messages.append(
            f"the run ends at step {total_steps}, before the learning rate's milestones {', '.join(unreached)}"
        )
    return tuple(messages)


def model_metadata(model: nn.Module) -> dict[str, Any]:
    """What run.json tells about the network; `arch` is None for a module of the user's own."""
    if isinstance(model, ResidualNetwork):
        return {"name": model.arch.name, "source": model.arch.reference, "arch": to_dict(model.arch)}
    return {
        "name": type(model).__name__,
        "source": f"a module of the user's own, {qualified_name(type(model))}",
        "arch": None,
    }


def _run_metadata(
    options: TrainOptions,
    data: DatasetSplits,
    model: nn.Module,
    recipe: Recipe,
    pretrained: str | None,
    seed: int,
    hardware: dict[str, str | int],
    messages: tuple[str, ...],
) -> dict[str, Any]:
    return {
        "format": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "model": model_metadata(model),
        "pretrained": pretrained,
        "recipe": to_dict(recipe),
        "loss": qualified_name(options.loss),
        "data": data_metadata(data, options.data, options.data_dir),
        "val_fraction": options.val_fraction,
        "seed": seed,
        "snapshot_every": options.snapshot_every or "0",
        "grad_accumulation": AUTO if options.auto_batch else None,
        "precision": recipe.precision,
        "hardware": hardware,
        "versions": package_versions(),
        "command": command_line(),
        "commit": git_commit(),
        "messages": list(messages),
    }
