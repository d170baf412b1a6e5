"""The recipe of a new run: with the changes of the user, fitted to the task, the data and the device."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from reslab.data.dataset import DatasetSplits
from reslab.data.targets import TARGET_RULES
from reslab.runtime.device import has_fast_bf16
from reslab.spec.errors import invalid
from reslab.spec.loss import LOSSES, parse_loss
from reslab.spec.optim import parse_duration, parse_warmup_error
from reslab.spec.recipe import Recipe, apply_recipe_overrides, scale_lr
from reslab.spec.recipes import get_recipe
from reslab.spec.task import TargetKind, Task
from reslab.spec.transform_grammar import parse_transforms
from reslab.training.image_size import (
    ImageSize,
    check_sizes,
    fit_train_transform,
    fixed_image_size,
)
from reslab.training.optim.lr_schedule import unreached_milestones
from reslab.training.options import (
    TrainOptions,
    default_recipe,
)

_SMOOTHED = (TargetKind.CLASS, TargetKind.MULTI_HOT)
_WITH_ONE_CLASS = (TargetKind.CLASS, TargetKind.MASK)  # of each image or pixel


def resolve_recipe(
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
    recipe, messages = apply_recipe_overrides(get_recipe(base), options.recipe_overrides)
    recipe, task_messages = _fit_to_task(recipe, task, options.recipe_overrides if options.loss is None else {})
    recipe, messages = _fit_to_data(recipe, options, data, image_size), (*messages, *task_messages)
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


def _fit_to_data(recipe: Recipe, options: TrainOptions, data: DatasetSplits, image_size: ImageSize) -> Recipe:
    """Return the recipe with its transforms fitted to the run's image size, except for a transform of the user's."""
    if not image_size.size:
        return recipe
    if image_size.fits_transforms and "train_transform" not in options.recipe_overrides:
        transform = fit_train_transform(recipe.train_transform, image_size.size, fixed_image_size(data))
        recipe = replace(recipe, train_transform=transform)
    eval_transform = data.preprocess.transform if recipe.eval_transform else ""
    return replace(recipe, eval_transform=eval_transform, image_size=image_size.size)


def _fit_to_task(recipe: Recipe, task: Task, overrides: Mapping[str, Any]) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe with what does not suit the task replaced, and messages for the user.

    Raises ValueError if it is the user who set it (`overrides`).
    """
    messages = []
    if task.target not in LOSSES[parse_loss(recipe.loss).name].targets:
        suited = [name for name, loss in LOSSES.items() if task.target in loss.targets]
        _require_default("loss", recipe.loss, overrides, f"a loss for {task.name}: {', '.join(suited)}", task.loss)
        messages.append(f"the loss is {task.loss}, for {task.name}, in place of the recipe's {recipe.loss}")
        recipe = replace(recipe, loss=task.loss)
    if recipe.label_smoothing and task.target not in _SMOOTHED:
        _require_default("label_smoothing", recipe.label_smoothing, overrides, f"no smoothing in {task.name}", "0")
        recipe = replace(recipe, label_smoothing=0.0)
    calls = parse_transforms(recipe.train_transform)
    rules = TARGET_RULES[task.target]
    is_possible = {"mixup": rules.can_be_mixed, "cutmix": rules.can_be_cut}
    kept = [call for call in calls if is_possible.get(call.name, True)]
    if len(kept) < len(calls):
        expression = " ".join(map(str, kept))
        required = f"a transform whose images keep their own targets in {task.name}"
        _require_default("train_transform", recipe.train_transform, overrides, required, repr(expression))
        recipe = replace(recipe, train_transform=expression)
        messages.append(f"the training images are not mixed, for {task.name}")
    if parse_warmup_error(recipe.schedule.warmup) is not None and task.target not in _WITH_ONE_CLASS:
        required = f"a warmup of a duration, as {task.name} has no training error that is near 100 % at first"
        raise invalid(required, recipe.schedule.warmup, nearest="schedule.warmup='1 epoch'")
    task.metric(recipe.early_stopping.metric)
    return recipe, tuple(messages)


def _require_default(key: str, value: Any, overrides: Mapping[str, Any], required: str, nearest: str) -> None:
    if key in overrides:
        raise invalid(required, f"{key}={value}", nearest=nearest)


def resolve_precision(recipe: Recipe, device: torch.device) -> Recipe:
    """Return the recipe with `auto` replaced by the precision for this device."""
    if recipe.precision != "auto":
        return recipe
    return replace(recipe, precision="bf16" if has_fast_bf16(device) else "float32")


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


def check_monitor_split(recipe: Recipe, data: DatasetSplits) -> None:
    """Require a validation split for decisions during training, so that they never use the test set."""
    purposes = {
        "for the schedule 'plateau'": recipe.schedule.name == "plateau",
        "for early stopping": recipe.early_stopping.enabled,
    }
    for purpose, needs_val in purposes.items():
        if needs_val and "val" not in data.splits:
            got = f"{data.name} with {', '.join(data.splits)}"
            raise invalid(f"a validation split {purpose}", got, nearest="--val-fraction 0.1")
