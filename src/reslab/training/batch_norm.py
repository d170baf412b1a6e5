"""BatchNorm: running statistics measured for the final weights (precise BN), and synchronization over ranks."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from reslab.nn.recompute import batch_norms, frozen_bn_stats
from reslab.runtime.device import deterministic_mode
from reslab.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from reslab.spec.errors import invalid


@dataclass
class _RunningMoments:
    """Count, mean and sum of squared deviations per channel, accumulated batch by batch (Chan et al. 1983, Eq. 2.1)."""

    count: int = 0
    mean: Tensor | float = 0.0
    squared_deviations: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Add the values of x, (N, C) or (N, C, ...)."""
        dtype = torch.float32 if x.device.type == "mps" else torch.float64
        dims = [dim for dim in range(x.ndim) if dim != 1]
        num_values = x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), dims, correction=0)
        self.merge(num_values, mean.to(dtype), variance.to(dtype) * num_values)

    def merge(self, num_values: int, mean: Tensor | float, squared_deviations: Tensor | float) -> None:
        """Add the moments of `num_values` other values."""
        if not num_values:
            return
        total, delta = self.count + num_values, mean - self.mean
        self.squared_deviations = (
            self.squared_deviations + squared_deviations + delta**2 * (self.count * num_values / total)
        )
        self.mean = self.mean + delta * (num_values / total)
        self.count = total

    def copy_to(self, norm: _BatchNorm) -> None:
        """Write the mean and the unbiased variance (divided by n - 1, as torch does) into the norm's buffers."""
        for buffer, value in (
            (norm.running_mean, self.mean),
            (norm.running_var, self.squared_deviations / max(1, self.count - 1)),
        ):
            assert buffer is not None
            assert isinstance(value, Tensor)
            buffer.copy_(value)


@torch.no_grad()
def update_bn_stats(
    model: nn.Module,
    inputs: Iterable[Any],
    frozen: Iterable[nn.Module] = (),
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> int:
    """Set every BatchNorm's running mean and variance to those of its inputs over all of `inputs` (N, C, H, W).

    Precise BN: mu = mean of x, sigma^2 = sum of (x - mu)^2 / (n - 1), while each batch is normalized by its own
    statistics (Wu and Johnson 2021, arXiv:2105.07576, Sec. 3.1); everything else is in eval mode, in float32. `frozen`
    norms stay unchanged and in eval mode. Each rank passes inputs of its own; the statistics are over all ranks.
    Returns the number of samples; raises ValueError if there are none.
    """
    norms = batch_norms(model, frozen)
    moments = {norm: _RunningMoments() for norm in norms}
    device, num_samples = next(model.parameters()).device, 0
    with _record_moments(model, moments), deterministic_mode(), torch.autocast(device.type, enabled=False):
        for x in inputs:
            model(tree_map(lambda part: part.to(device), x))
            num_samples += len(x)
    num_samples = sum(process_group.all_gather(num_samples))
    if not num_samples:
        raise invalid("at least one batch to measure statistics on", "none")
    for norm, local_moments in moments.items():
        merged = _merge_across_ranks(local_moments, process_group)
        if merged.count:
            merged.copy_to(norm)
    return num_samples


def _merge_across_ranks(local_moments: _RunningMoments, process_group: ProcessGroup) -> _RunningMoments:
    """Merge the moments of all ranks in rank order, so that every rank gets the same sums."""
    if process_group.world_size == 1:
        return local_moments
    merged = _RunningMoments()
    for count, mean, squared_deviations in process_group.all_gather(
        (local_moments.count, _on_cpu(local_moments.mean), _on_cpu(local_moments.squared_deviations))
    ):
        merged.merge(count, mean, squared_deviations)
    return merged


def _on_cpu(value: Tensor | float) -> Tensor | float:
    return value.cpu() if isinstance(value, Tensor) else value


@contextlib.contextmanager
def _record_moments(model: nn.Module, moments: dict[_BatchNorm, _RunningMoments]) -> Iterator[None]:
    """Put the norms into training mode and everything else into eval mode, and record the inputs of the norms."""

    def record(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        moments[norm].add(inputs[0])

    training_modes = {module: module.training for module in model.modules()}
    model.eval()
    hooks = [norm.register_forward_pre_hook(record) for norm in moments]
    try:
        with frozen_bn_stats(moments):
            for norm in moments:
                norm.training = True
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in training_modes.items():
            module.training = training


TensorFn = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def sync_batch_norm(model: nn.Module, process_group: ProcessGroup, enabled: bool = True) -> Iterator[None]:
    """Let every BatchNorm in training mode normalize by the statistics of the global batch inside the context.

    Outputs, gradients and running statistics are those of one process with the whole batch, (N, C) or (N, C, ...). On
    a GPU this is torch's `SyncBatchNorm`, which does not support CPU tensors; on a CPU it is our own implementation.
    The modules are not replaced, so names and weights stay. With one rank nothing changes.
    """
    is_active = enabled and process_group.world_size > 1
    norms = [module for module in model.modules() if is_active and _is_plain_batch_norm(module)]
    for norm in norms:
        assert isinstance(norm, _BatchNorm)
        vars(norm)["forward"] = _synced_forward(norm, process_group)
    try:
        yield
    finally:
        for norm in norms:
            del vars(norm)["forward"]


def _is_plain_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)


def _synced_forward(norm: _BatchNorm, process_group: ProcessGroup) -> TensorFn:
    original_forward, torch_norm = norm.forward, _torch_sync_bn(norm)

    def forward(x: Tensor) -> Tensor:
        if not norm.training:
            return original_forward(x)
        return (
            torch_norm(x) if x.device.type == "cuda" else sync_batch_norm_forward(norm, x, process_group.all_reduce_sum)
        )

    # torch.compile cannot trace the collectives.
    wrapped: TensorFn = torch.compiler.disable(forward)
    return wrapped


def _torch_sync_bn(norm: _BatchNorm) -> nn.SyncBatchNorm:
    """Return torch's SyncBatchNorm that shares the dictionaries of parameters and buffers of `norm`.

    Sharing the dictionaries rather than the tensors keeps it valid when tensors are swapped, as `frozen_bn_stats` does.
    """
    sync_norm = nn.SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    sync_norm._parameters, sync_norm._buffers = norm._parameters, norm._buffers
    return sync_norm


def sync_batch_norm_forward(norm: _BatchNorm, x: Tensor, all_reduce_sum: TensorFn) -> Tensor:
    """Return y = (x - m) / sqrt(v + eps) w + b with the mean m and the variance v over all ranks.

    m = S(sum of x) / n, v = S(sum of (x - m)^2) / n (Ioffe and Szegedy 2015, Alg. 1), where S is `all_reduce_sum` and n
    the number of values per channel over all ranks; computed in at least float32. Updates the running statistics.
    """
    norm._check_input_dim(x)
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    dims = [dim for dim in range(x.ndim) if dim != 1]
    shape = (1, -1, *(1 for _ in dims[1:]))
    sums = torch.cat([values.sum(dims), values.new_full((1,), x.numel() / x.shape[1])])
    sums = all_reduce_sum(sums)
    mean, count = sums[:-1] / sums[-1], sums[-1].detach()
    centered = values - mean.view(shape)
    variance = all_reduce_sum(centered.square().sum(dims)) / count
    y = centered * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    if norm.track_running_stats:
        _update_running_stats(norm, mean.detach(), variance.detach() * (count / (count - 1)))
    return y.to(x.dtype)


@torch.no_grad()
def _update_running_stats(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    for buffer, value in ((norm.running_mean, mean), (norm.running_var, variance)):
        assert buffer is not None
        buffer.mul_(1 - momentum).add_(value.to(buffer.dtype), alpha=momentum)
