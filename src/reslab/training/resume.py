"""Resume a run: its configuration comes from run.json, and options that contradict it are an error."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from reslab.data.decode_limits import DEFAULT_LIMITS
from reslab.data.formats.mask_classes import parse_mask_values, record_mask_values
from reslab.data.named import DATASETS
from reslab.data.rng import step_seed, temporary_seed
from reslab.nn.module_network import ModuleFactory
from reslab.nn.network import ResidualNetwork
from reslab.runtime.distributed import ProcessGroup
from reslab.runtime.provenance import command_line
from reslab.spec.arch import Arch
from reslab.spec.config import to_dict
from reslab.spec.dense import DenseArch
from reslab.spec.errors import invalid
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe, apply_recipe_overrides
from reslab.spec.recipes import get_recipe
from reslab.spec.zoo.dense import dense_arch_for, override_dense_arch
from reslab.spec.zoo.resolve import resolve_arch
from reslab.training.checkpoint import has_train_checkpoint, load_train_checkpoint, parse_snapshot_interval
from reslab.training.module_loading import recorded_factory
from reslab.training.options import AUTO, PUBLISHED_WEIGHTS, TrainOptions, describe_pretrained, qualified_name
from reslab.training.run import Run
from reslab.training.run_data import changed_max_pixels, infer_input_size, reopen_data
from reslab.training.setup import TrainSetup, build_train_loop
from reslab.training.setup_model import create_model_quietly, fit_first_layers, reopen_dense_model
from reslab.training.tasks.registry import restore_task

_SIZE_KEYS = ("image_size", "train_transform", "eval_transform")


def resume_run(
    options: TrainOptions, output: Path, process_group: ProcessGroup, workers: int | None = None
) -> TrainSetup:
    """Set up the run in `output` to be resumed; only its duration may change.

    Raises ValueError, naming the option, if one contradicts the run, or if data, a module or a loss that the user
    passed to the run are not passed again.
    """
    setup = reopen_run(options, output, process_group, workers)
    run, recipe = setup.run, setup.recipe
    _check_duration(setup)
    if to_dict(recipe) != run.metadata["recipe"]:
        run.update(recipe=to_dict(recipe))
    run.update(resume_commands=[*run.metadata.get("resume_commands", []), command_line()])
    return setup


def reopen_run(
    options: TrainOptions, output: Path, process_group: ProcessGroup, workers: int | None = None
) -> TrainSetup:
    """Set up the run in `output` as `resume_run` does, but write nothing."""
    run = Run(output)
    _check_options(options, run.metadata)
    recipe = _resume_recipe(options, run)
    data = reopen_data(run.metadata["data"], options.data, options.data_dir)
    task = restore_task(run.metadata["task"], data.classes).unfitted()  # those of a run that ended before
    model = _resume_model(options, run)
    data = task.prepare_data(data, model)
    if not (has_train_checkpoint(run.path / "checkpoint") or run.metadata["pretrained"]):
        fit_first_layers(model, data, task)  # the run ended before its first checkpoint
    loop = build_train_loop(
        model,
        recipe,
        data,
        task,
        seed=run.metadata["seed"],
        process_group=process_group,
        workers=workers,
        custom_loss=options.loss,
        transform_functions=options.transform_functions,
    )
    return TrainSetup(run, data, recipe, infer_input_size(data), loop, task)


def _check_duration(setup: TrainSetup) -> None:
    """Raise ValueError if the run has already taken more steps than are requested now."""
    checkpoint, recipe = load_train_checkpoint(setup.run.path / "checkpoint"), setup.recipe
    total_steps = parse_duration(recipe.duration).num_steps(max(1, len(setup.data.split("train")) // recipe.batch_size))
    if checkpoint is not None and checkpoint.step > total_steps:
        required = f"a duration of at least the {checkpoint.step} steps already taken"
        got = f"{recipe.duration}, {total_steps} steps"
        raise invalid(required, got, f"{checkpoint.step} steps", "or choose another output")


def _check_options(options: TrainOptions, metadata: dict[str, Any]) -> None:
    pairs = {
        "seed": (options.seed, metadata["seed"]),
        "task": (options.task, metadata["task"]["name"]),
        "val_fraction": (options.val_fraction, metadata["val_fraction"]),
        "mask_values": (
            record_mask_values(parse_mask_values(options.mask_values)),
            metadata["data"]["split_record"].get("mask_values"),
        ),
        "num_images": (options.num_images, metadata["data"]["split_record"].get("num_images")),
        "max_pixels": (changed_max_pixels(), metadata["data"].get("max_pixels") or DEFAULT_LIMITS.max_pixels),
        "pretrained": (describe_pretrained(options.pretrained), metadata["pretrained"]),
        "data": (
            options.data if isinstance(options.data, str) and options.data in DATASETS else None,
            metadata["data"]["requested"],
        ),
    }
    for name, (requested, recorded) in pairs.items():
        if requested is not None and requested != recorded:
            raise conflict_error(name, requested, recorded)
    recorded_interval = metadata.get("snapshot_every", "0")
    if options.snapshot_every is not None and parse_snapshot_interval(
        options.snapshot_every
    ) != parse_snapshot_interval(recorded_interval):
        raise conflict_error("snapshot_every", options.snapshot_every, recorded_interval)
    if options.auto_batch and not metadata.get("grad_accumulation"):
        raise conflict_error("batch_size", AUTO, metadata["recipe"]["batch_size"])
    if options.loss is None and metadata["loss"] is not None:
        raise invalid(f"the loss of the run, {metadata['loss']}, again", "none", next_step="train(loss=...)")
    if qualified_name(options.loss) != metadata["loss"]:
        raise conflict_error("loss", qualified_name(options.loss), metadata["loss"])


def conflict_error(name: str, requested: Any, recorded: Any) -> ValueError:
    """Return the error for an option that contradicts the run to be resumed."""
    return invalid(
        f"{name} as in the run, {recorded!r}",
        repr(requested),
        next_step=f"omit {name} to resume the run, or choose another output",
    )


def _resume_recipe(options: TrainOptions, run: Run) -> Recipe:
    """Return the recorded recipe with the requested duration. Raises ValueError if another key differs."""
    recorded = run.recipe
    requested = options.recipe
    if not isinstance(requested, Recipe | None) and get_recipe(requested).name != recorded.name:
        raise conflict_error("recipe", str(requested), recorded.name)
    base = requested if isinstance(requested, Recipe) else recorded
    resolved, _ = apply_recipe_overrides(base, options.recipe_overrides)
    if resolved.precision == "auto":
        resolved = replace(resolved, precision=recorded.precision)
    if run.metadata.get("grad_accumulation") and "grad_accum_steps" not in options.recipe_overrides:
        resolved = replace(resolved, grad_accum_steps=recorded.grad_accum_steps)
    if recorded.image_size:  # its transforms were fitted to that size
        fitted = {key: getattr(recorded, key) for key in _SIZE_KEYS if key not in options.recipe_overrides}
        resolved = replace(resolved, **fitted)
    recorded_values, resolved_values = _flatten(to_dict(recorded)), _flatten(to_dict(resolved))
    # Overridden keys first: a batch size that the user gave is to be named before the learning rate it scales.
    for key in (*options.recipe_overrides, *resolved_values):
        if key != "duration" and key in resolved_values and resolved_values[key] != recorded_values[key]:
            raise conflict_error(key, resolved_values[key], recorded_values[key])
    is_requested = "duration" in options.recipe_overrides or requested is base
    return replace(recorded, duration=resolved.duration if is_requested else recorded.duration)


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, nested in value.items():
        flat |= _flatten(nested, f"{prefix}{name}.") if isinstance(nested, dict) else {prefix + name: nested}
    return flat


def _resume_model(options: TrainOptions, run: Run) -> nn.Module:
    """Return the network of the run; its weights are overwritten if there is a checkpoint."""
    if isinstance(options.model, ModuleFactory) or (options.model is None and _library_factory(run) is not None):
        return _resume_factory(options, run).build()
    if isinstance(options.model, nn.Module) and not isinstance(options.model, ResidualNetwork):
        _check_module(options.model, run)
        return options.model
    arch = run.arch
    if arch is None:
        reference = (run.metadata["model"].get("factory") or {}).get("factory")
        required = f"the module that the run trained, a {run.metadata['model']['name']}, again"
        raise invalid(required, options.model, next_step=f"--model {reference}" if reference else "train(model=...)")
    with temporary_seed(step_seed(run.metadata["seed"], -1)):
        recorded = None if has_train_checkpoint(run.path / "checkpoint") else run.metadata["pretrained"]
        pretrained = True if recorded == PUBLISHED_WEIGHTS else options.pretrained or recorded
        if isinstance(arch, DenseArch):
            _check_dense_arch(options, arch)
            return reopen_dense_model(arch, pretrained)
        _check_arch(options, arch)
        if isinstance(options.model, ResidualNetwork):
            return options.model
        return create_model_quietly(arch, pretrained, options.allow_extra)


def _library_factory(run: Run) -> ModuleFactory | None:
    """Return the factory of a run of timm's or torchvision's network, whose code is no file of the user's."""
    factory = recorded_factory(run.metadata["model"])
    return factory if factory is not None and factory.library else None


def _resume_factory(options: TrainOptions, run: Run) -> ModuleFactory:
    """Return the factory with the arguments of the run. Raises ValueError if another was given."""
    recorded = recorded_factory(run.metadata["model"])
    given = options.model if isinstance(options.model, ModuleFactory) else recorded
    if recorded is None or given is None or given.reference != recorded.reference:
        raise conflict_error("model", getattr(given, "reference", None), run.metadata["model"]["name"])
    arguments = given.with_arguments(options.arch_overrides).arguments
    for key, value in arguments.items():
        if recorded.arguments.get(key) != value:
            raise conflict_error(f"model.{key}", value, recorded.arguments.get(key))
    return replace(given, arguments=recorded.arguments)


def _check_dense_arch(options: TrainOptions, arch: DenseArch) -> None:
    if isinstance(options.model, str | Arch | DenseArch):
        requested = dense_arch_for(arch.kind, options.model, arch.image_size, options.arch_overrides)
        if requested is not None and requested.name != arch.name:
            raise conflict_error("model", requested.name, arch.name)
    requested_axes = _flatten(to_dict(override_dense_arch(arch, options.arch_overrides)))
    for axis, value in _flatten(to_dict(arch)).items():
        if requested_axes[axis] != value:
            raise conflict_error(f"model.{axis}", requested_axes[axis], value)


def _check_module(model: nn.Module, run: Run) -> None:
    if run.arch is not None or type(model).__name__ != run.metadata["model"]["name"]:
        raise conflict_error("model", type(model).__name__, run.metadata["model"]["name"])


def _check_arch(options: TrainOptions, arch: Arch) -> None:
    requested = options.model.arch if isinstance(options.model, ResidualNetwork) else options.model
    if isinstance(requested, str) and requested != arch.name:
        raise conflict_error("model", requested, arch.name)
    base = requested if isinstance(requested, Arch) else arch
    requested_axes = to_dict(resolve_arch(base, options.arch_overrides))
    for axis, value in to_dict(arch).items():
        if requested_axes[axis] != value:
            raise conflict_error(f"model.{axis}", requested_axes[axis], value)
