"""Files of weights, read without running anything they hold: `.safetensors`, `.npz`, and torch's own of any ending.

What a file is, its first bytes say, not its name.

A checkpoint: the named tensors of a file, taken out of the wrappers and prefixes that training scripts put around
them.
"""

import codecs
import json
import pickle
import re
import types
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.spec.errors import nearest, refuse, unknown

# Beyond what torch allows by itself: plain values that scripts keep beside their weights, none of which runs code.
_HARMLESS: list[Any] = [
    (types.SimpleNamespace, "argparse.Namespace"),
    (np.dtype, "numpy.dtype"),
    (codecs.encode, "_codecs.encode"),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)),
]
_KINDS = ".safetensors, .npz, or a .pth, .pt, .th or .tar that torch.save wrote"
_STRANGERS = {
    b"\x89HDF": "an HDF5 file (Keras)",
    b"version https://git-lfs": "a Git LFS pointer: `git lfs pull` fetches what it stands for",
    b"<!DOCTYPE": "a web page, a download that went wrong",
    b"<html": "a web page, a download that went wrong",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"\x7fELF": "a program",
}


@dataclass(frozen=True)
class Content:
    """What a file holds. `ordered`: its entries stand as a network defines them (not so in safetensors)."""

    value: Any
    ordered: bool = True
    header: Mapping[str, Any] = field(default_factory=dict)


def read_file(path: str | Path) -> Content:
    """The content of a file of weights, on the CPU.

    Raises FileNotFoundError, and CheckpointError for a file that is no checkpoint, is cut short, is a TorchScript
    archive, or whose reading would run code.
    """
    path = Path(path)
    if not path.is_file():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, beside)
        kind = "a folder, not a file" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{kind}: {path}" + (f"; nearest there: {', '.join(near)}" if near else ""))
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise _no_checkpoint(path, "a file of 0 bytes", "fetch it again")
    if head[:4] == b"PK\x03\x04":
        return _read_zip(path)
    if head[:1] == b"\x80":
        return Content(_read_torch(path))
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if head[257:262] == b"ustar":
        raise _no_checkpoint(path, "a tar archive (of torch before 0.2, or of other files)", "unpack it first")
    known = (what for start, what in _STRANGERS.items() if head.startswith(start))
    raise _no_checkpoint(path, next(known, f"a file beginning with {head[:8]!r}"), "check what was downloaded or named")


def _no_checkpoint(path: Path, got: str, next_step: str) -> CheckpointError:
    return CheckpointError(str(refuse(f"a checkpoint: {_KINDS}", f"{path}, {got}", next_step=next_step)))


def _cut_short(path: Path, reason: object) -> CheckpointError:
    said = str(reason).strip().split("\n")[0].split(". ")[0]
    got = f"{path}, {path.stat().st_size:,} bytes, cut short or damaged ({said or type(reason).__name__})"
    return CheckpointError(str(refuse("a whole checkpoint", got, next_step="fetch or copy the file again")))


def _runs_code(path: Path, what: str) -> CheckpointError:
    required = "a checkpoint of tensors only, read without running code"
    step = "where you trust it: load it where it was made and save model.state_dict() alone"
    return CheckpointError(str(refuse(required, f"{path}, which holds {what}", next_step=step)))


def _read_zip(path: Path) -> Content:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise _cut_short(path, error) from error
    if any(name.endswith("/constants.pkl") for name in names):
        step = "save its weights: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        raise _no_checkpoint(path, "a TorchScript archive (a program with its weights)", step)
    if names and all(name.endswith(".npy") for name in names):
        return Content(_read_npz(path))
    if any(name.endswith("/data.pkl") for name in names):
        return Content(_read_torch(path))
    raise _no_checkpoint(path, f"a zip archive of {len(names)} files, no weights of torch", "unpack it first")


def _read_npz(path: Path) -> dict[str, torch.Tensor]:
    found = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                found[name] = _as_tensor(path, name, archive[name])
    except CheckpointError:
        raise
    except ValueError as error:
        if "Object arrays" in str(error):
            raise _runs_code(path, "Python objects in place of numbers") from error
        raise _cut_short(path, error) from error
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise _cut_short(path, error) from error
    return found


def _as_tensor(path: Path, name: str, array: np.ndarray[Any, Any]) -> torch.Tensor:
    if array.dtype.kind not in "fiub":
        raise _no_checkpoint(path, f"whose entry {name} is of type {array.dtype}", "save its arrays as float32")
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _read_safetensors(path: Path) -> Content:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            header = json.loads((file.metadata() or {}).get("reslab", "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise _cut_short(path, error) from error
    tensors |= {name: tensors[known] for name, known in header.get("aliases", {}).items() if known in tensors}
    return Content(tensors, ordered=False, header=header)


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|[Uu]nsupported global: GLOBAL|[Uu]nsupported class) ([\w.]+)", str(error))
        if named:
            raise _runs_code(path, f"`{named[1]}`, which reading would run") from None
        raise _cut_short(path, _plain(error)) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise _cut_short(path, _plain(error)) from None


def _plain(error: Exception) -> str:
    """torch's advice on unsafe loading left out: it must not be the next step that a user reads."""
    text = str(error)
    return type(error).__name__ if "weights_only" in text or not text else text


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
