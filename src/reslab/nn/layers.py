"""Modules for the operations of expressions."""

from torch import nn

import reslab.nn.operations
from reslab.nn.registry import BUILDERS, Site
from reslab.spec.errors import unknown_name
from reslab.spec.grammar import Op
from reslab.spec.layout import ConvSpec
from reslab.spec.operations import Family, get_operation, is_pool, parse_kind

__all__ = ["make_conv", "make_layer"]

assert reslab.nn.operations  # imported for the builders that it registers


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
