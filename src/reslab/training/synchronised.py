"""BatchNorm over the batches of all ranks together, as if they were one."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reslab.runtime.distributed import Ranks

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
