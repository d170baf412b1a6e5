"""A checkpoint: the named tensors of a file, taken out of the wrappers and prefixes that training scripts put around
them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.checkpoints.read import read_file
from reslab.spec.errors import refuse, unknown

# What scripts call the weights inside their file; the plain weights before averaged ones.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "net_state_dict",
    "weights",
    "params",
    "state",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "params_ema",
    "teacher",
    "student",
)
# DistributedDataParallel and DataParallel, torch.compile, Lightning, mmpretrain and self-supervised scripts.
PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "backbone.",
    "net.",
    "network.",
    "ema_model.",
    "encoder_q.",
    "base_encoder.",
    "encoder.",
    "resnet.",
)
# Wrappers in wrappers that are looked into: a pickle can hold itself.
_LEVELS = 5
# Counters that say nothing about the function: of averaged models, of the counting tool thop.
COUNTERS = ("n_averaged", "total_ops", "total_params")


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, without wrapper and `prefixes`; `ordered`: as a network defines them; `header`: reslab's own."""

    name: str
    tensors: Mapping[str, Tensor]
    ordered: bool = True
    header: Mapping[str, Any] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | Path, entry: str | None = None) -> Checkpoint:
    """The named tensors of a file (or of the `model.safetensors` of a run folder); `entry` picks one of its wrappers.

    Raises FileNotFoundError, and CheckpointError for a file that is no checkpoint, is cut short or would run code.
    """
    path = Path(path)
    inside = path / "model.safetensors"
    path = inside if inside.is_file() else path
    content = read_file(path)
    return unwrap_checkpoint(path.name, content.value, content.ordered, content.header, entry)


def unwrap_checkpoint(
    name: str, value: Any, ordered: bool = True, header: Mapping[str, Any] | None = None, entry: str | None = None
) -> Checkpoint:
    """The named tensors inside wrappers, counters and all that is no tensor left away, common prefixes taken off.

    Raises CheckpointError where there are none.
    """
    notes: list[str] = []
    state = _take(value, entry, notes) if entry else _unwrap(value, notes)
    tensors = {key: tensor for key, tensor in state.items() if isinstance(key, str) and isinstance(tensor, Tensor)}
    tensors = {key: tensor for key, tensor in tensors.items() if key.rpartition(".")[2] not in COUNTERS}
    if not tensors:
        got = f"{name} with {_described(value)}"
        raise CheckpointError(
            str(refuse("a mapping of names to tensors (a state dict)", got, next_step=f"or one under {WRAPPERS[0]!r}"))
        )
    stripped, prefixes = strip_prefixes(tensors)
    return Checkpoint(name, stripped, ordered, header or {}, prefixes, tuple(notes))


def _holds_tensors(value: Any, levels: int = _LEVELS) -> bool:
    if not isinstance(value, Mapping) or not levels:
        return False
    inner = (part for key, part in value.items() if key in WRAPPERS)
    tensors = any(isinstance(part, Tensor) for part in value.values())
    return tensors or any(_holds_tensors(part, levels - 1) for part in inner)


def _unwrap(value: Any, notes: list[str]) -> Mapping[Any, Any]:
    for _ in range(_LEVELS):
        if not isinstance(value, Mapping):
            break
        wrappers = [key for key in WRAPPERS if _holds_tensors(value.get(key))]
        if not wrappers:
            return value
        if len(wrappers) > 1:
            notes.append(f"took {wrappers[0]!r}; the file also holds {', '.join(map(repr, wrappers[1:]))}")
        value = value[wrappers[0]]
    return {}


def _take(value: Any, entry: str, notes: list[str]) -> Mapping[Any, Any]:
    for part in entry.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise unknown("entry of the file", entry, [str(key) for key in value] if isinstance(value, Mapping) else [])
        value = value[part]
    notes.append(f"took {entry!r}")
    return _unwrap(value, notes)


def strip_prefixes(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors without the prefixes that a third of their keys or more bear, and those prefixes; no two keys become
    one."""
    found, taken = dict(tensors), []
    while prefix := next((prefix for prefix in PREFIXES if _shared(prefix, found)), None):
        found = {key.removeprefix(prefix): tensor for key, tensor in found.items()}
        taken.append(prefix)
    return found, tuple(taken)


def _shared(prefix: str, keys: Iterable[str]) -> bool:
    keys = list(keys)
    bearing = [key for key in keys if key.startswith(prefix)]
    new = {key.removeprefix(prefix) for key in keys}
    return len(bearing) * 3 >= len(keys) and len(new) == len(keys)


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"the entries {', '.join(map(repr, list(value)[:5]))}" if value else "no entry"
    return f"a {type(value).__name__}"
