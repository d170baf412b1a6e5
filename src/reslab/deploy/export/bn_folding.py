"""Folding of batch norms and computed kernels into plain convolutions: the same outputs with fewer operations."""

import copy
import itertools
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from reslab.nn.network import ResidualNetwork
from reslab.nn.operations.convs import WEIGHTED_CONVS
from reslab.nn.registry import layer_class

NetworkT = TypeVar("NetworkT", bound=nn.Module)
_COMPUTED_KERNELS = frozenset(conv_class for (kind, _), conv_class in WEIGHTED_CONVS.items() if kind)


def fold_batch_norms(network: NetworkT) -> NetworkT:
    """Return a copy in eval mode with every batch norm that directly follows a convolution folded into it.

    Convolutions that compute their kernel from their weight (standardized, Dirac) become plain ones with that kernel.

    w' = w g / sqrt(v + eps), b' = beta + (b - m) g / sqrt(v + eps) for a convolution (w, b) and a norm with weight g,
    bias beta, mean m, variance v, which becomes an Identity. Exact up to rounding; computed in float64. Norms before
    their convolution (pre-activation), after the addition, and of other types are kept, and all of a module that is not
    a `ResidualNetwork`, whose order of computation is not known.
    """
    folded = copy.deepcopy(network).eval()
    with torch.no_grad():
        _store_kernels(folded)
        if not isinstance(folded, ResidualNetwork):
            return folded
        for conv, parent, name in list(_conv_norm_pairs(folded)):
            norm = getattr(parent, name)
            _fold_norm_into_conv(conv, norm)
            setattr(parent, name, nn.Identity())
    return folded


def count_batch_norms(network: nn.Module) -> int:
    """Return the number of batch norms in the network."""
    return sum(_is_batch_norm(module) for module in network.modules())


def _is_batch_norm(module: nn.Module) -> bool:
    # A frozen one can be there only if torchvision, which takes a second to import, has been imported.
    frozen_type = getattr(sys.modules.get("torchvision.ops"), "FrozenBatchNorm2d", nn.BatchNorm2d)
    return isinstance(module, nn.BatchNorm2d | frozen_type)


def _store_kernels(network: nn.Module) -> None:
    """Replace each convolution that computes its kernel by a plain one; one that is shared stays shared."""
    plain: dict[nn.Module, nn.Module] = {}
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) in _COMPUTED_KERNELS:
                plain[child] = plain.get(child) or _plain_conv(child)
                setattr(parent, name, plain[child])


def _plain_conv(conv: Any) -> nn.Module:
    dims = len(conv.kernel_size)
    conv_class = WEIGHTED_CONVS["", dims] if conv.same_padding else layer_class("Conv", dims)
    plain: nn.Module = conv_class(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=False,
        padding_mode=conv.padding_mode,
        device="meta",
    )
    plain.weight, plain.bias = nn.Parameter(conv.kernel(), requires_grad=False), conv.bias
    if conv.same_padding:
        plain.same_padding = True  # type: ignore[assignment]
    return plain.eval()


def _conv_norm_pairs(network: ResidualNetwork) -> Iterator[tuple[nn.Conv2d, nn.Module, str]]:
    """Yield each convolution with the parent module and name of the norm that directly follows it."""
    for parent, names in _module_sequences(network):
        for conv_name, norm_name in itertools.pairwise(names):
            conv, norm = _last_module(getattr(parent, conv_name)), getattr(parent, norm_name)
            # A subclass may compute in another way.
            if type(conv) is nn.Conv2d and _is_batch_norm(norm):
                yield conv, parent, norm_name


def _module_sequences(network: ResidualNetwork) -> Iterator[tuple[nn.Module, list[str]]]:
    """Yield the names of modules that run in sequence, their intermediate outputs not used elsewhere."""
    yield network, list(network.stem_names)
    for _, block in network.blocks():
        for branch in block.branches:
            yield branch, list(branch.branch_names)
    for name, module in network.named_modules():
        if type(module) is nn.Sequential and name not in network.stage_names:
            yield module, [child for child, _ in module.named_children()]


def _last_module(module: nn.Module) -> nn.Module:
    """Return the module that computes last; in a deep stem, a Sequential, its last convolution."""
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
