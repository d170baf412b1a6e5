"""What is asked of a landscape, and the plain data that answer it."""

from dataclasses import dataclass

KINDS = ("random", "trajectory")
NOT_CONVEX = 0.1


@dataclass(frozen=True)
class LandscapeOptions:
    """`points` a side of the grid, from -`reach` to `reach` times the filters' own length; `directions` are `random` or
    those of the run's `trajectory`. `curvature` points a side with the Hessian's ends by `iterations` products on
    `hessian_images` pictures (0: none), and the `eigenvalues` largest at the weights. `keep` is a file to go on from;
    refused where it would take more than `most_minutes`."""

    dimensions: int = 2
    points: int = 11
    reach: float = 1.0
    directions: str = "random"
    split: str = ""
    curvature: int = 3
    iterations: int = 12
    hessian_images: int = 64
    eigenvalues: int = 3
    keep: str = ""
    most_minutes: float = 30.0
    seed: int = 0


@dataclass(frozen=True)
class Visited:
    """Where the run was after `step` steps, in the plane of the picture."""

    step: int
    alpha: float
    beta: float


@dataclass(frozen=True)
class Curvature:
    """The smallest and the largest eigenvalue of the Hessian at a point; None where the loss is no finite number."""

    alpha: float
    beta: float
    smallest: float | None
    largest: float | None


@dataclass(frozen=True)
class Landscape:
    """`losses[j][i]` and `errors[j][i]` are those at alphas[i], betas[j]; None where the loss is no finite number.

    `not_convex` is the share of curvature points where |smallest / largest eigenvalue| is above 0.1; `largest` and
    `smallest` are eigenvalues at the weights, with bounds on their errors. `explained` is the share of the run's
    squared distance along each direction, where these are its own."""

    subject: str
    step: int | None
    dimensions: int
    directions: str
    num_images: int
    split: str
    loss: float | None
    error: float
    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    losses: tuple[tuple[float | None, ...], ...]
    errors: tuple[tuple[float | None, ...], ...]
    curvature: tuple[Curvature, ...] = ()
    not_convex: float | None = None
    largest: tuple[float, ...] = ()
    largest_errors: tuple[float, ...] = ()
    smallest: tuple[float, ...] = ()
    trajectory: tuple[Visited, ...] = ()
    explained: tuple[float, ...] = ()
