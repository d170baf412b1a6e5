"""A copy of a network to look into and cut at: whatever is done to it, predictions never notice."""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from reslab.analysis.surgery import Slot, slots_of
from reslab.data.loader import Normalise
from reslab.deploy.server.errors import refused
from reslab.nn.network import Network
from reslab.runtime.device import choose_device


def numbers(probabilities: Tensor) -> Tensor:
    """The same, or a refusal: a network that has diverged gives none, and zeros in their place would be made up."""
    if not probabilities.isfinite().all():
        step = "put the units back, or serve weights that have not diverged"
        raise refused(500, "a network whose answer is numbers", "nan", step)
    return probabilities


class Specimen:
    """The network in float32 on torch, in eval mode, its weights fixed; one at a time may have it (`taken`).

    `slots` are the places of its chain of units by name, in the order they run.
    """

    def __init__(self, network: Network, device: str = "auto") -> None:
        assert network.preprocess is not None
        self.device = choose_device(device)
        self._network = copy.deepcopy(network).to(self.device).float().eval().requires_grad_(False)
        self._normalise = Normalise(network.preprocess, self.device)
        self._lock = threading.Lock()
        self.temperature = network.temperature or 1.0
        self.slots: dict[str, Slot] = {slot.name: slot for slot in slots_of(self._network)}

    @contextmanager
    def taken(self) -> Iterator[Network]:
        """The network, for one caller alone."""
        with self._lock:
            yield self._network

    def read(self, pictures: Tensor) -> Tensor:
        """uint8 (N, C, H, W) as the network reads them."""
        return self._normalise(pictures.to(self.device))

    def probabilities(self, network: Network, x: Tensor) -> Tensor:
        """(N, classes): softmax(logits / temperature); Refused where they are no numbers."""
        with torch.no_grad():
            return numbers((network(x).float() / self.temperature).softmax(1)).cpu()
