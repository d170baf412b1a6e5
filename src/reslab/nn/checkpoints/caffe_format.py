"""Read the layers of a `.caffemodel`: the few fields of Caffe's protocol buffers that hold names, types and weights.

caffe.proto of BVLC Caffe: a file is one `NetParameter`, the wire format is that of protobuf.dev/programming-guides.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reslab.nn.checkpoints.load_report import invalid_checkpoint

Field = tuple[int, int, int | memoryview]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Numbers of the fields of NetParameter, LayerParameter, V1LayerParameter (before 2015) and BlobProto.
_NET_LAYER, _NET_V1_LAYER = 100, 2
_LAYER = {"name": 1, "type": 2, "bottom": 3, "top": 4, "blobs": 7}
_V1_LAYER = {"name": 4, "type": 5, "bottom": 2, "top": 3, "blobs": 6}
_BLOB_DIMS, _BLOB_DATA, _BLOB_SHAPE, _BLOB_DOUBLE_DATA = (1, 2, 3, 4), 5, 7, 8
_BATCH_NORM, _SCALE, _LINEAR = "BatchNorm", "Scale", ("InnerProduct", "14")


@dataclass(frozen=True)
class CaffeLayer:
    """A layer of a file: its type, the name of its first input and output, and its weights."""

    name: str
    kind: str
    bottom: str
    top: str
    blobs: tuple[Tensor, ...]


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Return the weights of a `.caffemodel` by layer: `weight`, `bias`, `running_mean`, `running_var`.

    A `BatchNorm` holds sums: they are divided by its third blob. The `Scale` that follows it is its weight and bias.
    Raises CheckpointError for a file that is no `.caffemodel` or is truncated.
    """
    try:
        layers = _read_layers(memoryview(path.read_bytes()))
        return _name_weights(layers)
    except (ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        got = f"{path}, {path.stat().st_size:,} bytes, truncated or damaged ({error})"
        step = "download or copy the file again"
        raise invalid_checkpoint("a complete .caffemodel", got, next_step=step) from error


def read_mean_blob(path: Path) -> Tensor:
    """Return the mean image (C, H, W) of a `.binaryproto`. Raises CheckpointError for a damaged file."""
    try:
        blob = _read_blob(memoryview(path.read_bytes()))
        return blob.reshape(blob.shape[-3:])
    except (ValueError, IndexError, RuntimeError, struct.error) as error:
        step = "download or copy the file again"
        raise invalid_checkpoint("a mean image (.binaryproto) of Caffe", f"{path} ({error})", next_step=step) from error


def _name_weights(layers: list[CaffeLayer]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    norms: dict[str, str] = {}  # the norm that wrote each map last
    for layer in layers:
        if layer.kind == _BATCH_NORM and len(layer.blobs) >= 2:
            weights |= _batch_norm(layer)
            norms[layer.top] = layer.name
            continue
        target = norms.pop(layer.bottom, layer.name) if layer.kind == _SCALE else layer.name
        for leaf, blob in zip(("weight", "bias"), layer.blobs, strict=False):
            is_flat = layer.kind in _LINEAR and blob.ndim == 4 and leaf == "weight"
            is_bias = leaf == "bias" or layer.kind == _SCALE
            weights[f"{target}.{leaf}"] = blob.flatten() if is_bias else blob.flatten(0, 2) if is_flat else blob
    return weights


def _batch_norm(layer: CaffeLayer) -> dict[str, Tensor]:
    mean, var, *factor = (blob.flatten() for blob in layer.blobs)
    scale = float(factor[0][0]) if factor and len(factor[0]) else 1.0
    scale = 1 / scale if scale else 0.0
    affine = {"weight": torch.ones_like(mean), "bias": torch.zeros_like(mean)}
    entries = {**affine, "running_mean": mean * scale, "running_var": var * scale}
    return {f"{layer.name}.{leaf}": tensor for leaf, tensor in entries.items()}


def _read_layers(data: memoryview) -> list[CaffeLayer]:
    layers = []
    for number, kind, value in _fields(data):
        if isinstance(value, memoryview) and kind == _BYTES and number in (_NET_LAYER, _NET_V1_LAYER):
            layers.append(_read_layer(value, _LAYER if number == _NET_LAYER else _V1_LAYER))
    if not any(layer.blobs for layer in layers):
        raise ValueError("no layer with weights")
    return layers


def _read_layer(data: memoryview, numbers: dict[str, int]) -> CaffeLayer:
    values: dict[str, list[int | memoryview]] = {name: [] for name in numbers}
    names = {number: name for name, number in numbers.items()}
    for number, _, value in _fields(data):
        if number in names:
            values[names[number]].append(value)
    texts = {name: _text(items[0]) if items else "" for name, items in values.items() if name != "blobs"}
    blobs = tuple(_read_blob(value) for value in values["blobs"] if isinstance(value, memoryview))
    return CaffeLayer(texts["name"], texts["type"], texts["bottom"], texts["top"], blobs)


def _text(value: int | memoryview) -> str:
    return str(value) if isinstance(value, int) else bytes(value).decode()


def _read_blob(data: memoryview) -> Tensor:
    dims: dict[int, int] = {}
    shape: list[int] = []
    chunks: list[np.ndarray] = []
    for number, kind, value in _fields(data):
        if number in _BLOB_DIMS and isinstance(value, int):
            dims[number] = value
        elif number == _BLOB_SHAPE and isinstance(value, memoryview):
            shape = _read_shape(value)
        elif number in (_BLOB_DATA, _BLOB_DOUBLE_DATA):
            raw = value if isinstance(value, memoryview) else struct.pack("<I" if kind == _FIXED32 else "<Q", value)
            chunks.append(np.frombuffer(raw, "<f4" if number == _BLOB_DATA else "<f8"))
    shape = shape or [dims.get(number, 1) for number in _BLOB_DIMS if dims]
    values = np.concatenate(chunks) if chunks else np.zeros(0, "<f4")
    if math.prod(shape) != len(values):
        raise ValueError(f"{len(values)} values for the shape {shape}")
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def _read_shape(data: memoryview) -> list[int]:
    dims: list[int] = []
    for number, _, value in _fields(data):
        if number == 1 and isinstance(value, memoryview):
            position = 0
            while position < len(value):
                dim, position = _varint(value, position)
                dims.append(dim)
        elif number == 1 and isinstance(value, int):
            dims.append(value)
    return dims


def _fields(data: memoryview) -> Iterator[Field]:
    """Yield number, wire type and value of each field of a message. Raises ValueError for a damaged one."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield number, kind, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            size, position = _varint(data, position)
        if size is None or number == 0 or position + size > len(data):
            raise ValueError(f"a field of {size} bytes at byte {position} of {len(data)}")
        raw = data[position : position + size]
        yield number, kind, raw if kind == _BYTES else int.from_bytes(raw, "little")
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        value, position = value | (byte & 0x7F) << shift, position + 1
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number of more than 10 bytes at byte {position}")
