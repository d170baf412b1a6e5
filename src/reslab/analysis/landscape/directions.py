"""Directions in weight space: filter-normalized random ones, and the principal ones of a training trajectory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reslab.spec.errors import invalid

Direction = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class WeightPlane:
    """A plane through the weights `origin`: a point is the origin plus the sum of coordinates times directions."""

    origin: Direction
    directions: tuple[Direction, ...]

    @torch.no_grad()
    def set_weights(self, model: nn.Module, point: Sequence[float]) -> None:
        """Set the weights of `model` to those at a point; at coordinates of zero they equal the origin bit for bit."""
        for name, parameter in model.named_parameters():
            value = self.origin[name].clone()
            for coordinate, direction in zip(point, self.directions, strict=True):
                if coordinate:
                    value += coordinate * direction[name]
            parameter.copy_(value)


def clone_parameters(model: nn.Module) -> Direction:
    """Return a copy of every parameter by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def random_direction(weights: Mapping[str, Tensor], generator: torch.Generator) -> Direction:
    """Return a normal random direction d with every filter rescaled, d_ij <- d_ij / ||d_ij|| * ||w_ij||.

    Li et al. 2018, arXiv:1712.09913, Sec. 4: a filter is the slice of a weight for one output channel (or one output of
    a linear layer). The direction is zero for parameters with one dimension, those of norms and biases.
    """
    return {name: _filter_normalized_noise(weight, generator) for name, weight in weights.items()}


def _filter_normalized_noise(weight: Tensor, generator: torch.Generator) -> Tensor:
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    noise = torch.randn(weight.shape, generator=generator).to(weight)
    scale = filter_norms(weight) / filter_norms(noise).clamp_min(1e-10)
    return noise * scale.view(-1, *[1] * (weight.ndim - 1))


def filter_norms(weight: Tensor) -> Tensor:
    """Return the Euclidean norm of each filter, (outputs,)."""
    return weight.flatten(1).norm(dim=1)


def trajectory_directions(
    snapshots: Sequence[Mapping[str, Tensor]], final_weights: Mapping[str, Tensor], num_directions: int
) -> tuple[tuple[Direction, ...], Tensor, tuple[float, ...]]:
    """Return the principal directions of [w_0 - w_n; ...; w_(n-1) - w_n], coordinates, and explained variances.

    Li et al. 2018, Sec. 7. The directions are orthonormal over all parameters together. The coordinates
    (steps, num_directions) place each snapshot in the plane; the explained variance of a direction is its fraction of
    the squared distances. Raises ValueError if there are fewer than `num_directions` snapshots, or if none differs from
    the final weights.
    """
    if len(snapshots) < num_directions:
        required = f"a run with at least {num_directions} snapshots that differ from the final weights"
        raise invalid(required, len(snapshots), next_step='train with --save-every "1 epoch"')
    names = list(final_weights)
    deltas = torch.stack(
        [
            torch.cat([(snapshot[name].to(final_weights[name]) - final_weights[name]).flatten() for name in names])
            for snapshot in snapshots
        ]
    )
    _, singular_values, components = torch.linalg.svd(deltas, full_matrices=False)
    if not float(singular_values[0]) > 0:
        raise invalid("snapshots that differ from the final weights", "equal ones")
    num_elements = [final_weights[name].numel() for name in names]
    directions = tuple(
        {
            name: chunk.view_as(final_weights[name])
            for name, chunk in zip(names, component.split(num_elements), strict=True)
        }
        for component in components[:num_directions]
    )
    explained_variance = (singular_values**2 / (singular_values**2).sum())[:num_directions]
    return directions, deltas @ components[:num_directions].T, tuple(float(fraction) for fraction in explained_variance)
