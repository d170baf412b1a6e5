"""The interface of every backend: images in, logits out, or boxes from a detector."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reslab.data.transforms.normalize import Normalize
from reslab.nn.module_network import Model
from reslab.spec.errors import invalid

ForwardFn = Callable[[Tensor], Tensor]
DetectFn = Callable[[Tensor], list[dict[str, Tensor]]]
"""From images (N, C, H, W) in [0, 1] to `boxes`, `labels`, `scores` and, of Mask R-CNN, `masks` of each."""


@dataclass(frozen=True)
class BackendOptions:
    """The options of a backend; int8 needs normalized `calibration_images` to measure its scales.

    With `spin_threads` the threads of ONNX Runtime look for work without sleeping, also for a while after a call: small
    batches are answered sooner, but other threads get less of the processor.
    """

    precision: str = "float32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_threads: int = 1
    compiled: bool = False
    calibration_images: Tensor | None = None
    spin_threads: bool = False


@dataclass(frozen=True)
class BackendSettings:
    """The settings of a backend: its `name` (a key of BACKENDS), precision and device."""

    name: str
    precision: str
    device: torch.device

    def __str__(self) -> str:
        return f"{self.name}, {self.precision}, on {self.device}"


@dataclass(frozen=True)
class Backend(BackendSettings):
    """A network ready for inference: logits = backend(x), float32 (N, num_classes) on the CPU.

    uint8 pixels (N, C, H, W) are normalized by the network's preprocessing; float input must be normalized already.
    """

    forward_fn: ForwardFn
    normalize: Normalize | None = None
    compiled: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.device)
        if x.dtype == torch.uint8:
            if self.normalize is None:
                raise invalid("normalized images, because the network has no preprocessing", "uint8 pixels")
            x = self.normalize(x)
        return self.forward_fn(x.float()).float().cpu()

    def __str__(self) -> str:
        return f"{self.name}{', compiled' * self.compiled}, {self.precision}, on {self.device}"


@dataclass(frozen=True)
class DetectionBackend(BackendSettings):
    """A detector ready for inference: backend(x) returns boxes, labels, scores and masks of each image, on the CPU.

    x are uint8 pixels (N, C, H, W) of at most `max_batch` images. The values are those of `reslab.nn.detection`, in
    pixels of x; `is_finite` is False if weights of the detector are NaN or infinite, and so find nothing.
    """

    detect_fn: DetectFn
    normalize: Normalize
    max_batch: int = 1
    is_finite: bool = True

    def __call__(self, x: Tensor) -> list[dict[str, Tensor]]:
        detections = self.detect_fn(self.normalize(x.to(self.device)))
        return [{name: values.cpu() for name, values in image.items()} for image in detections]


def make_normalize(network: Model, device: torch.device) -> Normalize | None:
    """Return the normalization of the network's preprocessing; None if it has none."""
    return None if network.preprocess is None else Normalize(network.preprocess, device)
