"""Files of other frameworks, recognized by their first bytes: Keras, Caffe, and pickles of NumPy arrays.

Keras' files are `.keras`, `.weights.h5` and `.h5` of any version; h5py reads the numbers, and the program that a file
describes is never built. Arrays of `.npz` files without names (`arr_0`, `arr_1`, ...) are the parameters of a network
in the order of its layers, as `np.savez(FILE, *values)` writes them: `lasagne.layers.get_all_param_values`, and scripts
that imitate it. All kernels are put in torch's layout.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.nn.checkpoints.caffe_format import read_caffemodel
from reslab.nn.checkpoints.limits import ReadLimits, is_torch_pickle, read_head, read_numpy_pickle, unsafe_names
from reslab.nn.checkpoints.load_report import CheckpointError, invalid_checkpoint

_BARE_NAME = re.compile(r"arr_(\d+)")
# Lasagne's order of the parameters of a batch norm. The inverse standard deviation contains Lasagne's epsilon.
NORM_LEAVES = ("bias", "weight", "running_mean", "inv_std")


def name_arrays(tensors: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """Return the entries of an `.npz` file with names of layers and in torch's layout.

    Bare arrays are named by layer: a 4-D array is a kernel O I H W (a correlation: Lasagne's `flip_filters=False`), a
    2-D one the weight of a linear layer (in, out); the 1-D arrays after them are a bias where their number leaves a
    remainder of one after division by 4, and norms of 4 arrays each: beta, gamma, mean, inverse standard deviation.
    Names with slashes are Google's (BiT): `kernel` (H, W, I, O), `gamma`, `beta`. Others stay as they are.

    Raises CheckpointError for bare arrays that are no such layers.
    """
    numbers = [match[1] if (match := _BARE_NAME.fullmatch(name)) else "" for name in tensors]
    if tensors and all(numbers):
        arrays = [tensors[f"arr_{number}"] for number in sorted(numbers, key=int)]
        return _name_layers(arrays, file)
    if any(name.endswith("/kernel") for name in tensors):
        return {_dotted(name): to_torch_layout(tensor, name) for name, tensor in tensors.items()}
    return dict(tensors)


LEAVES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""The names of the variables of a Keras layer in torch."""


def _dotted(name: str) -> str:
    path, _, leaf = name.rpartition("/")
    return f"{path.replace('/', '.')}.{LEAVES.get(leaf, leaf)}"


def to_torch_layout(tensor: Tensor, name: str) -> Tensor:
    """Return a kernel of TensorFlow (H, W, I, O) or (in, out) as torch has it; another tensor unchanged."""
    if name.endswith("depthwise_kernel") and tensor.ndim == 4:
        height, width, channels, factor = tensor.shape
        return tensor.permute(2, 3, 0, 1).reshape(channels * factor, 1, height, width).contiguous()
    if not name.endswith("kernel"):
        return tensor
    return tensor.permute(3, 2, 0, 1).contiguous() if tensor.ndim == 4 else tensor.T.contiguous()


def _name_layers(arrays: Sequence[Tensor], file: str) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    start = 0
    while start < len(arrays):
        first = arrays[start]
        has_weight = first.ndim in (2, 4)
        end = start + has_weight
        while end < len(arrays) and arrays[end].ndim == 1 and arrays[end].shape == arrays[start + has_weight].shape:
            end += 1
        vectors = range(start + has_weight, end)
        if has_weight:
            is_kernel = first.ndim == 4
            named[f"arr_{start}.weight"] = first if is_kernel else _linear_weight(first, arrays[start + 1 : end])
        if has_weight and len(vectors) % 4 == 1:
            named[f"arr_{start}.bias"] = arrays[start + 1]
            vectors = vectors[1:]
        if len(vectors) % 4 or end == start:
            got = f"{file}, whose arr_{start} has shape {list(first.shape)} with {len(vectors)} vectors after it"
            required = "arrays W, [b], then beta, gamma, mean and inverse standard deviation of each norm"
            raise invalid_checkpoint(required, got, next_step="save it with names: np.savez(FILE, **arrays)")
        for i in vectors[::4]:
            named |= {f"arr_{i}.{leaf}": arrays[i + k] for k, leaf in enumerate(NORM_LEAVES)}
        start = end
    return named


def _linear_weight(weight: Tensor, biases: Sequence[Tensor]) -> Tensor:
    """Return the weight of a linear layer as (out, in); only a bias of its first size shows that it is one already."""
    is_torch = bool(biases) and len(biases[0]) == weight.shape[0] != weight.shape[1]
    return weight if is_torch else weight.T.contiguous()


KERAS_INSTALL_HINT = "pip install 'reslab[keras]'"
_WEIGHTS_ENTRY, _CONFIG_ENTRY = "model.weights.h5", "config.json"
# Of Keras 3, whose files number the variables of a layer.
_VARIABLES = {
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "depthwise_conv2d": ("depthwise_kernel", "bias"),
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "layer_normalization": ("gamma", "beta"),
    "group_normalization": ("gamma", "beta"),
}
_KERAS_LEAVES = {**LEAVES, "running_std": "running_var"}


def is_keras_archive(path: Path) -> bool:
    """Return whether a zip file is one of Keras: it has the weights as an entry."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _WEIGHTS_ENTRY in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def read_keras(path: Path, limits: ReadLimits) -> tuple[dict[str, Tensor], bool]:
    """Return the weights `LAYER.weight`, `.bias`, `.running_mean`, `.running_var`, and whether in the layers' order.

    Kernels are (O, I, H, W), weights of linear layers (out, in). Raises CheckpointError for a damaged file, one without
    weights, and an installation without the extra `keras`.
    """
    try:
        import h5py
    except ImportError as error:
        got = f"{path}, a file of Keras (HDF5), and an installation without it"
        raise invalid_checkpoint("the extra keras (h5py)", got, next_step=KERAS_INSTALL_HINT) from error
    try:
        config, source = _open(path, limits)
        with h5py.File(source, "r") as file:
            datasets, ordered = _find_layers(file, config)
            limits.check_num_tensors(len(datasets), path)
            limits.check_unpacked_size(sum(dataset.nbytes for dataset in datasets.values()), path)
            tensors = {name: _to_tensor(dataset, name) for name, dataset in datasets.items()}
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can raise anything in h5py
        reason = str(error).split("\n")[0] or type(error).__name__
        got = f"{path}, {path.stat().st_size:,} bytes, truncated or damaged ({reason})"
        raise invalid_checkpoint(
            "a complete file of Keras", got, next_step="download or copy the file again"
        ) from error
    return {_torch_name(name): tensor for name, tensor in tensors.items()}, ordered


def _open(path: Path, limits: ReadLimits) -> tuple[dict[str, Any], Any]:
    if not zipfile.is_zipfile(path):
        return {}, path
    with zipfile.ZipFile(path) as archive:
        limits.check_zip(archive, path)
        config = json.loads(archive.read(_CONFIG_ENTRY)) if _CONFIG_ENTRY in archive.namelist() else {}
        return config, io.BytesIO(archive.read(_WEIGHTS_ENTRY))


def _to_tensor(array: Any, name: str) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} is of type {array.dtype}")
    values = array[()]
    return to_torch_layout(torch.from_numpy(np.asarray(values).astype(values.dtype.newbyteorder("="))), name)


def _torch_name(name: str) -> str:
    path, _, leaf = name.rpartition(".")
    return f"{path}.{_KERAS_LEAVES.get(leaf, leaf)}"


def _find_layers(file: Any, config: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the datasets by `layer.variable`, and whether they are in the layers' order."""
    if "layers" in file or "_layer_checkpoint_dependencies" in file:
        return _find_numbered(file, config)
    group = file.get("model_weights", file)
    layer_names = [_text(name) for name in group.attrs.get("layer_names", ())]
    arrays = {}
    for layer_name in layer_names or list(group):
        layer = group[layer_name]
        for weight_name in map(_text, layer.attrs.get("weight_names", ())):
            leaf = weight_name.rpartition("/")[2].partition(":")[0]
            arrays[f"{layer_name.replace('/', '.')}.{leaf}"] = layer[weight_name]
    if not arrays:
        raise ValueError("no layer with weights")
    return arrays, bool(layer_names)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _find_numbered(file: Any, config: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the datasets of Keras 3: `layers/conv2d_1/vars/0`, the layer's own name in an attribute or `config`."""
    group = file["layers"] if "layers" in file else file["_layer_checkpoint_dependencies"]
    names_by_key = dict(_layer_names(config))
    by_name: dict[str, dict[str, Any]] = {}
    for key in sorted(group, key=_natural_order):
        variables = group[key].get("vars", {})
        class_name = re.sub(r"_\d+$", "", key)
        leaves = _VARIABLES.get(class_name, ())
        name = _text(variables.attrs["name"]) if len(variables) and "name" in variables.attrs else ""
        name = name or names_by_key.get(key, key)
        if class_name == "batch_normalization" and len(variables) != len(leaves):
            raise ValueError(f"{name} has {len(variables)} variables; a batch norm needs scale=True and center=True")
        renamed = {leaves[int(i)] if int(i) < len(leaves) else i: variables[i] for i in sorted(variables, key=int)}
        if renamed:
            by_name[name] = {f"{name}.{leaf}": array for leaf, array in renamed.items()}
    if not by_name:
        raise ValueError("no layer with weights")
    order = [name for name in names_by_key.values() if name in by_name] or list(by_name)
    return {key: array for name in order for key, array in by_name[name].items()}, bool(names_by_key)


def _natural_order(key: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", key)
    assert match is not None
    return match[1], int(match[2] or 0)


def _layer_names(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the key of each layer in the weights (its class in snake case, numbered) and its name, in order."""
    counts: dict[str, int] = {}
    for layer in config.get("config", {}).get("layers", ()):
        snake = re.sub(r"\W+", "", layer["class_name"])
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", snake)).lower()
        number = counts.get(snake, 0)
        counts[snake] = number + 1
        yield (f"{snake}_{number}" if number else snake), str(layer["config"]["name"])


_HDF5_SIGNATURE, _ZIP_SIGNATURE, _PICKLE_START = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x80"
_CAFFE_SUFFIX = ".caffemodel"


@dataclass(frozen=True)
class ForeignFormat:
    """A container of weights: its suffixes, who writes it, and the extra that reads it (empty: none)."""

    name: str
    suffixes: tuple[str, ...]
    description: str
    extra: str = ""


# For the documentation and error messages; `read_foreign_file` recognizes a file by its content.
CONTAINERS: tuple[ForeignFormat, ...] = (
    ForeignFormat("torch", (".pth", ".pt", ".th", ".tar", ".ckpt", ".bin"), "`torch.save`, also of Lightning"),
    ForeignFormat("safetensors", (".safetensors",), "reslab, timm, Hugging Face"),
    ForeignFormat("named arrays", (".npz",), "`np.savez(FILE, **arrays)`; Google's BiT and other TensorFlow names"),
    ForeignFormat("bare arrays", (".npz",), "`np.savez(FILE, *arrays)`: `arr_0`, `arr_1`, ..., as Lasagne orders them"),
    ForeignFormat("Keras", (".h5", ".hdf5", ".keras"), "Keras 2 and 3: `save`, `save_weights`", "keras"),
    ForeignFormat("Caffe", (_CAFFE_SUFFIX,), "BVLC Caffe, both generations of layers"),
    ForeignFormat("pickled arrays", (".pkl",), "detectron2: dictionaries of NumPy arrays; nothing in it is run"),
)


def read_foreign_file(path: Path, head: bytes, limits: ReadLimits) -> tuple[Any, bool] | None:
    """Return the content of a file of another framework, and whether its entries are in the network's order.

    None for the formats of torch, NumPy and safetensors, and for pickles without arrays. Raises CheckpointError for a
    damaged file and one that declares more than `limits`.
    """
    if head.startswith(_HDF5_SIGNATURE) or (head.startswith(_ZIP_SIGNATURE) and is_keras_archive(path)):
        return read_keras(path, limits)
    if head.startswith(_PICKLE_START) and not is_torch_pickle(head) and not unsafe_names(read_head(path)):
        content = read_numpy_pickle(path, limits)
        return None if content is None else (content, True)
    if path.suffix.lower() == _CAFFE_SUFFIX:
        return read_caffemodel(path), True
    return None
