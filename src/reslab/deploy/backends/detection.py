"""The backends of detectors, in float32: torch, and ONNX Runtime for their networks."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reslab.deploy.backends.backend import DetectFn, DetectionBackend, make_normalize
from reslab.deploy.backends.registry import BACKENDS, check_backend
from reslab.nn.dense import DenseNetwork
from reslab.nn.module_network import GraphModel, Model
from reslab.runtime.device import choose_device, deterministic_mode
from reslab.runtime.extras import require_extra
from reslab.spec.dense import DetectionArch
from reslab.spec.errors import invalid, unknown_name

_MAX_BATCH_PIXELS = 2**22
_PRECISION = "float32"


@dataclass(frozen=True)
class DetectorBackendInfo:
    """A backend of detectors: the name of a backend, and the function that builds what detects."""

    name: str
    build: Callable[[DenseNetwork, torch.device], DetectFn]


def _build_torch(network: DenseNetwork, device: torch.device) -> DetectFn:
    detector = copy.deepcopy(network).to(device).float().eval().requires_grad_(False)

    def detect(x: Tensor) -> list[dict[str, Tensor]]:
        with torch.inference_mode(), deterministic_mode():
            detections: list[dict[str, Tensor]] = detector(list(x))
            return detections

    return detect


def _build_onnxruntime(network: DenseNetwork, device: torch.device) -> DetectFn:
    from reslab.deploy.backends.graph_backends import build_onnx_detector

    return build_onnx_detector(copy.deepcopy(network).cpu().float(), torch.get_num_threads())


DETECTOR_BACKENDS: dict[str, DetectorBackendInfo] = {
    info.name: info
    for info in (DetectorBackendInfo("torch", _build_torch), DetectorBackendInfo("onnxruntime", _build_onnxruntime))
}


def open_detection_backend(
    network: DenseNetwork | GraphModel,
    name: str = "auto",
    precision: str = "float32",
    device: str | torch.device = "auto",
    *,
    compiled: bool = False,
) -> DetectionBackend:
    """Return a detector as the backend of this name, `auto` for torch; the network itself is not changed.

    An exported detector is run by ONNX Runtime. Raises ValueError for an unknown backend, one without detectors,
    another precision than float32, a device that the backend does not support, and for compilation; MissingExtraError
    if its package is not installed.
    """
    is_graph = isinstance(network, GraphModel)
    own_names = ("onnxruntime",) if is_graph else tuple(DETECTOR_BACKENDS)
    name = own_names[0] if name == "auto" else name
    if name not in BACKENDS:
        raise unknown_name("backend", name, ["auto", *BACKENDS])
    if name not in own_names:
        raise invalid(f"{' or '.join(own_names)} for {'an exported' if is_graph else 'a'} detector", name, own_names[0])
    if precision not in ("auto", _PRECISION):
        raise invalid(f"{_PRECISION} for a detector", precision, _PRECISION)
    if compiled:
        step = "leave out --compile"
        raise invalid("a network of one size of outputs for compilation", f"{network.arch.name}, a detector", "", step)
    info = BACKENDS[name]
    if info.extra:
        require_extra(info.extra, f"the backend {name}")
    resolved = choose_device(device)
    if resolved.type not in info.devices and str(device) == "auto":
        resolved = torch.device("cpu")
    # Only CUDA has torchvision's operations on boxes beside the CPU.
    check_backend(replace(info, devices=tuple(kind for kind in info.devices if kind != "mps")), resolved, _PRECISION)
    normalize = make_normalize(network, resolved)
    assert normalize is not None  # checked by build_predictor
    arch = detector_arch(network)
    if isinstance(network, GraphModel):
        detect, all_finite = _open_graph(network, arch), True
    else:
        detect, all_finite = DETECTOR_BACKENDS[name].build(network, resolved), is_finite(network)
    return DetectionBackend(
        name, _PRECISION, resolved, detect, normalize, max_batch=max_batch(arch), is_finite=all_finite
    )


def _open_graph(graph: GraphModel, arch: DetectionArch) -> DetectFn:
    from reslab.deploy.backends.graph_backends import open_onnx_detector

    return open_onnx_detector(graph.path, arch, torch.get_num_threads())


def detector_arch(network: Model) -> DetectionArch:
    """Return the architecture of a detector or of its exported graph. Raises ValueError for a graph without one."""
    arch = network.detector if isinstance(network, GraphModel) else network.arch
    if not isinstance(arch, DetectionArch):
        raise invalid("a detector, or its graph with the report beside it", network.arch.name)
    return arch


def max_batch(arch: DetectionArch) -> int:
    """Return how many images a detector computes at once: 4 million pixels, as it resizes them, but at least one."""
    return max(1, _MAX_BATCH_PIXELS // (arch.min_size * arch.max_size))


def is_finite(network: DenseNetwork) -> bool:
    """Return True if all weights are finite. Scores that are NaN reach no threshold, so nothing else would show it."""
    return all(bool(value.isfinite().all()) for value in network.state_dict().values())
