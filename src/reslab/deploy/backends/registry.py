"""The backends by name, and the choice of a backend for `auto`."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.deploy.backends.backend import Backend, BackendOptions, ForwardFn, make_normalize
from reslab.nn.graph_file import load_program
from reslab.nn.module_network import AnyNetwork, GraphModel, Model
from reslab.runtime.device import choose_device, has_fast_bf16
from reslab.runtime.extras import has_extra, require_extra
from reslab.spec.errors import invalid, unknown_name

# Building a graph takes seconds; for fewer images torch, which needs none, finishes earlier.
MIN_GRAPH_IMAGES = 256
PRECISIONS = ("float32", "bf16", "fp16", "int8")


def _build_torch(network: AnyNetwork, options: BackendOptions) -> ForwardFn:
    from reslab.deploy.backends.torch_backend import build_torch_forward

    return build_torch_forward(network, options)


def _build_onnxruntime(network: AnyNetwork, options: BackendOptions) -> ForwardFn:
    from reslab.deploy.backends.graph_backends import build_onnxruntime_forward

    return build_onnxruntime_forward(network, options)


def _build_openvino(network: AnyNetwork, options: BackendOptions) -> ForwardFn:
    from reslab.deploy.backends.graph_backends import build_openvino_forward

    return build_openvino_forward(network, options)


@dataclass(frozen=True)
class BackendInfo:
    """A backend: its extra, device types and precisions, and the function that builds its forward function."""

    name: str
    extra: str
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    build: Callable[[AnyNetwork, BackendOptions], ForwardFn]


BACKENDS: dict[str, BackendInfo] = {
    info.name: info
    for info in (
        BackendInfo("torch", "", ("cuda", "mps", "cpu"), ("float32", "bf16", "fp16"), _build_torch),
        BackendInfo("onnxruntime", "onnx", ("cpu",), ("float32", "int8"), _build_onnxruntime),
        BackendInfo("openvino", "openvino", ("cpu",), ("float32", "bf16", "int8"), _build_openvino),
    )
}


# The runtime of each kind of exported graph.
GRAPH_BACKENDS = {".onnx": "onnxruntime", ".pt2": "torch", ".xml": "openvino"}


def open_backend(
    network: Model,
    name: str = "auto",
    precision: str = "float32",
    device: str | torch.device = "auto",
    *,
    compiled: bool = False,
    calibration_images: Tensor | None = None,
    num_images: int | None = None,
    num_threads: int | None = None,
    spin_threads: bool = True,
) -> Backend:
    """Return the network as the backend of this name; the network itself is not changed.

    An exported graph is run by its own runtime, in its own precision.

    `auto` is the fastest installed backend for the device (`choose_backend`); precision `auto` is bf16 if backend and
    device support it natively, else float32. int8 needs normalized `calibration_images` (N, C, H, W). `num_images` is
    the expected number of images. `spin_threads` (see `BackendOptions`) suits a caller that has nothing else to compute
    between calls; `predict` and the server, whose threads decode images, do without. Raises ValueError for an unknown
    backend and an unsupported device or precision; MissingExtraError if its package is not installed.
    """
    if isinstance(network, GraphModel):
        return _open_graph_backend(network, name, precision, compiled, num_threads, spin_threads)
    resolved_device = choose_device(device)
    name = choose_backend(resolved_device, precision, num_images) if name == "auto" else name
    if name not in BACKENDS:
        raise unknown_name("backend", name, ["auto", *BACKENDS])
    info = BACKENDS[name]
    if info.extra:
        require_extra(info.extra, f"the backend {name}")
    if resolved_device.type not in info.devices and str(device) == "auto":
        resolved_device = torch.device("cpu")
    check_backend(info, resolved_device, precision, compiled)
    precision = fast_precision(info, resolved_device) if precision == "auto" else precision
    options = BackendOptions(
        precision, resolved_device, num_threads or torch.get_num_threads(), compiled, calibration_images, spin_threads
    )
    return Backend(
        name,
        precision,
        resolved_device,
        info.build(network, options),
        make_normalize(network, resolved_device),
        compiled,
    )


def _open_graph_backend(
    graph: GraphModel, name: str, precision: str, compiled: bool, num_threads: int | None, spin_threads: bool
) -> Backend:
    """Return an exported graph as a backend on the CPU. Raises ValueError for another backend or precision."""
    own_name, device = GRAPH_BACKENDS[graph.path.suffix], torch.device("cpu")
    if name not in ("auto", own_name):
        raise invalid(f"the backend {own_name} for {graph.path.name}", name, own_name)
    if precision not in ("auto", "float32", graph.precision):
        raise invalid(f"{graph.precision}, the precision of {graph.path.name}", precision, graph.precision)
    if compiled:
        raise invalid("a network with its layers to compile", f"{graph.path}, an exported graph")
    if extra := BACKENDS[own_name].extra:
        require_extra(extra, f"the graph {graph.path.name}")
    options = BackendOptions(graph.precision, device, num_threads or torch.get_num_threads(), spin_threads=spin_threads)
    return Backend(own_name, graph.precision, device, _graph_forward(graph, options), make_normalize(graph, device))


def _graph_forward(graph: GraphModel, options: BackendOptions) -> ForwardFn:
    if graph.path.suffix == ".pt2":
        return load_program(graph.path)
    try:
        if graph.path.suffix == ".xml":
            from reslab.deploy.backends.graph_backends import openvino_forward

            return openvino_forward(graph.path, options)
        from reslab.deploy.backends.graph_backends import onnx_forward

        return onnx_forward(graph.path, options)
    except Exception as error:  # each runtime raises its own classes for a damaged file
        step = "export the network again"
        raise invalid(f"a graph of {options.precision}", f"{graph.path} ({error})", next_step=step) from error


def choose_backend(device: torch.device, precision: str = "float32", num_images: int | None = None) -> str:
    """Return the fastest installed backend: on a CPU openvino, then onnxruntime, then torch; elsewhere torch.

    For fewer than MIN_GRAPH_IMAGES images it is torch, which finishes before a graph is built. Backends that do not
    support the precision are skipped.
    """
    if device.type != "cpu" or (num_images is not None and num_images < MIN_GRAPH_IMAGES and precision != "int8"):
        return "torch"
    preference = ("openvino", "onnxruntime", "torch")
    candidates = [name for name in preference if precision == "auto" or precision in BACKENDS[name].precisions]
    return next(
        (name for name in candidates if has_extra(BACKENDS[name].extra)), candidates[0] if candidates else "torch"
    )


def fast_precision(info: BackendInfo, device: torch.device) -> str:
    """Return bf16 if backend and device support it natively, else float32."""
    return "bf16" if "bf16" in info.precisions and has_fast_bf16(device) else "float32"


def check_backend(info: BackendInfo, device: torch.device, precision: str, compiled: bool = False) -> None:
    """Raise ValueError if the backend does not support the device, precision or compilation."""
    if precision not in ("auto", *PRECISIONS):
        raise unknown_name("precision", precision, ("auto", *PRECISIONS))
    if device.type not in info.devices:
        raise invalid(f"{' or '.join(info.devices)} for the backend {info.name}", device.type, info.devices[0])
    if precision not in ("auto", *info.precisions):
        alternatives = [other.name for other in BACKENDS.values() if precision in other.precisions]
        step = f"backends with {precision}: {', '.join(alternatives)}"
        raise invalid(f"{', '.join(info.precisions)} for the backend {info.name}", precision, next_step=step)
    if compiled and info.name != "torch":
        raise invalid("compilation with the backend torch", info.name, next_step="leave out --compile")
    if compiled and not can_compile(device):
        step = "install g++ or clang++, or leave out --compile"
        raise invalid("a C++ compiler, which torch.compile needs on a CPU", "none", next_step=step)


def can_compile(device: torch.device) -> bool:
    """Return whether torch.compile finds the C++ compiler that it needs on a CPU; other devices bring their own."""
    return device.type != "cpu" or any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++")))
