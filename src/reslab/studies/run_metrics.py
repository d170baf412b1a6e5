"""The metrics of one seed of a row: from its log, its entry in the store, its analyses, and evaluations of its own."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from statistics import fmean, median
from typing import Any

import torch
from torch import nn

from reslab.data.dataset import DatasetSplits
from reslab.data.loader import eval_loader
from reslab.data.rng import step_seed, temporary_seed
from reslab.nn.recompute import batch_norms, frozen_bn_stats
from reslab.runtime.device import deterministic_mode
from reslab.spec.dense import DenseArch
from reslab.spec.errors import invalid
from reslab.studies.plan import EntryMetadata, EntryStatus, StudyJob
from reslab.training.checkpoint import load_train_checkpoint
from reslab.training.evaluation.evaluate import EVAL_BATCH_SIZE
from reslab.training.evaluation.loop import evaluate_batches
from reslab.training.evaluation.tta import TTATransforms
from reslab.training.model_source import open_any_network
from reslab.training.run import Run
from reslab.training.run_data import reopen_data
from reslab.training.tasks.registry import restore_task
from reslab.training.tasks.task_type import TaskType

DEFAULT_TRAIN_ERROR = 20.0

LogRecords = Sequence[Mapping[str, Any]]

REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {"mean": fmean, "median": median, "min": min, "max": max}


def last_epoch_metrics(log: LogRecords, steps_per_epoch: int) -> dict[str, float]:
    """Return loss, and in classification the error in percent, over the last epoch: means over the training batches.

    A record averages the steps since the one before; the first that reaches into the last epoch counts with its steps
    in that epoch. Raises ValueError if there is no training record.
    """
    train_records = [record for record in log if record["kind"] == "train"]
    if not train_records:
        raise ValueError("the log has no training records")
    epoch_start = max(0, train_records[-1]["step"] - steps_per_epoch)
    starts = [0, *(record["step"] for record in train_records)]
    weighted_records = [
        (record["step"] - max(start, epoch_start), record) for start, record in zip(starts, train_records, strict=False)
    ]
    weighted_records = [(count, record) for count, record in weighted_records if count > 0]
    num_steps = sum(count for count, _ in weighted_records)

    def mean(name: str) -> float:
        return math.fsum(count * record[name] for count, record in weighted_records) / num_steps

    has_error = all("top1" in record for _, record in weighted_records)
    return {"train_loss": mean("loss"), **({"train_error": 100 * (1 - mean("top1"))} if has_error else {})}


def steps_to_error(log: LogRecords, percent: float) -> float:
    """Return the step of the first record whose training error is at most `percent`; infinite if there is none."""
    reached = (record["step"] for record in log if record["kind"] == "train" and 100 * (1 - record["top1"]) <= percent)
    return float(next(reached, math.inf))


def measure_run(
    run: Run, metric_names: Iterable[str], device: torch.device, data_dir: str | None = None, tta: str = ""
) -> dict[str, float]:
    """Evaluate the weights of the last step for the named metrics, in percent and nats.

    With test-time augmentation `tta`, its metrics come in addition to those of a single view, as `test_error@TTA`.
    """
    data = reopen_data(run.metadata["data"], None, data_dir)
    model = last_step_model(run).to(device)
    task = restore_task(run.metadata.get("task"), data.classes)
    data = task.prepare_data(data, model)
    evaluator = _RunEvaluator(model, data, task, device, run.recipe.batch_size, run.metadata["seed"])
    has_val_split = "val" in data.splits
    assert run.result is not None
    result = evaluator.evaluate(data.eval_split).to_dict() if has_val_split else run.result
    metrics = evaluation_metrics(task.spec.name, result)
    if tta:
        augmented = evaluation_metrics(task.spec.name, evaluator.evaluate(data.eval_split, tta).to_dict())
        metrics |= {f"{name}@{tta}": value for name, value in augmented.items()}
    metrics["train_seconds"] = run.result["train_seconds"]
    requested = set(metric_names)
    if requested & {"train_error_eval", "train_loss_eval"}:
        train_evaluation = evaluator.evaluate("train")
        metrics |= {"train_error_eval": 100 * (1 - train_evaluation.top1), "train_loss_eval": train_evaluation.loss}
    if "train_error_batch" in requested:
        metrics["train_error_batch"] = 100 * (1 - evaluator.evaluate_by_batch("train").top1)
    if "test_error_batch" in requested:
        metrics["test_error_batch"] = 100 * (1 - evaluator.evaluate_by_batch(data.eval_split).top1)
    return metrics


def last_step_model(run: Run) -> nn.Module:
    """Return the network of the last step, even if the run selected other weights by its validation split.

    Studies report the last step, as the papers do; averaged weights (EMA, SWA) are those of the last step already.
    """
    model = open_any_network(run)
    if "val" in run.metadata["data"]["num_images"] and not (run.recipe.ema.decay or run.recipe.swa_epochs):
        checkpoint = load_train_checkpoint(run.path / "checkpoint")
        if checkpoint is not None:
            model.load_state_dict(checkpoint.model)
    return model


def evaluation_metrics(task: str, result: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a study from those of an evaluation by name, of a split of the test images.

    Values that the data do not define are left out. Raises ValueError for a task without metrics of studies.
    """
    if task not in _METRICS:
        raise invalid(f"a task of {', '.join(_METRICS)} in a study", task)
    return _METRICS[task](result)


def _classification_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the errors, in percent, and the loss."""
    metrics = {"test_error": 100 * (1 - result["top1"]), "test_loss": result["loss"]}
    return metrics if result["top5"] is None else {**metrics, "test_error_top5": 100 * (1 - result["top5"])}


def _detection_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return average precision in percent."""
    names = {"test_ap": "ap", "test_ap50": "ap50", "test_voc_map": "voc_map"}
    return {metric: 100 * result[name] for metric, name in names.items() if result[name] is not None}


_METRICS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, float]]] = {
    "classification": _classification_metrics,
    "detection": _detection_metrics,
}


class _RunEvaluator:
    """Evaluates one network on the splits of its data."""

    def __init__(
        self,
        model: nn.Module,
        data: DatasetSplits,
        task: TaskType,
        device: torch.device,
        batch_size: int,
        seed: int,
    ) -> None:
        self.model, self.data, self.task, self.device = model, data, task, device
        self.batch_size, self.seed = batch_size, seed

    def evaluate(self, split: str, tta: str = "") -> Any:
        """Evaluate in eval mode, with test-time augmentation if `tta` is set."""
        model = TTATransforms(self.model, tta, self.task) if tta else self.model
        with deterministic_mode():
            return self._evaluate(model, split, EVAL_BATCH_SIZE)

    def evaluate_by_batch(self, split: str) -> Any:
        """Evaluate in training mode, as a model that never enters eval mode: norms use the statistics of each batch.

        The batches have the size of the recipe's, dropout is on, and the running statistics do not change.
        """
        with ExitStack() as stack:
            stack.enter_context(deterministic_mode())
            stack.enter_context(frozen_bn_stats(batch_norms(self.model)))
            stack.enter_context(temporary_seed(step_seed(self.seed, -2)))
            return self._evaluate(_AlwaysTraining(self.model), split, self.batch_size)

    def _evaluate(self, model: nn.Module, split: str, batch_size: int) -> Any:
        loader = eval_loader(self.data.split(split), batch_size, self.data.preprocess, self.device)
        return evaluate_batches(model, loader, self.task, split=split)


class _AlwaysTraining(nn.Module):
    """A network that runs in training mode, also when it is put into eval mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.train()(x)


def entry_metrics(job: StudyJob, metadata: EntryMetadata, log: LogRecords) -> dict[str, float]:
    """Return the metrics of an entry; a training that diverged has the errors of guessing."""
    metrics = {"params": float(metadata.params), "macs": float(metadata.macs)}
    if metadata.status is EntryStatus.DIVERGED:
        return metrics | _chance_metrics(job)
    metrics |= {name: value for name, value in metadata.values.items() if "@" not in name}
    for name, value in metadata.values.items():
        if job.row.tta and name.endswith(f"@{job.row.tta}"):
            metrics[name.partition("@")[0]] = value
    if any(record["kind"] == "train" for record in log):
        metrics |= last_epoch_metrics(log, job.row.steps_per_epoch)
    if "train_error" in metrics:
        threshold = job.row.preset.target_train_error or DEFAULT_TRAIN_ERROR
        metrics["steps_to_train_error"] = steps_to_error(log, threshold)
    if "train_error_eval" in metrics and "test_error" in metrics:
        metrics["gap"] = metrics["test_error"] - metrics["train_error_eval"]
    return metrics


def _chance_metrics(job: StudyJob) -> dict[str, float]:
    assert job.row.arch is not None
    if isinstance(job.row.arch, DenseArch):
        return dict.fromkeys(("test_ap", "test_ap50", "test_voc_map"), 0.0)
    chance = 100 * (1 - 1 / job.row.arch.num_classes)
    names = ("test_error", "train_error", "train_error_eval", "train_error_batch", "test_error_batch")
    return {**dict.fromkeys(names, chance), "steps_to_train_error": math.inf}


def result_value(name: str, results: Mapping[str, Any]) -> float | None:
    """Return the number at a path into the analysis results (`lesion.error`); None if there is none.

    A key of a list selects that field of each item; an index, or one of `REDUCTIONS`, makes one number of a list:
    `lesion.deletions.error.median`, `landscape.largest.0`. `peak` is the index of the largest value, from 0.
    """
    analysis, _, path = name.partition(".")
    for key in (analysis, f"{analysis}@init"):
        value: Any = results.get(key)
        for part in path.split("."):
            value = _descend(value, part)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def _descend(value: Any, part: str) -> Any:
    """Return what one part of a path selects; None if it selects nothing."""
    if isinstance(value, Mapping):
        return value.get(part)
    if not isinstance(value, list):
        return None
    if part.isdigit():
        return value[int(part)] if int(part) < len(value) else None
    if part == "peak":
        indices = [i for i, item in enumerate(value) if isinstance(item, int | float)]
        return max(indices, key=value.__getitem__, default=None)
    if part in REDUCTIONS:
        numbers = [item for item in value if isinstance(item, int | float)]
        return REDUCTIONS[part](numbers) if numbers else None
    return [item.get(part) for item in value if isinstance(item, Mapping)]
