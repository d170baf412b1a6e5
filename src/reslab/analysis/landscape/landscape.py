"""The loss around a network's weights: a line or a surface, and its curvature as numbers."""

from collections.abc import Sequence
from itertools import product as pairs

from reslab.analysis.landscape.evaluator import (
    KINDS,
    NOT_CONVEX,
    Curvature,
    Landscape,
    LandscapeOptions,
    Scene,
    Steps,
    Values,
    announce,
    curvature_at,
    open_scene,
    top_at_weights,
    value_at,
)
from reslab.analysis.subject import Subject
from reslab.spec.errors import refuse, unknown

_MARGIN = 0.2
_DEFAULT = LandscapeOptions()


def landscape(subject: Subject, options: LandscapeOptions = _DEFAULT) -> Landscape:
    """The loss at w + alpha d1 + beta d2, with filter-normalised random d1 and d2 or the run's principal directions.

    Li et al. 2018, arXiv:1712.09913, Secs. 4, 6 and 7. Norms keep the statistics and, along random directions, the
    weights they have. What it will take is told beforehand (`progress.listening`), and every point is kept as it is
    measured, so that an interrupted measurement goes on from its `keep` file.
    Raises ValueError for an option that means nothing, and where it would take more than `most_minutes`.
    """
    _check(options)
    scene = open_scene(subject, options)
    alphas, betas = _grid(scene, options)
    grid = [(alpha, beta)[: options.dimensions] for beta, alpha in pairs(betas, alphas)]
    bends = _bends(alphas, betas, options)
    seconds = announce(subject.name, scene, grid, bends, options)
    at_weights = value_at(scene, (0.0,) * options.dimensions)
    told = Steps(subject.name, seconds)
    values = [told(value_at(scene, point)) for point in grid]
    ends = [told(curvature_at(scene, point, options)) for point in bends]
    largest, bounds, smallest = top_at_weights(scene, options) if options.eigenvalues else ((), (), ())
    width = len(alphas)
    rows = [values[i : i + width] for i in range(0, len(values), width)]
    return Landscape(
        subject=subject.name,
        step=subject.step,
        dimensions=options.dimensions,
        directions=options.directions,
        num_images=int(at_weights[2] or 0),
        split=options.split,
        loss=at_weights[0],
        error=float(at_weights[1] or 0.0),
        alphas=alphas,
        betas=betas,
        losses=tuple(tuple(value[0] for value in row) for row in rows),
        errors=tuple(tuple(value[1] for value in row) for row in rows),
        curvature=tuple(_bend(point, end) for point, end in zip(bends, ends, strict=True)),
        not_convex=not_convex_share(ends),
        largest=largest,
        largest_errors=bounds,
        smallest=smallest,
        trajectory=scene.trajectory,
        explained=scene.explained,
    )


def _bend(point: Sequence[float], end: Values) -> Curvature:
    return Curvature(point[0], point[1] if len(point) > 1 else 0.0, end[0], end[1])


def not_convex_share(ends: Sequence[Values]) -> float | None:
    """The share of (smallest, largest) eigenvalues with |smallest / largest| above 0.1; None where there are none.

    Li et al. 2018, Sec. 6. Where both are above 0 the surface is convex whatever their ratio, and is not counted.
    """
    known = [(low, high) for low, high in (end[:2] for end in ends) if low is not None and high]
    return sum(low < 0 and abs(low / high) > NOT_CONVEX for low, high in known) / len(known) if known else None


def _check(options: LandscapeOptions) -> None:
    if options.directions not in KINDS:
        raise unknown("directions", options.directions, KINDS)
    if options.dimensions not in (1, 2):
        raise refuse("1 or 2 dimensions", options.dimensions, "2")
    least = {"points": 2, "curvature": 0, "iterations": 2, "hessian_images": 1, "eigenvalues": 0}
    for name, number in least.items():
        if getattr(options, name) < number:
            raise refuse(f"{name} of at least {number}", getattr(options, name), str(number))
    if not options.reach > 0:
        raise refuse("a reach above 0", options.reach, "1")


def _grid(scene: Scene, options: LandscapeOptions) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Coordinates along both directions: around the weights, or around the whole way; those of one dimension: (0,)."""
    sides = [(-options.reach, options.reach)] * 2
    if scene.trajectory:
        ways = [[0.0, *(visit.alpha for visit in scene.trajectory)], [0.0, *(visit.beta for visit in scene.trajectory)]]
        margins = [_MARGIN * max(max(way) - min(way), 1e-6) for way in ways]
        sides = [(min(way) - margin, max(way) + margin) for way, margin in zip(ways, margins, strict=True)]
    alphas, betas = (_steps(low, high, options.points) for low, high in sides)
    return alphas, betas if options.dimensions == 2 else (0.0,)


def _steps(low: float, high: float, number: int) -> tuple[float, ...]:
    return tuple(round(low + (high - low) * i / (number - 1), 6) + 0.0 for i in range(number))


def _bends(alphas: Sequence[float], betas: Sequence[float], options: LandscapeOptions) -> list[tuple[float, ...]]:
    """Where the curvature is measured: a coarser grid over the same plane, its middle alone where it is one point."""
    if not options.curvature:
        return []
    if options.curvature == 1:
        return [(0.0,) * options.dimensions]
    across, up = (_steps(side[0], side[-1], options.curvature) for side in (alphas, betas))
    return [(a, b) for b in up for a in across] if options.dimensions == 2 else [(a,) for a in across]
