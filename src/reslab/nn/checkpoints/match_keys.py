"""Match the entries of a checkpoint with those of a network: by name in a known key scheme, else by order and shape."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from reslab.nn.checkpoints.key_scheme import KeyScheme
from reslab.nn.checkpoints.key_schemes import KEY_SCHEMES, matching_key_schemes
from reslab.nn.checkpoints.load_report import CheckpointError, invalid_checkpoint
from reslab.nn.checkpoints.read import Checkpoint
from reslab.nn.network import ResidualNetwork

AgreeFn = Callable[[int, int], bool]

OPTIONAL_SUFFIX = "num_batches_tracked"
_IDENTITY_SCHEME = KeyScheme("reslab", "reslab", ())
_SHORTCUT_PATTERN = re.compile(r"shortcut|downsample|skip|convdim|proj_?conv|identity_conv", re.IGNORECASE)


@dataclass(frozen=True)
class CheckpointEntry:
    """A tensor of the file and its key there."""

    file_key: str
    tensor: Tensor


@dataclass(frozen=True)
class KeyMatching:
    """Entries by the network's keys. `conflicts`: keys of the file that translate to a key already taken."""

    key_scheme: KeyScheme
    entries: Mapping[str, CheckpointEntry]
    conflicts: tuple[str, ...] = ()
    by_order: bool = False


def match_by_name(checkpoint: Checkpoint, model_state: Mapping[str, Tensor]) -> KeyMatching | None:
    """Return the entries, renamed by the scheme that gives most keys of the network; None for an unknown scheme."""
    keys = list(checkpoint.tensors)
    schemes = matching_key_schemes(keys)
    if not schemes and sum(key in model_state for key in keys) * 2 < len(keys):
        return None
    schemes = schemes or [_IDENTITY_SCHEME]
    return max(
        (_rename_keys(scheme, checkpoint.tensors) for scheme in schemes),
        key=lambda matching: _num_placed(matching, model_state),
    )


def _num_placed(matching: KeyMatching, model_state: Mapping[str, Tensor]) -> int:
    return sum(name in model_state for name in matching.entries)


def _rename_keys(scheme: KeyScheme, tensors: Mapping[str, Tensor]) -> KeyMatching:
    entries: dict[str, CheckpointEntry] = {}
    conflicts = []
    for key, tensor in tensors.items():
        name = scheme.translate(key)
        if name in entries:
            conflicts.append(key)
        else:
            entries[name] = CheckpointEntry(key, tensor)
    return KeyMatching(scheme, entries, tuple(conflicts))


@dataclass(frozen=True)
class LayerEntries:
    """The entries of one convolution, norm or linear layer. `shapes`: (leaf, shape), without counters."""

    name: str
    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    on_shortcut: bool

    def describe_shapes(self) -> str:
        """Return the shapes of its entries as text."""
        return ", ".join(f"{leaf} {list(shape)}" for leaf, shape in self.shapes)


_LEAF_ALIASES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
_LEAF_ALIASES |= {"moving_variance": "running_var", "inv_std": "running_var"}


def group_layers(tensors: Mapping[str, Tensor]) -> dict[str, list[LayerEntries]]:
    """Return the layers of each kind, in order."""
    shapes_by_path: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, tensor in tensors.items():
        path, _, leaf = key.rpartition(".")
        if leaf != OPTIONAL_SUFFIX:
            shapes_by_path.setdefault(path, {})[_LEAF_ALIASES.get(leaf, leaf)] = tuple(tensor.shape)
    kinds: dict[str, list[LayerEntries]] = {"convolution": [], "norm": [], "linear layer": [], "other entry": []}
    for path, shapes in shapes_by_path.items():
        layer = LayerEntries(
            path, _layer_kind(shapes), tuple(sorted(shapes.items())), bool(_SHORTCUT_PATTERN.search(path))
        )
        kinds[layer.kind].append(layer)
    return kinds


def _layer_kind(shapes: Mapping[str, tuple[int, ...]]) -> str:
    weight = shapes.get("weight", ())
    if len(weight) == 4:
        return "convolution"
    if len(weight) == 2:
        return "linear layer"
    return "norm" if len(weight) == 1 and "bias" in shapes else "other entry"


@dataclass(frozen=True)
class AllowedMismatch:
    """The sizes that may differ because they were requested: classes of the last linear layer, channels of the first
    convolution."""

    classes: bool = False
    channels: bool = False


def match_by_order(checkpoint: Checkpoint, model_state: Mapping[str, Tensor], allowed: AllowedMismatch) -> KeyMatching:
    """Pair each layer of the network with the layer at the same position in the file, within each kind of layer.

    Layers agree if all their shapes do; if the file's keys mark shortcuts, shortcuts must match shortcuts. Raises
    CheckpointError, with the reason, unless exactly one assignment keeps the order.
    """
    if not checkpoint.ordered:
        raise _unmatched(checkpoint, "with unknown keys, in a format that does not keep the order of its entries")
    file_layers, model_layers = group_layers(checkpoint.tensors), group_layers(model_state)
    entries: dict[str, CheckpointEntry] = {}
    for kind in model_layers:
        for source, target in _pair_layers(checkpoint, kind, file_layers[kind], model_layers[kind], allowed):
            entries |= _layer_entries(checkpoint.tensors, source, target)
    placed = {entry.file_key for entry in entries.values()}
    rest = {key: CheckpointEntry(key, tensor) for key, tensor in checkpoint.tensors.items() if key not in placed}
    return KeyMatching(KeyScheme("unknown", "", ()), entries | rest, by_order=True)


def _pair_layers(
    checkpoint: Checkpoint,
    kind: str,
    file_layers: Sequence[LayerEntries],
    model_layers: Sequence[LayerEntries],
    allowed: AllowedMismatch,
) -> list[tuple[LayerEntries, LayerEntries]]:
    has_shortcut_names = any(layer.on_shortcut for layer in file_layers)

    def agree(file_index: int, model_index: int) -> bool:
        if has_shortcut_names and file_layers[file_index].on_shortcut != model_layers[model_index].on_shortcut:
            return False
        is_first = kind == "convolution" and allowed.channels and model_index == 0
        is_last = kind == "linear layer" and allowed.classes and model_index == len(model_layers) - 1
        return _comparable_shapes(file_layers[file_index], is_first, is_last) == _comparable_shapes(
            model_layers[model_index], is_first, is_last
        )

    file_is_shorter = len(file_layers) < len(model_layers)
    num_few, num_many = sorted((len(file_layers), len(model_layers)))
    agree_short_long = agree if file_is_shorter else lambda j, i: agree(i, j)
    num_ways = count_assignments(num_few, num_many, agree_short_long)
    if num_ways != 1:
        reason = "no assignment keeps" if num_ways == 0 else f"{num_ways} assignments keep"
        details = _describe_mismatch(file_layers, model_layers, agree)
        raise _unmatched(checkpoint, f"with unknown keys; {reason} the order of its {kind}s{details}")
    pairs = enumerate(earliest_assignment(num_few, num_many, agree_short_long))
    return [
        (file_layers[short_index], model_layers[long_index])
        if file_is_shorter
        else (file_layers[long_index], model_layers[short_index])
        for short_index, long_index in pairs
    ]


def _comparable_shapes(layer: LayerEntries, is_first: bool, is_last: bool) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the shapes without the dimension that may differ."""
    if is_first:
        return tuple((leaf, (*shape[:1], *shape[2:])) for leaf, shape in layer.shapes)
    return tuple((leaf, shape[1:]) for leaf, shape in layer.shapes) if is_last else layer.shapes


def count_assignments(num_few: int, num_many: int, agree: AgreeFn) -> int:
    """Return the number of ways to assign `num_few` layers to `num_many` in order, each to one that agrees."""
    ways = [1] + [0] * num_few
    for long_index in range(num_many):
        for short_index in reversed(range(num_few)):
            if ways[short_index] and agree(short_index, long_index):
                ways[short_index + 1] += ways[short_index]
    return ways[num_few]


def earliest_assignment(num_few: int, num_many: int, agree: AgreeFn) -> list[int]:
    """Return the earliest position of each of `num_few` layers among `num_many`, in order; an assignment must exist."""
    positions: list[int] = []
    for long_index in range(num_many):
        if len(positions) < num_few and agree(len(positions), long_index):
            positions.append(long_index)
    assert len(positions) == num_few
    return positions


def _describe_mismatch(
    file_layers: Sequence[LayerEntries], model_layers: Sequence[LayerEntries], agree: AgreeFn
) -> str:
    counts = f" ({len(file_layers)} in the file, {len(model_layers)} in the network"
    for i in range(min(len(file_layers), len(model_layers))):
        if not agree(i, i):
            in_file = f"{file_layers[i].name} ({file_layers[i].describe_shapes()}) in the file"
            in_model = f"{model_layers[i].name} ({model_layers[i].describe_shapes()}) in the network"
            return f"{counts}; number {i + 1} is {in_file}, {in_model})"
    return counts + ")"


def _layer_entries(
    tensors: Mapping[str, Tensor], source: LayerEntries, target: LayerEntries
) -> dict[str, CheckpointEntry]:
    entries = {}
    for key, tensor in tensors.items():
        path, _, leaf = key.rpartition(".")
        if path == source.name:
            entries[f"{target.name}.{_LEAF_ALIASES.get(leaf, leaf)}"] = CheckpointEntry(key, tensor)
    return entries


def _unmatched(checkpoint: Checkpoint, got: str) -> CheckpointError:
    names = ", ".join(scheme.name for scheme in KEY_SCHEMES)
    first_keys = ", ".join(list(checkpoint.tensors)[:4])
    required = f"keys of a known scheme ({names}), or layers in the network's order"
    step = f"its first keys are {first_keys}; rename them as in `create_model(...).state_dict()`"
    return invalid_checkpoint(required, f"{checkpoint.name}, {got}", next_step=step)


def convert_entries(
    network: ResidualNetwork, matching: KeyMatching, model_state: Mapping[str, Tensor]
) -> tuple[KeyMatching, list[str]]:
    """Return the entries with biases folded, variances and zero biases; and messages of what was done."""
    entries, messages = dict(matching.entries), []
    for name, entry in entries.items():
        if entry.file_key.endswith(".inv_std") and name.endswith(".running_var"):
            eps = network.get_submodule(name.rpartition(".")[0]).eps if name in model_state else network.arch.norm_eps
            assert isinstance(eps, float)
            variance = (entry.tensor.double().pow(-2) - eps).clamp(min=0).to(entry.tensor.dtype)
            entries[name] = replace(entry, tensor=variance)
    num_folded = _fold_biases(network, entries, model_state)
    if num_folded:
        messages.append(f"subtracted the biases of {num_folded} convolutions from the running means after them")
    if matching.key_scheme.zero_biases:
        _add_zero_biases(network, entries, model_state)
    return replace(matching, entries=entries), messages


def _fold_biases(
    network: ResidualNetwork, entries: dict[str, CheckpointEntry], model_state: Mapping[str, Tensor]
) -> int:
    biases = [name for name in entries if name.endswith(".bias") and name not in model_state]
    biases = [name for name in biases if f"{name.removesuffix('bias')}weight" in model_state]
    if not biases:
        return 0
    norms, num_folded = norms_after_convs(network), 0
    for name in biases:
        mean = f"{norms.get(name.removesuffix('.bias'), '')}.running_mean"
        if mean in entries and entries[mean].tensor.shape == entries[name].tensor.shape:
            entries[mean] = replace(entries[mean], tensor=entries[mean].tensor - entries[name].tensor)
            del entries[name]
            num_folded += 1
    return num_folded


def _add_zero_biases(
    network: ResidualNetwork, entries: dict[str, CheckpointEntry], model_state: Mapping[str, Tensor]
) -> None:
    for name, tensor in model_state.items():
        path = name.removesuffix(".bias")
        is_conv = path != name and isinstance(network.get_submodule(path), nn.Conv2d)
        if is_conv and name not in entries and f"{path}.weight" in entries:
            entries[name] = CheckpointEntry(entries[f"{path}.weight"].file_key, torch.zeros(tensor.shape))


class _LayerTracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return next(m.children(), None) is None or super().is_leaf_module(m, module_qualified_name)


def norms_after_convs(network: nn.Module) -> dict[str, str]:
    """Return, by the name of a convolution, that of the batch norm that is the only reader of its output."""
    graph = _LayerTracer().trace(network)
    modules = dict(network.named_modules())
    norms = {}
    for node in graph.nodes:
        readers = list(node.users)
        is_conv = node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d)
        reader = readers[0] if is_conv and len(readers) == 1 and readers[0].op == "call_module" else None
        if reader is not None and isinstance(modules[str(reader.target)], nn.BatchNorm2d):
            norms[str(node.target)] = str(reader.target)
    return norms
