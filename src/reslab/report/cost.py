"""What a network costs, added up: by stage for the eye, by unit where the layers are too many to list."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_STAGE = re.compile(r"(layer|stage|stages|block|blocks)[._]?\d+")
_UNIT = re.compile(r"(layer|stage|stages|block|blocks)[._]?\d+\.\d+")
MOST_LAYERS = 600


@dataclass(frozen=True)
class Cost:
    """Some layers together: parameters, multiply-adds of one input, the shape that leaves the last of them."""

    name: str
    output_shape: Any
    num_layers: int
    params: int
    macs: int


def by_stage(layers: Sequence[Mapping[str, Any]]) -> list[Cost]:
    """The layers added up by stage; those before the first stage are the stem, those after the last the head."""
    names = [_found(_STAGE, layer["name"]) for layer in layers]
    staged = [index for index, name in enumerate(names) if name]
    if staged:
        names[: staged[0]] = ["stem"] * staged[0]
        names[staged[-1] + 1 :] = ["head"] * (len(names) - staged[-1] - 1)
    plain = [name or layer["name"].split(".")[0] for name, layer in zip(names, layers, strict=True)]
    return _added(layers, plain)


def by_layer(layers: Sequence[Mapping[str, Any]]) -> list[Cost]:
    """One row a layer; above MOST_LAYERS of them, one a unit."""
    names = [str(layer["name"]) for layer in layers]
    if len(layers) > MOST_LAYERS:
        names = [_found(_UNIT, name) or name for name in names]
    return _added(layers, names)


def _found(pattern: re.Pattern[str], name: str) -> str:
    found = pattern.match(name)
    return found[0] if found else ""


def _added(layers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Cost]:
    groups: list[tuple[str, list[Mapping[str, Any]]]] = []
    for name, layer in zip(names, layers, strict=True):
        if not groups or groups[-1][0] != name:
            groups.append((name, []))
        groups[-1][1].append(layer)
    return [_sum(name, group) for name, group in groups]


def _sum(name: str, group: Sequence[Mapping[str, Any]]) -> Cost:
    params = sum(int(layer.get("params") or 0) for layer in group)
    macs = sum(int(layer.get("macs") or 0) for layer in group)
    return Cost(name, group[-1]["output_shape"], len(group), params, macs)
