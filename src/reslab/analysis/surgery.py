"""Units taken out of a network, or put into another order, for as long as a block lasts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.blocks import units_of
from reslab.nn.block import Unit
from reslab.nn.network import Network, SharedStage
from reslab.spec.errors import refuse, unknown

_SHORTCUTS = ("downsample", "shortcut")
_LAST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_WIDTHS = ("out_channels", "num_features", "num_channels")


@dataclass(frozen=True, eq=False)
class Slot:
    """One place in the chain of units: its name, the module that runs there, and which of its runs this is.

    A unit that is shared runs several times and has a slot a run: `layer1.0`, `layer1.1`, ... are then one module.
    """

    name: str
    unit: nn.Module
    repeat: int = 0
    num_repeats: int = 1


def slots_of(model: nn.Module) -> list[Slot]:
    """The places of the chain in the order they run. ValueError where `model` has no units."""
    if not isinstance(model, Network):
        return [Slot(name, unit) for name, unit in units_of(model)]
    found = []
    for name, stage in model.stages():
        if isinstance(stage, SharedStage):
            runs = stage.num_repeats
            found += [Slot(f"{name}.{i}", stage[0], i, runs) for i in range(runs)]
        else:
            found += [Slot(f"{name}.{i}", unit) for i, unit in enumerate(stage)]
    return found


def find_slots(model: nn.Module, names: Sequence[str]) -> list[Slot]:
    """The slots of these names. ValueError with the nearest names for one that is not there."""
    known = {slot.name: slot for slot in slots_of(model)}
    for name in names:
        if name not in known:
            raise unknown("unit", name, known)
    return [known[name] for name in names]


def why_not_deleted(unit: nn.Module) -> str:
    """Why a unit cannot be taken out; empty where it can: it has a shortcut, or keeps the shape."""
    if isinstance(unit, Unit):
        plan = unit.plan
        if unit.mix is not None or (plan.in_channels == plan.out_channels and plan.stride == 1):
            return ""
        change = f"{plan.in_channels} to {plan.out_channels} channels, stride {plan.stride}"
        return f"it has no shortcut and changes the shape ({change})"
    if _is_layer(unit):
        inner, outer, stride = shapes_of(unit)
        return "" if inner == outer and stride == 1 else f"it changes the shape ({inner} to {outer} channels)"
    if not any(hasattr(unit, name) for name in _SHORTCUTS):
        return f"{type(unit).__name__} has no shortcut that is known (downsample or shortcut)"
    return "" if _branch_end(unit) is not None else f"{type(unit).__name__} has no convolution or norm of its own"


def _is_layer(unit: nn.Module) -> bool:
    """Whether the unit is a bare convolution, as in a plain network of another library."""
    return isinstance(unit, nn.modules.conv._ConvNd)


def _branch_end(unit: nn.Module) -> nn.Module | None:
    """The last convolution or norm of a unit that is not ours: what its branch hands out follows from it alone."""
    own = [module for name, module in unit.named_children() if name not in _SHORTCUTS and isinstance(module, _LAST)]
    return own[-1] if own else None


@contextmanager
def switched_off(model: nn.Module, units: Sequence[str]) -> Iterator[nn.Module]:
    """`model` with the branch of each named unit zero: y = after(mix(match(p), 0)), p = before(x).

    Veit et al. 2016, arXiv:1605.06431, Sec. 4.1. Match, mix (a scale, a gate) and the words after the addition stay.
    A plain unit of equal shapes becomes the identity. Works on `model` itself and leaves it as it was, also after an
    exception; threads take a copy each. ValueError for an unknown unit, and for one that cannot be taken out.
    """
    wanted: dict[nn.Module, list[Slot]] = {}
    for slot in find_slots(model, list(dict.fromkeys(units))):
        reason = why_not_deleted(slot.unit)
        if reason:
            offered = [one.name for one in slots_of(model) if not why_not_deleted(one.unit)]
            raise refuse("a unit that can be taken out", f"{slot.name}: {reason}", ", ".join(offered[:3]) or "none")
        wanted.setdefault(slot.unit, []).append(slot)
    with ExitStack() as stack:
        for unit, slots in wanted.items():
            stack.enter_context(_off_ours(unit, slots) if isinstance(unit, Unit) else _off_foreign(unit))
        yield model


@dataclass
class _Turn:
    """Which run of a shared unit comes next."""

    num_repeats: int
    off: frozenset[int]
    next: int = field(default=0)

    def take(self) -> bool:
        """Whether the run that begins now is one without its branch."""
        run, self.next = self.next, (self.next + 1) % self.num_repeats
        return run in self.off


@contextmanager
def _off_ours(unit: Unit, slots: Sequence[Slot]) -> Iterator[None]:
    turn = _Turn(slots[0].num_repeats, frozenset(slot.repeat for slot in slots))
    whole = unit.forward

    def forward(x: Tensor) -> Tensor:
        return run_without_branch(unit, x) if turn.take() else whole(x)

    with _replaced(unit, forward):
        yield


def run_without_branch(unit: Unit, x: Tensor) -> Tensor:
    """after(mix(match(p), 0)) of one of our units; x itself in a plain one."""
    if unit.mix is None or unit.downsample is None:
        return x
    p = unit.before(x)
    shortcut = unit.downsample(p)
    return unit.after(unit.mix(p, shortcut, torch.zeros_like(shortcut)))


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`module` computes `forward` for as long as the block lasts; its hooks stay."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


@contextmanager
def _off_foreign(unit: nn.Module) -> Iterator[None]:
    if _is_layer(unit):
        handle = unit.register_forward_hook(lambda module, arguments, output: arguments[0])
    else:
        end = _branch_end(unit)
        assert end is not None
        handle = end.register_forward_hook(lambda module, arguments, output: torch.zeros_like(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def swapped(model: nn.Module, first: str, second: str) -> Iterator[nn.Module]:
    """`model` with two units in each other's place (Veit et al. 2016, Sec. 4.3): see `reordered`."""
    with reordered(model, {first: second, second: first}):
        yield model


@contextmanager
def reordered(model: nn.Module, order: Mapping[str, str]) -> Iterator[nn.Module]:
    """`model` with unit `order[name]` in the place of unit `name`; places that are not named keep theirs.

    Works on `model` itself and puts all back, also after an exception. ValueError for an unknown unit, where a unit
    would run twice or not at all, and where a unit does not take the shape that its new place has.
    """
    places, movers = find_slots(model, list(order)), find_slots(model, list(order.values()))
    if sorted(order) != sorted(order.values()):
        raise refuse("an order of the same units, each once", ", ".join(f"{a}: {b}" for a, b in order.items()))
    for place, mover in zip(places, movers, strict=True):
        _check_alike(place, mover)
    ours = [(*_parent(model, place), mover.unit) for place, mover in zip(places, movers, strict=True)]
    before: list[nn.Module | None] = [parent._modules[key] for parent, key, _ in ours]
    try:
        for parent, key, unit in ours:
            parent._modules[key] = unit
        yield model
    finally:
        for (parent, key, _), former in zip(ours, before, strict=True):
            parent._modules[key] = former


def _parent(model: nn.Module, slot: Slot) -> tuple[nn.Module, str]:
    above, _, key = slot.name.rpartition(".")
    return model.get_submodule(above), "0" if slot.num_repeats > 1 else key


def shapes_of(unit: nn.Module) -> tuple[int, int, int]:
    """What two units must share to stand in each other's place: channels in and out, and stride."""
    if isinstance(unit, Unit):
        return unit.plan.in_channels, unit.plan.out_channels, unit.plan.stride
    convs = [module for module in (unit, *unit.children()) if isinstance(module, nn.modules.conv._ConvNd)]
    end = unit if _is_layer(unit) else _branch_end(unit)
    width = next((getattr(end, name) for name in _WIDTHS if hasattr(end, name)), 0)
    return convs[0].in_channels if convs else 0, width, max((max(conv.stride) for conv in convs), default=1)


def _check_alike(place: Slot, mover: Slot) -> None:
    here, there = shapes_of(place.unit), shapes_of(mover.unit)
    if 0 in here and place.unit is not mover.unit:
        raise refuse("units whose channels are known", f"{place.name}, a {type(place.unit).__name__}")
    if here == there and (place.unit is mover.unit or place.num_repeats == mover.num_repeats == 1):
        return
    if here == there:
        raise refuse("units of which neither is shared", f"{place.name} and {mover.name}")
    words = [f"{slot.name} ({a} to {b} channels, stride {s})" for slot, (a, b, s) in ((place, here), (mover, there))]
    raise refuse("two units of equal channels and stride", " and ".join(words), next_step="swap units of one stage")
