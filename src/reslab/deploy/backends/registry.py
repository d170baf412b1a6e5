"""The engines by name, and which one is taken where none is named."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.deploy.backends.backend import Answer, Engine, Wish, normaliser
from reslab.deploy.extras import has_extra, need_extra
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_device, quick_bf16
from reslab.spec.errors import invalid, unknown_name

# Making a graph takes seconds; below so many pictures torch, which needs none, is done sooner.
FEW_IMAGES = 256
PRECISIONS = ("float32", "bf16", "fp16", "int8")


def _native(network: ResidualNetwork, wish: Wish) -> Answer:
    from reslab.deploy.backends.torch_backend import prepare

    return prepare(network, wish)


def _onnx(network: ResidualNetwork, wish: Wish) -> Answer:
    from reslab.deploy.backends.onnxruntime_backend import prepare

    return prepare(network, wish)


def _openvino(network: ResidualNetwork, wish: Wish) -> Answer:
    from reslab.deploy.backends.openvino_backend import prepare

    return prepare(network, wish)


@dataclass(frozen=True)
class Kind:
    """A line of the table: the extra an engine needs, the kinds of device and precisions it has, how it is made."""

    name: str
    extra: str
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    prepare: Callable[[ResidualNetwork, Wish], Answer]


ENGINES: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("torch", "", ("cuda", "mps", "cpu"), ("float32", "bf16", "fp16"), _native),
        Kind("onnxruntime", "onnx", ("cpu",), ("float32", "int8"), _onnx),
        Kind("openvino", "openvino", ("cpu",), ("float32", "bf16", "int8"), _openvino),
    )
}


def open_engine(
    network: ResidualNetwork,
    name: str = "auto",
    precision: str = "float32",
    device: str | torch.device = "auto",
    *,
    compiled: bool = False,
    images: Tensor | None = None,
    num_images: int | None = None,
    num_threads: int | None = None,
) -> Engine:
    """The network made ready to answer by the engine of this name.

    `auto` takes the quickest that is installed for the device (`choose_engine`); precision `auto` is bf16 where engine
    and device have instructions for it, else float32. `images` (N, C, H, W, normalised) are for the scales of int8;
    `num_images` tells how many pictures are to come. The network itself stays as it is.
    Raises ValueError for an unknown engine, and for a device or precision that it does not have; ExtraMissing where its
    package is not installed.
    """
    place = choose_device(device)
    name = choose_engine(place, precision, num_images) if name == "auto" else name
    if name not in ENGINES:
        raise unknown_name("engine", name, ["auto", *ENGINES])
    kind = ENGINES[name]
    if kind.extra:
        need_extra(kind.extra, f"the engine {name}")
    if place.type not in kind.devices and str(device) == "auto":
        place = torch.device("cpu")
    check_engine(kind, place, precision, compiled)
    precision = quick_precision(kind, place) if precision == "auto" else precision
    wish = Wish(precision, place, num_threads or torch.get_num_threads(), compiled, images)
    return Engine(name, precision, place, kind.prepare(network, wish), normaliser(network, place), compiled)


def choose_engine(device: torch.device, precision: str = "float32", num_images: int | None = None) -> str:
    """The quickest engine installed: on a CPU openvino, then onnxruntime, then torch; elsewhere torch.

    torch too for fewer than FEW_IMAGES pictures, which are done before a graph is made. An engine without the
    precision asked for is passed over.
    """
    if device.type != "cpu" or (num_images is not None and num_images < FEW_IMAGES and precision != "int8"):
        return "torch"
    order = ("openvino", "onnxruntime", "torch")
    fitting = [name for name in order if precision == "auto" or precision in ENGINES[name].precisions]
    return next((name for name in fitting if has_extra(ENGINES[name].extra)), fitting[0] if fitting else "torch")


def quick_precision(kind: Kind, device: torch.device) -> str:
    """bf16 where engine and device have it, else float32."""
    return "bf16" if "bf16" in kind.precisions and quick_bf16(device) else "float32"


def check_engine(kind: Kind, device: torch.device, precision: str, compiled: bool = False) -> None:
    """Raises ValueError where the engine cannot run so on the device."""
    if precision not in ("auto", *PRECISIONS):
        raise unknown_name("precision", precision, ("auto", *PRECISIONS))
    if device.type not in kind.devices:
        raise invalid(f"{' or '.join(kind.devices)} for the engine {kind.name}", device.type, kind.devices[0])
    if precision not in ("auto", *kind.precisions):
        having = [other.name for other in ENGINES.values() if precision in other.precisions]
        step = f"the engines with {precision}: {', '.join(having)}"
        raise invalid(f"{', '.join(kind.precisions)} for the engine {kind.name}", precision, next_step=step)
    if compiled and kind.name != "torch":
        raise invalid("compilation with the engine torch", kind.name, next_step="leave --compile away")
    if compiled and not can_compile(device):
        step = "install g++ or clang++, or leave --compile away"
        raise invalid("a C++ compiler, which torch.compile needs on a CPU", "none", next_step=step)


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds the compiler it needs on a CPU; other devices bring theirs."""
    return device.type != "cpu" or any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++")))
