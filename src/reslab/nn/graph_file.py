"""torch.export programs (`.pt2`): make one of a network, and load one without running what a file may hide in it."""

import contextlib
import io
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from reslab.nn.graph_check import check_program, check_program_file, refuse
from reslab.runtime.files import atomic_path


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
    """Write the program of the network, atomically.

    Raises what torch.export raises for code that it cannot trace, and ValueError for operators that `load_program`
    refuses.
    """
    program = export_program(network, input_size)
    buffer = io.BytesIO()
    with suppress_warnings():
        torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as archive:
        check_program(archive, path)  # what is refused when it is opened should not be written
    with atomic_path(path) as temp_path:  # by Python: torch's own writer ends the process when the disk is full
        temp_path.write_bytes(buffer.getbuffer())


def load_program(path: Path) -> Callable[[Tensor], Tensor]:
    """Return the function of a program. Raises ValueError for a file with anything but tensors and operators."""
    check_program_file(path)
    with suppress_warnings():
        try:
            module = torch.export.load(path).module(check_guards=False)  # the guards of a file are Python source
        except Exception as error:
            refuse(path, f"{type(error).__name__}: {error}")

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(x)
            return logits

    return forward


@contextlib.contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress the exporters' warnings about their internals, which users cannot act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
