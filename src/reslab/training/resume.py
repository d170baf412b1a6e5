"""An old run taken up again: what it is comes from its run.json, and whoever says otherwise is told so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from reslab.data.registry import DATA_SETS
from reslab.data.rng import seeded
from reslab.nn.factory import resolve_arch
from reslab.nn.network import ResidualNetwork
from reslab.runtime.provenance import command
from reslab.spec.arch import Arch
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe, apply_recipe_overrides
from reslab.spec.recipes import get_recipe
from reslab.training.checkpoint import has_state, load_state, parse_interval
from reslab.training.loop import noise_seed
from reslab.training.options import AUTO, PUBLISHED, Asked, callable_name, pretrained_name
from reslab.training.run import Run
from reslab.training.run_data import input_size, reopen_data
from reslab.training.setup import Prepared, with_weights


def resume_run(asked: Asked, output: Path) -> Prepared:
    """The run in `output`, to go on with. Only the length may differ from what it was.

    Raises ValueError naming an argument that says otherwise than the run, and where data, module or loss that had been
    handed over are not handed over again.
    """
    prepared = reopened(asked, output)
    run, recipe = prepared.run, prepared.recipe
    _check_length(prepared)
    if to_dict(recipe) != run.facts["recipe"]:
        run.update(recipe=to_dict(recipe))
    run.update(resumed=[*run.facts.get("resumed", []), command()])
    return prepared


def reopened(asked: Asked, output: Path) -> Prepared:
    """The run in `output` as it is to go on, nothing written. Raises ValueError like `resume_run`."""
    run = Run(output)
    _check(asked, run.facts)
    recipe = _recipe(asked, run)
    data = reopen_data(run.facts["data"], asked.data, asked.data_dir)
    size = input_size(data)
    model = _network(asked, run)
    if isinstance(model, ResidualNetwork):
        model.classes, model.preprocess = data.classes, data.preprocess
    return Prepared(run, model, data, recipe, size, ())


def _check_length(prepared: Prepared) -> None:
    """ValueError where the run has gone further than it is now asked to go."""
    state, recipe = load_state(prepared.run.path / "state"), prepared.recipe
    total = parse_duration(recipe.duration).num_steps(max(1, len(prepared.data.split("train")) // recipe.batch_size))
    if state is not None and state.step > total:
        required = f"a length of at least the {state.step} steps that are done"
        raise invalid(required, f"{recipe.duration}, {total} steps", f"{state.step} steps", "or choose another output")


def _check(asked: Asked, facts: dict[str, Any]) -> None:
    pairs = {
        "seed": (asked.seed, facts["seed"]),
        "val_fraction": (asked.val_fraction, facts["val_fraction"]),
        "num_images": (asked.num_images, facts["data"]["split_record"].get("num_images")),
        "pretrained": (pretrained_name(asked.pretrained), facts["pretrained"]),
        "data": (
            asked.data if isinstance(asked.data, str) and asked.data in DATA_SETS else None,
            facts["data"]["asked"],
        ),
    }
    for name, (said, recorded) in pairs.items():
        if said is not None and said != recorded:
            raise conflict(name, said, recorded)
    kept = facts.get("snapshots", "0")
    if asked.snapshots is not None and parse_interval(asked.snapshots) != parse_interval(kept):
        raise conflict("snapshots", asked.snapshots, kept)
    if asked.auto_batch and not facts.get("micro_batch"):
        raise conflict("batch_size", AUTO, facts["recipe"]["batch_size"])
    if asked.loss is None and facts["loss"] is not None:
        raise invalid(f"the loss the run has, {facts['loss']}, handed over again", "none", next_step="train(loss=...)")
    if callable_name(asked.loss) != facts["loss"]:
        raise conflict("loss", callable_name(asked.loss), facts["loss"])


def conflict(name: str, said: Any, recorded: Any) -> ValueError:
    """The error for an argument that says otherwise than the run that is to go on."""
    return invalid(
        f"{name} as the run has it, {recorded!r}",
        repr(said),
        next_step=f"leave {name} out to go on with the run, or choose another output",
    )


def _recipe(asked: Asked, run: Run) -> Recipe:
    recorded = run.recipe
    given = asked.recipe
    if isinstance(given, str) and get_recipe(given).name != recorded.name:
        raise conflict("recipe", given, recorded.name)
    base = given if isinstance(given, Recipe) else recorded
    wanted, _ = apply_recipe_overrides(base, asked.settings)
    if wanted.precision == "auto":
        wanted = replace(wanted, precision=recorded.precision)
    if run.facts.get("micro_batch") and "grad_accum_steps" not in asked.settings:
        wanted = replace(wanted, grad_accum_steps=recorded.grad_accum_steps)
    before, after = _flat(to_dict(recorded)), _flat(to_dict(wanted))
    for key in (*asked.settings, *after):  # what was said comes before what follows from it
        if key != "duration" and key in after and after[key] != before[key]:
            raise conflict(key, after[key], before[key])
    return replace(
        recorded, duration=wanted.duration if "duration" in asked.settings or given is base else recorded.duration
    )


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{prefix}{name}.") if isinstance(inner, dict) else {prefix + name: inner}
    return flat


def _network(asked: Asked, run: Run) -> nn.Module:
    if isinstance(asked.model, nn.Module) and not isinstance(asked.model, ResidualNetwork):
        _check_module(asked.model, run)
        return asked.model
    arch = run.arch
    if arch is None:
        raise invalid(
            f"the module the run trained, a {run.facts['model']['name']}, handed over again",
            asked.model,
            next_step="train(model=...)",
        )
    _check_arch(asked, arch)
    with seeded(noise_seed(run.facts["seed"], -1)):
        if isinstance(asked.model, ResidualNetwork):
            return asked.model
        again = None if has_state(run.path / "state") else run.facts["pretrained"]
        return with_weights(arch, True if again == PUBLISHED else asked.pretrained or again)


def _check_module(model: nn.Module, run: Run) -> None:
    if run.arch is not None or type(model).__name__ != run.facts["model"]["name"]:
        raise conflict("model", type(model).__name__, run.facts["model"]["name"])


def _check_arch(asked: Asked, arch: Arch) -> None:
    said = asked.model.arch if isinstance(asked.model, ResidualNetwork) else asked.model
    if isinstance(said, str) and said != arch.name:
        raise conflict("model", said, arch.name)
    base = said if isinstance(said, Arch) else arch
    wanted = to_dict(resolve_arch(base, asked.axes))
    for axis, value in to_dict(arch).items():
        if wanted[axis] != value:
            raise conflict(f"model.{axis}", wanted[axis], value)
