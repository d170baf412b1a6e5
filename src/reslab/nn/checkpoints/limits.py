"""The limits on what a checkpoint file may declare, checked before memory is allocated for it.

A file can declare far more than it holds: a zip entry inflates to a thousand times its size, a header names any shape,
and a pickle of 20 MB names a million tensors.
"""

import contextlib
import math
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.modules import module as torch_module

from reslab.nn.checkpoints.load_report import invalid_checkpoint

# Name, type, shape and place of a tensor, and in files of reslab its checksum; timm's longest names have 60 letters.
_HEADER_BYTES_PER_TENSOR = 400
_NPY_KINDS = "fiub"
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
    return dtype.kind in _NPY_KINDS and dtype.itemsize <= 8


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
