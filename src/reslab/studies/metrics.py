"""The figures of a finished training: what its log and result tell, and what takes an evaluation of its own.

The figures of one seed of a row: from its entry, its log, and the answers to what was asked.
"""

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
from reslab.runtime.device import deterministic_mode
from reslab.studies.plan import StudyJob
from reslab.studies.store import StoreEntry
from reslab.training.batch_norm import batch_norms, frozen_bn_stats
from reslab.training.checkpoint import load_train_checkpoint
from reslab.training.evaluation.evaluate import EVAL_BATCH_SIZE
from reslab.training.evaluation.loop import Evaluation, evaluate_batches
from reslab.training.evaluation.tta import TTATransforms
from reslab.training.run import Run, load
from reslab.training.run_data import reopen_data

DEFAULT_TRAIN_ERROR = 20.0

LogRecords = Sequence[Mapping[str, Any]]


def last_epoch_loss_and_error(log: LogRecords, steps_per_epoch: int) -> tuple[float, float]:
    """Loss, and error in percent, along the last epoch of training: the mean of its batches as they came.

    Raises ValueError where nothing was logged.
    """
    train_records = [record for record in log if record["kind"] == "train"]
    if not train_records:
        raise ValueError("the log of the training holds no line of training")
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
    """The step of the first report whose training error is at most so many percent; infinite where none is."""
    reached = (record["step"] for record in log if record["kind"] == "train" and 100 * (1 - record["top1"]) <= percent)
    return float(next(reached, math.inf))


def measure_run(
    run: Run, metric_names: Iterable[str], device: torch.device, data_dir: str | None = None, tta: str = ""
) -> dict[str, float]:
    """Evaluate the weights of the last step for the metrics named, in percent and nats.

    Those by several `views` of each test picture come beside those by one, as `test_error@VIEWS`.
    """
    data = reopen_data(run.metadata["data"], None, data_dir)
    model = last_step_model(run).to(device)
    evaluator = _RunEvaluator(model, data, device, run.recipe.batch_size, run.metadata["seed"])
    metrics = recorded_scores(run) if "val" not in data.splits else evaluation_scores(evaluator(data.eval_split))
    if tta:
        metrics |= {
            f"{name}@{tta}": value for name, value in evaluation_scores(evaluator(data.eval_split, tta=tta)).items()
        }
    metrics["train_seconds"] = run.result["train_seconds"] if run.result else 0.0
    wanted_metrics = set(metric_names)
    if wanted_metrics & {"train_error_eval", "train_loss_eval"}:
        train_evaluation = evaluator("train")
        metrics |= {"train_error_eval": 100 * (1 - train_evaluation.top1), "train_loss_eval": train_evaluation.loss}
    if "train_error_batch" in wanted_metrics:
        metrics["train_error_batch"] = 100 * (1 - evaluator("train", by_batch=True).top1)
    if "test_error_batch" in wanted_metrics:
        metrics["test_error_batch"] = 100 * (1 - evaluator(data.eval_split, by_batch=True).top1)
    return metrics


def last_step_model(run: Run) -> nn.Module:
    """The network of the last step, also where the run keeps another: studies never choose by a held-out split."""
    model = load(run)
    if "val" in run.metadata["data"]["num_images"] and not (run.recipe.ema.decay or run.recipe.swa_epochs):
        state = load_train_checkpoint(run.path / "checkpoint")
        if state is not None:
            model.load_state_dict(state.model)
    return model


def recorded_scores(run: Run) -> dict[str, float]:
    """The scores that the run wrote down at its end, of the weights that it kept."""
    result = run.result
    assert result is not None
    scores = {"test_error": 100 * (1 - result["top1"]), "test_loss": result["loss"]}
    return scores if result["top5"] is None else {**scores, "test_error_top5": 100 * (1 - result["top5"])}


def evaluation_scores(evaluation: Evaluation) -> dict[str, float]:
    """Errors in percent and loss of an evaluation on the test pictures."""
    scores = {"test_error": 100 * (1 - evaluation.top1), "test_loss": evaluation.loss}
    return scores if evaluation.top5 is None else {**scores, "test_error_top5": 100 * (1 - evaluation.top5)}


class _RunEvaluator:
    """Evaluations of one network."""

    def __init__(self, model: nn.Module, data: DatasetSplits, device: torch.device, batch_size: int, seed: int) -> None:
        self.model, self.data, self.device, self.batch_size, self.seed = model, data, device, batch_size, seed

    def __call__(self, split: str, tta: str = "", by_batch: bool = False) -> Evaluation:
        """Scores on a split; `by_batch`: each of the recipe's batches by its own statistics, dropout at work."""
        batch_size = self.batch_size if by_batch else EVAL_BATCH_SIZE
        loader = eval_loader(self.data.split(split), batch_size, self.data.preprocess, self.device)
        model = TTATransforms(self.model, tta) if tta else self.model
        loss_fn, num_classes = nn.functional.cross_entropy, self.data.num_classes
        with ExitStack() as stack:
            stack.enter_context(deterministic_mode())
            if by_batch:
                stack.enter_context(frozen_bn_stats(batch_norms(self.model)))
                stack.enter_context(temporary_seed(step_seed(self.seed, -2)))
                model = _AlwaysTraining(self.model)
            return evaluate_batches(model, loader, num_classes, loss_fn, split)


class _AlwaysTraining(nn.Module):
    """A network in training mode, whatever is said."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.train()(x)


REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {"mean": fmean, "median": median, "min": min, "max": max}


def entry_metrics(job: StudyJob, entry: StoreEntry, log: LogRecords) -> dict[str, float]:
    """Every figure of an entry by metric; one that diverged has the errors of guessing."""
    metadata = entry.metadata
    metrics = {"params": float(metadata["params"]), "macs": float(metadata["macs"])}
    if metadata["status"] == "diverged":
        return metrics | _chance_metrics(job)
    metrics |= {name: value for name, value in metadata["values"].items() if "@" not in name}
    for name, value in metadata["values"].items():
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
    """The number at a path into an answer (`lesion.error`); None where there is none.

    A part that meets a list is taken of each of its members, and one of `REDUCTIONS` or a place makes one number of
    a list: `lesion.units.error.median`, `landscape.largest.0`; `peak` is the place of its largest, from 0.
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
    """What a part of a path leads to; None where it leads nowhere."""
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
