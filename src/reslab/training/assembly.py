"""All that takes the steps of a run, put together from what was prepared."""

import torch
from torch import nn
from torch.nn import functional

from reslab.runtime.distributed import Ranks
from reslab.spec.recipe import Recipe, parse_duration
from reslab.training.checkpoint import Snapshots, num_steps_between
from reslab.training.exam import Exam
from reslab.training.freezing import Freezing
from reslab.training.gradient import Stepping, make_scaler
from reslab.training.keeping import Keeping
from reslab.training.objective import build_objective
from reslab.training.optim.factory import build_optimizer
from reslab.training.options import Asked
from reslab.training.run import Run, header_facts
from reslab.training.run_data import num_workers, train_batches
from reslab.training.setup import Prepared
from reslab.training.steps import Steps
from reslab.training.telling import Show, Telling
from reslab.training.trainer import Course


def make_course(
    prepared: Prepared, asked: Asked, ranks: Ranks, workers: int | None, show: Show, save_every_seconds: float
) -> Course:
    """The course of a prepared run, on the ranks' device."""
    run, recipe, data, device = prepared.run, prepared.recipe, prepared.data, ranks.device
    steps = make_steps(prepared, asked, ranks, workers)
    steps_per_epoch = steps.batches.num_steps_per_epoch
    total = parse_duration(recipe.length).num_steps(steps_per_epoch)
    processes = num_workers(workers, data, ranks.place.num_local)
    return Course(
        run,
        steps,
        Exam(steps.model, data, asked.loss or functional.cross_entropy, processes, device, ranks),
        Keeping(steps.model, recipe, total, steps_per_epoch),
        _snapshots(run, steps_per_epoch),
        Telling(run, show, ranks.first),
        total,
        save_every_seconds=save_every_seconds,
    )


def make_steps(prepared: Prepared, asked: Asked, ranks: Ranks, workers: int | None) -> Steps:
    """What its steps are made of; the network is on the ranks' device from here on."""
    recipe, data, device = prepared.recipe, prepared.data, ranks.device
    seed = prepared.run.facts["seed"]
    model = prepared.model.to(device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    processes = num_workers(workers, data, ranks.place.num_local)
    batches = train_batches(recipe, data, seed, device, processes, ranks.place)
    return Steps(
        model,
        batches,
        build_objective(recipe, data, device, asked.loss),
        build_optimizer(model, recipe.optimizer),
        _stepping(recipe, model, ranks),
        Freezing(model, recipe.unfreeze, batches.num_steps_per_epoch),
        recipe,
        seed,
        ranks,
    )


def _stepping(recipe: Recipe, model: nn.Module, ranks: Ranks) -> Stepping:
    replica = ranks.replica(model)
    return Stepping(
        recipe.precision,
        recipe.channels_last,
        recipe.accumulate,
        recipe.clip_norm,
        make_scaler(recipe.precision, ranks.device),
        torch.compile(replica or model) if recipe.compile else None,
        recipe.l1,
        recipe.l2,
        replica,
    )


def _snapshots(run: Run, steps_per_epoch: int) -> Snapshots:
    every = num_steps_between(run.facts.get("snapshots", "0"), steps_per_epoch)
    return Snapshots(run.path, every, header_facts(run))
