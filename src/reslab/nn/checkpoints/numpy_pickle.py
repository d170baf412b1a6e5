"""Read a pickle of NumPy arrays in dictionaries and lists, as detectron2 writes, without running anything from it.

No class or function that a pickle names is imported: the few names that NumPy arrays need stand for the records below,
which hold the values until every shape has been compared with its bytes.
"""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reslab.nn.checkpoints.limits import ReadLimits
from reslab.nn.checkpoints.load_report import invalid_checkpoint

_NUMBER_KINDS = "fiub"


class _DType:
    """`numpy.dtype("f4")` of a pickle: a code of numbers, and whether the high byte is first."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code, self.is_big_endian = code if isinstance(code, str) else "O", False

    def __setstate__(self, state: Any) -> None:
        self.is_big_endian = state[1] == ">"

    def to_numpy(self) -> np.dtype[Any]:
        """Return the type. Raises ValueError unless its values are numbers."""
        if not (self.code[:1] in _NUMBER_KINDS and self.code[1:].isdigit()):
            raise ValueError(f"values of type {self.code!r}")
        return np.dtype(self.code).newbyteorder(">" if self.is_big_endian else "<")


class _Array:
    """An array of a pickle: type, shape and bytes."""

    def __init__(self, *_: Any) -> None:
        self.array = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data
        self.array = np.frombuffer(data, dtype.to_numpy()).reshape(shape, order="F" if is_fortran else "C")


def _array_from_buffer(data: Any, dtype: _DType, shape: Any, order: str) -> _Array:
    array = _Array()
    array.array = np.frombuffer(data, dtype.to_numpy()).reshape(shape, order="F" if order == "F" else "C")
    return array


def _scalar(dtype: _DType, data: Any = b"") -> Any:
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype.to_numpy())[0].item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


_ALLOWED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_from_buffer for core in ("core", "_core")},
}


class _ForbiddenName(Exception):
    """A pickle names something else than NumPy's arrays."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _ForbiddenName(f"{module}.{name}")
        return _ALLOWED[module, name]


def read_numpy_pickle(path: Path, limits: ReadLimits) -> Any:
    """Return the content of a pickle with a tensor in place of every array; None for one without arrays.

    Raises CheckpointError for a damaged file, one that names anything but arrays and dictionaries, arrays of other
    values than numbers, and more than `limits`.
    """
    try:
        with path.open("rb") as file:
            # The text of Python 2's pickles is bytes, which Latin-1 keeps one to one.
            content = _Unpickler(file, encoding="latin1").load()
        arrays: dict[int, _Array] = {}
        _collect_arrays(content, arrays, set())
    except _ForbiddenName as error:
        step = "if you trust it: load it with the code that made it and save its arrays with np.savez(FILE, **arrays)"
        got = f"{path}, which contains `{error}`, which would run when read"
        raise invalid_checkpoint(
            "a checkpoint of arrays only, read without running code", got, next_step=step
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).split("\n")[0] or type(error).__name__
        got = f"{path}, {path.stat().st_size:,} bytes, truncated or damaged ({reason})"
        step = "download or copy the file again"
        raise invalid_checkpoint("a complete checkpoint", got, next_step=step) from None
    limits.check_num_tensors(len(arrays), path)
    limits.check_unpacked_size(sum(one.array.nbytes for one in arrays.values()), path)
    return _to_tensors(content, {}) if arrays else None


def _collect_arrays(value: Any, arrays: dict[int, _Array], seen: set[int]) -> None:
    if isinstance(value, _Array):
        arrays[id(value)] = value
    elif isinstance(value, Mapping) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values():
            _collect_arrays(item, arrays, seen)


def _to_tensors(value: Any, seen: dict[int, Any]) -> Any:
    """Return arrays as tensors, also inside dictionaries; each is converted once, however often it is referred to."""
    if isinstance(value, _Array):
        if id(value) not in seen:
            array = value.array
            seen[id(value)] = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
        return seen[id(value)]
    if isinstance(value, Mapping):
        if id(value) not in seen:
            seen[id(value)] = converted = {}
            converted.update({key: _to_tensors(item, seen) for key, item in value.items()})
        return seen[id(value)]
    return value if isinstance(value, str | int | float | bool | None) else None
