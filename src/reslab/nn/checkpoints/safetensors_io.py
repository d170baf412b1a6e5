"""`model.safetensors`: weights whose header alone tells the architecture, the classes, the preprocessing and the
scores.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reslab.nn.network import ResidualNetwork
from reslab.runtime.files import atomic_path
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict, to_dict
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess

_HEADER_KEY = "reslab"


def unwrap_model(model: nn.Module) -> nn.Module:
    """The module inside the wrappers of torch.compile and DistributedDataParallel."""
    while True:
        inner = getattr(model, "_orig_mod", None) or (
            getattr(model, "module", None) if type(model).__name__.endswith("DataParallel") else None
        )
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def save_weights(path: str | Path, model: nn.Module, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the weights and a JSON header: arch, classes and preprocessing of a `Network`, and further `facts` (scores,
    how chosen).

    A tensor that several names share is stored once. The file is written beside its place and renamed when whole.
    Raises OSError where it cannot be written; what was there before stays.
    """
    model = unwrap_model(model)
    header: dict[str, Any] = {"arch": None, "classes": None, "preprocess": None}
    if isinstance(model, ResidualNetwork):
        header["arch"] = to_dict(model.arch)
        header["classes"] = list(model.classes) if model.classes else None
        header["preprocess"] = to_dict(model.preprocess)
    tensors, aliases = _deduplicate(model.state_dict())
    _write_file(Path(path), tensors, header | {**(metadata or {}), "aliases": aliases})


def update_header(path: str | Path, **metadata: Any) -> None:
    """Write more facts into the header of a file that `save_weights` wrote; its tensors stay as they are.

    Raises as `read_header` and `save_weights` do.
    """
    header, file = _open_file(Path(path))
    _write_file(Path(path), {name: file.get_tensor(name) for name in file.keys()}, header | metadata)  # noqa: SIM118


def _write_file(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    try:
        with atomic_path(path) as temp_path:
            # One metadata key only: safetensors writes several in no fixed order, and equal runs must give equal files.
            save_file(dict(tensors), temp_path, metadata={_HEADER_KEY: json.dumps(header)})
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error


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
    """The header of a file that `save_weights` wrote, without reading a tensor.

    Raises FileNotFoundError, or ValueError for a file that is cut short or was not written by reslab.
    """
    return _open_file(Path(path))[0]


def _open_file(path: Path) -> tuple[dict[str, Any], Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        file = safe_open(path, framework="pt")
        metadata = file.metadata() or {}
    except SafetensorError as error:
        raise invalid(
            "a whole .safetensors file", f"{path} ({error})", next_step="train again, or fetch the file again"
        ) from error
    if _HEADER_KEY not in metadata:
        hint = f"create_model(NAME, pretrained='{path.name}') reads the world's checkpoints"
        raise invalid("weights that reslab saved, with its header", f"{path} without one", next_step=hint)
    return json.loads(metadata[_HEADER_KEY]), file


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of the file by name, shared ones under each of their names."""
    header, file = _open_file(Path(path))
    # Copies, which begin where torch's own tensors begin: at other places of memory MKL sums in another order, and the
    # place in the file follows from the header's length.
    tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    return tensors | {name: tensors[stored_name] for name, stored_name in header.get("aliases", {}).items()}


def load_weights(path: str | Path, device: str | torch.device = "cpu") -> ResidualNetwork:
    """The network that `save_weights` saved, in eval mode, with its classes and preprocessing, whatever device it was
    saved on.

    Raises ValueError where the file is not ours, is cut short, or holds a module that is no `Network` (load its state
    dict into the module).
    """
    header = read_header(path)
    if header["arch"] is None:
        raise invalid(
            "weights of a reslab network",
            f"{path} of a foreign module",
            next_step="build the module and load read_tensors(path) into it",
        )
    arch = from_dict(Arch, header["arch"])
    with torch.device("meta"):
        network = ResidualNetwork(arch)
    network.load_state_dict(read_tensors(path), strict=True, assign=True)
    network.classes = tuple(header["classes"]) if header["classes"] else None
    network.preprocess = from_dict(Preprocess, header["preprocess"]) if header["preprocess"] else None
    network.temperature = (header.get("temperature") or {}).get("value")
    return network.to(device).eval()
