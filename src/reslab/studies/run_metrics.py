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
from reslab.studies.plan import StudyJob
from reslab.studies.store import EntryMetadata, EntryStatus
from reslab.training.checkpoint import load_train_checkpoint
from reslab.training.evaluation.classification import ClassificationEvaluation
from reslab.training.evaluation.evaluate import EVAL_BATCH_SIZE
from reslab.training.evaluation.loop import evaluate_batches
from reslab.training.evaluation.tta import TTATransforms
from reslab.training.run import Run
from reslab.training.run_data import reopen_data
from reslab.training.run_weights import load
from reslab.training.tasks.classification import Classification

DEFAULT_TRAIN_ERROR = 20.0

LogRecords = Sequence[Mapping[str, Any]]

REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {"mean": fmean, "median": median, "min": min, "max": max}


def last_epoch_loss_and_error(log: LogRecords, steps_per_epoch: int) -> tuple[float, float]:
    """Return loss, and error in percent, over the last epoch of training: the mean over its batches during training.

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
    loss = math.fsum(count * record["loss"] for count, record in weighted_records) / num_steps
    return loss, 100 * (1 - math.fsum(count * record["top1"] for count, record in weighted_records) / num_steps)


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
    evaluator = _RunEvaluator(model, data, device, run.recipe.batch_size, run.metadata["seed"])
    has_val_split = "val" in data.splits
    metrics = evaluation_metrics(evaluator.evaluate(data.eval_split)) if has_val_split else _recorded_metrics(run)
    if tta:
        augmented = evaluation_metrics(evaluator.evaluate(data.eval_split, tta))
        metrics |= {f"{name}@{tta}": value for name, value in augmented.items()}
    metrics["train_seconds"] = run.result["train_seconds"] if run.result else 0.0
    wanted = set(metric_names)
    if wanted & {"train_error_eval", "train_loss_eval"}:
        train_evaluation = evaluator.evaluate("train")
        metrics |= {"train_error_eval": 100 * (1 - train_evaluation.top1), "train_loss_eval": train_evaluation.loss}
    if "train_error_batch" in wanted:
        metrics["train_error_batch"] = 100 * (1 - evaluator.evaluate_by_batch("train").top1)
    if "test_error_batch" in wanted:
        metrics["test_error_batch"] = 100 * (1 - evaluator.evaluate_by_batch(data.eval_split).top1)
    return metrics


def last_step_model(run: Run) -> nn.Module:
    """Return the network of the last step, even if the run selected other weights by its validation split.

    Studies report the last step, as the papers do; averaged weights (EMA, SWA) are those of the last step already.
    """
    model = load(run)
    if "val" in run.metadata["data"]["num_images"] and not (run.recipe.ema.decay or run.recipe.swa_epochs):
        checkpoint = load_train_checkpoint(run.path / "checkpoint")
        if checkpoint is not None:
            model.load_state_dict(checkpoint.model)
    return model


def evaluation_metrics(evaluation: ClassificationEvaluation) -> dict[str, float]:
    """Return the errors, in percent, and the loss of an evaluation on the test split."""
    return _error_metrics(evaluation.top1, evaluation.top5, evaluation.loss)


def _recorded_metrics(run: Run) -> dict[str, float]:
    """Return the same metrics from the result that the run recorded for its selected weights."""
    result = run.result
    assert result is not None
    return _error_metrics(result["top1"], result["top5"], result["loss"])


def _error_metrics(top1: float, top5: float | None, loss: float) -> dict[str, float]:
    metrics = {"test_error": 100 * (1 - top1), "test_loss": loss}
    return metrics if top5 is None else {**metrics, "test_error_top5": 100 * (1 - top5)}


class _RunEvaluator:
    """Evaluates one network on the splits of its data."""

    def __init__(self, model: nn.Module, data: DatasetSplits, device: torch.device, batch_size: int, seed: int) -> None:
        self.model, self.data, self.device, self.batch_size, self.seed = model, data, device, batch_size, seed

    def evaluate(self, split: str, tta: str = "") -> ClassificationEvaluation:
        """Evaluate in eval mode, with test-time augmentation if `tta` is set."""
        model = TTATransforms(self.model, tta) if tta else self.model
        with deterministic_mode():
            return self._evaluate(model, split, EVAL_BATCH_SIZE)

    def evaluate_by_batch(self, split: str) -> ClassificationEvaluation:
        """Evaluate in training mode, as a model that never enters eval mode: norms use the statistics of each batch.

        The batches have the size of the recipe's, dropout is on, and the running statistics do not change.
        """
        with ExitStack() as stack:
            stack.enter_context(deterministic_mode())
            stack.enter_context(frozen_bn_stats(batch_norms(self.model)))
            stack.enter_context(temporary_seed(step_seed(self.seed, -2)))
            return self._evaluate(_AlwaysTraining(self.model), split, self.batch_size)

    def _evaluate(self, model: nn.Module, split: str, batch_size: int) -> ClassificationEvaluation:
        loader = eval_loader(self.data.split(split), batch_size, self.data.preprocess, self.device)
        evaluation: ClassificationEvaluation = evaluate_batches(
            model, loader, Classification(self.data.classes), split=split
        )
        return evaluation


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
        metrics["train_loss"], metrics["train_error"] = last_epoch_loss_and_error(log, job.row.steps_per_epoch)
        threshold = job.row.preset.target_train_error or DEFAULT_TRAIN_ERROR
        metrics["steps_to_train_error"] = steps_to_error(log, threshold)
    if "train_error_eval" in metrics and "test_error" in metrics:
        metrics["gap"] = metrics["test_error"] - metrics["train_error_eval"]
    return metrics


def _chance_metrics(job: StudyJob) -> dict[str, float]:
    assert job.row.arch is not None
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
