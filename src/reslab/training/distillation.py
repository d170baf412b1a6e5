"""Learning from another network's answers."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.data.dataset import Data
from reslab.nn.network import Network
from reslab.spec.errors import refuse
from reslab.spec.preprocess import Preprocess
from reslab.training.loading import load
from reslab.training.losses import Loss


@dataclass(frozen=True, eq=False)
class Distillation:
    """(1 - alpha) loss + alpha T^2 KL(softmax(t / T) || softmax(z / T)), a mean over samples (Hinton et al. 2015).

    t are the outputs of `teacher` for the same inputs (N, C, H, W), augmented as the student sees them; it is in eval
    mode and never learns. The loop hands the inputs over beside outputs z (N, C) and targets.
    """

    loss: Loss
    teacher: nn.Module
    alpha: float
    temperature: float = 1.0

    def __call__(self, outputs: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            taught = self.teacher(inputs)
        own = self.loss(outputs, targets)
        return (1 - self.alpha) * own + self.alpha * softened_divergence(outputs, taught, self.temperature)


def softened_divergence(outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(z / T)) of outputs (N, C), the mean over samples."""
    wide = torch.promote_types(outputs.dtype, torch.float32)
    ours = functional.log_softmax(outputs.to(wide) / temperature, 1)
    theirs = functional.log_softmax(taught.to(wide) / temperature, 1)
    return temperature**2 * functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class Renormalised(nn.Module):
    """A network that is handed pictures normalised by another's mean and standard deviation. N C H W in."""

    factor: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, came: Preprocess, wanted: Preprocess) -> None:
        super().__init__()
        self.network = network
        columns = [torch.tensor(value)[:, None, None] for value in (came.mean, came.std, wanted.mean, wanted.std)]
        self.register_buffer("factor", columns[1] / columns[3])
        self.register_buffer("shift", (columns[0] - columns[2]) / columns[3])

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x * self.factor + self.shift)


def read_teacher(path: str | Path, data: Data, device: torch.device | str = "cpu") -> nn.Module:
    """The network of a run, or of its weights, as a teacher on `data`: frozen, in eval mode, on its own normalisation.

    Raises ValueError where there is no such run, or its classes or channels are others.
    """
    network = load(path, device)
    _check(network, data, path)
    network.requires_grad_(False)
    wanted = network.preprocess
    if wanted is None or replace(wanted, words=data.preprocess.words) == data.preprocess:
        return network
    if wanted.mean_image or data.preprocess.mean_image:
        raise refuse(
            "a teacher with the data's mean of each pixel", f"{path} with another", next_step="pixel_mean=false"
        )
    return Renormalised(network, data.preprocess, wanted).to(device).eval()


def _check(network: Network, data: Data, path: str | Path) -> None:
    if network.arch.in_channels != data.preprocess.channels:
        raise refuse(f"a teacher of {data.preprocess.channels} channels", f"{path} of {network.arch.in_channels}")
    if network.arch.num_classes != data.num_classes or (network.classes or data.classes) != data.classes:
        theirs = ", ".join((network.classes or ())[:3])
        raise refuse(
            f"a teacher of the data's {data.num_classes} classes in their order ({', '.join(data.classes[:3])} ...)",
            f"{path} of {network.arch.num_classes} ({theirs} ...)",
        )
