"""Directions in the space of weights: random ones at the filters' own scale, and those a training run moved along."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reslab.spec.errors import refuse

Direction = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Plane:
    """Weights `origin` and directions from them: a point is origin + sum of coordinates times directions."""

    origin: Direction
    directions: tuple[Direction, ...]

    @torch.no_grad()
    def move(self, model: nn.Module, point: Sequence[float]) -> None:
        """Give `model` the weights at these coordinates; at zeros they are the origin's to the bit."""
        for name, parameter in model.named_parameters():
            value = self.origin[name].clone()
            for coordinate, direction in zip(point, self.directions, strict=True):
                if coordinate:
                    value += coordinate * direction[name]
            parameter.copy_(value)


def weights_of(model: nn.Module) -> Direction:
    """A copy of every parameter by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def random_direction(weights: Mapping[str, Tensor], generator: torch.Generator) -> Direction:
    """A normal random direction d with every filter rescaled, d_ij <- d_ij / ||d_ij|| * ||w_ij||.

    Li et al. 2018, arXiv:1712.09913, Sec. 4: a filter is the slice of a weight that makes one output channel (or one
    output of a linear layer). Parameters with one dimension, of norms and biases, stay where they are: zeros.
    """
    return {name: _filters_like(weight, generator) for name, weight in weights.items()}


def _filters_like(weight: Tensor, generator: torch.Generator) -> Tensor:
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    drawn = torch.randn(weight.shape, generator=generator).to(weight)
    scale = filter_norms(weight) / filter_norms(drawn).clamp_min(1e-10)
    return drawn * scale.view(-1, *[1] * (weight.ndim - 1))


def filter_norms(weight: Tensor) -> Tensor:
    """The Euclidean norm of each filter, (outputs,)."""
    return weight.flatten(1).norm(dim=1)


def trajectory_directions(
    steps: Sequence[Mapping[str, Tensor]], final: Mapping[str, Tensor], count: int
) -> tuple[tuple[Direction, ...], Tensor, tuple[float, ...]]:
    """The `count` principal directions of [w_0 - w_n; ...; w_(n-1) - w_n], each step's coordinates, and the share of
    the squared distance that each direction explains.

    Li et al. 2018, Sec. 7. The directions are orthonormal over all parameters together; coordinates (steps, count).
    Raises ValueError where there are fewer than `count` other snapshots, or none differs from the end.
    """
    if len(steps) < count:
        required = f"a run with at least {count} snapshots apart from the weights"
        raise refuse(required, len(steps), next_step='train with --snapshots "1 epoch"')
    names = list(final)
    rows = torch.stack([torch.cat([(step[n].to(final[n]) - final[n]).flatten() for n in names]) for step in steps])
    _, sizes, axes = torch.linalg.svd(rows, full_matrices=False)
    if not float(sizes[0]) > 0:
        raise refuse("snapshots that differ from the weights", "equal ones")
    sizes_of = [final[name].numel() for name in names]
    directions = tuple(
        {name: part.view_as(final[name]) for name, part in zip(names, axis.split(sizes_of), strict=True)}
        for axis in axes[:count]
    )
    explained = (sizes**2 / (sizes**2).sum())[:count]
    return directions, rows @ axes[:count].T, tuple(float(share) for share in explained)
