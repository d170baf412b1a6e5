"""What a checkpoint file may declare and call: limits, checked before memory is allocated, and pickles, never run.

A file can declare far more than it holds: a zip entry inflates to a thousand times its size, a header names any shape,
and a pickle of 20 MB names a million tensors. A pickle can call any function: these are named without running it, and
NumPy arrays are read without calling one.
"""

import contextlib
import io
import math
import pickle
import pickletools
import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules import module as torch_module

from reslab.nn.checkpoints.load_report import invalid_checkpoint

# Name, type, shape and place of a tensor, and in files of reslab its checksum; timm's longest names have 60 letters.
_HEADER_BYTES_PER_TENSOR = 400
_NUMBER_KINDS = "fiub"
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_WRONG_FILE_STEP = "check that it is the file of this network"


@dataclass(frozen=True)
class ReadLimits:
    """The most that is read from a checkpoint file.

    `max_tensors`: named tensors. `max_bytes`: bytes after unpacking, of a file that unpacks to more than its own size;
    None: 64 MiB and 20 times the file. `max_pickle_bytes`: bytes of a pickle without its tensors, which Python reads at
    about 2 MB a second.
    """

    max_tensors: int = 100_000
    max_bytes: int | None = None
    max_pickle_bytes: int = 16 << 20

    @staticmethod
    def for_network(state: Mapping[str, Tensor], num_repeats: int = 1) -> "ReadLimits":
        """Return the limits on a file for a network with this state.

        A training checkpoint holds several copies of the network (averages, momenta), in up to 64 bits; `num_repeats`:
        how often a file may store each tensor, for blocks that share theirs.
        """
        max_tensors = 1000 + 20 * len(state) * num_repeats
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        return ReadLimits(max_tensors, (64 << 20) + 20 * num_bytes * num_repeats, (2 << 20) + 400 * max_tensors)

    def check_safetensors(self, path: Path) -> None:
        """Raise CheckpointError if the header of a .safetensors file is too long for the tensors it may have."""
        with path.open("rb") as file:
            num_bytes = int.from_bytes(file.read(8), "little")
        max_bytes = (1 << 20) + _HEADER_BYTES_PER_TENSOR * self.max_tensors
        # A length beyond the end of the file is damage, which the reader reports.
        if max_bytes < num_bytes <= path.stat().st_size:
            got = f"{path} with {num_bytes:,} bytes"
            required = f"a header of at most {max_bytes:,} bytes, for at most {self.max_tensors:,} tensors"
            raise invalid_checkpoint(required, got, next_step=_WRONG_FILE_STEP)

    def check_num_tensors(self, count: int, path: object) -> None:
        """Raise CheckpointError for a file with too many tensors, given their number or that of its zip entries."""
        if count > self.max_tensors:
            got = f"{path} with {count:,}"
            raise invalid_checkpoint(f"at most {self.max_tensors:,} tensors", got, next_step=_WRONG_FILE_STEP)

    def check_unpacked_size(self, num_bytes: int, path: Path) -> None:
        """Raise CheckpointError for a file that unpacks to too many bytes."""
        file_size = path.stat().st_size
        max_bytes = (64 << 20) + 20 * file_size if self.max_bytes is None else self.max_bytes
        if num_bytes > max(max_bytes, file_size):
            got = f"{path}, {file_size:,} bytes that unpack to {num_bytes:,}"
            raise invalid_checkpoint(f"a file that unpacks to at most {max_bytes:,} bytes", got, "", _WRONG_FILE_STEP)

    def check_zip(self, archive: zipfile.ZipFile, path: Path) -> None:
        """Raise CheckpointError if the directory of a zip file declares too many entries, bytes or a large pickle."""
        entries = archive.infolist()
        self.check_num_tensors(len(entries), path)
        self.check_unpacked_size(sum(entry.file_size for entry in entries), path)
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                self.check_pickle_size(entry.file_size, path)

    def check_pickle_size(self, num_bytes: int, path: object) -> None:
        """Raise CheckpointError for a pickle that is too large without its tensors."""
        if num_bytes > self.max_pickle_bytes:
            required = f"at most {self.max_pickle_bytes:,} bytes of names and other values beside the tensors"
            step = "save model.state_dict() alone" if num_bytes < 1 << 30 else ""
            raise invalid_checkpoint(required, f"{path} with at least {num_bytes:,}", next_step=step)


class PickleFile:
    """A file whose `read` and `readline` count bytes: torch reads a pickle by them, and tensors past them."""

    def __init__(self, file: Any, limits: ReadLimits, path: Path) -> None:
        self._file, self._limits, self._path, self._num_read = file, limits, path, 0

    def read(self, num_bytes: int = -1) -> bytes:
        """Return bytes; CheckpointError if the pickle is too large."""
        return self._count(self._file.read(num_bytes))

    def readline(self) -> bytes:
        """Return a line; CheckpointError if the pickle is too large."""
        return self._count(self._file.readline(self._limits.max_pickle_bytes + 1))

    def _count(self, content: bytes) -> bytes:
        self._num_read += len(content)
        self._limits.check_pickle_size(self._num_read, self._path)
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def check_npy_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.dtype[Any]:
    """Return the type of an array in an .npz file, after comparing the declared shape with the bytes that are there.

    Raises ValueError for another number of bytes and a header that is damaged.
    """
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version not in _NPY_HEADERS:
            raise ValueError(f"{entry.filename} has a header of version {version}")
        shape, _, dtype = _NPY_HEADERS[version](file)
        num_stored = entry.file_size - file.tell()
    num_declared = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and (min(shape, default=0) < 0 or num_declared != num_stored):
        raise ValueError(f"{entry.filename} declares {dtype} {list(shape)} and has {num_stored:,} bytes")
    return dtype


def is_npy_number(dtype: np.dtype[Any]) -> bool:
    """Return True for real numbers of at most 64 bits, which torch has too."""
    return dtype.kind in _NUMBER_KINDS and dtype.itemsize <= 8


@contextlib.contextmanager
def module_limit(shapes: Mapping[str, tuple[int, ...]], path: object) -> Iterator[None]:
    """Raise CheckpointError as soon as this thread builds a network of more parameters or modules than a file suggests.

    An architecture from a file may ask for any number of them (`conv(res2(1000000000))`), and building takes time and
    memory for each. `shapes`: those of the file's tensors. Blocks that share weights are registered more than once.
    """
    thread, max_parameters, max_modules = threading.get_ident(), 2 * len(shapes) + 100, 100 * len(shapes) + 20_000
    max_elements = 2 * sum(math.prod(shape) for shape in shapes.values()) + 1_000_000
    counts = {"parameters": 0, "modules": 0, "elements": 0}

    def count(name: str, number: int, maximum: int) -> None:
        counts[name] += number
        if counts[name] > maximum:
            got = f"more, by the architecture in {path}, a file of {len(shapes)} tensors"
            step = "the file is damaged or hostile: fetch it again"
            raise invalid_checkpoint(f"a network of at most {maximum:,} {name}", got, next_step=step)

    def on_parameter(module: object, name: str, parameter: Tensor | None) -> None:
        if parameter is not None and threading.get_ident() == thread:
            count("parameters", 1, max_parameters)
            count("elements", parameter.numel(), max_elements)

    def on_module(module: object, name: str, child: object) -> None:
        if threading.get_ident() == thread:
            count("modules", 1, max_modules)

    with contextlib.ExitStack() as stack:
        for handle in (
            torch_module.register_module_parameter_registration_hook(on_parameter),
            torch_module.register_module_module_registration_hook(on_module),
        ):
            stack.callback(handle.remove)
        yield


_HEAD_BYTES = 1 << 20
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
        return file.read(_HEAD_BYTES)


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
