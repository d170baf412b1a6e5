"""`train`: train a network on data by a recipe, and write the folder of the run."""

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.data.formats.csv_table import ColumnNames
from reslab.data.formats.mask_classes import MaskValuesLike
from reslab.data.loader import TrainLoader
from reslab.data.transforms.third_party import TransformSource
from reslab.nn.checkpoints.pretrained import Pretrained
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.graph_file import save_program
from reslab.runtime.device import choose_device, choose_num_threads, limit_threads
from reslab.runtime.distributed import ProcessGroup, init_process_group, rank_device
from reslab.runtime.files import DiskFullError, disk_full_guard
from reslab.runtime.interrupts import TrainingInterrupted
from reslab.runtime.lazy_dynamo import lazy_dynamo
from reslab.runtime.torchrun import read_distributed_env
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.recipe import Recipe
from reslab.training.auto_batch import with_auto_batch
from reslab.training.checkpoint import interim_weights_path
from reslab.training.evaluation.evaluation import Evaluation
from reslab.training.evaluation.prediction_files import save_predicted_labels
from reslab.training.losses import LossFn
from reslab.training.meters import last_epoch_averages, throughput_without_loading, waiting_fraction
from reslab.training.model_source import GRAPH_FILE
from reslab.training.options import TrainOptions, parse_batch_size, split_overrides, split_transform
from reslab.training.resume import reopen_run, resume_run
from reslab.training.run import Run, weights_header
from reslab.training.run_data import advise_num_workers
from reslab.training.run_folder import is_non_empty, lock_run, require_folder_name, require_run_folder
from reslab.training.run_logger import (
    LogCallback,
    RunLogger,
    TensorBoardWriter,
    default_log_callback,
    has_tensorboard,
    require_tensorboard,
)
from reslab.training.run_report import write_report
from reslab.training.setup import TrainSetup, setup_run
from reslab.training.tasks.task_type import TaskType
from reslab.training.trainer import StepEndHook, Trainer
from reslab.training.weight_averaging import SelectedWeights


def train(
    model: str | Arch | nn.Module | Callable[..., nn.Module] | None = None,
    data: Any = None,
    recipe: str | Path | Recipe | None = None,
    *,
    seed: int | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    epochs: float | None = None,
    batch_size: int | str | None = None,
    lr: float | None = None,
    image_size: int | None = None,
    train_transform: TransformSource | None = None,
    overrides: Mapping[str, Any] | None = None,
    pretrained: Pretrained | None = None,
    allow_extra: bool = False,
    loss: LossFn | None = None,
    task: str | None = None,
    data_dir: str | Path | None = None,
    val_fraction: float | None = None,
    num_images: int | None = None,
    skip_bad_images: bool = False,
    columns: ColumnNames | None = None,
    mask_values: MaskValuesLike | None = None,
    device: str | torch.device = "auto",
    workers: int | None = None,
    on_log: LogCallback | None = None,
    on_step_end: StepEndHook | None = None,
    hook_every_steps: int = 0,
    save_every_seconds: float = 60.0,
    snapshot_every: str | None = None,
    tensorboard: bool = False,
) -> Run:
    """Train `model` on `data` by `recipe` and return the run: weights, log, report, and what they came from.

    Options that are not given suit the data (by default the bundled digits). `model` is a name (`timm/NAME` and
    `torchvision/NAME` too), an `Arch`, any module from (N, C, H, W) to (N, classes), or a factory of one, as a function
    or `"package.module:function"`, which the run records with its arguments (`model.KEY` in `overrides`); `data`
    a name, a folder, a map-style dataset or (images, labels). `overrides` change the recipe (`"optimizer.lr"`) and the
    network (`"model.order"`). Another `batch_size` scales the learning
    rate; `"auto"` keeps the recipe's and accumulates gradients over micro-batches that fit in memory.
    `image_size` (pixels) sets the size of training and evaluation images and the network's described input size.
    `train_transform` is an expression, a function from one image (C, H, W) in uint8 to another, or a list of both;
    a function runs under a seed of its own for every sample, and a resumed run needs it again.
    `task` is what the network predicts: `classification`, `multi-label`, `regression` or `segmentation`, by default the
    one that the data suit. `loss(outputs, labels)` replaces the recipe's loss. `num_images` limits the training images.
    `columns` names the columns of a CSV file and `mask_values` says what the values in masks are, as of `open_dataset`.
    `allow_extra` accepts `pretrained` weights with entries that the network lacks.

    `output` is the run's folder; `resume` continues the run in it, and only its duration, paths, device and workers may
    change. The weights kept are the best on the validation split, or else the last; `snapshot_every` (`"1 epoch"`,
    `"500 steps"`) saves snapshots during training, including step 0 (`Run.snapshots`). `on_log` receives the log
    records, messages and progress; `on_step_end(step, model)` adds a record every `hook_every_steps` steps;
    `tensorboard` (an extra) also writes the metrics to the folder `tensorboard` of the run.

    Under torchrun every rank calls this with the same arguments and trains on its part of each batch; only rank 0
    writes and logs, and every rank calls the hook. An error of one rank is raised on the others as `RankError`. A job
    that torchrun restarts resumes from its checkpoint.

    Raises ValueError for invalid options, before anything is written; `NonFiniteError` if the loss becomes NaN or
    infinite; `DiskFullError`; `TrainingInterrupted` after a signal to stop. The last good checkpoint is kept in each
    case, and before another error the last whole step is saved.
    """
    if tensorboard:
        require_tensorboard()
    require_folder_name(output)
    process_group = _init_process_group(device, output)
    is_restart = process_group.env.restart_count > 0
    if resume and not is_restart:
        require_run_folder(output)
    batch_size, auto_batch = parse_batch_size(batch_size)
    overrides, transform_functions = split_transform(overrides, train_transform)
    recipe_overrides, arch_overrides = split_overrides(
        overrides, epochs=epochs, batch_size=batch_size, lr=lr, image_size=image_size
    )
    options = TrainOptions(
        model=model,
        data=data,
        recipe=recipe,
        seed=seed,
        recipe_overrides=recipe_overrides,
        arch_overrides=arch_overrides,
        pretrained=pretrained,
        allow_extra=allow_extra,
        loss=loss,
        task=task,
        data_dir=data_dir,
        val_fraction=val_fraction,
        skip_bad_images=skip_bad_images,
        columns=columns,
        mask_values=mask_values,
        num_images=num_images,
        snapshot_every=snapshot_every,
        auto_batch=auto_batch,
        transform_functions=transform_functions,
    )
    with lazy_dynamo(), contextlib.ExitStack() as locks:
        setup = _prepare_run(
            options, output, resume or is_restart, process_group=process_group, workers=workers, locks=locks
        )
        setup = with_auto_batch(setup)
        trainer = Trainer(
            setup,
            logger=_make_logger(setup.run, on_log, process_group.is_main, tensorboard),
            workers=workers,
            eval_loss=loss,
            on_step_end=on_step_end,
            hook_every_steps=hook_every_steps,
            save_every_seconds=save_every_seconds,
        )
        return _train(trainer, setup, resume or is_restart)


def _train(trainer: Trainer, setup: TrainSetup, resume: bool) -> Run:
    for message in (*setup.messages, *_resume_or_start(trainer, setup, resume)):
        trainer.logger.log_message(message)
    trainer.logger.show(_start_record(trainer))
    if _is_complete(trainer):
        return Run(trainer.run.path)
    process_group = trainer.process_group
    with process_group.explained_errors(), limit_threads(choose_num_threads(setup.input_size, process_group.device)):
        if not trainer.fit():
            raise TrainingInterrupted(_interrupted_message(trainer), trainer.stop_signal)
        if trainer.early_stopping.should_stop:
            trainer.logger.log_message(trainer.early_stopping.describe(trainer.step, trainer.total_steps))
        return _finish(trainer, setup)


def _make_logger(run: Run, on_log: LogCallback | None, is_main: bool, tensorboard: bool) -> RunLogger:
    """Return the logger; it writes for TensorBoard if requested, or if an earlier part of the run did."""
    folder = run.path / "tensorboard"
    writes_tensorboard = is_main and (tensorboard or (folder.exists() and has_tensorboard()))
    return RunLogger(
        run,
        on_log or default_log_callback(),
        is_main=is_main,
        writers=[TensorBoardWriter(folder)] if writes_tensorboard else [],
    )


def _init_process_group(device: str | torch.device, output: Any) -> ProcessGroup:
    """Join the job that torchrun started, on a device of this rank's own."""
    env = read_distributed_env()
    if env.max_restarts and output is None:
        got = f"none, with --max-restarts={env.max_restarts}"
        raise invalid("output, the folder that a restarted job resumes in", got, next_step="add --output DIR")
    return init_process_group(rank_device(choose_device(device), env), env)


def _prepare_run(
    options: TrainOptions,
    output: str | Path | None,
    resume: bool,
    *,
    process_group: ProcessGroup,
    workers: int | None,
    locks: contextlib.ExitStack,
) -> TrainSetup:
    """Start or resume the run on rank 0, which downloads the data if needed; the other ranks then open it.

    Rank 0 enters the lock of the run into `locks`.
    """

    def prepare_on_main() -> TrainSetup:
        if resume and output is not None and is_non_empty(Path(output)):
            run = Run(output)  # before the lock, which would create the folder
            locks.enter_context(lock_run(run.path))
            return resume_run(options, run.path, process_group, workers)
        setup = setup_run(options, output, process_group, workers)
        locks.enter_context(lock_run(setup.run.path))
        return setup

    setup = process_group.run_on_main(prepare_on_main)
    path = process_group.all_gather(None if setup is None else setup.run.path)[0]
    assert path is not None
    return setup or reopen_run(options, path, process_group, workers)


def _resume_or_start(trainer: Trainer, setup: TrainSetup, resume: bool) -> list[str]:
    """Restore the last checkpoint, or save one of step 0 if there is none; return messages for the user."""
    messages = [*_record_world_size(trainer), *_record_num_workers(trainer, setup)]
    if trainer.load_checkpoint():
        return [*messages, _resume_message(trainer)]
    trainer.save_checkpoint()
    return [*messages, "no checkpoint there: starting from step 0"] if resume else messages


def _is_complete(trainer: Trainer) -> bool:
    """Return True if a resumed run has no step left and its results are written: they are kept as they are."""
    run = trainer.run
    return (
        trainer.is_finished
        and (run.result or {}).get("steps") == trainer.step
        and run.weights_path.exists()
        and run.report_path.exists()
    )


def _resume_message(trainer: Trainer) -> str:
    if not trainer.is_finished:
        return f"resumed at step {trainer.step} of {trainer.total_steps}"
    if trainer.early_stopping.should_stop:
        return f"nothing to do: {trainer.early_stopping.describe(trainer.step, trainer.total_steps)}"
    return f"nothing to do: the run is at step {trainer.step}, the requested length is {trainer.total_steps}"


def _record_world_size(trainer: Trainer) -> list[str]:
    """Record the number of ranks; return a message if it has changed."""
    run, world_size = trainer.run, trainer.process_group.world_size
    previous = run.metadata.get("world_size", 1)
    if previous == world_size:
        return []
    if trainer.process_group.is_main:
        run.update(world_size=world_size)
    return [
        f"resumed with {world_size} ranks instead of {previous}: the batches are the same, noise and rounding differ"
    ]


def _advised_workers(waited: float | None, setup: TrainSetup) -> int | None:
    loader = setup.loop.loader
    return advise_num_workers(waited, loader.num_workers, setup.data) if isinstance(loader, TrainLoader) else None


def _record_num_workers(trainer: Trainer, setup: TrainSetup) -> list[str]:
    """Record the workers of a run on remote shards, which decide the order of samples; return a message if changed."""
    run, loader = trainer.run, setup.loop.loader
    if not (isinstance(loader, TrainLoader) and loader.is_streamed):
        return []
    previous = run.metadata.get("workers", loader.num_workers)
    if trainer.process_group.is_main and run.metadata.get("workers") != loader.num_workers:
        run.update(workers=loader.num_workers)
    if previous == loader.num_workers:
        return []
    return [
        f"resumed with {loader.num_workers} workers instead of {previous}: "
        f"the samples differ from here on (--workers {previous} keeps them)"
    ]


def _start_record(trainer: Trainer) -> dict[str, Any]:
    return {
        "kind": "start",
        "run": str(trainer.run.path),
        "model": trainer.run.metadata["model"]["name"],
        "params": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "data": trainer.evaluator.data.describe(),
        "recipe": trainer.recipe.name,
        "batch_size": trainer.recipe.batch_size,
        "world_size": trainer.process_group.world_size,
        "precision": trainer.recipe.precision,
        "task": trainer.task.spec.name,
        "device": str(trainer.evaluator.device),
        "step": trainer.step,
        "total_steps": trainer.total_steps,
        "steps_per_epoch": trainer.steps_per_epoch,
    }


def _interrupted_message(trainer: Trainer) -> str:
    path = trainer.run.path
    message = (
        f"stopped after step {trainer.step} of {trainer.total_steps}; the checkpoint is saved in {path}; "
        f"resume with --output {path} --resume"
    )
    if not trainer.step:
        return message
    return (
        f"{message}, or end it now with its best weights: --output {path} --resume --set 'duration={trainer.step} "
        f"steps'; predict, eval and export use its best weights so far"
    )


def _finish(trainer: Trainer, setup: TrainSetup) -> Run:
    """Select the weights, evaluate them on the evaluation split, write the result and the report."""
    trainer.model.to(memory_format=torch.contiguous_format)
    selected = trainer.select_weights()
    val_evaluation = _evaluate_val(trainer)
    task = trainer.task if val_evaluation is None else trainer.task.fitted_to(val_evaluation)
    evaluator, eval_split = replace(trainer.evaluator, task=task), trainer.evaluator.data.eval_split
    if val_evaluation is not None and task != trainer.task:  # with the values that are saved with the weights
        val_evaluation = evaluator.evaluate("val", keep_predictions=True)
    if val_evaluation is not None and eval_split == "val":
        evaluation = val_evaluation
    else:
        evaluation = evaluator.evaluate(eval_split, keep_predictions=True)
    train_evaluation = evaluator.evaluate("train") if trainer.recipe.eval_train else None
    trainer.process_group.run_on_main(
        lambda: _write_results(
            trainer,
            setup,
            task,
            selected=selected,
            evaluation=evaluation,
            val_evaluation=val_evaluation,
            train_evaluation=train_evaluation,
        )
    )
    return trainer.run if trainer.process_group.is_main else Run(trainer.run.path)


def _write_graph(trainer: Trainer, input_size: tuple[int, ...]) -> None:
    """Write the network's exported graph, which predicts without its code; a message where it cannot be traced."""
    path = trainer.run.path / GRAPH_FILE
    path.unlink(missing_ok=True)
    try:
        with disk_full_guard(path):
            save_program(copy.deepcopy(trainer.model).cpu(), input_size, path)
    except DiskFullError:
        raise
    except Exception as error:  # torch.export raises errors without a common class for code that it cannot trace
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        trainer.logger.log_message(f"no {GRAPH_FILE}, so that predicting needs the network's code: {reason}")


def _evaluate_val(trainer: Trainer) -> Evaluation | None:
    """Evaluate the selected weights on the validation split, for what is fitted to it; None if there is none."""
    if "val" not in trainer.evaluator.data.splits:
        return None
    return trainer.evaluator.evaluate("val", keep_predictions=True)


def _val_metrics(evaluation: Evaluation, val_evaluation: Evaluation | None) -> dict[str, Any] | None:
    """Return the metrics of the selected weights on the validation split, which choices may depend on.

    Where nothing was left for a test, they are those of the run.
    """
    val_evaluation = evaluation if evaluation.split == "val" else val_evaluation
    return None if val_evaluation is None else val_evaluation.to_dict()


def _write_results(
    trainer: Trainer,
    setup: TrainSetup,
    task: TaskType,
    *,
    selected: SelectedWeights,
    evaluation: Evaluation,
    val_evaluation: Evaluation | None,
    train_evaluation: Evaluation | None,
) -> None:
    """Write model.safetensors, predictions.npz, the result in run.json, and report.html."""
    run, model = trainer.run, trainer.model
    run.update(task=task.to_dict())
    metrics = {**evaluation.to_dict(), "split": evaluation.split, **selected.to_metadata()}
    metadata = {"metrics": metrics, **selected.to_metadata(), **weights_header(run)}
    with disk_full_guard(run.weights_path):
        save_weights(run.weights_path, model, metadata)
    interim_weights_path(run).unlink(missing_ok=True)
    if run.arch is None:
        _write_graph(trainer, setup.input_size)
    save_predicted_labels(run.predictions_path, evaluation)
    records = run.log.records()
    train_metric_names = [metric.name for metric in task.spec.train_metrics]
    waited = waiting_fraction(records)
    train_metrics = {} if train_evaluation is None else train_evaluation.metrics
    run.update(
        result={
            **metrics,
            "val_metrics": _val_metrics(evaluation, val_evaluation),
            "stop_reason": trainer.early_stopping.stop_reason.value,
            "stop_step": trainer.step,
            "stop_text": trainer.early_stopping.describe(trainer.step, trainer.total_steps),
            "steps": trainer.step,
            "train_seconds": trainer.train_seconds,
            "images_per_second": trainer.step * trainer.recipe.batch_size / max(trainer.train_seconds, 1e-9),
            "compute_images_per_second": throughput_without_loading(records),
            "waiting_fraction": waited,
            "advised_workers": _advised_workers(waited, setup),
            **last_epoch_averages(records, trainer.steps_per_epoch, train_metric_names),
            **{f"train_{name}": value for name, value in train_metrics.items() if value is not None},
        }
    )
    if "temperature" in run.metadata:  # it was fitted to the weights of before
        run.update(temperature=None)
    results = task.results(evaluation, val_evaluation)
    write_report(run, model, evaluation, results, input_size=setup.input_size)
