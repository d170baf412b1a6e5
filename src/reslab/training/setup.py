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

from reslab.data.dataset import Data
from reslab.data.rng import seeded
from reslab.nn.checkpoints.download import WeightsUnavailableError
from reslab.nn.factory import create_model, resolve_arch
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import hardware, num_threads_for, quick_bf16
from reslab.runtime.provenance import command, commit, versions
from reslab.runtime.torchrun import Place
from reslab.spec.arch import Arch
from reslab.spec.config import override, to_dict
from reslab.spec.errors import invalid
from reslab.spec.grammar import parse_ops
from reslab.spec.loss import parse_loss
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe, apply_recipe_overrides, parse_arch_overrides, scale_lr
from reslab.spec.recipes import get_recipe
from reslab.training.activation_checkpointing import recomputed_units
from reslab.training.checkpoint import num_steps_between
from reslab.training.evaluation.loop import check_outputs
from reslab.training.freezing import Freezing
from reslab.training.loop import Loss, noise_seed
from reslab.training.losses import Distillation, build_loss, class_weights, read_teacher
from reslab.training.optim.factory import build_optimizer
from reslab.training.optim.lr_schedule import idle_milestones
from reslab.training.options import (
    AUTO,
    PUBLISHED,
    SMALL_SIDE,
    Asked,
    callable_name,
    default_model,
    default_recipe,
    fulfilled,
    judged_as,
    pretrained_name,
    warn_of_stem,
    wishes,
    with_axes,
)
from reslab.training.run import Run, new_path, refuse_occupied
from reslab.training.run_data import data_facts, find_data, input_size, train_batches


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
    if isinstance(model, ResidualNetwork) and own is None:
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
        raise invalid("a loss of one number, the mean over the batch", got, nearest="reduction='mean'")


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
            raise invalid(f"a validation split, {what}", got, nearest="--val-fraction 0.1")


@dataclass(frozen=True)
class Prepared:
    """All that a run needs to go; `input_size` is (C, H, W), `notes` are what a person should be told."""

    run: Run
    model: nn.Module
    data: Data
    recipe: Recipe
    input_size: tuple[int, ...]
    notes: tuple[str, ...]


def begin(asked: Asked, output: str | Path | None, device: torch.device, place: Place | None = None) -> Prepared:
    """A new run in `output`, a new or empty folder (`runs/<time>-<model>-<data>` where None), of a job with `place`."""
    if output is not None:
        refuse_occupied(Path(output))
    asked, wished = fulfilled(asked)
    data = find_data(asked.data, asked.data_dir, asked.val_fraction, asked.skip_bad_images, asked.num_images)
    data = judged_as(data, wishes(asked))
    size = input_size(data)
    seed = asked.seed or 0
    model, pretrained, notes = first_network(asked, data, size, seed)
    data = _as_published(data, model)
    if isinstance(model, ResidualNetwork):
        model.classes, model.preprocess = data.classes, data.preprocess
    recipe, more = _recipe(asked, data, size, bool(pretrained))
    recipe = settled(recipe, device)
    notes = (*wished, *_left_out(data), *notes, *more)
    place = place or Place()
    batches = train_batches(recipe, data, seed, "cpu", place=place)  # words that do not fit fail here
    num_steps_between(asked.snapshots or "0", batches.num_steps_per_epoch)
    try_recipe(recipe, model, data)
    try_module(model, asked.loss, data, size)
    machine = hardware(device, num_threads_for(size, device))
    facts = _facts(asked, data, model, recipe, pretrained, seed, machine, notes)
    facts |= {"num_ranks": place.num_ranks}
    path = Path(output) if output is not None else new_path(facts["model"]["name"], data.name)
    return Prepared(Run.create(path, facts), model, data, recipe, size, notes)


def first_network(
    asked: Asked, data: Data, size: tuple[int, ...], seed: int
) -> tuple[nn.Module, str | None, tuple[str, ...]]:
    """The network at step 0, which weights it was given, and what a person should be told."""
    if isinstance(asked.model, nn.Module):
        _refuse_beside_module(asked)
        return asked.model, None, ()
    arch = asked_arch(asked.model or default_model(size), asked, data, size)
    warn_of_stem(arch, size)
    with seeded(noise_seed(seed, -1)):
        if asked.pretrained is None and asked.model is None and min(size[1:]) >= SMALL_SIDE:
            model, pretrained, notes = _pretrained_if_had(arch)
        else:
            model, pretrained = with_weights(arch, asked.pretrained), pretrained_name(asked.pretrained)
            notes = _load_notes(model)
    model.check_input(torch.empty((1, *size), device="meta"))
    return model, pretrained, notes


def with_weights(arch: Arch, pretrained: Any) -> ResidualNetwork:
    """The network; a head or first convolution of other classes or channels is adapted to the data's."""
    loading = logging.getLogger("reslab.nn.checkpoints.load")
    level = loading.level
    loading.setLevel(logging.ERROR)  # what it would log is among the run's notes, and told once
    try:
        model = create_model(arch, num_classes=arch.num_classes, in_channels=arch.in_channels, pretrained=pretrained)
    finally:
        loading.setLevel(level)
    assert isinstance(model, ResidualNetwork)
    return model


def _left_out(data: Data) -> tuple[str, ...]:
    """The pictures that cannot be read and are left out, each by its path."""
    return tuple(f"left out: {path}: {reason.removeprefix(f'{path}: ')}" for path, reason in data.skipped)


def _load_notes(model: ResidualNetwork) -> tuple[str, ...]:
    return () if model.load_report is None else (model.load_report.summary, *model.load_report.messages)


def asked_arch(model: str | Arch, asked: Asked, data: Data, size: tuple[int, ...]) -> Arch:
    """The architecture asked for, with the data's channels, classes and picture size where the axes leave them."""
    arch = with_axes(resolve_arch(model, {}), asked)
    given: dict[str, Any] = {"num_classes": data.num_classes, "in_channels": size[0], "image_size": tuple(size[1:])}
    said = (*asked.axes, *parse_arch_overrides(asked.wished_axes))
    return override(arch, {name: value for name, value in given.items() if name not in said})


def _pretrained_if_had(arch: Arch) -> tuple[ResidualNetwork, str | None, tuple[str, ...]]:
    try:
        model = with_weights(arch, True)
    except (OSError, WeightsUnavailableError) as error:
        remedy = str(error).splitlines()[0].rpartition("; ")[2]
        note = (
            f"{arch.name} starts from random weights, as published ones could not be had: it learns from these "
            f"pictures alone, so expect to need many of them, and longer training "
            f"(to start from published weights, {remedy})"
        )
        return with_weights(arch, None), None, (note,)
    note = f"{arch.name} starts from published weights: its head is new, the rest is fine-tuned on these pictures"
    return model, PUBLISHED, (note, *_load_notes(model))


def _refuse_beside_module(asked: Asked) -> None:
    if asked.axes:
        raise invalid(
            "a network by name to set axes of",
            f"a module and model.{next(iter(asked.axes))}",
            next_step="change the module itself",
        )
    if asked.pretrained:
        raise invalid(
            "a network by name to load weights into",
            "a module and pretrained",
            next_step="load the weights into the module",
        )


def _as_published(data: Data, model: nn.Module) -> Data:
    """The data, normalised as the network's published weights want it."""
    wanted = model.preprocess if isinstance(model, ResidualNetwork) else None
    if wanted is None or wanted.channels != data.preprocess.channels:
        return data
    return replace(data, preprocess=replace(data.preprocess, mean=wanted.mean, std=wanted.std, mean_image=""))


def _recipe(asked: Asked, data: Data, size: tuple[int, ...], pretrained: bool) -> tuple[Recipe, tuple[str, ...]]:
    base = asked.recipe if asked.recipe is not None else default_recipe(data.name, size, pretrained)
    base = get_recipe(base) if isinstance(base, str) else base
    recipe, notes = apply_recipe_overrides(base, asked.settings)
    num_samples = len(data.split("train"))
    if recipe.batch_size > num_samples:
        if "batch_size" in asked.settings:
            raise invalid(
                f"a batch of at most the {num_samples} training images", recipe.batch_size, nearest=str(num_samples)
            )
        recipe, more = scale_lr(replace(recipe, batch_size=num_samples), recipe.batch_size)
        notes = (*notes, f"only {num_samples} training images: they are one batch", *more)
    return recipe, (*notes, *_length_notes(recipe, num_samples), *size_notes(recipe, size))


def size_notes(recipe: Recipe, size: tuple[int, ...]) -> tuple[str, ...]:
    """What to be told where the words bring training pictures to less than half, or over twice, the size judged."""
    crops = [word for word in parse_ops(recipe.train_transform) if word.name.endswith("crop")]
    if not crops or 0.5 <= int(crops[-1].args[0]) / min(size[1:]) <= 2:
        return ()
    side = int(crops[-1].args[0])
    words = f"resize({round(side * 8 / 7)}) center-crop({side})"
    return (
        f"trained on {side}x{side}, judged at {'x'.join(map(str, size[1:]))}: for one size, --set eval_transform='{words}'",
    )


def settled(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with the precision that `auto` is on this device."""
    if recipe.precision != "auto":
        return recipe
    return replace(recipe, precision="bf16" if quick_bf16(device) else "float32")


def _length_notes(recipe: Recipe, num_samples: int) -> tuple[str, ...]:
    steps_per_epoch, dropped = divmod(num_samples, recipe.batch_size)
    total = parse_duration(recipe.duration).num_steps(steps_per_epoch)
    if total < 1:
        raise invalid("a length of at least one step", repr(recipe.duration), nearest="'1 epoch'")
    notes = []
    if dropped:
        notes.append(
            f"{num_samples:,} images are {steps_per_epoch:,} batches of {recipe.batch_size}: "
            f"{dropped} of them, others each epoch, are left out"
        )
    idle = idle_milestones(recipe.schedule, total, steps_per_epoch)
    if idle:
        notes.append(f"the run ends at step {total}, before the learning rate's milestones {', '.join(idle)}")
    return tuple(notes)


def model_facts(model: nn.Module) -> dict[str, Any]:
    """What run.json tells about the network; `arch` is None for a module of the user's own."""
    if isinstance(model, ResidualNetwork):
        return {"name": model.arch.name, "source": model.arch.reference, "arch": to_dict(model.arch)}
    return {
        "name": type(model).__name__,
        "source": f"a module of the user's own, {callable_name(type(model))}",
        "arch": None,
    }


def _facts(
    asked: Asked,
    data: Data,
    model: nn.Module,
    recipe: Recipe,
    pretrained: str | None,
    seed: int,
    machine: dict[str, str | int],
    notes: tuple[str, ...],
) -> dict[str, Any]:
    return {
        "format": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "model": model_facts(model),
        "pretrained": pretrained,
        "recipe": to_dict(recipe),
        "loss": callable_name(asked.loss),
        "data": data_facts(data, asked.data, asked.data_dir),
        "val_fraction": asked.val_fraction,
        "seed": seed,
        "snapshots": asked.snapshots or "0",
        "micro_batch": AUTO if asked.auto_batch else None,
        "precision": recipe.precision,
        "hardware": machine,
        "versions": versions(),
        "command": command(),
        "commit": commit(),
        "notes": list(notes),
    }
