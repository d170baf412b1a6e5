"""Weight averaging and selection: EMA, the mean over epochs (SWA), the mean of runs, and the weights to keep."""

import contextlib
import enum
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from reslab.nn.network import ResidualNetwork
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.spec.recipe import Recipe
from reslab.training.checkpoint import BestWeights, TrainCheckpoint, load_run_network
from reslab.training.evaluation.evaluation import Evaluation
from reslab.training.run import Run
from reslab.training.tasks.registry import restore_task

StateDict = dict[str, Tensor]


def clone_state_dict(model: nn.Module) -> StateDict:
    """Return a copy of every parameter and buffer by name, on their own devices."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@contextlib.contextmanager
def swapped_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Load `weights` into `model` inside the context, then restore the model's own bit for bit."""
    original = clone_state_dict(model)
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(original)


class EMA:
    """Exponential moving average of the weights: a <- d a + (1 - d) w after every `every_steps` steps.

    It starts at the initial weights; buffers are copied. Equal to timm's `ModelEmaV3(exclude_buffers=True)` and to
    torch's `AveragedModel` with its EMA function. With `warmup` the decay of update n (from 1) is
    min(d, (1 + n) / (10 + n)), so that a short run forgets its random initialization. Raises ValueError for a decay
    outside (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float, every_steps: int = 1, warmup: bool = False) -> None:
        if not 0 < decay < 1:
            raise invalid("a decay between 0 and 1", decay, nearest="0.999")
        self.decay, self.every_steps, self.warmup = decay, every_steps, warmup
        self.weights = clone_state_dict(model)

    def decay_at(self, update: int) -> float:
        """Return the decay of update n, counted from 1."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average with the weights after `step` steps, if `step` is a multiple of `every_steps`."""
        if step % self.every_steps:
            return
        state_dict = model.state_dict()
        parameter_names = [
            name for name, parameter in model.named_parameters(remove_duplicate=False) if _is_averaged(parameter)
        ]
        if parameter_names:
            update_fn = get_ema_multi_avg_fn(self.decay_at(step // self.every_steps))
            update_fn(
                [self.weights[name] for name in parameter_names],
                [state_dict[name].detach() for name in parameter_names],
                0,
            )
        for name in state_dict.keys() - set(parameter_names):
            self.weights[name].copy_(state_dict[name])

    def load_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Restore saved averages, on the devices of the current ones."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])


def _is_averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


class WeightMean:
    """The arithmetic mean of the weights added so far, accumulated in float64; integer tensors keep the last value.

    Over the ends of epochs this is SWA (Izmailov et al. 2018, Alg. 1), over runs a model soup (Wortsman et al. 2022,
    Sec. 2).
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: StateDict = {}
        self._dtypes: dict[str, torch.dtype] = {}

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Add a set of weights. Raises ValueError for other names or shapes."""
        if self.count and {name: tensor.shape for name, tensor in weights.items()} != self._shapes():
            raise invalid("weights of the same names and shapes", "others", next_step="average runs of one network")
        for name, tensor in weights.items():
            self._dtypes[name] = tensor.dtype
            if not self.count or not tensor.is_floating_point():
                self._sums[name] = tensor.detach().to(
                    torch.float64 if _is_averaged(tensor) else tensor.dtype, copy=True
                )
            else:
                self._sums[name] += tensor.detach()
        self.count += 1

    def _shapes(self) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in self._sums.items()}

    def mean(self) -> StateDict:
        """Return the mean in the weights' own dtypes. Raises ValueError if nothing was added."""
        if not self.count:
            raise invalid("at least one set of weights to average", "none")
        averaged = {name: _is_averaged(tensor) for name, tensor in self._sums.items()}
        return {
            name: (tensor / self.count if averaged[name] else tensor).to(self._dtypes[name])
            for name, tensor in self._sums.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"count": self.count, "sums": self._sums, "dtypes": self._dtypes}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Restore the state of a checkpoint."""
        self.count, self._dtypes = state["count"], dict(state["dtypes"])
        self._sums = {name: tensor.to(device) for name, tensor in state["sums"].items()}


def average_runs(sources: Sequence[Run | str | Path], device: torch.device | str = "cpu") -> ResidualNetwork:
    """Return the network whose weights are the mean of several runs' weights (Wortsman et al. 2022, Sec. 2).

    In eval mode. The running statistics of its BatchNorms are averaged too; `update_bn_stats` recomputes them. A
    temperature and thresholds, which were fitted to the weights of a run, are left out. Raises ValueError if the runs
    have several architectures, classes or tasks, or standardize values by other means and deviations.
    """
    if not sources:
        raise invalid("at least one run to average", "none")
    models = [load_run_network(source, device) for source in sources]
    first_model = models[0]
    for source, model in zip(sources, models, strict=True):
        if (to_dict(model.arch), model.classes) != (to_dict(first_model.arch), first_model.classes):
            got = f"{source}, a {model.arch.name}, beside {sources[0]}, a {first_model.arch.name}"
            raise invalid("runs of one architecture and the same classes", got, next_step="evaluate them together")
        if _unfitted_task(model) != _unfitted_task(first_model):
            got = f"{source} for {_unfitted_task(model)}, beside {sources[0]} for {_unfitted_task(first_model)}"
            raise invalid("runs for one task, of the same training labels", got, next_step="evaluate them together")
    weight_mean = WeightMean()
    for model in models:
        weight_mean.add(model.state_dict())
    first_model.load_state_dict(weight_mean.mean())
    first_model.temperature, first_model.task = None, _unfitted_task(first_model)
    return first_model


def _unfitted_task(model: ResidualNetwork) -> dict[str, Any]:
    """Return the task of a network without what was fitted to its weights."""
    return restore_task(model.task, model.classes or ()).unfitted().to_dict()


SWA_BN_BATCHES = 100


class Selection(enum.StrEnum):
    """The kind of weights that a run keeps."""

    LAST = "last"
    BEST_VAL = "best_val"
    EMA = "ema"
    BEST_VAL_EMA = "best_val_ema"
    SWA = "swa"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True)
class SelectedWeights:
    """The weights that a run keeps: their kind, the step they are from, and how they were averaged.

    `step` is None for the mean over the last `num_epochs` epochs (SWA). `num_bn_samples` is the number of training
    samples that their BatchNorm statistics were measured on, 0 if they are those of training.
    """

    kind: Selection
    step: int | None
    ema_decay: float = 0.0
    num_epochs: int = 0
    num_bn_samples: int = 0

    def describe(self) -> str:
        """Return a description for people."""
        text = {
            Selection.LAST: "last weights",
            Selection.BEST_VAL: f"best on the validation split, step {self.step}",
            Selection.EMA: f"last moving average (decay {self.ema_decay:g})",
            Selection.BEST_VAL_EMA: f"moving average (decay {self.ema_decay:g}), best on the validation split, "
            f"step {self.step}",
            Selection.SWA: f"mean over the ends of the last {self.num_epochs} epochs",
            Selection.SNAPSHOT: f"weights of step {self.step}",
        }[self.kind]
        if not self.num_bn_samples:
            return text
        return f"{text}; BatchNorm statistics of {self.num_bn_samples} training samples"

    def to_metadata(self) -> dict[str, object]:
        """Return the keys that run.json and the header of the weights record."""
        return {"selection": self.kind.value, "best_step": self.step, "selection_text": self.describe()}


class WeightSelector:
    """Decides which weights of a run are evaluated during training and kept at its end.

    Evaluated are the current weights, or their moving average with `recipe.ema`. Kept are the best of them on the
    validation split, else the last; with `recipe.swa_epochs` the mean over the ends of the last epochs.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, total_steps: int, steps_per_epoch: int) -> None:
        self.model, self.recipe = model, recipe
        self.ema = EMA(model, recipe.ema.decay, recipe.ema.every, recipe.ema.warmup) if recipe.ema.decay else None
        self.swa = WeightMean() if recipe.swa_epochs else None
        self.best: BestWeights | None = None
        self._swa_start_step = total_steps - recipe.swa_epochs * steps_per_epoch

    def on_step_end(self, step: int) -> None:
        """Update the moving average with the weights after `step` steps."""
        if self.ema is not None:
            self.ema.update(self.model, step)

    def on_epoch_end(self, step: int) -> None:
        """Add the weights at the end of an epoch to the mean over epochs."""
        if self.swa is not None and step > self._swa_start_step:
            self.swa.add(self.model.state_dict())

    def eval_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the network has the weights that are evaluated."""
        return contextlib.nullcontext() if self.ema is None else swapped_weights(self.model, self.ema.weights)

    def update_best(self, step: int, evaluation: Evaluation) -> None:
        """Keep a copy of the evaluated weights if they are the best so far on the validation split."""
        if self.best is None or evaluation.score > self.best.score:
            with self.eval_weights():
                self.best = BestWeights(step, evaluation.score, clone_state_dict(self.model))

    def select(self, last_step: int) -> SelectedWeights:
        """Load the weights that the run keeps into the network after its last step, and return which they are."""
        decay = 0.0 if self.ema is None else self.ema.decay
        if self.swa is not None and self.swa.count:
            self.model.load_state_dict(self.swa.mean())
            return SelectedWeights(Selection.SWA, None, num_epochs=self.swa.count)
        if self.best is not None:
            self.model.load_state_dict(self.best.weights)
            kind = Selection.BEST_VAL if self.ema is None else Selection.BEST_VAL_EMA
            return SelectedWeights(kind, self.best.step, decay)
        if self.ema is not None:
            self.model.load_state_dict(self.ema.weights)
        return SelectedWeights(Selection.LAST if self.ema is None else Selection.EMA, last_step, decay)

    def num_bn_batches(self) -> int:
        """Return the number of batches to measure BatchNorm statistics on; a mean over epochs has none of its own."""
        return self.recipe.precise_bn_batches or (SWA_BN_BATCHES if self.swa is not None and self.swa.count else 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {
            "best": None if self.best is None else vars(self.best),
            "ema": None if self.ema is None else self.ema.weights,
            "swa": None if self.swa is None else {"start_step": self._swa_start_step, **self.swa.state_dict()},
        }

    def load_checkpoint(self, checkpoint: TrainCheckpoint, device: torch.device) -> None:
        """Restore the state of a checkpoint."""
        self.best = BestWeights(**checkpoint.best) if checkpoint.best else None
        if self.ema is not None and checkpoint.ema is not None:
            self.ema.load_state_dict(checkpoint.ema)
        # A run whose duration was extended has other last epochs, so the old mean does not count.
        if self.swa is not None and checkpoint.swa and checkpoint.swa["start_step"] == self._swa_start_step:
            self.swa.load_state_dict(checkpoint.swa, device)
