"""The backends of detectors: torch in float32."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reslab.deploy.backends.backend import DetectFn, DetectionBackend, make_normalize
from reslab.deploy.backends.registry import BACKENDS, check_backend
from reslab.nn.dense import DenseNetwork
from reslab.runtime.device import choose_device, deterministic_mode
from reslab.runtime.extras import require_extra
from reslab.spec.detection import DetectionArch
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
            found: list[dict[str, Tensor]] = detector(list(x))
            return found

    return detect


DETECTOR_BACKENDS: dict[str, DetectorBackendInfo] = {"torch": DetectorBackendInfo("torch", _build_torch)}


def open_detection_backend(
    network: DenseNetwork,
    name: str = "auto",
    precision: str = "float32",
    device: str | torch.device = "auto",
    *,
    compiled: bool = False,
) -> DetectionBackend:
    """Return a detector as the backend of this name, `auto` for torch; the network itself is not changed.

    Raises ValueError for an unknown backend, one without detectors, another precision than float32, a device that the
    backend does not support, and for compilation; MissingExtraError if its package is not installed.
    """
    name = "torch" if name == "auto" else name
    if name not in BACKENDS:
        raise unknown_name("backend", name, ["auto", *BACKENDS])
    if name not in DETECTOR_BACKENDS:
        raise invalid(f"{' or '.join(DETECTOR_BACKENDS)} for a detector", name, "torch")
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
    detect = DETECTOR_BACKENDS[name].build(network, resolved)
    normalize = make_normalize(network, resolved)
    assert normalize is not None  # checked by build_predictor
    return DetectionBackend(name, _PRECISION, resolved, detect, normalize, max_batch(network), is_finite(network))


def max_batch(network: DenseNetwork) -> int:
    """Return how many images a detector computes at once: 4 million pixels, as it resizes them, but at least one."""
    assert isinstance(network.arch, DetectionArch)
    return max(1, _MAX_BATCH_PIXELS // (network.arch.min_size * network.arch.max_size))


def is_finite(network: DenseNetwork) -> bool:
    """Return whether all weights are finite. Scores that are NaN reach no threshold, so nothing else would tell."""
    return all(bool(value.isfinite().all()) for value in network.state_dict().values())
