"""What a recipe trains towards, and whether a network can be trained by it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reslab.data.dataset import Data
from reslab.nn.network import Network
from reslab.spec.errors import refuse
from reslab.spec.loss import parse_loss
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe
from reslab.training.activation_checkpointing import recomputed_units
from reslab.training.distillation import Distillation, read_teacher
from reslab.training.evaluation.loop import check_outputs
from reslab.training.freezing import Freezing
from reslab.training.gradient import Loss
from reslab.training.losses import build_loss, class_weights
from reslab.training.optim.factory import build_optimizer


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


def try_module(model: nn.Module, own: Loss | None, data: Data, size: Sequence[int]) -> None:
    """ValueError where a user's own module or loss does not fit the data: one picture of zeros is tried."""
    if isinstance(model, Network) and own is None:
        return
    training, device = model.training, next((weight.device for weight in model.parameters()), torch.device("cpu"))
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(torch.zeros((1, *size), device=device))
            check_outputs(outputs, data.num_classes)
            value = outputs.new_zeros(()) if own is None else own(outputs, torch.zeros(1, dtype=torch.int64).to(device))
    finally:
        model.train(training)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise refuse("a loss of one number, the mean over the batch", got, nearest="reduction='mean'")


def try_recipe(recipe: Recipe, model: nn.Module, data: Data) -> None:
    """ValueError for what the recipe asks of optimizer, loss, teacher or network and cannot have."""
    _check_watched(recipe, data)
    build_optimizer(model, recipe.optimizer)
    build_objective(recipe, data, "cpu")
    Freezing(model, recipe.unfreeze, steps_per_epoch=1)
    with recomputed_units(model, recipe.activation_checkpointing):
        pass


def _check_watched(recipe: Recipe, data: Data) -> None:
    """What decides on the run looks at a validation split, never at the test set."""
    watching = {
        "whose error the schedule 'plateau' watches": recipe.schedule.name == "plateau",
        "which the patience watches": parse_duration(recipe.patience).count > 0,
    }
    for what, on in watching.items():
        if on and "val" not in data.splits:
            got = f"{data.name} with {', '.join(data.splits)}"
            raise refuse(f"a validation split, {what}", got, nearest="--val-fraction 0.1")
