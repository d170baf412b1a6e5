"""Averages of weights: moving along the steps, over the ends of epochs, over several runs.

Which weights of a run are judged and kept: its own, their moving average, or their mean over epochs.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from reslab.nn.network import ResidualNetwork
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.spec.recipe import Recipe
from reslab.training.checkpoint import BestWeights, TrainCheckpoint
from reslab.training.evaluation.loop import Evaluation
from reslab.training.run import Run, load

StateDict = dict[str, Tensor]


def clone_state_dict(model: nn.Module) -> StateDict:
    """A copy of every parameter and buffer by name, where they are."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@contextlib.contextmanager
def swapped_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, `model` has `weights`; afterwards its own come back bit for bit."""
    original = clone_state_dict(model)
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(original)


class EMA:
    """a <- d a + (1 - d) w after every `every`-th step; a starts as the first weights, buffers are copied.

    As timm's `ModelEmaV3(exclude_buffers=True)` and torch's `AveragedModel` with its EMA. With `warmup` the decay of
    update n (from 1) is min(d, (1 + n) / (10 + n)), so that a short run forgets its random beginning.
    Raises ValueError for a decay outside (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float, every_steps: int = 1, warmup: bool = False) -> None:
        if not 0 < decay < 1:
            raise invalid("a decay between 0 and 1", decay, nearest="0.999")
        self.decay, self.every_steps, self.warmup = decay, every_steps, warmup
        self.weights = clone_state_dict(model)

    def decay_at(self, update: int) -> float:
        """The decay of update n, from 1."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps; nothing happens between two `every`-th steps."""
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
        """Go back to weights that were saved, on the devices the average has."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])


def _is_averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


class WeightMean:
    """The plain mean of the weights added so far, kept in float64; what cannot be averaged is the last one's.

    Over the ends of epochs this is Izmailov et al. 2018, Alg. 1; over runs Wortsman et al. 2022, Sec. 2.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: StateDict = {}
        self._dtypes: dict[str, torch.dtype] = {}

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Count one more set of weights. Raises ValueError where names or shapes are others."""
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
        """The mean in the weights' own types. Raises ValueError where nothing was added."""
        if not self.count:
            raise invalid("at least one set of weights to average", "none")
        averaged = {name: _is_averaged(tensor) for name, tensor in self._sums.items()}
        return {
            name: (tensor / self.count if averaged[name] else tensor).to(self._dtypes[name])
            for name, tensor in self._sums.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers, for the state."""
        return {"count": self.count, "sums": self._sums, "dtypes": self._dtypes}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Go back to what `state` told."""
        self.count, self._dtypes = state["count"], dict(state["dtypes"])
        self._sums = {name: tensor.to(device) for name, tensor in state["sums"].items()}


def average_runs(sources: Sequence[Run | str | Path], device: torch.device | str = "cpu") -> ResidualNetwork:
    """The network whose weights are the mean of several runs' (Wortsman et al. 2022, Sec. 2), in eval mode.

    The statistics of its BatchNorms are averaged too; `precise_statistics` measures them. Raises ValueError where the
    runs are of several architectures or classes.
    """
    if not sources:
        raise invalid("at least one run to average", "none")
    models = [load(source, device) for source in sources]
    first_model = models[0]
    for source, model in zip(sources, models, strict=True):
        if (to_dict(model.arch), model.classes) != (to_dict(first_model.arch), first_model.classes):
            got = f"{source}, a {model.arch.name}, beside {sources[0]}, a {first_model.arch.name}"
            raise invalid("runs of one architecture and the same classes", got, next_step="evaluate them together")
    weight_mean = WeightMean()
    for model in models:
        weight_mean.add(model.state_dict())
    first_model.load_state_dict(weight_mean.mean())
    return first_model


SWA_BN_BATCHES = 100


class WeightSelector:
    """The weights that a run is judged by, and in the end keeps.

    They are those of the step, with `recipe.ema` their moving average; the best of them on a validation split are kept,
    else the last; with `recipe.average_epochs` their mean over the ends of the last epochs.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, total_steps: int, steps_per_epoch: int) -> None:
        self.model, self.recipe = model, recipe
        self.ema = EMA(model, recipe.ema, recipe.ema_every, recipe.ema_warmup) if recipe.ema else None
        self.swa = WeightMean() if recipe.swa_epochs else None
        self.best: BestWeights | None = None
        self._swa_start_step = total_steps - recipe.swa_epochs * steps_per_epoch

    def on_step_end(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        if self.ema is not None:
            self.ema.update(self.model, step)

    def on_epoch_end(self, step: int) -> None:
        """Take in the weights at the end of an epoch."""
        if self.swa is not None and step > self._swa_start_step:
            self.swa.add(self.model.state_dict())

    def eval_weights(self) -> AbstractContextManager[None]:
        """Inside, the network has the weights that are judged."""
        return contextlib.nullcontext() if self.ema is None else swapped_weights(self.model, self.ema.weights)

    def update_best(self, step: int, evaluation: Evaluation) -> None:
        """Remember the judged weights where none did better on the validation split."""
        if self.best is None or self.best.is_worse_than(evaluation.num_correct, evaluation.loss):
            with self.eval_weights():
                self.best = BestWeights(step, evaluation.num_correct, evaluation.loss, clone_state_dict(self.model))

    def select(self) -> str:
        """Give the network the weights that are kept, and say which they are."""
        weights_text = "weights" if self.ema is None else f"moving average of the weights (decay {self.recipe.ema:g})"
        if self.swa is not None and self.swa.count:
            self.model.load_state_dict(self.swa.mean())
            return f"the mean of the weights at the ends of the last {self.swa.count} epochs"
        if self.best is not None:
            self.model.load_state_dict(self.best.weights)
            best_text = "the best" if self.ema is None else f"the {weights_text}, the best"
            return f"{best_text} of the validation split, of step {self.best.step}"
        if self.ema is not None:
            self.model.load_state_dict(self.ema.weights)
        return f"the last {weights_text}"

    def num_bn_batches(self) -> int:
        """How many batches measure the BatchNorms of the kept weights; a mean over epochs has none of its own."""
        return self.recipe.precise_bn_batches or (SWA_BN_BATCHES if self.swa is not None and self.swa.count else 0)

    def state_dict(self) -> dict[str, Any]:
        """What changes, for the state."""
        return {
            "best": None if self.best is None else vars(self.best),
            "ema": None if self.ema is None else self.ema.weights,
            "swa": None if self.swa is None else {"start_step": self._swa_start_step, **self.swa.state_dict()},
        }

    def load_checkpoint(self, checkpoint: TrainCheckpoint, device: torch.device) -> None:
        """Go back to a saved state."""
        self.best = BestWeights(**checkpoint.best) if checkpoint.best else None
        if self.ema is not None and checkpoint.ema is not None:
            self.ema.load_state_dict(checkpoint.ema)
        # A run that was made longer has other last epochs.
        if self.swa is not None and checkpoint.swa and checkpoint.swa["start_step"] == self._swa_start_step:
            self.swa.load_state_dict(checkpoint.swa, device)
