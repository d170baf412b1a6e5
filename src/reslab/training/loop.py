"""The one loop: from a step number to another, on any device, in any precision.

    for each step t:   x, y = sample(seed, t)      noise ~ (seed, t, rank)
                       w <- optimizer(w, grad loss(network(x), y), lr(t))

Nothing random has to be remembered: a loop that starts at step t is the loop that came to step t.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from reslab.data.rng import key
from reslab.training.gradient import Loss, Stepping
from reslab.training.meters import Tally
from reslab.training.optim.factory import set_rate


class Batches(Protocol):
    """Training batches as a function of the step: x float32 (N, C, H, W), y and indices int64 (N,).

    Mixed, y are shares of classes, float32 (N, classes).
    """

    num_steps_per_epoch: int

    def iterate(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]: ...


def noise_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of the noise inside the network (dropout, survival) at one step: 63 bits of hash(seed, step, rank)."""
    return key(seed, step, rank) & (1 << 63) - 1


def fit(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    between: Callable[[int], bool],
    tally: Callable[[], Tally],
    *,
    start: int,
    stop: int,
    seed: int,
    rank: int = 0,
    stepping: Stepping | None = None,
) -> None:
    """Take the steps `start` .. `stop` - 1 on `model`, in place.

    `rate(step)` is the learning rate of a step; `between(n)` is called when n steps are done and ends the loop by True;
    each step's loss and hits are added to `tally()`; `stepping` is how a batch becomes a step. Where ranks share each
    batch, `batches` are the parts of `rank`.
    """
    stepping = stepping or Stepping()
    stream = batches.iterate(start)
    model.train()
    for step in range(start, stop):
        x, y, _ = next(stream)
        torch.manual_seed(noise_seed(seed, step, rank))
        set_rate(optimizer, rate(step))
        value, outputs = stepping.take(model, loss, optimizer, x, y)
        tally().add(value, outputs, y)
        if between(step + 1):
            return
