"""Fit a recipe to a task: a loss for its targets, and no regularization that only classes have."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reslab.data.targets import TARGET_RULES
from reslab.spec.errors import invalid
from reslab.spec.loss import LOSSES, parse_loss
from reslab.spec.optim import parse_warmup_error
from reslab.spec.recipe import Recipe
from reslab.spec.task import TargetKind, Task
from reslab.spec.transform_grammar import parse_transforms

_SMOOTHED = (TargetKind.CLASS, TargetKind.MULTI_HOT)


def fit_recipe(recipe: Recipe, task: Task, overrides: Mapping[str, Any]) -> tuple[Recipe, tuple[str, ...]]:
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
    if parse_warmup_error(recipe.schedule.warmup) is not None and not task.train_metric.is_fraction:
        required = f"a warmup of a duration, as {task.name} has no training error in percent"
        raise invalid(required, recipe.schedule.warmup, nearest="schedule.warmup='1 epoch'")
    task.metric(recipe.early_stopping.metric)
    return recipe, tuple(messages)


def _require_default(key: str, value: Any, overrides: Mapping[str, Any], required: str, nearest: str) -> None:
    if key in overrides:
        raise invalid(required, f"{key}={value}", nearest=nearest)
