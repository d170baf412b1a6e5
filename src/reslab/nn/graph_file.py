"""torch.export programs (`.pt2`): make one of a network, and load one without running what a file may hide in it."""

import contextlib
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from reslab.runtime.files import atomic_path
from reslab.spec.errors import invalid

_NEXT_STEP = "export the network again, or use a file from a source that you trust"
# What torch.export.save writes for tensors and operators; other entries hold pickles or machine code, which run.
_ENTRIES = re.compile(
    r"(byteorder|version|archive_format|archive_version|\.data/\w+|extra/.+|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/sample_inputs/model\.pt"
    r"|data/constants/(tensor_\d+|model_constants_config\.json))"
)
_TARGETS = re.compile(r"(torch\.ops\.(aten|prims|torchvision|higher_order)\.\w+(\.\w+)?|_operator\.\w+|torch\.sym_\w+)")
# Sizes are read as formulas, by evaluating their text.
_SIZE_WORDS = re.compile(
    r"[su]\d+|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Pow|Mul|Add|Integer|Symbol|positive|nonnegative|integer|True|False"
)
_SIZE_TEXT = re.compile(r"[\w+\-*/%(), '=]*")


def export_program(network: nn.Module, input_size: tuple[int, ...], any_size: bool = False) -> ExportedProgram:
    """Return the network in eval mode as a program from float32 (batch, C, H, W) to logits, for any batch >= 1.

    With `any_size` also for any height and width that the network takes.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    x = torch.zeros(2, *input_size, device=device)
    with torch.no_grad(), suppress_warnings():
        sizes = {2: Dim.AUTO, 3: Dim.AUTO} if any_size else {}
        return torch.export.export(network.eval(), (x,), dynamic_shapes=({0: Dim("batch", min=1), **sizes},))


def save_program(network: nn.Module, input_size: tuple[int, ...], path: Path) -> None:
    """Write the program of the network, atomically. Raises what torch.export raises for code that it cannot trace."""
    program = export_program(network, input_size)
    buffer = io.BytesIO()
    with suppress_warnings():
        torch.export.save(program, buffer)
    with atomic_path(path) as temp_path:  # by Python: torch's own writer ends the process when the disk is full
        temp_path.write_bytes(buffer.getbuffer())


def load_program(path: Path) -> Callable[[Tensor], Tensor]:
    """Return the function of a program. Raises ValueError for a file with anything but tensors and operators."""
    _check_program_file(path)
    with suppress_warnings():
        try:
            module = torch.export.load(path).module()
        except Exception as error:
            raise _invalid_file(path, f"{type(error).__name__}: {error}") from error

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(x)
            return logits

    return forward


def _invalid_file(path: Path, problem: str) -> ValueError:
    return invalid("a torch.export program of tensors and operators", f"{path} ({problem})", next_step=_NEXT_STEP)


def _check_program_file(path: Path) -> None:
    """Raise ValueError unless loading the file can run nothing: torch.export.load unpickles some of its entries."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                inner = name.partition("/")[2]
                if not _ENTRIES.fullmatch(inner):
                    raise _invalid_file(path, f"it has the entry {inner!r}")
                if inner.endswith("_config.json"):
                    _check_payload(json.loads(archive.read(name)), path)
                elif inner.endswith(".pt"):
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                elif inner == "models/model.json":
                    _check_operators(json.loads(archive.read(name)), path)
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise _invalid_file(path, str(error)) from error
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise _invalid_file(path, "it has objects other than tensors") from error


def _check_payload(config: Any, path: Path) -> None:
    for name, value in _walk(config):
        if name == "use_pickle" and value is not False:
            raise _invalid_file(path, "it has pickled objects")


def _check_operators(program: Any, path: Path) -> None:
    for name, value in _walk(program):
        if name == "target" and not (isinstance(value, str) and _TARGETS.fullmatch(value)):
            raise _invalid_file(path, f"it calls {value!r}")
        if name == "expr_str" and not _is_size(value):
            raise _invalid_file(path, f"it has the size {value!r}")


def _is_size(text: Any) -> bool:
    words = re.findall(r"[A-Za-z_]\w*", text) if isinstance(text, str) else []
    return isinstance(text, str) and bool(_SIZE_TEXT.fullmatch(text)) and all(map(_SIZE_WORDS.fullmatch, words))


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value of nested JSON."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield from item.items()
            pending += item.values()
        elif isinstance(item, list):
            pending += item


@contextlib.contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress the exporters' warnings about their internals, which users cannot act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
