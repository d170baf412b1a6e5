"""What a recipe trains towards, and whether a network can be trained by it."""

import torch
from torch import nn

from reslab.data.dataset import Data
from reslab.spec.loss import parse_loss
from reslab.spec.recipe import Recipe
from reslab.training.distillation import Distillation, read_teacher
from reslab.training.freezing import Freezing
from reslab.training.gradient import Loss
from reslab.training.losses import build_loss, class_weights
from reslab.training.optimizer import build_optimizer
from reslab.training.recomputing import recomputed_units


def build_objective(recipe: Recipe, data: Data, device: torch.device | str, own: Loss | None = None) -> Loss:
    """The recipe's loss, or the user's `own` in its place, beside the teacher's where there is one.

    Raises ValueError where the class weights or the teacher do not fit the data.
    """
    weights = class_weights(recipe.class_weights, data.split("train").labels, data.classes)
    weights = None if weights is None else weights.to(device, torch.float32)
    loss = own or build_loss(recipe.loss, recipe.label_smoothing, weights)
    plan = parse_loss(recipe.loss)
    if plan.distill is None:
        return loss
    alpha, temperature = plan.distill
    return Distillation(loss, read_teacher(recipe.teacher, data, device), alpha, temperature)  # type: ignore[return-value]


def try_recipe(recipe: Recipe, model: nn.Module, data: Data) -> None:
    """ValueError for what the recipe asks of optimizer, loss, teacher or network and cannot have."""
    build_optimizer(model, recipe.optimizer)
    build_objective(recipe, data, "cpu")
    Freezing(model, recipe.unfreeze, steps_per_epoch=1)
    with recomputed_units(model, recipe.activation_checkpointing):
        pass
