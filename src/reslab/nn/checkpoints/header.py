"""The header of `model.safetensors`: written with checksums, and read with every field checked."""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reslab.runtime.json_records import (
    parse_object,
    require_strings,
    require_types,
    with_checksum,
    without_checksum,
)
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict
from reslab.spec.dense import DenseArch, ModelKind, check_arch_size
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo.dense import ARCH_TYPES

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
