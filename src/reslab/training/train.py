"""`train`: from a network, data and a recipe to the folder of a run.

The report of a run: what its page shows, gathered as plain data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import ImageDataset
from reslab.data.loader import TrainLoader
from reslab.nn.checkpoints.pretrained import Pretrained
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.cost import layer_table
from reslab.report.pages.classification import MisclassifiedImage
from reslab.report.pages.run import RunPage
from reslab.report.render import render_page
from reslab.runtime.device import choose_device, choose_num_threads, limit_threads
from reslab.runtime.distributed import ProcessGroup, init_process_group, rank_device
from reslab.runtime.files import disk_full_guard, write_atomic
from reslab.runtime.interrupts import TrainingInterrupted
from reslab.runtime.torchrun import read_distributed_env
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.recipe import Recipe
from reslab.training.auto_batch import with_auto_batch
from reslab.training.evaluation.calibration import calibration_metrics
from reslab.training.evaluation.loop import Evaluation
from reslab.training.loop import LossFn
from reslab.training.meters import last_epoch_averages, throughput_without_loading
from reslab.training.options import TrainOptions, parse_batch_size, split_overrides
from reslab.training.resume import reopen_run, resume_run
from reslab.training.run import Run, is_non_empty, weights_header
from reslab.training.run_logger import (
    LogCallback,
    TensorBoardWriter,
    default_log_callback,
    has_tensorboard,
    require_tensorboard,
)
from reslab.training.setup import TrainSetup, setup_run
from reslab.training.trainer import StepEndHook, Trainer, build_trainer
from reslab.training.weight_averaging import SelectedWeights

NUM_MISCLASSIFIED = 24
_THUMBNAIL_SIDE = 192


def write_report(
    run: Run,
    model: nn.Module,
    data: DatasetSplits,
    evaluation: Evaluation,
    input_size: tuple[int, ...],
    val_evaluation: Evaluation | None = None,
) -> None:
    """Write report.html from the run's facts and log, the network's cost, an evaluation that kept its probabilities,
    and that of the validation split, which a temperature is fitted on."""
    write_atomic(
        run.report_path,
        render_page(build_run_page(run, model, data, evaluation, input_size, val_evaluation)).encode(),
    )


def build_run_page(
    run: Run,
    model: nn.Module,
    data: DatasetSplits,
    evaluation: Evaluation,
    input_size: tuple[int, ...],
    val_evaluation: Evaluation | None = None,
) -> RunPage:
    """All that the page of a run shows."""
    layers = cost_table(model, input_size)
    selection_text = (run.result or {}).get("selection_text", "")
    return RunPage(
        title=f"{run.metadata['model']['name']} on {data.name}",
        metadata=page_metadata(run, input_size),
        metrics={
            **evaluation.to_dict(),
            **_train_metrics(run),
            "split": evaluation.split,
            "selection_text": selection_text,
        },
        log=run.log.records(),
        classes=data.classes,
        confusion_matrix=[list(row) for row in evaluation.confusion_matrix],
        misclassified=find_misclassified(evaluation, data.split(evaluation.split)),
        layers=layers,
        depth=run.arch.depth if run.arch else 0,
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(layer["macs"] for layer in layers),
        calibration=calibration_metrics(evaluation, val_evaluation),
    )


def build_evaluation_page(
    title: str, evaluation: Evaluation, calibration: Mapping[str, Any], metadata: Mapping[str, str]
) -> RunPage:
    """The page of an evaluation that kept its probabilities: what a run's report shows of the images it judged."""
    assert evaluation.dataset is not None
    return RunPage(
        title=title,
        metadata=metadata,
        metrics={**evaluation.to_dict(), "split": evaluation.split},
        classes=evaluation.classes,
        confusion_matrix=[list(row) for row in evaluation.confusion_matrix],
        misclassified=find_misclassified(evaluation, evaluation.dataset),
        calibration=calibration,
        kind="Evaluation",
    )


def _train_metrics(run: Run) -> dict[str, Any]:
    names = ("train_loss_running", "train_top1_running", "train_loss", "train_top1")
    return {name: value for name, value in (run.result or {}).items() if name in names}


def cost_table(model: nn.Module, input_size: tuple[int, ...]) -> list[dict[str, Any]]:
    """The network's layers as plain data; empty where a module of the user's own cannot be run without computing."""
    try:
        table = layer_table(model, input_size)
    except Exception:
        # A foreign module may do anything in its forward; the rest of the report does not depend on it.
        return []
    return [
        {"name": layer.name, "output_shape": layer.output_shape, "params": layer.params, "macs": layer.macs}
        for layer in table
    ]


def find_misclassified(
    evaluation: Evaluation, images: ImageDataset, max_images: int = NUM_MISCLASSIFIED
) -> list[MisclassifiedImage]:
    """The wrong answers given with the highest probability, the surest first."""
    assert evaluation.probabilities is not None
    assert evaluation.labels is not None
    confidences, predictions = evaluation.probabilities.max(1)
    wrong_indices = (predictions != evaluation.labels).nonzero().flatten()
    indices = wrong_indices[confidences[wrong_indices].argsort(descending=True, stable=True)][:max_images]
    return [
        MisclassifiedImage(
            _thumbnail_array(images.preview(i)),
            int(evaluation.labels[i]),
            int(predictions[i]),
            float(confidences[i]),
            images.name(i),
        )
        for i in indices.tolist()
    ]


def _thumbnail_array(image: torch.Tensor) -> np.ndarray:
    """uint8 (C, H, W) as (H, W) or (H, W, 3); of large pictures every k-th pixel, which the report shrinks further."""
    stride = max(1, min(image.shape[-2:]) // (2 * _THUMBNAIL_SIDE))
    image = image[:, ::stride, ::stride].cpu()
    return image[0].numpy() if len(image) != 3 else image.permute(1, 2, 0).contiguous().numpy()


def _world_size_text(metadata: dict[str, Any]) -> str:
    world_size = metadata.get("world_size", 1)
    return f", {world_size} ranks" if world_size > 1 else ""


def _throughput_text(result: Mapping[str, Any]) -> str:
    compute_speed = result.get("compute_images_per_second")
    text = f"{result.get('images_per_second', 0):,.0f} images/s"
    return text if compute_speed is None else f"{text}; {compute_speed:,.0f} without waiting for data"


def page_metadata(run: Run, input_size: tuple[int, ...]) -> dict[str, str]:
    """What the numbers on the page depend on, in words."""
    metadata, recipe = run.metadata, run.recipe
    data, hardware, versions = metadata["data"], metadata["hardware"], metadata["versions"]
    optimizer_text = f"{recipe.optimizer.name}, learning rate {recipe.optimizer.lr:g}, {recipe.schedule.name}"
    rows = {
        "network": f"{metadata['model']['name']} ({metadata['model']['source']})",
        "input": "x".join(str(side) for side in input_size),
        "first weights": metadata["pretrained"] or "random",
        "data": f"{data['name']} ({data['source']})",
        "images": ", ".join(f"{count:,} {split}" for split, count in data["num_images"].items()),
        "left out": f"{len(data['skipped_files'])} unreadable pictures" if data["skipped_files"] else "",
        "recipe": f"{recipe.name} ({recipe.reference})",
        "training": f"{recipe.duration}, batch {recipe.batch_size}, {optimizer_text}, weight decay {recipe.optimizer.weight_decay:g}",
        "loss": metadata["loss"]
        or recipe.loss + (f", distilled from {recipe.distill.teacher}" if recipe.distill.teacher else ""),
        "weights": (run.result or {}).get("selection_text", ""),
        "augmentation": recipe.train_transform or "none",
        "precision": f"{recipe.precision}; evaluation float32",
        "seed": str(metadata["seed"]),
        "training time": f"{(run.result or {}).get('train_seconds', 0):.1f} s",
        "speed": _throughput_text(run.result or {}),
        "hardware": f"{hardware['device']}, {hardware['processor']}, {hardware['num_threads']} threads"
        + _world_size_text(metadata),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if name != "system"),
        "command": metadata["command"],
        "commit": metadata["commit"] or "",
        "notes": "; ".join(metadata["messages"]),
    }
    return {name: text for name, text in rows.items() if text}


def train(
    model: str | Arch | nn.Module | None = None,
    data: Any = None,
    recipe: str | Recipe | None = None,
    *,
    seed: int | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    epochs: float | None = None,
    batch_size: int | str | None = None,
    lr: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    pretrained: Pretrained | None = None,
    loss: LossFn | None = None,
    data_dir: str | Path | None = None,
    val_fraction: float | None = None,
    num_images: int | None = None,
    skip_bad_images: bool = False,
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

    What is not said is chosen to suit the data (None is the bundled digits). `model` is a name, an `Arch` or any module
    from (N, C, H, W) to (N, classes); `data` a name, a folder, a map-style data set or (images, labels). `settings`
    override the recipe (`"optimizer.lr"`) and the network (`"model.order"`); another `batch` scales the learning rate
    with it, `"auto"` is the recipe's, taken in the parts that fit the memory. `loss(outputs, labels)` replaces
    cross-entropy. `output` is the run's folder, `resume` goes on with the run in it; only length, paths, device and
    workers may then differ. `num_images` takes so many of the training pictures. The weights kept are the best on the
    validation split, else the last; `snapshots` (`"1 epoch"`, `"500 steps"`) keeps them along the way too, those of
    step 0 among them (`Run.snapshots`). `show` receives every line of the log, notes and progress; `probe(step, model)`
    adds a line every `probe_every_steps` steps; with `tensorboard` (an extra) the numbers of the log are written to the
    run's folder `tensorboard` too.

    Under torchrun every rank calls this with the same arguments and takes its part of each batch; rank 0 alone writes
    and shows, every rank probes. A job that torchrun restarts goes on where its state is, as with `resume`.

    Raises ValueError for what means nothing, before anything is written; `Diverged` where the loss is not finite;
    `DiskFull`; `Interrupted` on Ctrl-C. In each of these the last good state is kept.
    """
    if tensorboard:
        require_tensorboard()
    process_group = _init_process_group(device, output)
    resume = resume or process_group.env.restart_count > 0
    batch_size, auto_batch = parse_batch_size(batch_size)
    recipe_overrides, arch_overrides = split_overrides(overrides, epochs, batch_size, lr)
    option_values = (
        model,
        data,
        recipe,
        seed,
        recipe_overrides,
        arch_overrides,
        pretrained,
        loss,
        data_dir,
        val_fraction,
        skip_bad_images,
    )
    options = TrainOptions(*option_values, num_images=num_images, snapshot_every=snapshot_every, auto_batch=auto_batch)
    if resume and output is None:
        raise invalid("output, the folder of the run to go on with", "resume without it", next_step="add --output DIR")
    setup = with_auto_batch(_prepare_run(options, output, resume, process_group), options, process_group)
    on_log = (on_log or default_log_callback()) if process_group.is_main else _ignore_record
    trainer = build_trainer(setup, options, process_group, workers, on_log, save_every_seconds)
    trainer.on_step_end, trainer.hook_every_steps = on_step_end, hook_every_steps
    trainer.logger.tensorboard = _open_tensorboard(trainer.run, tensorboard) if process_group.is_main else None
    for message in (*setup.messages, *_resume_or_start(trainer, resume)):
        on_log({"kind": "note", "text": message})
    on_log(_start_record(trainer))
    with limit_threads(choose_num_threads(setup.input_size, process_group.device)):
        if not trainer.fit():
            raise TrainingInterrupted(_interrupted_message(trainer))
        if trainer.early_stopping.should_stop:
            on_log({"kind": "note", "text": trainer.early_stopping.describe(trainer.step, trainer.total_steps)})
        return _finish(trainer, setup)


def _open_tensorboard(run: Run, requested: bool) -> TensorBoardWriter | None:
    """Where asked for, or begun before."""
    folder = run.path / "tensorboard"
    return TensorBoardWriter(folder) if requested or (folder.exists() and has_tensorboard()) else None


def _init_process_group(device: str | torch.device, output: Any) -> ProcessGroup:
    """This process among those of its job, on a device of its own."""
    env = read_distributed_env()
    if env.max_restarts and output is None:
        got = f"none, with --max-restarts={env.max_restarts}"
        raise invalid("output, the folder that a restarted job goes on in", got, next_step="add --output DIR")
    return init_process_group(rank_device(choose_device(device), env), env)


def _prepare_run(
    options: TrainOptions, output: str | Path | None, resume: bool, process_group: ProcessGroup
) -> TrainSetup:
    """The run, begun or taken up by rank 0 and then opened by the others, who find the data where it put them."""

    def prepare_on_main() -> TrainSetup:
        if resume and output is not None and is_non_empty(Path(output)):
            return resume_run(options, Path(output))
        return setup_run(options, output, process_group.device, process_group.env)

    setup = process_group.run_on_main(prepare_on_main)
    path = process_group.all_gather(None if setup is None else setup.run.path)[0]
    assert path is not None
    return setup or reopen_run(options, path)


def _ignore_record(record: dict[str, Any]) -> None:
    """Where rank 0 shows everything."""


def _resume_or_start(trainer: Trainer, resume: bool) -> list[str]:
    """Go back to the saved state where there is one, else save that of step 0; what a person should be told."""
    messages = [*_record_world_size(trainer), *_record_num_workers(trainer)]
    if trainer.load_checkpoint():
        return [*messages, _resume_message(trainer)]
    trainer.save_checkpoint()
    return [*messages, "no saved state there: starting from step 0"] if resume else messages


def _resume_message(trainer: Trainer) -> str:
    if not trainer.is_finished:
        return f"resumed at step {trainer.step} of {trainer.total_steps}"
    if trainer.early_stopping.should_stop:
        return f"nothing to do: {trainer.early_stopping.describe(trainer.step, trainer.total_steps)}"
    return f"nothing to do: the run is at step {trainer.step}, the requested length is {trainer.total_steps}"


def _record_world_size(trainer: Trainer) -> list[str]:
    """Say where a run goes on with another number of ranks than it had."""
    run, world_size = trainer.run, trainer.process_group.world_size
    previous = run.metadata.get("world_size", 1)
    if previous == world_size:
        return []
    if trainer.process_group.is_main:
        run.update(world_size=world_size)
    return [
        f"the run had {previous} ranks and goes on with {world_size}: the same batches, noise and rounding of their own"
    ]


def _record_num_workers(trainer: Trainer) -> list[str]:
    """Say where a run on shards by URL goes on with another number of workers, who deal the shards out otherwise."""
    run, loader = trainer.run, trainer.context.loader
    if not (isinstance(loader, TrainLoader) and loader.is_streamed):
        return []
    previous = run.metadata.get("workers", loader.num_workers)
    if trainer.process_group.is_main and run.metadata.get("workers") != loader.num_workers:
        run.update(workers=loader.num_workers)
    if previous == loader.num_workers:
        return []
    return [
        f"the run had {previous} workers and goes on with {loader.num_workers}: other samples from here on (-j {previous})"
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
        "device": str(trainer.evaluator.device),
        "step": trainer.step,
        "total_steps": trainer.total_steps,
        "steps_per_epoch": trainer.steps_per_epoch,
    }


def _interrupted_message(trainer: Trainer) -> str:
    return (
        f"stopped after step {trainer.step} of {trainer.total_steps}; the state is saved in {trainer.run.path}; "
        f"go on with --output {trainer.run.path} --resume"
    )


def _finish(trainer: Trainer, setup: TrainSetup) -> Run:
    """Select the weights, evaluate them on the evaluation split, write the result and the report."""
    trainer.model.to(memory_format=torch.contiguous_format)
    selected = trainer.select_weights()
    evaluation = trainer.evaluator.evaluate(trainer.evaluator.data.eval_split, keep_probabilities=True)
    val_evaluation = _evaluate_val(trainer, evaluation)
    train_evaluation = trainer.evaluator.evaluate("train") if trainer.recipe.eval_train else None
    trainer.process_group.run_on_main(
        lambda: _write_results(trainer, setup, evaluation, val_evaluation, train_evaluation, selected)
    )
    return trainer.run if trainer.process_group.is_main else Run(trainer.run.path)


def _evaluate_val(trainer: Trainer, evaluation: Evaluation) -> Evaluation | None:
    """Evaluate the selected weights on the validation split, for the temperature; None if there is none."""
    if evaluation.split == "val" or "val" not in trainer.evaluator.data.splits:
        return evaluation if evaluation.split == "val" else None
    return trainer.evaluator.evaluate("val", keep_probabilities=True)


def _write_results(
    trainer: Trainer,
    setup: TrainSetup,
    evaluation: Evaluation,
    val_evaluation: Evaluation | None,
    train_evaluation: Evaluation | None,
    selected: SelectedWeights,
) -> None:
    run, model, data = trainer.run, trainer.model, trainer.evaluator.data
    metrics = {**evaluation.to_dict(), "split": evaluation.split, **selected.to_metadata()}
    metadata = {"metrics": metrics, **selected.to_metadata(), **weights_header(run)}
    with disk_full_guard(run.weights_path):
        save_weights(run.weights_path, model, metadata)
    images_per_second, records = (
        trainer.step * trainer.recipe.batch_size / max(trainer.train_seconds, 1e-9),
        run.log.records(),
    )
    train_metrics = (
        {} if train_evaluation is None else {"train_loss": train_evaluation.loss, "train_top1": train_evaluation.top1}
    )
    run.update(
        result={
            **metrics,
            "stop_reason": trainer.early_stopping.stop_reason.value,
            "stop_step": trainer.step,
            "stop_text": trainer.early_stopping.describe(trainer.step, trainer.total_steps),
            "steps": trainer.step,
            "train_seconds": trainer.train_seconds,
            "images_per_second": images_per_second,
            "compute_images_per_second": throughput_without_loading(records),
            **last_epoch_averages(records, trainer.steps_per_epoch),
            **train_metrics,
        }
    )
    if "temperature" in run.metadata:  # it was fitted to the weights of before
        run.update(temperature=None)
    write_report(run, model, data, evaluation, setup.input_size, val_evaluation)
