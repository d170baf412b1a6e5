"""Read the weights of Keras: `.keras`, `.weights.h5` and `.h5` of any version, in torch's layout.

h5py reads the numbers; the program that a file describes is never built.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.nn.checkpoints.bare_arrays import LEAVES, to_torch_layout
from reslab.nn.checkpoints.limits import ReadLimits
from reslab.nn.checkpoints.load_report import CheckpointError, invalid_checkpoint

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
_LEAVES = {**LEAVES, "running_std": "running_var"}


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
    return f"{path}.{_LEAVES.get(leaf, leaf)}"


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
