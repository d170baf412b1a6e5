"""The figures of a finished training: what its log and result tell, and what takes an evaluation of its own."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from reslab.data.dataset import Data
from reslab.data.loader import eval_batches
from reslab.data.rng import seeded
from reslab.runtime.device import exact_arithmetic
from reslab.training.batch_norm import batch_norms, keeping_statistics
from reslab.training.evaluation.loop import Evaluation, evaluate_batches
from reslab.training.evaluation.tta import Views
from reslab.training.exam import EVALUATION_BATCH
from reslab.training.loading import load
from reslab.training.loop import noise_seed
from reslab.training.run import Run
from reslab.training.run_data import reopen_data
from reslab.training.state import load_state

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
