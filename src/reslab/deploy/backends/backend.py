"""What every backend is: images in, logits out."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reslab.data.transforms.normalize import Normalize
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import invalid

ForwardFn = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BackendOptions:
    """How a backend is to compute: its `precision`, device, threads, compiled or not; `images` (normalised) for the
    scales of int8."""

    precision: str = "float32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_threads: int = 1
    compiled: bool = False
    calibration_images: Tensor | None = None


@dataclass(frozen=True)
class Backend:
    """logits = backend(x): uint8 pixels (N, C, H, W) are normalised as the network wants them, floats are taken as
    already normalised; N num_classes float32 on the CPU.

    `name` of the table of backends, `precision` it computes in, `device` it computes on.
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
                raise invalid("normalised images: this network knows no preprocessing", "uint8 pixels")
            x = self.normalize(x)
        return self.forward_fn(x.float()).float().cpu()

    def __str__(self) -> str:
        return f"{self.name}{', compiled' * self.compiled}, {self.precision}, on {self.device}"


def make_normalize(network: ResidualNetwork, device: torch.device) -> Normalize | None:
    """What brings pixels to what the network reads; None where it knows no preprocessing."""
    return None if network.preprocess is None else Normalize(network.preprocess, device)
