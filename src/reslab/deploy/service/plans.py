"""Which units a request wants off, and which in each other's place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reslab.deploy.server.errors import refused

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
