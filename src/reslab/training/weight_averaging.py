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
from reslab.training.checkpoint import Best, State
from reslab.training.evaluation.loop import Evaluation
from reslab.training.run import Run, load

Weights = dict[str, Tensor]


def weights_of(model: nn.Module) -> Weights:
    """A copy of every parameter and buffer by name, where they are."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@contextlib.contextmanager
def wearing(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, `model` has `weights`; afterwards its own come back bit for bit."""
    own = weights_of(model)
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(own)


class MovingAverage:
    """a <- d a + (1 - d) w after every `every`-th step; a starts as the first weights, buffers are copied.

    As timm's `ModelEmaV3(exclude_buffers=True)` and torch's `AveragedModel` with its EMA. With `warmup` the decay of
    update n (from 1) is min(d, (1 + n) / (10 + n)), so that a short run forgets its random beginning.
    Raises ValueError for a decay outside (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float, every: int = 1, warmup: bool = False) -> None:
        if not 0 < decay < 1:
            raise invalid("a decay between 0 and 1", decay, nearest="0.999")
        self.decay, self.every, self.warmup = decay, every, warmup
        self.weights = weights_of(model)

    def decay_of(self, update: int) -> float:
        """The decay of update n, from 1."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps; nothing happens between two `every`-th steps."""
        if step % self.every:
            return
        state = model.state_dict()
        learned = [name for name, parameter in model.named_parameters(remove_duplicate=False) if _averaged(parameter)]
        if learned:
            blend = get_ema_multi_avg_fn(self.decay_of(step // self.every))
            blend([self.weights[name] for name in learned], [state[name].detach() for name in learned], 0)
        for name in state.keys() - set(learned):
            self.weights[name].copy_(state[name])

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go back to weights that were saved, on the devices the average has."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])


def _averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


class MeanOfWeights:
    """The plain mean of the weights added so far, kept in float64; what cannot be averaged is the last one's.

    Over the ends of epochs this is Izmailov et al. 2018, Alg. 1; over runs Wortsman et al. 2022, Sec. 2.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: Weights = {}
        self._dtypes: dict[str, torch.dtype] = {}

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Count one more set of weights. Raises ValueError where names or shapes are others."""
        if self.count and {name: tensor.shape for name, tensor in weights.items()} != self._shapes():
            raise invalid("weights of the same names and shapes", "others", next_step="average runs of one network")
        for name, tensor in weights.items():
            self._dtypes[name] = tensor.dtype
            if not self.count or not tensor.is_floating_point():
                self._sums[name] = tensor.detach().to(torch.float64 if _averaged(tensor) else tensor.dtype, copy=True)
            else:
                self._sums[name] += tensor.detach()
        self.count += 1

    def _shapes(self) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in self._sums.items()}

    def mean(self) -> Weights:
        """The mean in the weights' own types. Raises ValueError where nothing was added."""
        if not self.count:
            raise invalid("at least one set of weights to average", "none")
        averaged = {name: _averaged(tensor) for name, tensor in self._sums.items()}
        return {
            name: (tensor / self.count if averaged[name] else tensor).to(self._dtypes[name])
            for name, tensor in self._sums.items()
        }

    def state(self) -> dict[str, Any]:
        """Plain tensors and numbers, for the state."""
        return {"count": self.count, "sums": self._sums, "dtypes": self._dtypes}

    def load(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
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
    networks = [load(source, device) for source in sources]
    first = networks[0]
    for source, network in zip(sources, networks, strict=True):
        if (to_dict(network.arch), network.classes) != (to_dict(first.arch), first.classes):
            got = f"{source}, a {network.arch.name}, beside {sources[0]}, a {first.arch.name}"
            raise invalid("runs of one architecture and the same classes", got, next_step="evaluate them together")
    mean = MeanOfWeights()
    for network in networks:
        mean.add(network.state_dict())
    first.load_state_dict(mean.mean())
    return first


MEAN_STATISTICS_BATCHES = 100


class Keeping:
    """The weights that a run is judged by, and in the end keeps.

    They are those of the step, with `recipe.ema` their moving average; the best of them on a validation split are kept,
    else the last; with `recipe.average_epochs` their mean over the ends of the last epochs.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, total: int, steps_per_epoch: int) -> None:
        self.model, self.recipe = model, recipe
        self.average = MovingAverage(model, recipe.ema, recipe.ema_every, recipe.ema_warmup) if recipe.ema else None
        self.mean = MeanOfWeights() if recipe.swa_epochs else None
        self.best: Best | None = None
        self._mean_after = total - recipe.swa_epochs * steps_per_epoch

    def step_done(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        if self.average is not None:
            self.average.update(self.model, step)

    def epoch_done(self, step: int) -> None:
        """Take in the weights at the end of an epoch."""
        if self.mean is not None and step > self._mean_after:
            self.mean.add(self.model.state_dict())

    def judged(self) -> AbstractContextManager[None]:
        """Inside, the network has the weights that are judged."""
        return contextlib.nullcontext() if self.average is None else wearing(self.model, self.average.weights)

    def consider(self, step: int, found: Evaluation) -> None:
        """Remember the judged weights where none did better on the validation split."""
        if self.best is None or self.best.beaten_by(found.num_correct, found.loss):
            with self.judged():
                self.best = Best(step, found.num_correct, found.loss, weights_of(self.model))

    def choose(self) -> str:
        """Give the network the weights that are kept, and say which they are."""
        what = "weights" if self.average is None else f"moving average of the weights (decay {self.recipe.ema:g})"
        if self.mean is not None and self.mean.count:
            self.model.load_state_dict(self.mean.mean())
            return f"the mean of the weights at the ends of the last {self.mean.count} epochs"
        if self.best is not None:
            self.model.load_state_dict(self.best.weights)
            best = "the best" if self.average is None else f"the {what}, the best"
            return f"{best} of the validation split, of step {self.best.step}"
        if self.average is not None:
            self.model.load_state_dict(self.average.weights)
        return f"the last {what}"

    def num_statistics_batches(self) -> int:
        """How many batches measure the BatchNorms of the kept weights; a mean over epochs has none of its own."""
        return self.recipe.precise_bn_batches or (
            MEAN_STATISTICS_BATCHES if self.mean is not None and self.mean.count else 0
        )

    def state(self) -> dict[str, Any]:
        """What changes, for the state."""
        return {
            "best": None if self.best is None else vars(self.best),
            "average": None if self.average is None else self.average.weights,
            "epoch_mean": None if self.mean is None else {"after": self._mean_after, **self.mean.state()},
        }

    def load(self, state: State, device: torch.device) -> None:
        """Go back to a saved state."""
        self.best = Best(**state.best) if state.best else None
        if self.average is not None and state.average is not None:
            self.average.load(state.average)
        # A run that was made longer has other last epochs.
        if self.mean is not None and state.epoch_mean and state.epoch_mean["after"] == self._mean_after:
            self.mean.load(state.epoch_mean, device)
