"""Read and write `model.safetensors`: weights with a JSON header that describes the network.

The header alone is enough to rebuild the network: architecture, classes, preprocessing; also scores and the run.
Header and tensors have checksums, which reading verifies.
"""

import json
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reslab.nn.checkpoints.limits import ReadLimits
from reslab.runtime.files import (
    atomic_path,
    parse_object,
    require_strings,
    require_types,
    with_checksum,
    without_checksum,
)
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict, to_dict
from reslab.spec.dense import ARCH_TYPES, DenseArch, ModelKind, check_arch_size
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.plugins import required_plugins
from reslab.spec.preprocess import Preprocess

_TENSOR_CHECKSUMS = "tensor_crc32"
_NEXT_STEP = "fetch the file again, or train again"
_MAX_SHARED_BLOCKS = 10_000

_NONE = type(None)
_TYPES: dict[str, tuple[type, ...]] = {
    "arch": (dict, _NONE),
    "classes": (list, _NONE),
    "preprocess": (dict, _NONE),
    "aliases": (dict,),
}


def format_header(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the header as JSON, with a checksum of each tensor and one of the header."""
    tensor_checksums = {name: tensor_checksum(tensor) for name, tensor in tensors.items()}
    return json.dumps(with_checksum({**header, _TENSOR_CHECKSUMS: tensor_checksums}))


def tensor_checksum(tensor: Tensor) -> str:
    """Return the CRC-32 of a tensor's type, shape and bytes, 8 hexadecimal digits."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    kind = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    content = memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")  # type: ignore[arg-type]
    return f"{zlib.crc32(content, kind):08x}"


class Header:
    """The checked header of a file: its `fields`, and the checksums of its tensors.

    Raises ValueError, naming the file and the field, for a wrong type, a value that does not fit another or the names
    of the tensors, and a wrong checksum.
    """

    def __init__(self, text: str, tensor_names: list[str], source: object) -> None:
        self.source = source
        what = f"the header of {source}"
        fields = parse_object(text, what)
        require_types(fields, _TYPES, what)
        _check_values(fields, what)
        arch = _check_arch(fields, what)
        _check_names(fields, tensor_names, arch, what)
        fields = without_checksum(fields, what, _NEXT_STEP)
        require_types(fields, {_TENSOR_CHECKSUMS: (dict,)}, what)
        self._tensor_checksums = fields.pop(_TENSOR_CHECKSUMS)
        self.fields = fields
        if sorted(self._tensor_checksums) != sorted(tensor_names):
            differing = sorted(set(self._tensor_checksums) ^ set(tensor_names))
            got = f"{source} with {len(tensor_names)} tensors, other names: {', '.join(map(repr, differing[:3]))}"
            raise invalid("the tensors that were written", got, next_step=_NEXT_STEP)

    def check_tensor(self, name: str, tensor: Tensor) -> None:
        """Raise ValueError if a tensor is not the one that was written."""
        if tensor_checksum(tensor) != self._tensor_checksums[name]:
            got = f"{self.source}, whose tensor {name!r} is damaged (its checksum differs)"
            raise invalid("weights as they were written", got, next_step=_NEXT_STEP)


def _check_values(fields: Mapping[str, Any], what: str) -> None:
    if fields["classes"] is not None:
        require_strings(fields["classes"], "classes", what)
    if fields["preprocess"] is not None:
        _convert(Preprocess, fields["preprocess"], "preprocess", what)
    task = fields.get("task")
    if task is not None and not (isinstance(task, dict) and isinstance(task.get("name"), str)):
        raise invalid("task.name as text", f"{str(task)[:40]!r} in {what}", next_step=_NEXT_STEP)
    if not isinstance(fields.get("plugins", {}), dict):
        raise invalid("plugins as an object", f"{str(fields['plugins'])[:40]!r} in {what}", next_step=_NEXT_STEP)
    temperature = fields.get("temperature")
    if temperature is not None:
        value: Any = temperature.get("value") if isinstance(temperature, dict) else temperature
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(temperature, dict) or not is_number or not 0 < value < math.inf:
            raise invalid("temperature.value as a finite number above 0", f"{str(value)[:40]!r} in {what}", nearest="1")


def _check_arch(fields: Mapping[str, Any], what: str) -> Arch | DenseArch | None:
    if fields["arch"] is None:
        return None
    kind = fields.get("kind") or ModelKind.CLASSIFICATION
    if kind not in list(ModelKind):
        raise unknown_name(f"kind of model in {what}", str(kind)[:40], list(ModelKind), _NEXT_STEP)
    arch: Arch | DenseArch = _convert(ARCH_TYPES[kind], fields["arch"], "arch", what)
    check_arch_size(arch, what)
    classes = fields["classes"]
    num_names = arch.num_classes - (arch.num_background if isinstance(arch, DenseArch) else 0)
    if classes and len(classes) != num_names:
        raise invalid(f"a class name for each of the {num_names} outputs", f"{len(classes)} in {what}")
    return arch


def _convert(cls: type[Any], fields: Mapping[str, Any], key: str, what: str) -> Any:
    try:
        return from_dict(cls, fields)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise invalid(f"{key} of a network in {what}", str(error).removeprefix(f"{cls.__name__}.")) from None


def _check_names(fields: Mapping[str, Any], names: list[str], arch: Arch | DenseArch | None, what: str) -> None:
    """Raise ValueError if aliases name no tensor, or the network has more blocks than the file has tensors."""
    known = set(names)
    for alias, name in fields["aliases"].items():
        if not isinstance(name, str) or name not in known:
            raise invalid(f"a tensor of the file for the name {alias!r}", f"{str(name)[:40]!r} in {what}")
    if arch is None:
        return
    arch = arch if isinstance(arch, Arch) else arch.backbone
    # Blocks that share their weights have one set of tensors, however many they are.
    max_blocks = _MAX_SHARED_BLOCKS if arch.share_weights else len(names) + len(fields["aliases"])
    if min(arch.depths, default=0) < 0 or sum(arch.depths) > max_blocks:
        got = f"arch.depths {list(arch.depths)[:8]} beside {len(names)} tensors in {what}"
        raise invalid("no more blocks than the file has tensors", got, next_step=_NEXT_STEP)


_HEADER_KEY = "reslab"
_LIMITS = ReadLimits(max_tensors=50_000)


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the module inside the wrappers of torch.compile and DistributedDataParallel."""
    while True:
        inner = getattr(model, "_orig_mod", None) or (
            getattr(model, "module", None) if type(model).__name__.endswith("DataParallel") else None
        )
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def save_weights(path: str | Path, model: nn.Module, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the weights and a header: arch, classes and preprocessing of a network of reslab, and `metadata`.

    The header of a network for segmentation or detection also has its `kind`.

    A tensor with several names is stored once. The write is atomic. Raises OSError if the file cannot be written; its
    previous content stays.
    """
    network: Any = unwrap_model(model)
    header: dict[str, Any] = {"arch": None, "classes": None, "preprocess": None}
    # Not the class of the network, whose check would import nn.network.
    if isinstance(getattr(network, "arch", None), Arch | DenseArch):
        header["arch"] = to_dict(network.arch)
        header |= {"kind": str(network.arch.kind)} if isinstance(network.arch, DenseArch) else {}
        header["classes"] = list(network.classes) if network.classes else None
        header["preprocess"] = to_dict(network.preprocess)
        header |= {"task": network.task} if network.task else {}
        plugins = required_plugins(header["arch"], header["preprocess"])
        header |= {"plugins": plugins} if plugins else {}
    save_state_dict(path, network.state_dict(), header | dict(metadata or {}))


def save_state_dict(path: str | Path, state_dict: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write weights without their network; `header` has its arch, classes and preprocess. See `save_weights`."""
    tensors, aliases = _deduplicate(state_dict)
    _write_file(Path(path), tensors, {**header, "aliases": aliases})


def update_header(path: str | Path, **metadata: Any) -> None:
    """Add entries to the header of a file that `save_weights` wrote; the tensors stay.

    Raises what `read_tensors` and `save_weights` raise.
    """
    header, file = _open_file(Path(path))
    # Verified, so that a damaged tensor does not get a new checksum.
    _write_file(Path(path), _stored_tensors(header, file), header.fields | metadata)


def _write_file(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    try:
        with atomic_path(path) as temp_path:
            # One metadata key only: safetensors writes several in no fixed order, and equal runs must give equal files.
            write_safetensors(temp_path, tensors, {_HEADER_KEY: format_header(header, tensors)})
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {path} could not be written", str(path)) from error


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file. Raises OSError with the number of the system, which the library has in its text."""
    try:
        save_file(dict(tensors), path, metadata=dict(metadata))
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else None, str(error), str(path)) from error


def _deduplicate(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_names: dict[tuple[object, ...], str] = {}
    for name, tensor in state_dict.items():
        storage_key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        first_name = first_names.setdefault(storage_key, name) if tensor.numel() else name
        if first_name != name:
            aliases[name] = first_name
        else:
            tensors[name] = tensor.detach().to("cpu").contiguous().clone()
    return tensors, aliases


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the header of a file that `save_weights` wrote, without reading a tensor.

    Raises FileNotFoundError, or ValueError for a file that is truncated or damaged or was not written by reslab.
    """
    return _open_file(Path(path))[0].fields


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by name, without reading one. Raises what `read_header` raises."""
    header, file = _open_file(Path(path))
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a mapping
    return shapes | {alias: shapes[name] for alias, name in header.fields["aliases"].items()}


def _open_file(path: Path) -> tuple[Header, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    _LIMITS.check_safetensors(path)
    try:
        file = safe_open(path, framework="pt")
        metadata, names = file.metadata() or {}, list(file.keys())
    except SafetensorError as error:
        step = "train again, or fetch the file again"
        raise invalid("a complete .safetensors file", f"{path} ({error})", next_step=step) from error
    if _HEADER_KEY not in metadata:
        step = f"create_model(NAME, pretrained='{path.name}') reads checkpoints from elsewhere"
        raise invalid("weights saved by reslab, with its header", f"{path} without one", next_step=step)
    return Header(metadata[_HEADER_KEY], names, path), file


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor of the file by name, shared ones under each of their names.

    Raises what `read_header` raises, and ValueError for a tensor that is damaged.
    """
    return read_weights(path)[1]


def read_weights(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors. Raises what `read_tensors` raises."""
    header, file = _open_file(Path(path))
    tensors = _stored_tensors(header, file)
    return header.fields, tensors | {alias: tensors[name] for alias, name in header.fields["aliases"].items()}


def _stored_tensors(header: Header, file: Any) -> dict[str, Tensor]:
    tensors = {}
    for name in file.keys():  # noqa: SIM118 - not a mapping
        # Clones start at the alignment of torch's own tensors. Views into the file would start wherever the header
        # ends, and MKL sums in another order at another alignment: results would depend on the length of the header.
        tensors[name] = file.get_tensor(name).clone()
        header.check_tensor(name, tensors[name])
    return tensors
