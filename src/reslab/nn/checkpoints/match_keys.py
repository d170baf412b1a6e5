"""Which entry of a checkpoint belongs to which of a network: by name in a known dialect, else by order and shape."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from reslab.nn.checkpoints.key_schemes import DIALECTS, Dialect, known_dialects
from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.checkpoints.read import Checkpoint
from reslab.spec.errors import refuse

Agree = Callable[[int, int], bool]

OPTIONAL = "num_batches_tracked"
_IDENTITY = Dialect("reslab", "reslab", ())
_SHORTCUT = re.compile(r"shortcut|downsample|skip|convdim|proj_?conv|identity_conv", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """A tensor of the file and the name it bears there."""

    source: str
    tensor: Tensor


@dataclass(frozen=True)
class Matching:
    """Entries by the network's names. `strays`: entries of the file that two rules would give one name."""

    dialect: Dialect
    entries: Mapping[str, Entry]
    strays: tuple[str, ...] = ()
    by_order: bool = False


def match_names(checkpoint: Checkpoint, own: Mapping[str, Tensor]) -> Matching | None:
    """The entries renamed in the dialect that gives most of them a place in the network `own`; None for an unknown
    dialect."""
    keys = list(checkpoint.tensors)
    candidates = known_dialects(keys)
    if not candidates and sum(key in own for key in keys) * 2 < len(keys):
        return None
    candidates = candidates or [_IDENTITY]
    return max((_rename(dialect, checkpoint.tensors) for dialect in candidates), key=lambda found: _places(found, own))


def _places(found: Matching, own: Mapping[str, Tensor]) -> int:
    return sum(name in own for name in found.entries)


def _rename(dialect: Dialect, tensors: Mapping[str, Tensor]) -> Matching:
    entries: dict[str, Entry] = {}
    strays = []
    for key, tensor in tensors.items():
        name = dialect.translate(key)
        if name in entries:
            strays.append(key)
        else:
            entries[name] = Entry(key, tensor)
    return Matching(dialect, entries, tuple(strays))


@dataclass(frozen=True)
class Layer:
    """Entries that belong together: one convolution, norm or linear layer. `parts`: leaf -> shape, without counters."""

    name: str
    kind: str
    parts: tuple[tuple[str, tuple[int, ...]], ...]
    on_shortcut: bool

    def shape(self) -> str:
        """The shapes of its entries, to be read."""
        return ", ".join(f"{leaf} {list(shape)}" for leaf, shape in self.parts)


_LEAVES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
_LEAVES |= {"moving_variance": "running_var"}


def list_layers(tensors: Mapping[str, Tensor]) -> dict[str, list[Layer]]:
    """The layers of each kind, in the order they stand in."""
    grouped: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, tensor in tensors.items():
        path, _, leaf = key.rpartition(".")
        if leaf != OPTIONAL:
            grouped.setdefault(path, {})[_LEAVES.get(leaf, leaf)] = tuple(tensor.shape)
    kinds: dict[str, list[Layer]] = {"convolution": [], "norm": [], "linear layer": [], "other entry": []}
    for path, parts in grouped.items():
        layer = Layer(path, _kind(parts), tuple(sorted(parts.items())), bool(_SHORTCUT.search(path)))
        kinds[layer.kind].append(layer)
    return kinds


def _kind(parts: Mapping[str, tuple[int, ...]]) -> str:
    weight = parts.get("weight", ())
    if len(weight) == 4:
        return "convolution"
    if len(weight) == 2:
        return "linear layer"
    return "norm" if len(weight) == 1 and "bias" in parts else "other entry"


@dataclass(frozen=True)
class Free:
    """What may differ where it was asked for: the classes of the last linear layer, the channels of the first
    convolution."""

    classes: bool = False
    channels: bool = False


def match_order(checkpoint: Checkpoint, own: Mapping[str, Tensor], free: Free) -> Matching:
    """Each layer of the network paired with the layer of the same place in the file, within each kind.

    Layers agree where all their shapes do; where the file's names tell a shortcut, the shortcut must be one in the
    network too. Raises CheckpointError, with the reason, unless exactly one assignment keeps the order.
    """
    if not checkpoint.ordered:
        _refuse(checkpoint, "whose names no dialect has and whose format does not keep the order of its entries")
    theirs, ours = list_layers(checkpoint.tensors), list_layers(own)
    entries: dict[str, Entry] = {}
    for kind in ours:
        for source, target in _pair(checkpoint, kind, theirs[kind], ours[kind], free):
            entries |= _entries(checkpoint.tensors, source, target)
    placed = {entry.source for entry in entries.values()}
    rest = {key: Entry(key, tensor) for key, tensor in checkpoint.tensors.items() if key not in placed}
    return Matching(Dialect("unknown", "", ()), entries | rest, by_order=True)


def _pair(
    checkpoint: Checkpoint, kind: str, theirs: Sequence[Layer], ours: Sequence[Layer], free: Free
) -> list[tuple[Layer, Layer]]:
    told = any(layer.on_shortcut for layer in theirs)

    def agree(i: int, j: int) -> bool:
        if told and theirs[i].on_shortcut != ours[j].on_shortcut:
            return False
        first = kind == "convolution" and free.channels and j == 0
        last = kind == "linear layer" and free.classes and j == len(ours) - 1
        return _free_parts(theirs[i], first, last) == _free_parts(ours[j], first, last)

    fewer = len(theirs) < len(ours)
    few, many = sorted((len(theirs), len(ours)))
    places = agree if fewer else lambda j, i: agree(i, j)
    ways = count_assignments(few, many, places)
    if ways != 1:
        why = "no assignment keeps" if ways == 0 else f"{ways} assignments keep"
        _refuse(checkpoint, f"whose names no dialect has; {why} the order of its {kind}s{_where(theirs, ours, agree)}")
    found = enumerate(earliest_places(few, many, places))
    return [(theirs[a], ours[b]) if fewer else (theirs[b], ours[a]) for a, b in found]


def _free_parts(layer: Layer, first: bool, last: bool) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The shapes without the dimension that is free to differ."""
    if first:
        return tuple((leaf, (*shape[:1], *shape[2:])) for leaf, shape in layer.parts)
    return tuple((leaf, shape[1:]) for leaf, shape in layer.parts) if last else layer.parts


def count_assignments(num_few: int, num_many: int, agree: Agree) -> int:
    """In how many ways `num_few` layers find places among `num_many` that agree, the order kept."""
    ways = [1] + [0] * num_few
    for many in range(num_many):
        for few in reversed(range(num_few)):
            if ways[few] and agree(few, many):
                ways[few + 1] += ways[few]
    return ways[num_few]


def earliest_places(num_few: int, num_many: int, agree: Agree) -> list[int]:
    """The earliest place of each of `num_few` layers among `num_many` that agrees, the order kept; there must be an
    assignment."""
    places: list[int] = []
    for many in range(num_many):
        if len(places) < num_few and agree(len(places), many):
            places.append(many)
    assert len(places) == num_few
    return places


def _where(theirs: Sequence[Layer], ours: Sequence[Layer], agree: Agree) -> str:
    counts = f" ({len(theirs)} in the file, {len(ours)} in the network"
    for i in range(min(len(theirs), len(ours))):
        if not agree(i, i):
            place = f"; number {i + 1} is {theirs[i].name} ({theirs[i].shape()}) there"
            return f"{counts}{place}, {ours[i].name} ({ours[i].shape()}) here)"
    return counts + ")"


def _entries(tensors: Mapping[str, Tensor], source: Layer, target: Layer) -> dict[str, Entry]:
    found = {}
    for key, tensor in tensors.items():
        path, _, leaf = key.rpartition(".")
        if path == source.name:
            found[f"{target.name}.{_LEAVES.get(leaf, leaf)}"] = Entry(key, tensor)
    return found


def _refuse(checkpoint: Checkpoint, got: str) -> None:
    names = ", ".join(dialect.name for dialect in DIALECTS)
    keys = ", ".join(list(checkpoint.tensors)[:4])
    required = f"names of a known dialect ({names}), or layers in the network's order"
    step = f"its names begin with {keys}; rename them as `create_model(...).state_dict()` has them"
    raise CheckpointError(str(refuse(required, f"{checkpoint.name}, {got}", next_step=step)))
