"""Read checkpoint files without running code from them, and unwrap the named tensors.

Formats: `.safetensors`, `.npz`, and torch's own under any suffix, recognized by the first bytes. Training scripts put
wrappers and key prefixes around the tensors; both are removed.
"""

import codecs
import re
import types
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reslab.nn.checkpoints.foreign_formats import CONTAINERS, name_arrays, read_foreign_file
from reslab.nn.checkpoints.limits import (
    PickleFile,
    ReadLimits,
    check_npy_entry,
    is_npy_number,
    is_pickle,
    is_torch_pickle,
    pickle_protocol,
    read_head,
    unsafe_names,
)
from reslab.nn.checkpoints.load_report import CheckpointError, invalid_checkpoint
from reslab.nn.checkpoints.safetensors_io import read_weights
from reslab.spec.errors import nearest, unknown_name

# Plain values that scripts save beside their weights, beyond what torch allows by default. None of them runs code.
_SAFE_GLOBALS: list[Any] = [
    (types.SimpleNamespace, "argparse.Namespace"),
    (np.dtype, "numpy.dtype"),
    (codecs.encode, "_codecs.encode"),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)),
]
_MAX_SAFE_PROTOCOL = 3
_DEFAULT_LIMITS = ReadLimits()
_DOS_FOLDER = 0x10  # the attribute of MS-DOS that marks an entry of a zip file as a folder
_FILE_TYPES = ", ".join(dict.fromkeys(suffix for container in CONTAINERS for suffix in container.suffixes))
_FOREIGN_SIGNATURES = {
    b"version https://git-lfs": "a Git LFS pointer: `git lfs pull` downloads the file",
    b"<!DOCTYPE": "a web page from a failed download",
    b"<html": "a web page from a failed download",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"\x7fELF": "a program",
}


@dataclass(frozen=True)
class FileContent:
    """The content of a file; `ordered`: its entries are in the order of the network's definition."""

    value: Any
    ordered: bool = True
    header: Mapping[str, Any] = field(default_factory=dict)


def read_file(path: str | Path, limits: ReadLimits = _DEFAULT_LIMITS) -> FileContent:
    """Return the content of a checkpoint file, on the CPU.

    Raises FileNotFoundError, and CheckpointError for a file that is not a checkpoint, is truncated, is a TorchScript
    archive, would run code when read, or declares more than `limits`.
    """
    path = Path(path)
    if not path.is_file():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        similar = nearest(path.name, siblings)
        kind = "a folder, not a file" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{kind}: {path}" + (f"; nearest there: {', '.join(similar)}" if similar else ""))
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise _not_a_checkpoint(path, "a file of 0 bytes", "download it again")
    if _is_safetensors(path, head):  # first, as the length of its header can look like the start of a pickle
        return _read_safetensors(path, limits)
    if (foreign := read_foreign_file(path, head, limits)) is not None:
        return FileContent(*foreign)
    if head[:4] == b"PK\x03\x04":
        return _read_zip(path, limits)
    if is_torch_pickle(head):
        return FileContent(_read_torch(path, limits))
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path, limits)
    if head[257:262] == b"ustar":
        raise _not_a_checkpoint(path, "a tar archive (of torch before 0.2, or of other files)", "unpack it first")
    if is_pickle(read_head(path)) or unsafe_names(read_head(path)):
        raise _bare_pickle(path)
    if head[:1] == b"\x80":
        raise _truncated_file(path, "a pickle without an end")
    descriptions = (description for signature, description in _FOREIGN_SIGNATURES.items() if head.startswith(signature))
    raise _not_a_checkpoint(
        path, next(descriptions, f"a file beginning with {head[:8]!r}"), "check the download and the name"
    )


def _not_a_checkpoint(path: Path, got: str, next_step: str) -> CheckpointError:
    return invalid_checkpoint(f"a checkpoint: {_FILE_TYPES}", f"{path}, {got}", next_step=next_step)


def _truncated_file(path: Path, reason: object) -> CheckpointError:
    first_line = str(reason).strip().split("\n")[0].split(". ")[0]
    got = f"{path}, {path.stat().st_size:,} bytes, truncated or damaged ({first_line or type(reason).__name__})"
    return invalid_checkpoint("a complete checkpoint", got, next_step="download or copy the file again")


def _unsafe_file(path: Path, content: str) -> CheckpointError:
    required = "a checkpoint of tensors only, read without running code"
    step = "if you trust it: load it with the code that made it and save model.state_dict() alone"
    return invalid_checkpoint(required, f"{path}, which contains {content}", next_step=step)


def _bare_pickle(path: Path) -> CheckpointError:
    names = unsafe_names(read_head(path))
    if names:
        return _unsafe_file(path, f"a pickle that calls {', '.join(f'`{name}`' for name in names[:3])}")
    got = "a Python pickle that torch.save did not write"
    return _not_a_checkpoint(path, got, "save the tensors with torch.save or safetensors")


def _read_zip(path: Path, limits: ReadLimits) -> FileContent:
    try:
        names = check_zip(path, limits)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _truncated_file(path, error) from error
    if any(name.endswith("/constants.pkl") for name in names):
        step = "save its weights: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        raise _not_a_checkpoint(path, "a TorchScript archive (a program with its weights)", step)
    if names and all(name.endswith(".npy") for name in names):
        return FileContent(name_arrays(_read_npz(path), path.name))
    if any(name.endswith("/data.pkl") for name in names):
        return FileContent(_read_torch(path, limits))
    raise _not_a_checkpoint(path, f"a zip archive of {len(names)} files without torch weights", "unpack it first")


def check_zip(path: Path, limits: ReadLimits | None = None) -> list[str]:
    """Return the names in a zip file after comparing each entry with its checksum, which torch's reader ignores.

    No checksum covers the attributes of an entry: where one marks a file as a folder, torch leaves its tensor unread.
    Raises CheckpointError if it declares more than `limits`, BadZipFile, or OSError, ValueError, NotImplementedError or
    RuntimeError for a damaged directory.
    """
    with zipfile.ZipFile(path) as archive:
        if limits is not None:
            limits.check_zip(archive, path)
        try:
            damaged_name = archive.testzip()
        except (zlib.error, EOFError) as error:
            raise zipfile.BadZipFile(str(error)) from error
        if damaged_name is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged_name} differs")
        for entry in archive.infolist():
            if entry.external_attr & _DOS_FOLDER and entry.file_size:
                raise zipfile.BadZipFile(f"{entry.filename} is marked as a folder")
        return archive.namelist()


def _read_npz(path: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for entry in archive.zip.infolist():
                name, dtype = entry.filename.removesuffix(".npy"), check_npy_entry(archive.zip, entry)
                if dtype.hasobject:
                    raise _unsafe_file(path, "Python objects in place of numbers")
                if not is_npy_number(dtype):
                    step = "save its arrays as float32"
                    raise _not_a_checkpoint(path, f"whose entry {name} is of type {dtype}", step)
                array = archive[entry.filename]
                tensors[name] = torch.from_numpy(np.array(array, dtype=dtype.newbyteorder("=")))
    except CheckpointError:
        raise
    except Exception as error:  # numpy evaluates the header as Python and raises nearly anything for a damaged one
        raise _truncated_file(path, error) from error
    return tensors


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Return True if a file begins with the length of a header in JSON that it contains."""
    return head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= path.stat().st_size


def _read_safetensors(path: Path, limits: ReadLimits) -> FileContent:
    limits.check_safetensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            limits.check_num_tensors(len(names), path)
            if "reslab" not in (file.metadata() or {}):
                return FileContent({name: file.get_tensor(name) for name in names}, ordered=False)
        header, tensors = read_weights(path)
    except CheckpointError:
        raise
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise _truncated_file(path, error) from error
    return FileContent(tensors, ordered=False, header=header)


def _read_torch(path: Path, limits: ReadLimits) -> Any:
    try:
        with (
            torch.serialization.safe_globals(_SAFE_GLOBALS),
            path.open("rb") as file,
            warnings.catch_warnings(action="ignore"),  # of pickle protocols: what cannot be read is an error
        ):
            source: Any = PickleFile(file, limits, path)
            return torch.load(source, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        # torch names what it refused, except in pickles of protocol 4 and 5.
        refused = re.search(r"(?:GLOBAL|[Uu]nsupported class) (\w[\w.]+)", str(error))
        content = b"" if refused else _pickle_content(path)
        names = [refused[1]] if refused else unsafe_names(content)
        if names:
            quoted = ", ".join(f"`{name}`" for name in names[:3])
            raise _unsafe_file(path, f"{quoted}, which would run when read") from None
        if (protocol := pickle_protocol(content)) > _MAX_SAFE_PROTOCOL:
            got = (
                f"a pickle of protocol {protocol}, of which torch reads up to {_MAX_SAFE_PROTOCOL} without running code"
            )
            raise _not_a_checkpoint(path, got, "save it with torch.save(..., pickle_protocol=2)") from None
        raise _truncated_file(path, _safe_reason(error)) from None


def _pickle_content(path: Path) -> bytes:
    """Return the beginning of the pickle in a file of torch.save."""
    if not zipfile.is_zipfile(path):
        return read_head(path)
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        return archive.read(names[0]) if names else b""


def _safe_reason(error: Exception) -> str:
    """Return the reason without torch's advice on unsafe loading, which users must not follow."""
    text = str(error)
    return type(error).__name__ if "weights_only" in text or not text else text


# Names of the weights inside the files of training scripts; plain weights ahead of averaged ones.
WRAPPER_KEYS = (
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
# Of DistributedDataParallel and DataParallel, Lightning, detectron2, mmpretrain, distillation and self-supervision.
KEY_PREFIXES = (
    "module.",
    "model.",
    "backbone.",
    "net.",
    "network.",
    "ema_model.",
    "encoder_q.",
    "base_encoder.",
    "encoder.",
    "resnet.",
    "bottom_up.",
    "cnn.",
    "classifier.",
    "feature_extractor.",
    "base_model.",
    "teacher.",
    "student.",
)
# Modules that wrap others anywhere in a network: torch.compile, FSDP and activation checkpointing.
_WRAPPER_MODULES = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Two copies of a network under two prefixes: the first is loaded.
_TWIN_PREFIXES = (("teacher.", "student."), ("model.", "ema_model."), ("encoder_q.", "encoder_k."))
# The depth of nested wrappers to search: a pickle can contain itself.
_MAX_NESTING = 5
# Counters that do not affect the outputs: of averaged models, and of the profiler thop.
COUNTER_SUFFIXES = ("n_averaged", "total_ops", "total_params")


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors without wrappers and `prefixes`. `ordered`: in the network's order. `header`: of reslab's files."""

    name: str
    tensors: Mapping[str, Tensor]
    ordered: bool = True
    header: Mapping[str, Any] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()


def read_checkpoint(
    path: str | Path,
    entry: str | None = None,
    limits: ReadLimits = _DEFAULT_LIMITS,
    key_prefixes: Sequence[str] = KEY_PREFIXES,
) -> Checkpoint:
    """Return the named tensors of a file, or of the `model.safetensors` of a run; `entry` selects one of its wrappers.

    `key_prefixes`: those that are removed where many keys have them. Raises FileNotFoundError, and CheckpointError for
    a file that is not a checkpoint, is truncated, would run code or declares more than `limits`.
    """
    path = Path(path)
    run_weights = path / "model.safetensors"
    path = run_weights if run_weights.is_file() else path
    content = read_file(path, limits)
    return unwrap_checkpoint(path.name, content.value, content.ordered, content.header, entry, key_prefixes)


def unwrap_checkpoint(
    name: str,
    value: Any,
    ordered: bool = True,
    header: Mapping[str, Any] | None = None,
    entry: str | None = None,
    key_prefixes: Sequence[str] = KEY_PREFIXES,
) -> Checkpoint:
    """Return the named tensors inside wrappers, without counters, other values and common prefixes.

    Raises CheckpointError if there are none.
    """
    messages: list[str] = []
    state = _select_entry(value, entry, messages) if entry else _unwrap(value, messages)
    tensors = {key: tensor for key, tensor in state.items() if isinstance(key, str) and isinstance(tensor, Tensor)}
    tensors = {key: tensor for key, tensor in tensors.items() if key.rpartition(".")[2] not in COUNTER_SUFFIXES}
    if not tensors:
        got = f"{name} with {_describe_content(value)}"
        step = f"or one under {WRAPPER_KEYS[0]!r}"
        raise invalid_checkpoint("a mapping of names to tensors (a state dict)", got, next_step=step)
    for key, tensor in tensors.items():
        _check_kind(name, key, tensor)
    stripped, prefixes = strip_prefixes(tensors, messages, key_prefixes)
    return Checkpoint(name, stripped, ordered, header or {}, prefixes, tuple(messages))


def _check_kind(name: str, key: str, tensor: Tensor) -> None:
    """Raise CheckpointError, naming the entry, for a tensor that is not plain real numbers in memory."""
    kinds = {
        "on the meta device, which has no values": tensor.is_meta,
        "quantized": tensor.is_quantized,
        "complex": tensor.is_complex(),
        f"of the layout {str(tensor.layout).removeprefix('torch.')}": tensor.layout is not torch.strided,
        "a nested tensor": tensor.is_nested,
    }
    unsupported = next((kind for kind, is_kind in kinds.items() if is_kind), None)
    if unsupported is not None:
        step = "save it with values: tensor.to_dense(), .dequantize() or .real"
        raise invalid_checkpoint(
            "dense tensors of real numbers", f"{name}, where {key!r} is {unsupported}", next_step=step
        )


def _holds_tensors(value: Any, max_depth: int = _MAX_NESTING) -> bool:
    if not isinstance(value, Mapping) or not max_depth:
        return False
    nested = (item for key, item in value.items() if key in WRAPPER_KEYS)
    has_tensors = any(isinstance(item, Tensor) for item in value.values())
    return has_tensors or any(_holds_tensors(item, max_depth - 1) for item in nested)


def _unwrap(value: Any, messages: list[str]) -> Mapping[Any, Any]:
    for _ in range(_MAX_NESTING):
        if not isinstance(value, Mapping):
            break
        wrapper_keys = [key for key in WRAPPER_KEYS if _holds_tensors(value.get(key))]
        if not wrapper_keys:
            return value
        if len(wrapper_keys) > 1:
            messages.append(
                f"loaded {wrapper_keys[0]!r}; the file also contains {', '.join(map(repr, wrapper_keys[1:]))}"
            )
        value = value[wrapper_keys[0]]
    return {}


def _select_entry(value: Any, entry: str, messages: list[str]) -> Mapping[Any, Any]:
    for part in entry.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise unknown_name(
                "entry of the file", entry, [str(key) for key in value] if isinstance(value, Mapping) else []
            )
        value = value[part]
    messages.append(f"loaded {entry!r}")
    return _unwrap(value, messages)


def strip_prefixes(
    tensors: Mapping[str, Tensor], messages: list[str] | None = None, key_prefixes: Sequence[str] = KEY_PREFIXES
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors without the prefixes that at least a third of the keys have, and the removed prefixes.

    A prefix stays if removing it would make two keys equal. Of two copies of a network, as of a teacher and a student,
    one is returned, and `messages` says so.
    """
    stripped = {_WRAPPER_MODULES.sub("", key): tensor for key, tensor in tensors.items()}
    stripped = stripped if len(stripped) == len(tensors) else dict(tensors)
    prefixes: list[str] = []
    while True:
        stripped = _without_twin(stripped, messages if messages is not None else [])
        prefix = next((prefix for prefix in key_prefixes if _is_common_prefix(prefix, stripped)), None)
        if prefix is None:
            return stripped, tuple(prefixes)
        stripped = {key.removeprefix(prefix): tensor for key, tensor in stripped.items()}
        prefixes.append(prefix)


def _without_twin(tensors: dict[str, Tensor], messages: list[str]) -> dict[str, Tensor]:
    for kept, dropped in _TWIN_PREFIXES:
        num_kept, num_dropped = (sum(key.startswith(prefix) for key in tensors) for prefix in (kept, dropped))
        if min(num_kept, num_dropped) * 3 >= len(tensors):
            messages.append(f"loaded {kept[:-1]!r}; the file also contains {dropped[:-1]!r}")
            return {key: tensor for key, tensor in tensors.items() if not key.startswith(dropped)}
    return tensors


def _is_common_prefix(prefix: str, keys: Iterable[str]) -> bool:
    keys = list(keys)
    prefixed = [key for key in keys if key.startswith(prefix)]
    stripped = {key.removeprefix(prefix) for key in keys}
    return len(prefixed) * 3 >= len(keys) and len(stripped) == len(keys)


def _describe_content(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"the entries {', '.join(map(repr, list(value)[:5]))}" if value else "no entry"
    return f"a {type(value).__name__}"
