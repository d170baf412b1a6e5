"""One export to be carried out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reslab.nn.network import Network
from reslab.spec.arch import Arch


@dataclass(frozen=True)
class Job:
    """What is to be written: `network` (norms folded where the format gains by it), the `header` of the weights it came
    from, the `precision`, and `images` (normalised) for the scales of int8."""

    network: Network
    precision: str = "float32"
    header: Mapping[str, Any] = field(default_factory=dict)
    images: Tensor | None = None

    @property
    def arch(self) -> Arch:
        """The network as data."""
        return self.network.arch

    @property
    def num_threads(self) -> int:
        """Threads that what was written is tried with."""
        return torch.get_num_threads()
