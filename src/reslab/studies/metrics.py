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

from reslab.data.dataset import Data
from reslab.data.loader import eval_batches
from reslab.data.rng import seeded
from reslab.runtime.device import exact_arithmetic
from reslab.studies.plan import Job
from reslab.studies.store import Entry
from reslab.training.batch_norm import batch_norms, keeping_statistics
from reslab.training.checkpoint import load_state
from reslab.training.evaluation.evaluate import EVALUATION_BATCH
from reslab.training.evaluation.loop import Evaluation, evaluate_batches
from reslab.training.evaluation.tta import Views
from reslab.training.loop import noise_seed
from reslab.training.run import Run, load
from reslab.training.run_data import reopen_data

DEFAULT_TRAIN_ERROR = 20.0

Lines = Sequence[Mapping[str, Any]]


def last_epoch(log: Lines, steps_per_epoch: int) -> tuple[float, float]:
    """Loss, and error in percent, along the last epoch of training: the mean of its batches as they came.

    Raises ValueError where nothing was logged.
    """
    trained = [line for line in log if line["kind"] == "train"]
    if not trained:
        raise ValueError("the log of the training holds no line of training")
    begins = max(0, trained[-1]["step"] - steps_per_epoch)
    before = [0, *(line["step"] for line in trained)]
    found = [(line["step"] - max(first, begins), line) for first, line in zip(before, trained, strict=False)]
    found = [(count, line) for count, line in found if count > 0]
    total = sum(count for count, _ in found)
    loss = math.fsum(count * line["loss"] for count, line in found) / total
    return loss, 100 * (1 - math.fsum(count * line["top1"] for count, line in found) / total)


def steps_to_error(log: Lines, percent: float) -> float:
    """The step of the first report whose training error is at most so many percent; infinite where none is."""
    reached = (line["step"] for line in log if line["kind"] == "train" and 100 * (1 - line["top1"]) <= percent)
    return float(next(reached, math.inf))


def measure(
    run: Run, names: Iterable[str], device: torch.device, data_dir: str | None = None, views: str = ""
) -> dict[str, float]:
    """Evaluate the weights of the last step for the metrics named, in percent and nats.

    Those by several `views` of each test picture come beside those by one, as `test_error@VIEWS`.
    """
    data = reopen_data(run.facts["data"], None, data_dir)
    model = last_network(run).to(device)
    judge = _Judge(model, data, device, run.recipe.batch, run.facts["seed"])
    found = told_scores(run) if "val" not in data.splits else scores_of(judge(data.held_out))
    if views:
        found |= {f"{name}@{views}": value for name, value in scores_of(judge(data.held_out, views=views)).items()}
    found["train_seconds"] = run.result["train_seconds"] if run.result else 0.0
    wanted = set(names)
    if wanted & {"train_error_eval", "train_loss_eval"}:
        train = judge("train")
        found |= {"train_error_eval": 100 * (1 - train.top1), "train_loss_eval": train.loss}
    if "train_error_batch" in wanted:
        found["train_error_batch"] = 100 * (1 - judge("train", by_batch=True).top1)
    if "test_error_batch" in wanted:
        found["test_error_batch"] = 100 * (1 - judge(data.held_out, by_batch=True).top1)
    return found


def last_network(run: Run) -> nn.Module:
    """The network of the last step, also where the run keeps another: studies never choose by a held-out split."""
    model = load(run)
    if "val" in run.facts["data"]["num_images"] and not (run.recipe.ema or run.recipe.average_epochs):
        state = load_state(run.path / "state")
        if state is not None:
            model.load_state_dict(state.model)
    return model


def told_scores(run: Run) -> dict[str, float]:
    """The scores that the run wrote down at its end, of the weights that it kept."""
    result = run.result
    assert result is not None
    found = {"test_error": 100 * (1 - result["top1"]), "test_loss": result["loss"]}
    return found if result["top5"] is None else {**found, "test_error_top5": 100 * (1 - result["top5"])}


def scores_of(found: Evaluation) -> dict[str, float]:
    """Errors in percent and loss of an evaluation on the test pictures."""
    told = {"test_error": 100 * (1 - found.top1), "test_loss": found.loss}
    return told if found.top5 is None else {**told, "test_error_top5": 100 * (1 - found.top5)}


class _Judge:
    """Evaluations of one network."""

    def __init__(self, model: nn.Module, data: Data, device: torch.device, batch: int, seed: int) -> None:
        self.model, self.data, self.device, self.batch, self.seed = model, data, device, batch, seed

    def __call__(self, split: str, views: str = "", by_batch: bool = False) -> Evaluation:
        """Scores on a split; `by_batch`: each of the recipe's batches by its own statistics, dropout at work."""
        number = self.batch if by_batch else EVALUATION_BATCH
        batches = eval_batches(self.data.split(split), number, self.data.preprocess, self.device)
        model = Views(self.model, views) if views else self.model
        loss, classes = nn.functional.cross_entropy, self.data.num_classes
        with ExitStack() as inside:
            inside.enter_context(exact_arithmetic())
            if by_batch:
                inside.enter_context(keeping_statistics(batch_norms(self.model)))
                inside.enter_context(seeded(noise_seed(self.seed, -2)))
                model = _Always(self.model)
            return evaluate_batches(model, batches, classes, loss, split)


class _Always(nn.Module):
    """A network in training mode, whatever is said."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.train()(x)


REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {"mean": fmean, "median": median, "min": min, "max": max}


def values_of(job: Job, entry: Entry, log: Lines) -> dict[str, float]:
    """Every figure of an entry by metric; one that diverged has the errors of guessing."""
    facts = entry.facts
    found = {"params": float(facts["params"]), "macs": float(facts["macs"])}
    if facts["status"] == "diverged":
        return found | _guessing(job)
    found |= {name: value for name, value in facts["values"].items() if "@" not in name}
    for name, value in facts["values"].items():
        if job.row.views and name.endswith(f"@{job.row.views}"):
            found[name.partition("@")[0]] = value
    if any(line["kind"] == "train" for line in log):
        found["train_loss"], found["train_error"] = last_epoch(log, job.row.steps_per_epoch)
        level = job.row.cut.train_error or DEFAULT_TRAIN_ERROR
        found["steps_to_train_error"] = steps_to_error(log, level)
    if "train_error_eval" in found and "test_error" in found:
        found["gap"] = found["test_error"] - found["train_error_eval"]
    return found


def _guessing(job: Job) -> dict[str, float]:
    assert job.row.arch is not None
    chance = 100 * (1 - 1 / job.row.arch.num_classes)
    names = ("test_error", "train_error", "train_error_eval", "train_error_batch", "test_error_batch")
    return {**dict.fromkeys(names, chance), "steps_to_train_error": math.inf}


def row_value(name: str, answers: Mapping[str, Any]) -> float | None:
    """The number at a path into an answer (`lesion.error`); None where there is none.

    A part that meets a list is taken of each of its members, and one of `REDUCTIONS` or a place makes one number of
    a list: `lesion.units.error.median`, `landscape.largest.0`; `peak` is the place of its largest, from 0.
    """
    question, _, path = name.partition(".")
    for told in (question, f"{question}@init"):
        found: Any = answers.get(told)
        for part in path.split("."):
            found = _step(found, part)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return float(found)
    return None


def _step(found: Any, part: str) -> Any:
    """What a part of a path leads to; None where it leads nowhere."""
    if isinstance(found, Mapping):
        return found.get(part)
    if not isinstance(found, list):
        return None
    if part.isdigit():
        return found[int(part)] if int(part) < len(found) else None
    if part == "peak":
        places = [place for place, one in enumerate(found) if isinstance(one, int | float)]
        return max(places, key=found.__getitem__, default=None)
    if part in REDUCTIONS:
        numbers = [one for one in found if isinstance(one, int | float)]
        return REDUCTIONS[part](numbers) if numbers else None
    return [one.get(part) for one in found if isinstance(one, Mapping)]
