"""The interface of every backend: images in, logits out."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reslab.data.transforms.normalize import Normalize
from reslab.spec.errors import invalid
from reslab.training.model_source import Model

ForwardFn = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BackendOptions:
    """The options of a backend; int8 needs normalized `calibration_images` to measure its scales."""

    precision: str = "float32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_threads: int = 1
    compiled: bool = False
    calibration_images: Tensor | None = None


@dataclass(frozen=True)
class Backend:
    """A network ready for inference: logits = backend(x), float32 (N, num_classes) on the CPU.

    uint8 pixels (N, C, H, W) are normalized by the network's preprocessing; float input must be normalized already.
    `name` is a key of BACKENDS.
    """

    name: str
    precision: str
    device: torch.device
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


def make_normalize(network: Model, device: torch.device) -> Normalize | None:
    """Return the normalization of the network's preprocessing; None if it has none."""
    return None if network.preprocess is None else Normalize(network.preprocess, device)
