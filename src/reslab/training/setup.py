"""Set up a new run: network, recipe, data and everything the loop needs, checked before the run's folder is created."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.data.dataset import MIN_IMBALANCE, DatasetSplits
from reslab.nn.dense import DenseNetwork
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_num_threads
from reslab.runtime.distributed import ProcessGroup
from reslab.runtime.provenance import provenance
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe
from reslab.spec.zoo.dense import require_model
from reslab.training.checkpoint import load_run_network, snapshot_interval_steps
from reslab.training.freezing import Freezing
from reslab.training.image_size import (
    ImageSize,
    choose_image_size,
    described_dims,
    described_size,
)
from reslab.training.loop import TrainLoop, TrainStep, make_grad_scaler, require_blocks
from reslab.training.losses import DistillationLoss, LossFn, prepare_teacher
from reslab.training.optim.factory import build_optimizer
from reslab.training.options import (
    AUTO,
    TrainOptions,
    apply_recipe_defaults,
    qualified_name,
    recipe_defaults,
    with_eval_preprocess,
)
from reslab.training.run import Run
from reslab.training.run_data import (
    choose_num_workers,
    data_metadata,
    infer_input_size,
    make_train_loader,
    open_train_data,
)
from reslab.training.run_folder import make_run_path, require_empty_dir
from reslab.training.setup_model import (
    build_model,
    check_finite_start,
    check_module,
    fit_first_layers,
    model_metadata,
    module_factory,
)
from reslab.training.setup_recipe import check_monitor_split, resolve_precision, resolve_recipe
from reslab.training.tasks.registry import find_task_type
from reslab.training.tasks.task_type import TaskType


@dataclass(frozen=True)
class TrainSetup:
    """A run that is ready to train; `input_size` is (C, H, W), `messages` are for the user."""

    run: Run
    data: DatasetSplits
    recipe: Recipe
    input_size: tuple[int, ...]
    loop: TrainLoop
    task: TaskType
    messages: tuple[str, ...] = ()


def setup_run(
    options: TrainOptions, output: str | Path | None, process_group: ProcessGroup, workers: int | None = None
) -> TrainSetup:
    """Set up a new run in `output`, a new or empty folder (by default `runs/<time>-<model>-<data>`)."""
    if output is not None:
        require_empty_dir(Path(output))
    options, default_messages = apply_recipe_defaults(options)
    require_model(options.model, options.task)
    dims = described_dims(options.model, options.arch_overrides)
    if dims != 2:  # the transforms are of images; signals and volumes go to the network as they are
        options = _without_image_options(options)
    data = open_train_data(options.data, options, dims=dims)
    task = find_task_type(data.task).for_data(data)
    data, image_size = _with_image_size(data, options)
    input_size, seed, device = infer_input_size(data), options.seed or 0, process_group.device
    model, pretrained, messages = build_model(options, data, task.model_kind, input_size, seed, image_size.size)
    factory = module_factory(options, data.num_classes, input_size)
    data = task.prepare_data(_use_pretrained_preprocess(data, model), model)
    recipe, recipe_messages = resolve_recipe(options, data, task.spec, input_size, bool(pretrained), image_size)
    recipe, precision_messages = _resolve_precision(recipe, device, task.float32_reason(model))
    data_messages = _data_messages(data, recipe)
    messages = (
        *default_messages,
        *data_messages,
        *image_size.messages,
        *messages,
        *recipe_messages,
        *precision_messages,
    )
    check_monitor_split(recipe, data)
    check_finite_start(model, data)
    if not pretrained:
        fit_first_layers(model, data, task)
    if model is options.model or factory is not None or options.loss is not None:  # others are built to fit
        check_module(model, options.loss, task, input_size)
    loop = build_train_loop(
        model,
        recipe,
        data,
        task,
        seed=seed,
        process_group=process_group,
        workers=workers,
        custom_loss=options.loss,
        transform_functions=options.transform_functions,
    )
    messages = (*messages, *_unfreeze_messages(loop, recipe))
    snapshot_interval_steps(options.snapshot_every or "0", loop.loader.num_steps_per_epoch)
    metadata = {
        "format": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "model": model_metadata(model, factory, task.model_kind, data.num_classes, input_size),
        "pretrained": pretrained,
        "recipe": to_dict(recipe),
        "loss": qualified_name(options.loss),
        "task": task.to_dict(),
        "data": data_metadata(data, options.data, options.data_dir),
        "val_fraction": options.val_fraction,
        "seed": seed,
        "snapshot_every": options.snapshot_every or "0",
        "grad_accumulation": AUTO if options.auto_batch else None,
        "precision": recipe.precision,
        "world_size": process_group.world_size,
        **provenance(device, choose_num_threads(input_size, device)),
        "messages": list(messages),
    }
    path = Path(output) if output is not None else make_run_path(metadata["model"]["name"], data.name)
    return TrainSetup(Run.create(path, metadata), data, recipe, input_size, loop, task, messages)


def _resolve_precision(recipe: Recipe, device: torch.device, float32_reason: str) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe with `auto` replaced, and a message where that is float32 for a reason of the network."""
    resolved = resolve_precision(recipe, device)
    if not float32_reason or recipe.precision == resolved.precision or resolved.precision == "float32":
        return resolved, ()
    return replace(resolved, precision="float32"), (float32_reason,)


def _with_image_size(data: DatasetSplits, options: TrainOptions) -> tuple[DatasetSplits, ImageSize]:
    """Return the data with the preprocessing of evaluation, and the size of images that it was chosen for."""
    defaults = recipe_defaults(options)
    described = described_size(options.model, options.arch_overrides)
    image_size = choose_image_size(data, defaults, options.recipe_overrides, described)
    if image_size.eval_transform is not None:
        defaults = replace(defaults, eval_transform=image_size.eval_transform)
    return with_eval_preprocess(data, defaults), image_size


def build_train_loop(
    model: nn.Module,
    recipe: Recipe,
    data: DatasetSplits,
    task: TaskType,
    *,
    seed: int,
    process_group: ProcessGroup,
    workers: int | None,
    custom_loss: LossFn | None,
    transform_functions: Mapping[str, Callable[..., Any]] | None = None,
) -> TrainLoop:
    """Move the network to the device and build what its training steps need: batches, loss, optimizer, freezing.

    `TrainLoop.wrapped` adds DistributedDataParallel and compilation. Raises ValueError for a recipe that does not fit
    the network or the data.
    """
    device = process_group.device
    if isinstance(model, ResidualNetwork | DenseNetwork):
        model.set_metadata(classes=data.classes, preprocess=data.preprocess, task=task.to_dict())
    if recipe.activation_checkpointing:
        require_blocks(model)
    task.prepare_model(model)
    if recipe.cuda_graph and process_group.world_size > 1:
        got = f"{process_group.world_size} processes"
        raise invalid("one process for cuda_graph", got, next_step="set cuda_graph=false")
    model = model.to(device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    num_workers = choose_num_workers(workers, data, process_group.env.local_world_size)
    loader = make_train_loader(
        recipe, data, seed, device, num_workers, process_group.env, transform_functions=transform_functions
    )
    train_step = TrainStep(
        precision=recipe.precision,
        channels_last=recipe.channels_last,
        grad_accum_steps=recipe.grad_accum_steps,
        clip_grad_norm=recipe.clip_grad_norm,
        scaler=make_grad_scaler(recipe.precision, device),
        l1=recipe.l1,
        l2=recipe.l2,
        batch_metrics=task.batch_metrics,
        main_output=task.main_output,
        forward=task.training_forward,
    )
    return TrainLoop(
        model=model,
        loader=loader,
        loss=build_train_loss(recipe, data, task, device, custom_loss),
        optimizer=build_optimizer(model, recipe.optimizer),
        train_step=train_step,
        freezing=Freezing(
            model,
            recipe.unfreeze,
            loader.num_steps_per_epoch,
            parse_duration(recipe.duration).num_steps(loader.num_steps_per_epoch),
        ),
        seed=seed,
        activation_checkpointing=recipe.activation_checkpointing,
        sync_bn=recipe.sync_bn,
        process_group=process_group,
        cuda_graph=recipe.cuda_graph and device.type == "cuda",
    )


def build_train_loss(
    recipe: Recipe,
    data: DatasetSplits,
    task: TaskType,
    device: torch.device | str,
    custom_loss: LossFn | None = None,
) -> LossFn:
    """Return the recipe's loss (or the user's in its place), with distillation if the recipe names a teacher.

    Raises ValueError if the class weights or the teacher do not fit the data or the task.
    """
    loss = custom_loss or task.build_loss(recipe, data, device)
    distill = recipe.distill
    if not distill.teacher:
        return loss
    if not task.can_distill:
        got = f"the task {task.spec.name}"
        raise invalid("a task with logits over classes to imitate a teacher", got, next_step="leave distill out")
    teacher = prepare_teacher(load_run_network(distill.teacher, device), data, distill.teacher)
    return DistillationLoss(loss, teacher, distill.alpha, distill.temperature)  # type: ignore[return-value]


def _without_image_options(options: TrainOptions) -> TrainOptions:
    """Return the options with no transform or memory format of images. Raises ValueError if the user asks for one."""
    requested = [
        key for key in ("train_transform", "eval_transform", "image_size") if options.recipe_overrides.get(key)
    ]
    if requested:
        next_step = f"leave out {requested[0]}, and transform the tensors before training"
        raise invalid("a network of images (dims=2) for transforms of images", requested[0], next_step=next_step)
    overrides = {**options.recipe_overrides, "train_transform": "", "eval_transform": "", "channels_last": False}
    return replace(options, recipe_overrides=overrides)


def _data_messages(data: DatasetSplits, recipe: Recipe) -> tuple[str, ...]:
    """Return what the user should know of the data: files left out, damaged images, imbalanced classes."""
    warnings = filter(None, [data.decode_warning_text])
    return (*_skipped_messages(data), *warnings, *data.messages, *_imbalance_messages(data, recipe))


def _skipped_messages(data: DatasetSplits) -> tuple[str, ...]:
    return tuple(f"skipped: {path}: {reason.removeprefix(f'{path}: ')}" for path, reason in data.skipped_files)


def _imbalance_messages(data: DatasetSplits, recipe: Recipe) -> tuple[str, ...]:
    if data.imbalance <= MIN_IMBALANCE or recipe.class_weights or recipe.class_balanced_sampling:
        return ()
    text = f"the training classes are imbalanced, {data.imbalance:.3g} to 1: compare per-class metrics"
    return (f"{text}, or set class_weights=balanced or class_balanced_sampling=true",)


def _use_pretrained_preprocess(data: DatasetSplits, model: nn.Module) -> DatasetSplits:
    """Return the data with the normalization that the network's pretrained weights expect."""
    preprocess = model.preprocess if isinstance(model, ResidualNetwork | DenseNetwork) else None
    if preprocess is None or preprocess.channels != data.preprocess.channels:
        return data
    return replace(
        data,
        preprocess=replace(
            data.preprocess,
            mean=preprocess.mean,
            std=preprocess.std,
            mean_image="",
            channel_order=preprocess.channel_order,
        ),
    )


def _unfreeze_messages(loop: TrainLoop, recipe: Recipe) -> tuple[str, ...]:
    """Return a message for the parts that `unfreeze` names but the run is too short to train."""
    total_steps = parse_duration(recipe.duration).num_steps(loop.loader.num_steps_per_epoch)
    unreached = loop.freezing.unreached_parts(total_steps)
    if not unreached:
        return ()
    parts_text = ", ".join(f"{part} (from step {start:,})" for part, start in unreached.items())
    return (
        f"the run ends at step {total_steps:,}, before it trains {parts_text}; give the start in unfreeze as a share "
        "of the run, such as 'all: 42%', or train longer",
    )
