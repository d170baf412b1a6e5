"""`evaluate`: the scores of runs, weights, third-party checkpoints and modules on a split; the trainer's evaluator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.data.dataset import DatasetSplits
from reslab.data.dataset_names import SPLIT_TITLES
from reslab.data.formats.csv_table import ColumnNames
from reslab.data.formats.mask_classes import MaskValuesLike
from reslab.data.loader import eval_loader
from reslab.data.targets import TARGET_RULES
from reslab.nn.checkpoints.pretrained import Pretrained
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.dense import DenseNetwork
from reslab.nn.factory import create_model, named_weights
from reslab.nn.module_network import ModuleNetwork
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_device, choose_num_threads, limit_threads
from reslab.runtime.distributed import SINGLE_PROCESS, ProcessGroup, init_process_group, rank_device
from reslab.runtime.torchrun import read_distributed_env
from reslab.spec.arch import Arch
from reslab.spec.config import is_toml
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.recipe import Recipe
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.resolve import find_model_name
from reslab.training.evaluation.evaluation import Evaluation
from reslab.training.evaluation.input_values import InputValues
from reslab.training.evaluation.loop import evaluate_batches
from reslab.training.evaluation.tta import TTATransforms
from reslab.training.image_size import (
    choose_image_size,
    described_dims,
    described_size,
    fixed_image_size,
    resize_preprocess,
)
from reslab.training.losses import LossFn
from reslab.training.model_source import open_any_network, open_network
from reslab.training.nonfinite import name_images
from reslab.training.options import resolve_arch_for_data, split_overrides, warn_about_stem
from reslab.training.run import Run
from reslab.training.run_data import (
    DataOptions,
    choose_num_workers,
    held_out_images,
    infer_input_size,
    open_data_for_run,
    reopen_data,
)
from reslab.training.tasks.registry import find_task_type, restore_task
from reslab.training.tasks.task_type import TaskType

EVAL_BATCH_SIZE = 256


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the model in training on a split, on all ranks together."""

    model: nn.Module
    data: DatasetSplits
    task: TaskType
    loss: LossFn | None
    workers: int
    device: torch.device
    process_group: ProcessGroup = SINGLE_PROCESS

    @property
    def monitor_split(self) -> str:
        """The split that is evaluated during training: validation if there is one, else the evaluation split."""
        return "val" if "val" in self.data.splits else self.data.eval_split

    def evaluate(self, split: str, keep_predictions: bool = False) -> Evaluation:
        """Evaluate the current weights on every sample of a split once, distributed over the ranks.

        `loss` replaces the task's. With `keep_predictions` the evaluation has the split as its dataset.
        """
        # Without SyncBN each rank has its own running statistics; those of rank 0 are the ones a checkpoint saves.
        self.process_group.broadcast_buffers(self.model)
        dataset, process_group = self.data.split(split), self.process_group
        rank_options = {"rank": process_group.rank, "world_size": process_group.world_size}
        loader = eval_loader(dataset, EVAL_BATCH_SIZE, self.data.preprocess, self.device, self.workers, **rank_options)
        evaluation = evaluate_batches(self.model, loader, self.task, self.loss, split, keep_predictions, process_group)
        return replace(evaluation, dataset=dataset) if keep_predictions else evaluation


ModelLike = Run | str | Path | Arch | nn.Module


@dataclass(frozen=True)
class EvaluateOptions(DataOptions):
    """The options of `evaluate` except the models and the data; see there."""

    split: str | None = None
    pretrained: Pretrained | None = None
    overrides: Mapping[str, Any] | None = None
    input_values: InputValues = field(default_factory=InputValues)
    save_weights: str | Path | None = None
    allow_extra: bool = False
    eval_transform: str | None = None
    image_size: int | None = None
    tta: str = ""
    loss: LossFn | None = None
    module: Any = None
    allow_code: bool = False
    batch_size: int | None = None
    device: str | torch.device = "auto"
    workers: int | None = None
    keep_predictions: bool = False
    distributed: bool = False


def evaluate(
    model: ModelLike | Sequence[ModelLike],
    data: Any = None,
    *,
    split: str | None = None,
    pretrained: Pretrained | None = None,
    overrides: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    mean_image: Any = None,
    channel_order: str | None = None,
    pixel_max: float = 1.0,
    save_weights: str | Path | None = None,
    allow_extra: bool = False,
    eval_transform: str | None = None,
    image_size: int | None = None,
    tta: str = "",
    loss: LossFn | None = None,
    module: Any = None,
    allow_code: bool = False,
    batch_size: int | None = None,
    data_dir: str | Path | None = None,
    val_fraction: float | None = None,
    skip_bad_images: bool = False,
    task: str | None = None,
    columns: ColumnNames | None = None,
    mask_values: MaskValuesLike | None = None,
    device: str | torch.device = "auto",
    workers: int | None = None,
    keep_predictions: bool = False,
    distributed: bool = False,
) -> Evaluation:
    """Evaluate `model` on a split of `data` in float32: every sample once, with exact counts.

    `model` is a run or its folder (its own data and recorded split are the default), a `model.safetensors`, a name of
    the zoo, `timm/NAME`, `torchvision/NAME` or a factory with `pretrained`, any module, or a list of these: then their
    probabilities are averaged (an ensemble).
    `split` defaults to the evaluation split. `overrides` change the network (`"model.shortcut"`), `mean` and `std` the
    normalization (also `mean_image`, `channel_order` and `pixel_max`: see `InputValues`), `eval_transform` the
    resizing and cropping (`"resize(256) center-crop(256)"`), and `image_size` the size alone, in pixels. `tta`
    names test-time augmentation (`"ten-crop(224)"`, `"scales(224,256) flip"`): the predictions for the views are
    averaged, boxes fused. `save_weights` writes the network with this preprocessing, the task and the data's classes to
    a file, for prediction, export and serving; `allow_extra` accepts weights with entries that the network lacks.
    `columns` names the columns of a CSV file and `mask_values` says what the values in masks are, as of `open_dataset`.
    `keep_predictions` keeps the probabilities for `save_predictions` and `calibrate`. A run that trained the user's own
    module needs it or its factory as `module`, or `allow_code`, which imports the factory that the run records. With
    `distributed`, each rank that torchrun started evaluates a part, and all return the scores of the whole. Raises
    ValueError if the classes or channels of model and data differ, or images hold NaN or infinite values.
    """
    options = EvaluateOptions(
        split=split,
        pretrained=pretrained,
        overrides=overrides,
        input_values=InputValues(mean, std, mean_image, channel_order, pixel_max),
        save_weights=save_weights,
        allow_extra=allow_extra,
        eval_transform=eval_transform,
        image_size=image_size,
        tta=tta,
        loss=loss,
        module=module,
        allow_code=allow_code,
        batch_size=batch_size,
        data_dir=data_dir,
        val_fraction=val_fraction,
        skip_bad_images=skip_bad_images,
        task=task,
        columns=columns,
        mask_values=mask_values,
        device=device,
        workers=workers,
        keep_predictions=keep_predictions,
        distributed=distributed,
    )
    if isinstance(model, Sequence) and not isinstance(model, str):
        return _evaluate_ensemble(model, data, options)
    return _evaluate_model(model, data, options)


def _evaluate_model(model: ModelLike, data: Any, options: EvaluateOptions) -> Evaluation:
    target = _open_run(model, options)
    named = target if isinstance(target, Run) else model
    dataset = _resolve_size(named, _resolve_data(target, _find_run(model), data, options), options)
    network = _resolve_model(target, dataset, options)
    dataset = _resolve_preprocess(named, network, dataset, options)
    device = _resolve_device(model, network, options.device)
    process_group = _make_process_group(device, options.distributed)
    network = network.to(process_group.device)
    task = _resolve_task(target, network, dataset)
    if options.save_weights is not None:
        _save_weights(network, task, dataset, Path(options.save_weights), process_group)
    dataset = task.prepare_data(dataset, network)
    if options.image_size is not None and isinstance(network, DenseNetwork):
        network.set_size(options.image_size)
    model_with_views = TTATransforms(network, options.tta, task) if options.tta else network
    return _evaluate_split(model_with_views, task, dataset, options, process_group)


def _resolve_task(target: ModelLike, network: nn.Module, data: DatasetSplits) -> TaskType:
    """Return the task of a run, of weights, or else of the data. Raises ValueError if the data have another."""
    fields = target.metadata["task"] if isinstance(target, Run) else getattr(network, "task", None)
    task = find_task_type(data.task).for_data(data) if fields is None else restore_task(fields, data.classes)
    if task.spec.name != data.task:
        got = f"{data.name}, data of the task {data.task}"
        raise invalid(f"data of the task {task.spec.name}, for which the network was trained", got)
    return task


def _resolve_preprocess(
    target: ModelLike, network: nn.Module, data: DatasetSplits, options: EvaluateOptions
) -> DatasetSplits:
    """Return the data with the preprocessing that the network expects. Raises ValueError if their classes differ."""
    preprocess = options.input_values.apply(_base_preprocess(network, data))
    # A name has published weights, whose names of classes others may spell otherwise.
    if not isinstance(target, Arch) and not (isinstance(target, str) and not Path(target).exists()):
        _check_classes(network, data)
    if options.eval_transform is not None:
        preprocess = replace(preprocess, transform=options.eval_transform)
    elif options.image_size is not None:
        preprocess = _resized(preprocess, options.image_size, data)
    return replace(data, preprocess=preprocess)


def _save_weights(
    network: nn.Module, task: TaskType, data: DatasetSplits, path: Path, process_group: ProcessGroup
) -> None:
    """Write the network with the task and the preprocessing that it is evaluated with.

    Raises ValueError for a user's module.
    """
    if not isinstance(network, ResidualNetwork | DenseNetwork):
        raise invalid("a network of reslab to save", f"a {type(network).__name__}", next_step="leave save_weights out")
    if path.suffix != ".safetensors":
        raise invalid("a file ending in .safetensors", path, f"{path.stem}.safetensors")
    network.set_metadata(classes=data.classes, preprocess=data.preprocess, task=task.to_dict())
    if process_group.is_main:
        save_weights(path, network)


def _resolve_size(target: ModelLike, data: DatasetSplits, options: EvaluateOptions) -> DatasetSplits:
    """Return the data evaluated at `image_size`, or else at the size that a network without preprocessing has."""
    if options.eval_transform is not None and options.image_size is not None:
        raise invalid("eval_transform or image_size", "both", next_step="leave one of them out")
    if options.image_size is not None:
        return replace(data, preprocess=_resized(data.preprocess, options.image_size, data))
    if options.eval_transform is not None or not isinstance(target, str | Arch | ResidualNetwork):
        return data
    if isinstance(target, str) and target not in ARCHS and not is_toml(target):
        return data
    recipe = replace(Recipe("", ""), eval_transform=data.preprocess.transform)
    size = choose_image_size(data, recipe, {}, described_size(target, split_overrides(options.overrides)[1]))
    return data if size.eval_transform is None else _with_transform(data, size.eval_transform)


def _resized(preprocess: Preprocess, size: int, data: DatasetSplits) -> Preprocess:
    keeps_whole = TARGET_RULES[data.target_kind].whole_images
    return resize_preprocess(preprocess, size, fixed_image_size(data), keeps_whole)


def _with_transform(data: DatasetSplits, transform: str) -> DatasetSplits:
    return replace(data, preprocess=replace(data.preprocess, transform=transform))


def _resolve_device(model: ModelLike, network: nn.Module, device: str | torch.device) -> torch.device:
    """Return the requested device; with `auto` a module that the caller passed stays on its own."""
    if isinstance(model, nn.Module) and device == "auto":
        return next(network.parameters()).device
    return choose_device(device)


def _make_process_group(device: torch.device, distributed: bool) -> ProcessGroup:
    return (
        init_process_group(rank_device(device, read_distributed_env())) if distributed else ProcessGroup(device=device)
    )


def _evaluate_split(
    network: nn.Module, task: TaskType, data: DatasetSplits, options: EvaluateOptions, process_group: ProcessGroup
) -> Evaluation:
    split = options.split or data.eval_split
    dataset = data.split(split)
    loader = eval_loader(
        dataset,
        options.batch_size or EVAL_BATCH_SIZE,
        data.preprocess,
        process_group.device,
        choose_num_workers(options.workers, data, process_group.env.local_world_size),
        rank=process_group.rank,
        world_size=process_group.world_size,
    )
    # As many threads as in training, because the number of threads decides the order of the sums.
    with limit_threads(choose_num_threads(infer_input_size(data), process_group.device)):
        evaluation = evaluate_batches(
            network,
            loader,
            task,
            loss=options.loss,
            split=split,
            keep_predictions=options.keep_predictions,
            process_group=process_group,
        )
    if evaluation.bad_indices:
        got = f"NaN or infinite values in {name_images(evaluation.bad_indices, dataset)}"
        raise invalid(f"finite {SPLIT_TITLES[split]} images", got, next_step="repair or remove them")
    if not options.keep_predictions:
        return evaluation
    return replace(evaluation, names=tuple(dataset.name(i) for i in range(len(dataset))), dataset=dataset)


def _evaluate_ensemble(models: Sequence[ModelLike], data: Any, options: EvaluateOptions) -> Evaluation:
    if not models:
        raise invalid("at least one model to evaluate", "none")
    targets = [_open_run(model, options) for model in models]
    runs = [run for run in map(_find_run, models) if run is not None]
    if data is not None or isinstance(targets[0], Run):
        data = _resolve_data(targets[0], runs[0] if runs else None, data, options)
        _check_same_split(runs, data, options.split or data.eval_split)
    # The data are open by now: what says how to open them is done.
    options = replace(options, keep_predictions=True, val_fraction=None, columns=None, mask_values=None)
    evaluations = [_evaluate_model(target, data, options) for target in targets]
    if len(evaluations) == 1:
        return evaluations[0]
    return find_task_type(evaluations[0].spec.name).average(evaluations)


def _open_run(model: ModelLike, options: EvaluateOptions) -> ModelLike:
    """Return a run for its folder, a network for what is not of the zoo, and anything else as it is."""
    if isinstance(model, str | Path) and model not in ARCHS and (Path(model) / "run.json").is_file():
        return Run(model)
    is_zoo_name = isinstance(model, str) and not Path(model).exists() and find_model_name(model) is not None
    if isinstance(model, nn.Module | Run | Arch) or is_zoo_name:
        return model
    return open_any_network(model, weights=options.pretrained, allow_code=options.allow_code)


def _find_run(model: ModelLike) -> Run | None:
    """Return a run, also of its folder and of weights in it; None for any other model."""
    if isinstance(model, Run):
        return model
    if not isinstance(model, str | Path):
        return None
    path = Path(model)
    folders = (path, path.parent, path.parent.parent) if path.suffix == ".safetensors" else (path,)
    return next((Run(folder) for folder in folders if (folder / "run.json").is_file()), None)


def _check_same_split(runs: Sequence[Run], data: DatasetSplits, split: str) -> None:
    """Raise ValueError for runs that hold out other images than those of the evaluated split: they trained on some."""
    held_out = held_out_images(data.split_record)
    if split != "val" or held_out is None or not runs:
        return
    first, *others = runs
    for run in others:
        is_same_data = run.metadata["data"]["requested"] == first.metadata["data"]["requested"]
        if is_same_data and held_out_images(run.metadata["data"]["split_record"]) != held_out:
            required = f"runs that hold out the same validation images of {data.name}"
            got = f"{first.path} and {run.path}, which hold out different ones"
            raise invalid(required, got, next_step="train them with one --val-fraction")


def _resolve_data(target: ModelLike, run: Run | None, data: Any, options: EvaluateOptions) -> DatasetSplits:
    if isinstance(target, Run) and data is None:
        return reopen_data(target.metadata["data"], None, options.data_dir)
    if data is None:
        raise invalid("data to evaluate on", "none", next_step="name a dataset or a folder: --data cifar10")
    return open_data_for_run(run, data, options, dims=_map_dims(target, options))


def _map_dims(target: ModelLike, options: EvaluateOptions) -> int:
    """Return the dimensions of the maps of a run, a network, or an architecture by name."""
    if isinstance(target, Run):
        return target.arch.dims if target.arch is not None else 2
    if isinstance(target, nn.Module) or (isinstance(target, str) and not target.endswith(".safetensors")):
        return described_dims(target, split_overrides(options.overrides)[1])
    return 2


def _resolve_model(target: ModelLike, data: DatasetSplits, options: EvaluateOptions) -> nn.Module:
    if isinstance(target, nn.Module):
        return target
    if isinstance(target, Run):
        return _load_run_model(target, options)
    assert isinstance(target, str | Arch)
    if not options.pretrained:
        raise invalid(f"weights for {target}", "none", next_step="give a file or tag: --pretrained FILE")
    _, arch_overrides = split_overrides(options.overrides)
    input_size = infer_input_size(data)
    arch = resolve_arch_for_data(target, data, input_size, overrides=arch_overrides)
    warn_about_stem(arch, input_size)
    weights = named_weights(target, options.pretrained)
    network = create_model(arch, pretrained=weights, allow_extra=options.allow_extra, **arch_overrides)
    assert isinstance(network, ResidualNetwork)
    if network.load_report is not None and network.load_report.reinitialized:
        got = (
            f"{', '.join(network.load_report.reinitialized)} missing from {network.load_report.file}, or another shape"
        )
        raise invalid(
            f"weights of {arch.name} with {arch.num_classes} classes", got, next_step="train it on these classes"
        )
    return network


def _load_run_model(run: Run, options: EvaluateOptions) -> nn.Module:
    if run.arch is not None or options.module is None:
        return open_any_network(run, allow_code=options.allow_code)
    return open_network(options.module, weights=run)


def _base_preprocess(network: nn.Module, data: DatasetSplits) -> Preprocess:
    """Return the network's own normalization if it has one, else the data's."""
    own_preprocess = network.preprocess if isinstance(network, ResidualNetwork | ModuleNetwork | DenseNetwork) else None
    has_own = own_preprocess is not None and own_preprocess.channels == data.preprocess.channels
    return own_preprocess if has_own and own_preprocess is not None else data.preprocess


def _check_classes(network: nn.Module, data: DatasetSplits) -> None:
    """Raise ValueError if the network knows its classes and the data has others, or another order."""
    classes = network.classes if isinstance(network, ResidualNetwork | ModuleNetwork | DenseNetwork) else None
    if classes is None or tuple(classes) == data.classes:
        return
    differences = [
        f"{model_class} where the data has {data_class}"
        for model_class, data_class in zip(classes, data.classes, strict=False)
        if model_class != data_class
    ]
    got = f"{data.num_classes} classes; " + (", ".join(differences[:3]) or "the first ones agree")
    raise invalid(
        f"data of the network's {len(classes)} classes in its order",
        got,
        next_step="evaluate it on the data it was trained on",
    )
