"""Batch norms folded into the convolutions ahead of them: the same outputs with fewer layers."""

import copy
import itertools
from collections.abc import Iterator

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from reslab.nn.network import ResidualNetwork

_BATCH_NORM_TYPES = (nn.BatchNorm2d, FrozenBatchNorm2d)


def fold_batch_norms(network: ResidualNetwork) -> ResidualNetwork:
    """A copy in eval mode with w' = w g / sqrt(v + eps), b' = beta + (b - m) g / sqrt(v + eps) for every convolution
    (w, b) that a batch norm (weight g, bias beta, mean m, variance v) follows at once; the norm becomes an Identity.

    Exact but for rounding; computed in float64. A norm ahead of its convolution (the first one of a pre-activated block,
    the one after the addition) is left, as are other kinds of norm. `num_norms` counts them.
    """
    folded = copy.deepcopy(network).eval()
    with torch.no_grad():
        for conv, parent, name in list(_conv_norm_pairs(folded)):
            norm = getattr(parent, name)
            _fold_norm_into_conv(conv, norm)
            setattr(parent, name, nn.Identity())
    return folded


def count_batch_norms(network: nn.Module) -> int:
    """Batch norms that the network still has."""
    return sum(isinstance(module, _BATCH_NORM_TYPES) for module in network.modules())


def _conv_norm_pairs(network: ResidualNetwork) -> Iterator[tuple[nn.Conv2d, nn.Module, str]]:
    """Each convolution with the place (module, name) of the norm that follows it at once."""
    for parent, names in _module_sequences(network):
        for conv_name, norm_name in itertools.pairwise(names):
            conv, norm = _last_module(getattr(parent, conv_name)), getattr(parent, norm_name)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, _BATCH_NORM_TYPES):
                yield conv, parent, norm_name


def _module_sequences(network: ResidualNetwork) -> Iterator[tuple[nn.Module, list[str]]]:
    """The modules that run one after another and nothing else reads from between: stem, branches, Sequentials."""
    yield network, list(network.stem_names)
    for _, block in network.blocks():
        yield block, list(block.branch_names)
    for name, module in network.named_modules():
        if type(module) is nn.Sequential and name not in network.stage_names:
            yield module, [child for child, _ in module.named_children()]


def _last_module(module: nn.Module) -> nn.Module:
    """The module that computes last: of a deep stem, which is a Sequential, its last convolution."""
    while type(module) is nn.Sequential and len(module):
        module = module[-1]
    return module


def _fold_norm_into_conv(conv: nn.Conv2d, norm: nn.Module) -> None:
    mean, variance, eps = norm.running_mean, norm.running_var, norm.eps
    assert isinstance(mean, torch.Tensor)
    assert isinstance(variance, torch.Tensor)
    assert isinstance(eps, float)
    scale = (variance.double() + eps).rsqrt()
    shift = -mean.double() * scale
    if isinstance(norm.weight, torch.Tensor) and isinstance(norm.bias, torch.Tensor):
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    weight = conv.weight.double() * scale[:, None, None, None]
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
