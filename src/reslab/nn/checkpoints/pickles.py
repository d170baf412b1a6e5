"""Pickles without running them: the functions and classes that one would call, and the NumPy arrays in one."""

import io
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reslab.nn.checkpoints.limits import ReadLimits
from reslab.nn.checkpoints.load_report import invalid_checkpoint

_MAX_BYTES = 1 << 20
_STRINGS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
# The number that starts a file of torch.save before zip files (torch.serialization.MAGIC_NUMBER).
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_MIN_OPCODES = 3  # nearly any file begins with one or two bytes that are opcodes
# Names that files of tensors have.
_HARMLESS = re.compile(
    r"(collections\.OrderedDict|(__builtin__|builtins)\.(set|dict|list)|argparse\.Namespace|_codecs\.encode"
    r"|numpy\..*(dtype|scalar|ndarray|_reconstruct|_frombuffer)|torch\.(Size|\w+Storage|storage\.\w+|_utils\._rebuild_\w+|device|\w+\d+))"
)


def unsafe_names(content: bytes) -> list[str]:
    """Return the functions and classes that the first pickles in `content` call, beyond those of tensors.

    Names that a pickle assembles in its memo are found too, as far as they are strings just before their use.
    """
    names = [name for name in _global_names(content) if not _HARMLESS.fullmatch(name)]
    return list(dict.fromkeys(names))


def _global_names(content: bytes) -> Iterator[str]:
    stream, strings, memo = io.BytesIO(content), list[str](), dict[Any, str]()
    while stream.tell() < len(content):
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(strings[-2:])
                elif opcode.name in _STRINGS:
                    strings.append(str(argument))
                elif opcode.name == "MEMOIZE":
                    memo[len(memo)] = strings[-1] if strings else ""
                elif opcode.name in ("BINGET", "LONG_BINGET", "GET") and argument in memo:
                    strings.append(memo[argument])
        except Exception:  # damaged, cut, or not a pickle: pickletools raises ValueError and others
            return


def is_pickle(content: bytes) -> bool:
    """Return True if `content` begins with a whole pickle of any protocol."""
    count = 0
    try:
        for opcode, _, _ in pickletools.genops(io.BytesIO(content)):
            count += 1
            if opcode.name == "STOP":
                return count >= _MIN_OPCODES
    except Exception:  # as above
        return False
    return False


def is_torch_pickle(content: bytes) -> bool:
    """Return True if `content` begins as the files of torch.save did before they were zip files."""
    return _TORCH_MAGIC in content[:32]


def pickle_protocol(content: bytes) -> int:
    """Return the protocol of a pickle; 1 stands for 0 too."""
    return content[1] if content[:1] == b"\x80" and len(content) > 1 else 1


def read_head(path: Path) -> bytes:
    """Return the first MiB of a file, enough for the names in a pickle without its tensors."""
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)


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
