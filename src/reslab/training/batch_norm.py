"""BatchNorm's statistics as the data has them, in place of what moved along while the weights still changed.

BatchNorm over the batches of all ranks together, as if they were one.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reslab.runtime.device import exact_arithmetic
from reslab.runtime.distributed import ALONE, Ranks
from reslab.spec.errors import invalid


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
        raise invalid("at least one batch to measure statistics on", "none")
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


Forward = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def synchronised_norms(model: nn.Module, ranks: Ranks, on: bool = True) -> Iterator[None]:
    """Inside, every BatchNorm in training mode normalises by mean and variance of the global batch, N C or N C ... in.

    Outputs, gradients and running statistics are those of one process with the whole batch. On a GPU this is torch's
    own `SyncBatchNorm`, which takes no tensors of a CPU; there it is ours. The modules stay what they are, so names and
    weights do too. With one rank nothing changes.
    """
    chosen = on and ranks.num > 1
    norms = [module for module in model.modules() if chosen and _plain(module)]
    for norm in norms:
        assert isinstance(norm, _BatchNorm)
        vars(norm)["forward"] = _forward(norm, ranks)
    try:
        yield
    finally:
        for norm in norms:
            del vars(norm)["forward"]


def _plain(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)


def _forward(norm: _BatchNorm, ranks: Ranks) -> Forward:
    plain, torchs = norm.forward, _torchs(norm)

    def forward(x: Tensor) -> Tensor:
        if not norm.training:
            return plain(x)
        return torchs(x) if x.device.type == "cuda" else synchronised_batch_norm(norm, x, ranks.total)

    # The compiler would have to follow messages between processes.
    found: Forward = torch.compiler.disable(forward)
    return found


def _torchs(norm: _BatchNorm) -> nn.SyncBatchNorm:
    """torch's synchronised norm over the weights and statistics of `norm`, also when those are exchanged."""
    found = nn.SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    found._parameters, found._buffers = norm._parameters, norm._buffers
    return found


def synchronised_batch_norm(norm: _BatchNorm, x: Tensor, total: Forward) -> Tensor:
    """y = (x - m) / sqrt(v + eps) w + b, m = total(sum of x) / n, v = total(sum of (x - m)^2) / n (Ioffe and Szegedy
    2015, Alg. 1), n = total(values a channel); in at least float32. The running statistics of `norm` move along."""
    norm._check_input_dim(x)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    around = [dimension for dimension in range(x.ndim) if dimension != 1]
    shape = (1, -1, *(1 for _ in around[1:]))
    sums = torch.cat([wide.sum(around), wide.new_full((1,), x.numel() / x.shape[1])])
    sums = total(sums)
    mean, count = sums[:-1] / sums[-1], sums[-1].detach()
    centred = wide - mean.view(shape)
    variance = total(centred.square().sum(around)) / count
    y = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    if norm.track_running_stats:
        _move(norm, mean.detach(), variance.detach() * (count / (count - 1)))
    return y.to(x.dtype)


@torch.no_grad()
def _move(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    for kept, found in ((norm.running_mean, mean), (norm.running_var, variance)):
        assert kept is not None
        kept.mul_(1 - share).add_(found.to(kept.dtype), alpha=share)
