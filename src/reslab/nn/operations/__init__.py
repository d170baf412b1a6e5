"""Modules for the operations of expressions; importing the package registers their builders.

The operations are those of `reslab.spec.operations`.
"""

from torch import nn

from reslab.nn.operations import attention, convs, layers, multipath, norms
from reslab.nn.registry import BUILDERS, Site
from reslab.spec.errors import unknown_name
from reslab.spec.grammar import Op
from reslab.spec.layout import ConvSpec
from reslab.spec.operations import Family, get_operation, is_pool, parse_kind

__all__ = ["attention", "convs", "layers", "make_conv", "make_layer", "multipath", "norms"]


def make_conv(site: Site, spec: ConvSpec, bias: bool, kind: str = "") -> nn.Module:
    """Return a convolution of this kind, by default the network's (`Arch.conv`)."""
    name, values = parse_kind(Family.CONV, kind or site.arch.conv)
    module = BUILDERS[Family.CONV][name](site, spec, bias, **values)
    assert module is not None
    return module


def make_layer(op: Op, site: Site) -> nn.Module | None:
    """Return the module of an operation; None for a norm without norms, and for a pool without a stride to make.

    A pool in a block that gives no stride of its own takes the block's (`BlockSpec.has_pool`).
    """
    if op.name not in BUILDERS[Family.LAYER]:
        raise unknown_name("operation", op.name, BUILDERS[Family.LAYER])
    values = get_operation(Family.LAYER, op.name).bind(op)
    if is_pool(op):
        if site.block is not None and not site.block.has_pool(op):
            return None
        stride = op.stride or (site.block.stride if site.block is not None else op.size or 1)
        return BUILDERS[Family.LAYER][op.name](site, size=op.size, stride=stride, **values)
    return BUILDERS[Family.LAYER][op.name](site, **values)
