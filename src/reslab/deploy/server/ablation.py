"""Units switched off and swapped in a specimen: what it says then, and how strongly each unit answers.

A copy of a network to look into and cut at: whatever is done to it, predictions never notice.

Which units a request wants off, and which in each other's place.
"""

import copy
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reslab.analysis.blocks import record_block_calls
from reslab.analysis.surgery import (
    BlockSlot,
    block_slots,
    deletion_obstacle,
    disabled_blocks,
    find_slots,
    reordered_blocks,
)
from reslab.data.loader import Normalise
from reslab.deploy.server.errors import Refused, refused
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_device


def numbers(probabilities: Tensor) -> Tensor:
    """The same, or a refusal: a network that has diverged gives none, and zeros in their place would be made up."""
    if not probabilities.isfinite().all():
        step = "put the units back, or serve weights that have not diverged"
        raise refused(500, "a network whose answer is numbers", "nan", step)
    return probabilities


class Specimen:
    """The network in float32 on torch, in eval mode, its weights fixed; one at a time may have it (`taken`).

    `slots` are the places of its chain of units by name, in the order they run.
    """

    def __init__(self, network: ResidualNetwork, device: str = "auto") -> None:
        assert network.preprocess is not None
        self.device = choose_device(device)
        self._network = copy.deepcopy(network).to(self.device).float().eval().requires_grad_(False)
        self._normalise = Normalise(network.preprocess, self.device)
        self._lock = threading.Lock()
        self.temperature = network.temperature or 1.0
        self.slots: dict[str, BlockSlot] = {slot.name: slot for slot in block_slots(self._network)}

    @contextmanager
    def taken(self) -> Iterator[ResidualNetwork]:
        """The network, for one caller alone."""
        with self._lock:
            yield self._network

    def read(self, pictures: Tensor) -> Tensor:
        """uint8 (N, C, H, W) as the network reads them."""
        return self._normalise(pictures.to(self.device))

    def probabilities(self, network: ResidualNetwork, x: Tensor) -> Tensor:
        """(N, classes): softmax(logits / temperature); Refused where they are no numbers."""
        with torch.no_grad():
            return numbers((network(x).float() / self.temperature).softmax(1)).cpu()


KEYS = ("off", "swap")
_MOST = 1000


@dataclass(frozen=True)
class Plan:
    """Pairs of units in each other's place, one pair after the other; then the units in the places `off` without their
    branch. Empty: the whole network."""

    off: tuple[str, ...] = ()
    swap: tuple[tuple[str, str], ...] = ()


def read_plan(fields: Mapping[str, Any]) -> Plan:
    """The plan of a request's fields. Raises Refused (422) for anything but a few names of units and pairs of them."""
    return Plan(_names(fields.get("off", [])), _pairs(fields.get("swap", [])))


def _names(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise refused(422, 'off as a list of units such as ["layer2.1"]', repr(given)[:80])
    return tuple(_few("off", given))


def _pairs(given: Any) -> tuple[tuple[str, str], ...]:
    pairs: list[Any] = given if isinstance(given, list) else [given]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise refused(422, 'swap as a list of pairs such as [["layer1.1", "layer1.2"]]', repr(given)[:80])
    return tuple((first, second) for first, second in map(_names, _few("swap", pairs)))


def _few(name: str, given: list[Any]) -> list[Any]:
    if len(given) > _MOST:
        raise refused(422, f"{name} of at most {_MOST} units", f"{len(given)}", "name each unit once")
    return given


@dataclass(frozen=True)
class Measured:
    """Of a picture: `probabilities` (classes,), and the standard deviation of each unit's output by its place."""

    probabilities: Tensor
    responses: Mapping[str, float | None]


@dataclass(frozen=True)
class Carried:
    """What came of a plan: the places that are `off`, and what stayed as it was, (unit, why)."""

    off: set[str] = field(default_factory=set)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def told(self) -> list[dict[str, str]]:
        """What stayed as it was, as the routes answer it."""
        return [{"unit": unit, "reason": reason} for unit, reason in self.refused]


@dataclass(frozen=True)
class Cut:
    """A picture seen by the whole network and by the one that was cut; `carried`: what came of the plan."""

    whole: Measured
    now: Measured
    carried: Carried


def cut(specimen: Specimen, picture: Tensor, plan: Plan) -> Cut:
    """The picture, uint8 (C, H, W), seen by the whole network and by the one that the plan leaves.

    Raises Refused (422) for a unit that is not there.
    """
    x = specimen.read(picture[None])
    with specimen.taken() as network:
        whole = _measure(specimen, network, x)
        with carried_out(network, plan) as found:
            now = _measure(specimen, network, x)
    return Cut(whole, now, found)


@contextmanager
def carried_out(network: ResidualNetwork, plan: Plan) -> Iterator[Carried]:
    """`network` cut by the plan for as long as the block lasts (Veit et al. 2016, arXiv:1605.06431, Secs. 4.1 and 4.3).

    What cannot be cut stays, with the reason. Raises Refused (422) for a unit that is not there.
    """
    try:
        find_slots(network, [*plan.off, *(name for pair in plan.swap for name in pair)])
    except ValueError as error:
        raise Refused(422, str(error)) from None
    found = Carried()
    with ExitStack() as stack:
        for first, second in plan.swap:
            try:
                stack.enter_context(reordered_blocks(network, {first: second, second: first}))
            except ValueError as error:
                found.refused.append((f"{first}, {second}", str(error)))
        standing = {slot.name: slot.block for slot in block_slots(network)}
        reasons = {name: deletion_obstacle(standing[name]) for name in dict.fromkeys(plan.off)}
        found.refused.extend((name, reason) for name, reason in reasons.items() if reason)
        found.off.update(name for name, reason in reasons.items() if not reason)
        stack.enter_context(disabled_blocks(network, sorted(found.off)))
        yield found


def _measure(specimen: Specimen, network: ResidualNetwork, x: Tensor) -> Measured:
    with record_block_calls(network) as runs:
        probabilities = specimen.probabilities(network, x)[0]
    stds = [finite(float(run.output.double().std(correction=0))) for run in runs]
    return Measured(probabilities, dict(zip(specimen.slots, stds, strict=True)))


def finite(number: float) -> float | None:
    """The number, or None where it is none: JSON knows no infinity."""
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Without:
    """What one unit's absence does: `drop` of the confidence in the whole network's first class, and the share of
    pictures whose first class stays the same; None, with the reason, where the unit cannot be missing."""

    unit: str
    drop: float | None
    kept: float | None
    reason: str = ""


def curve(specimen: Specimen, x: Tensor) -> list[Without]:
    """Each unit alone switched off, on pictures x (N, C, H, W) as the network reads them; means over the pictures."""
    found = []
    with specimen.taken() as network:
        whole, called = specimen.probabilities(network, x).max(1)
        for name, slot in specimen.slots.items():
            reason = deletion_obstacle(slot.block)
            if reason:
                found.append(Without(name, None, None, reason))
                continue
            with disabled_blocks(network, [name]):
                now = specimen.probabilities(network, x)
            drop = whole - now.gather(1, called[:, None])[:, 0]
            found.append(Without(name, float(drop.mean()), float((now.argmax(1) == called).float().mean())))
    return found
