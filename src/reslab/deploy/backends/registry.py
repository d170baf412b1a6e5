"""The backends by name, the choice of a backend for `auto`, and the backend torch.

The backend torch folds batch norms, works in place and computes in the channels-last memory format, on x86 with packed
convolutions; bf16, fp16 and compilation are optional. torch keeps weights in its own layout, so that oneDNN reorders
them in every forward pass; for ResNet-50 that is a fifth of the time at batch size 1. Packed convolutions store them in
the layout that oneDNN computes with on x86; the outputs are those of `nn.Conv2d` up to rounding. Their operations are
those that torch's compiler uses when it freezes weights (`torch._inductor.config.freezing`); where they are missing,
nothing is packed.
"""

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from reslab.deploy.backends.backend import Backend, BackendOptions, ForwardFn, make_normalize
from reslab.deploy.export.bn_folding import fold_batch_norms
from reslab.nn.graph_file import load_program
from reslab.nn.inplace import work_in_place
from reslab.nn.matmul_convs import is_misread, may_be_misread
from reslab.nn.module_network import AnyNetwork, GraphModel, Model
from reslab.runtime.device import choose_device, deterministic_mode, has_fast_bf16
from reslab.runtime.extras import has_extra, require_extra
from reslab.spec.errors import invalid, unknown_name

NetworkT = TypeVar("NetworkT", bound=nn.Module)
_PROCESSORS = ("x86_64", "AMD64")


class PackedConv2d(nn.Module):
    """A convolution in inference mode. Its weights are packed for the size of the first input; any size is correct.

    In bfloat16, narrow maps that oneDNN gets wrong (`is_misread`) are computed in float32.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight.detach(), conv.bias
        self.geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        is_bf16 = self.weight.dtype == torch.bfloat16
        self.dense_weight = self.weight if is_bf16 and may_be_misread(conv) else None

    def forward(self, x: Tensor) -> Tensor:
        padding, stride, dilation, groups = self.geometry
        if self.dense_weight is not None and is_misread(x.shape[-1], stride[-1], int(padding[-1])):
            bias = None if self.bias is None else self.bias.float()
            wide = conv2d(x.float(), self.dense_weight.float(), bias, stride, padding, dilation, groups)
            return wide.to(x.dtype)
        weight = self.weight
        if not weight.is_mkldnn:  # in several threads at once, each packs the same weights
            pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # its stub lacks the size of the input
            weight = pack(weight.to_mkldnn(), *self.geometry, list(x.shape))
            self.weight = weight
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *self.geometry, "none", [], "")
        return output


def pack_convolutions(network: NetworkT) -> NetworkT:
    """Replace the 2-D convolutions of a network for inference on a CPU, in place, and return it.

    Subclasses, which may compute their weights, stay as they are, as does padding other than zeros.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if _can_be_packed(child):
                assert isinstance(child, nn.Conv2d)
                setattr(parent, name, PackedConv2d(child))
    return network


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether weights of a type can be packed on a device."""
    if device.type != "cpu" or platform.machine() not in _PROCESSORS or not torch.backends.mkldnn.is_available():
        return False
    has_operations = hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight") and hasattr(
        torch.ops.mkldnn, "_convolution_pointwise"
    )
    is_supported = dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return has_operations and is_supported


def _can_be_packed(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)


_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_torch_forward(network: AnyNetwork, options: BackendOptions) -> ForwardFn:
    """Return the forward function of the folded network, in the precision and, for images, channels-last."""
    dtype = _DTYPES[options.precision]
    memory_format = torch.channels_last if network.arch.dims == 2 else torch.contiguous_format
    folded = fold_batch_norms(network).to(options.device, dtype)
    if network.arch.dims == 2:
        folded = folded.to(memory_format=memory_format)
    folded.requires_grad_(False)
    if options.compiled:
        model = torch.compile(folded, dynamic=True)
    else:
        work_in_place(folded)
        model = pack_convolutions(folded) if can_pack(dtype, options.device) else folded

    def forward(x: Tensor) -> Tensor:
        with torch.inference_mode(), deterministic_mode():
            return model(x.to(dtype=dtype, memory_format=memory_format))

    return forward


# Building a graph takes seconds; for fewer images torch, which needs none, finishes earlier.
MIN_GRAPH_IMAGES = 256
PRECISIONS = ("float32", "bf16", "fp16", "int8")


# ONNX Runtime and OpenVINO, and the export to their graphs, take a second to import.
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
        BackendInfo("torch", "", ("cuda", "mps", "cpu"), ("float32", "bf16", "fp16"), build_torch_forward),
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
        options = BackendOptions(
            network.precision,
            torch.device("cpu"),
            num_threads or torch.get_num_threads(),
            compiled=compiled,
            spin_threads=spin_threads,
        )
        return _open_graph_backend(network, name, precision, options)
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
        precision,
        resolved_device,
        num_threads or torch.get_num_threads(),
        compiled=compiled,
        calibration_images=calibration_images,
        spin_threads=spin_threads,
    )
    forward, normalize = info.build(network, options), make_normalize(network, resolved_device)
    return Backend(name, precision, resolved_device, forward, normalize, compiled=compiled)


def _open_graph_backend(graph: GraphModel, name: str, precision: str, options: BackendOptions) -> Backend:
    """Return an exported graph as a backend on the CPU. Raises ValueError for another backend or precision."""
    own_name = GRAPH_BACKENDS[graph.path.suffix]
    if name not in ("auto", own_name):
        raise invalid(f"the backend {own_name} for {graph.path.name}", name, own_name)
    if precision not in ("auto", "float32", graph.precision):
        raise invalid(f"{graph.precision}, the precision of {graph.path.name}", precision, graph.precision)
    if options.compiled:
        raise invalid("a network with its layers to compile", f"{graph.path}, an exported graph")
    if extra := BACKENDS[own_name].extra:
        require_extra(extra, f"the graph {graph.path.name}")
    normalize = make_normalize(graph, options.device)
    return Backend(own_name, graph.precision, options.device, _graph_forward(graph, options), normalize)


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
