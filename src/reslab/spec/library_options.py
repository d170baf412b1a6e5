"""Options of torchvision and timm that are no axes: how each changes an architecture."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from reslab.spec.arch import Arch
from reslab.spec.config import convert
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.layout import dilate
from reslab.spec.operations import is_pool
from reslab.spec.shortcut import parse_merge

GLOBAL_POOLS = {"avg": Op("avgpool"), "max": Op("maxpool")}
"""timm's names of pools of whole maps; an empty name stands for none."""


def with_drop_path(arch: Arch, rate: float) -> Arch:
    """Return the architecture with drop path in every block, up to this rate in the last; 0 removes it."""
    merge = parse_merge(arch.merge)
    ops = [op for op in merge.ops if op.name != "drop-path"]
    return replace(arch, merge=" ".join(map(str, [*([Op("drop-path", (rate,))] if rate else []), *ops])))


def with_classifier(arch: Arch, num_classes: int) -> Arch:
    """Return the architecture with a last linear layer of `num_classes` outputs; 0: without this layer, as in timm.

    Raises ValueError for 0 if the head has hidden layers.
    """
    ops = parse_ops(arch.head)
    if num_classes:
        has_classifier = any(op.name == "fc" and not op.args for op in ops)
        return replace(arch, num_classes=num_classes, head=arch.head if has_classifier else f"{arch.head} fc".strip())
    linear = [i for i, op in enumerate(ops) if op.name == "fc"]
    if len(linear) > 1:
        next_step = "forward_head(x, pre_logits=True) stops ahead of the last one"
        raise invalid("a head with one linear layer for num_classes=0", repr(arch.head), next_step=next_step)
    return replace(arch, head=_head_text(op for i, op in enumerate(ops) if i not in linear))


def with_global_pool(arch: Arch, pool: str) -> Arch:
    """Return the architecture with this pool in its head: `avg`, `max`, or an empty name for maps as the output.

    Raises ValueError for another name, and for none ahead of a linear layer.
    """
    ops = [op for op in parse_ops(arch.head) if op.name != "flatten"]
    rest = [op for op in ops if not is_pool(op)]
    if not pool:
        if any(op.name == "fc" for op in rest):
            raise invalid("num_classes=0 with global_pool=''", f"the head {arch.head!r}", "num_classes=0")
        return replace(arch, head=_head_text(rest))
    if pool not in GLOBAL_POOLS:
        raise unknown_name("global_pool", pool, GLOBAL_POOLS)
    if not any(map(is_pool, ops)):
        end = next((i for i, op in enumerate(rest) if op.name == "fc"), len(rest))
        return replace(arch, head=_head_text([*rest[:end], GLOBAL_POOLS[pool], Op("flatten"), *rest[end:]]))
    new = (GLOBAL_POOLS[pool] if is_pool(op) else op for op in parse_ops(arch.head))
    return replace(arch, head=_head_text(new))


def _head_text(ops: Any) -> str:
    return " ".join(map(str, ops))


_OPTIONS: dict[str, Callable[[Arch, Any], Arch]] = {
    "output_stride": lambda arch, value: dilate(arch, convert(int, value, "output_stride")),
    "drop_path_rate": lambda arch, value: with_drop_path(arch, convert(float, value, "drop_path_rate")),
    "global_pool": lambda arch, value: with_global_pool(arch, convert(str, value, "global_pool")),
}
LIBRARY_OPTIONS = tuple(_OPTIONS)


def apply_options(arch: Arch, options: Mapping[str, Any]) -> Arch:
    """Return the architecture with options applied in a fixed order; None leaves it as it is."""
    for name, change in _OPTIONS.items():
        if options.get(name) is not None:
            arch = change(arch, options[name])
    return arch
