"""Fresh weights, drawn by the rules of an architecture's `init`."""

import math
from collections.abc import Callable, Iterable

from torch import Tensor, nn

from reslab.nn.block import Unit
from reslab.spec.arch import Arch
from reslab.spec.init import get_init


def _torch(weight: Tensor, scale: float) -> None:
    """torch.nn has drawn it already."""


def _normal_out(weight: Tensor, scale: float) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _normal_in(weight: Tensor, scale: float) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu")


def _xavier(weight: Tensor, scale: float) -> None:
    nn.init.xavier_uniform_(weight)


def _zeros(weight: Tensor, scale: float) -> None:
    nn.init.zeros_(weight)


def _fixup(weight: Tensor, scale: float) -> None:
    fan_out = weight.shape[0] * math.prod(weight.shape[2:])
    nn.init.normal_(weight, std=scale * math.sqrt(2 / fan_out))


def _normal_small(weight: Tensor, scale: float) -> None:
    nn.init.normal_(weight, std=0.01)


_RULES: dict[str, Callable[[Tensor, float], None]] = {
    "torch": _torch,
    "kaiming-normal-out": _normal_out,
    "kaiming-normal-in": _normal_in,
    "xavier-uniform": _xavier,
    "zeros": _zeros,
    "fixup": _fixup,
    "normal-small": _normal_small,
}


def init_weights(arch: Arch, stem: Iterable[nn.Module], units: Iterable[Unit], head: Iterable[nn.Module]) -> None:
    """Draw the weights of a network just built: stem, units and head by their rules, gates and last norms by the
    architecture's values."""
    init = get_init(arch.init)
    num_convs = len(arch.branch)
    scale = arch.num_units ** (-1 / (2 * num_convs - 2)) if arch.num_units and num_convs > 1 else 1.0
    for module in stem:
        _apply(module, init.stem or init.conv, nn.Conv2d, scale)
    for module in head:
        _apply(module, init.linear, nn.Linear, scale)
    for unit in units:
        _apply(unit, init.conv, nn.Conv2d, scale)
        if init.last_conv:
            _apply(getattr(unit, f"conv{num_convs}"), init.last_conv, nn.Conv2d, scale)
            if unit.downsample is not None:  # Fixup scales the layers inside the branches only
                _apply(unit.downsample, init.stem or init.conv, nn.Conv2d, 1.0)
        _init_joints(unit, arch)


def _apply(module: nn.Module, rule: str, kind: type[nn.Conv2d] | type[nn.Linear], scale: float) -> None:
    for part in module.modules():
        if isinstance(part, kind):
            _RULES[rule](part.weight, scale)
            if part.bias is not None and rule in ("zeros", "fixup", "normal-small"):
                nn.init.zeros_(part.bias)


def _init_joints(unit: Unit, arch: Arch) -> None:
    weight = getattr(unit.last_norm(), "weight", None)
    if arch.last_norm_weight != 1.0 and isinstance(weight, Tensor):
        nn.init.constant_(weight, arch.last_norm_weight)
    gate = getattr(unit.mix, "gate", None)
    if unit.mix is not None and gate is not None:
        nn.init.constant_(gate.bias, unit.mix.gate_bias)
