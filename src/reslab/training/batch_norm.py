"""BatchNorm's statistics as the data has them, in place of what moved along while the weights still changed."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reslab.runtime.device import exact_arithmetic
from reslab.runtime.distributed import ALONE, Ranks
from reslab.spec.errors import refuse


@dataclass
class _Moments:
    """Count, mean and sum of squared deviations per channel of all that came by (Chan et al. 1983, Eq. 2.1)."""

    count: int = 0
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Take in x (N, C) or (N, C, ...)."""
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        around = [dimension for dimension in range(x.ndim) if dimension != 1]
        number = x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), around, correction=0)
        self.merge(number, mean.to(wide), variance.to(wide) * number)

    def merge(self, number: int, mean: Tensor | float, squares: Tensor | float) -> None:
        """Take in what others counted."""
        if not number:
            return
        total, gap = self.count + number, mean - self.mean
        self.squares = self.squares + squares + gap**2 * (self.count * number / total)
        self.mean = self.mean + gap * (number / total)
        self.count = total

    def write(self, norm: _BatchNorm) -> None:
        """The mean, and the variance with n - 1 below it as torch keeps it, into the buffers."""
        for kept, found in ((norm.running_mean, self.mean), (norm.running_var, self.squares / max(1, self.count - 1))):
            assert kept is not None
            assert isinstance(found, Tensor)
            kept.copy_(found)


@torch.no_grad()
def precise_statistics(
    model: nn.Module, inputs: Iterable[Tensor], frozen: Iterable[nn.Module] = (), ranks: Ranks = ALONE
) -> int:
    """Set every BatchNorm's running mean and variance to those of all that comes to it from `inputs` (N, C, H, W).

    mu = mean of x, sigma^2 = sum of (x - mu)^2 / (n - 1), each batch normalised by its own statistics on its way (Wu
    and Johnson 2021, arXiv:2105.07576, Sec. 3.1), dropout and the like as at test, in float32. `frozen` norms stay and
    act as at test. Of several ranks each has inputs of its own, and what all of them saw counts. Returns the number of
    samples; raises ValueError where there are none.
    """
    norms = batch_norms(model, frozen)
    moments = {norm: _Moments() for norm in norms}
    device, num_samples = next(model.parameters()).device, 0
    with _measuring(model, moments), exact_arithmetic(), torch.autocast(device.type, enabled=False):
        for x in inputs:
            model(x.to(device))
            num_samples += len(x)
    num_samples = sum(ranks.gather(num_samples))
    if not num_samples:
        raise refuse("at least one batch to measure statistics on", "none")
    for norm, own in moments.items():
        found = _together(own, ranks)
        if found.count:
            found.write(norm)
    return num_samples


def _together(own: _Moments, ranks: Ranks) -> _Moments:
    """The moments of all ranks, taken in in their order."""
    if ranks.num == 1:
        return own
    found = _Moments()
    for count, mean, squares in ranks.gather((own.count, _on_cpu(own.mean), _on_cpu(own.squares))):
        found.merge(count, mean, squares)
    return found


def _on_cpu(value: Tensor | float) -> Tensor | float:
    return value.cpu() if isinstance(value, Tensor) else value


def batch_norms(model: nn.Module, frozen: Iterable[nn.Module] = ()) -> list[_BatchNorm]:
    """The norms of a network that keep statistics, without the `frozen`."""
    spared = set(frozen)
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module not in spared
    ]


@contextlib.contextmanager
def _measuring(model: nn.Module, moments: dict[_BatchNorm, _Moments]) -> Iterator[None]:
    """Inside, the norms normalise by each batch and hand what comes to their moments; all else is as at test."""

    def see(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        moments[norm].add(inputs[0])

    before = {module: module.training for module in model.modules()}
    model.eval()
    hooks = [norm.register_forward_pre_hook(see) for norm in moments]
    try:
        with keeping_statistics(moments):
            for norm in moments:
                norm.training = True
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in before.items():
            module.training = training


@contextlib.contextmanager
def keeping_statistics(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Inside, the norms normalise as ever, and what moves are copies of their running statistics."""
    before = {norm: dict(norm._buffers) for norm in norms}
    for norm, buffers in before.items():
        norm._buffers.update({name: None if kept is None else kept.clone() for name, kept in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in before.items():
            norm._buffers.update(buffers)
