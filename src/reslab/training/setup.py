"""Set up a new run: network, recipe, data and everything the loop needs, checked before the run's folder is created."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.data.dataset import MIN_IMBALANCE, DatasetSplits
from reslab.data.image_datasets import SPLIT_TITLES
from reslab.data.rng import step_seed, temporary_seed
from reslab.nn.checkpoints.download import WeightsUnavailableError
from reslab.nn.checkpoints.pretrained import load_pretrained
from reslab.nn.checkpoints.read import read_checkpoint
from reslab.nn.dense import DenseNetwork
from reslab.nn.factory import named_weights
from reslab.nn.module_network import ModuleFactory
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_num_threads, hardware_info, has_native_bf16
from reslab.runtime.distributed import ProcessGroup
from reslab.runtime.provenance import command_line, git_commit, package_versions
from reslab.spec.arch import Arch
from reslab.spec.config import to_dict
from reslab.spec.dense import DenseArch, ModelKind
from reslab.spec.errors import invalid
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe, apply_recipe_overrides, scale_lr
from reslab.spec.task import Task
from reslab.spec.toml_files import find_recipe
from reslab.spec.zoo.dense import dense_arch_for, require_model
from reslab.training.activation_checkpointing import require_blocks
from reslab.training.checkpoint import snapshot_interval_steps
from reslab.training.dense_model import build_dense_model, load_messages
from reslab.training.evaluation.loop import check_loss, precision_advice
from reslab.training.freezing import Freezing
from reslab.training.image_size import (
    ImageSize,
    check_sizes,
    choose_image_size,
    described_dims,
    described_size,
    fit_train_transform,
    fixed_image_size,
)
from reslab.training.loop import TrainLoop, TrainStep, make_grad_scaler
from reslab.training.losses import DistillationLoss, LossFn, prepare_teacher
from reslab.training.model_source import build_published, load_state
from reslab.training.nonfinite import is_finite, non_finite_images
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
    qualified_name,
    recipe_defaults,
    resolve_arch_for_data,
    warn_about_stem,
    with_eval_preprocess,
)
from reslab.training.run import Run, load, make_run_path, require_empty_dir
from reslab.training.run_data import (
    choose_num_workers,
    data_metadata,
    infer_input_size,
    make_train_loader,
    open_train_data,
)
from reslab.training.tasks.recipe import fit_recipe
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
    data = open_train_data(
        options.data,
        data_dir=options.data_dir,
        val_fraction=options.val_fraction,
        skip_bad_images=options.skip_bad_images,
        columns=options.columns,
        mask_values=options.mask_values,
        num_images=options.num_images,
        is_default_fraction=options.is_default_fraction,
        dims=dims,
        task=options.task,
    )
    task = find_task_type(data.task).for_data(data)
    defaults = recipe_defaults(options)
    described = described_size(options.model, options.arch_overrides)
    image_size = choose_image_size(data, defaults, options.recipe_overrides, described)
    if image_size.eval_transform is not None:
        defaults = replace(defaults, eval_transform=image_size.eval_transform)
    data = with_eval_preprocess(data, defaults)
    input_size, seed, device = infer_input_size(data), options.seed or 0, process_group.device
    model, pretrained, messages = build_model(options, data, task.model_kind, input_size, seed, image_size.size)
    factory = module_factory(options, data.num_classes, input_size)
    data = task.prepare_data(_use_pretrained_preprocess(data, model), model)
    recipe, recipe_messages = _resolve_recipe(options, data, task.spec, input_size, bool(pretrained), image_size)
    recipe = resolve_precision(recipe, device)
    warning_messages = filter(None, [data.decode_warning_text])
    data_messages = (*_skipped_messages(data), *warning_messages, *data.messages, *_imbalance_messages(data, recipe))
    messages = (*default_messages, *data_messages, *image_size.messages, *messages, *recipe_messages)
    _check_monitor_split(recipe, data)
    check_finite_start(model, data)
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
        "hardware": hardware_info(device, choose_num_threads(input_size, device)),
        "versions": package_versions(),
        "command": command_line(),
        "commit": git_commit(),
        "messages": list(messages),
        "world_size": process_group.world_size,
    }
    path = Path(output) if output is not None else make_run_path(metadata["model"]["name"], data.name)
    return TrainSetup(Run.create(path, metadata), data, recipe, input_size, loop, task, messages)


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
    teacher = prepare_teacher(load(distill.teacher, device), data, distill.teacher)
    return DistillationLoss(loss, teacher, distill.alpha, distill.temperature)  # type: ignore[return-value]


def check_module(model: nn.Module, custom_loss: LossFn | None, task: TaskType, input_size: Sequence[int]) -> None:
    """Try a user's own module or loss on two images of zeros. Raises ValueError if it does not fit the data."""
    if isinstance(model, ResidualNetwork | DenseNetwork) and custom_loss is None:
        return
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


def _check_monitor_split(recipe: Recipe, data: DatasetSplits) -> None:
    """Require a validation split for decisions during training, so that they never use the test set."""
    purposes = {
        "for the schedule 'plateau'": recipe.schedule.name == "plateau",
        "for early stopping": recipe.early_stopping.enabled,
    }
    for purpose, needs_val in purposes.items():
        if needs_val and "val" not in data.splits:
            got = f"{data.name} with {', '.join(data.splits)}"
            raise invalid(f"a validation split {purpose}", got, nearest="--val-fraction 0.1")


def build_model(
    options: TrainOptions,
    data: DatasetSplits,
    kind: ModelKind,
    input_size: tuple[int, ...],
    seed: int,
    image_size: int = 0,
) -> tuple[nn.Module, str | None, tuple[str, ...]]:
    """Return the network at step 0, a description of its initial weights (None: random), and messages for the user.

    `kind` is what the task needs; `image_size` is the size for networks that resize images themselves, 0: their own.
    Raises ValueError for a network of another kind.
    """
    factory = module_factory(options, data.num_classes, input_size)
    if factory is not None:
        with temporary_seed(step_seed(seed, -1)):
            return (*_build_from_factory(factory, options.pretrained), ())
    if isinstance(options.model, nn.Module):
        _check_module_options(options)
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


def _resolve_recipe(
    options: TrainOptions,
    data: DatasetSplits,
    task: Task,
    input_size: tuple[int, ...],
    pretrained: bool,
    image_size: ImageSize,
) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe with the user's overrides and the run's image size, and messages for the user.

    Its batch size is at most the dataset's.
    """
    base = options.recipe
    if base is None:
        resized = bool(image_size.size) and fixed_image_size(data) is None
        base = default_recipe(data.name, input_size, pretrained, resized, task)
    base = find_recipe(base) if isinstance(base, str) else base
    recipe, messages = apply_recipe_overrides(base, options.recipe_overrides)
    recipe, task_messages = fit_recipe(recipe, task, options.recipe_overrides if options.loss is None else {})
    recipe, messages = _fit_recipe(recipe, options, data, image_size), (*messages, *task_messages)
    num_samples = len(data.split("train"))
    if recipe.batch_size > num_samples:
        if "batch_size" in options.recipe_overrides:
            raise invalid(
                f"a batch of at most the {num_samples} training images", recipe.batch_size, nearest=str(num_samples)
            )
        recipe, scale_messages = scale_lr(replace(recipe, batch_size=num_samples), recipe.batch_size)
        messages = (*messages, f"only {num_samples} training images: they form one batch", *scale_messages)
    size_messages = check_sizes(recipe, options.recipe_overrides, input_size, task.target)
    return recipe, (*messages, *_duration_messages(recipe, num_samples), *size_messages)


def _fit_recipe(recipe: Recipe, options: TrainOptions, data: DatasetSplits, image_size: ImageSize) -> Recipe:
    """Return the recipe with its transforms fitted to the run's image size, except for a transform of the user's."""
    if not image_size.size:
        return recipe
    if image_size.fits_transforms and "train_transform" not in options.recipe_overrides:
        transform = fit_train_transform(recipe.train_transform, image_size.size, fixed_image_size(data))
        recipe = replace(recipe, train_transform=transform)
    eval_transform = data.preprocess.transform if recipe.eval_transform else ""
    return replace(recipe, eval_transform=eval_transform, image_size=image_size.size)


def resolve_precision(recipe: Recipe, device: torch.device) -> Recipe:
    """Return the recipe with `auto` replaced by the precision for this device."""
    if recipe.precision != "auto":
        return recipe
    return replace(recipe, precision="bf16" if has_native_bf16(device) else "float32")


def _duration_messages(recipe: Recipe, num_samples: int) -> tuple[str, ...]:
    steps_per_epoch, num_dropped = divmod(num_samples, recipe.batch_size)
    total_steps = parse_duration(recipe.duration).num_steps(steps_per_epoch)
    if total_steps < 1:
        raise invalid("a duration of at least one step", repr(recipe.duration), nearest="'1 epoch'")
    messages = []
    if num_dropped:
        messages.append(
            f"{num_samples:,} images make {steps_per_epoch:,} batches of {recipe.batch_size}; "
            f"{num_dropped} images, different ones each epoch, are dropped"
        )
    unreached = unreached_milestones(recipe.schedule, total_steps, steps_per_epoch)
    if unreached:
        messages.append(f"the run ends at step {total_steps}, before the schedule's milestones {', '.join(unreached)}")
    return tuple(messages)


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


def model_metadata(
    model: nn.Module, factory: ModuleFactory | None, kind: ModelKind, num_classes: int, input_size: tuple[int, ...]
) -> dict[str, Any]:
    """Return what run.json records of the network, with the kind of network that the task needs.

    `arch` is None for one that is not of the zoo; `factory` then tells how to build it again, if that is known.
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
