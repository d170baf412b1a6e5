"""The loss around a network's weights: a line or a surface, and its curvature as numbers."""

from collections.abc import Sequence
from itertools import product as pairs

from reslab.analysis.landscape.evaluator import (
    DIRECTION_KINDS,
    NON_CONVEX_RATIO,
    CurvaturePoint,
    LandscapeEvaluator,
    LandscapeOptions,
    LandscapeProgress,
    LandscapeResult,
    PointValues,
    announce_cost,
    build_evaluator,
    evaluate_curvature,
    evaluate_point,
    evaluate_top_eigenvalues,
)
from reslab.analysis.subject import AnalysisTarget
from reslab.spec.errors import invalid, unknown_name

_GRID_MARGIN = 0.2
_DEFAULT_OPTIONS = LandscapeOptions()


def analyze_landscape(target: AnalysisTarget, options: LandscapeOptions = _DEFAULT_OPTIONS) -> LandscapeResult:
    """The loss at w + alpha d1 + beta d2, with filter-normalised random d1 and d2 or the run's principal directions.

    Li et al. 2018, arXiv:1712.09913, Secs. 4, 6 and 7. Norms keep the statistics and, along random directions, the
    weights they have. What it will take is told beforehand (`progress.listening`), and every point is kept as it is
    measured, so that an interrupted measurement goes on from its `keep` file.
    Raises ValueError for an option that means nothing, and where it would take more than `most_minutes`.
    """
    _check_options(options)
    evaluator = build_evaluator(target, options)
    alphas, betas = _grid_coordinates(evaluator, options)
    grid = [(alpha, beta)[: options.dimensions] for beta, alpha in pairs(betas, alphas)]
    curvature_coords = _curvature_coordinates(alphas, betas, options)
    expected_seconds = announce_cost(target.name, evaluator, grid, curvature_coords, options)
    center = evaluate_point(evaluator, (0.0,) * options.dimensions)
    report_done = LandscapeProgress(target.name, expected_seconds)
    values = [report_done(evaluate_point(evaluator, point)) for point in grid]
    curvatures = [report_done(evaluate_curvature(evaluator, point, options)) for point in curvature_coords]
    largest_eigenvalues, largest_errors, smallest_eigenvalues = (
        evaluate_top_eigenvalues(evaluator, options) if options.num_eigenvalues else ((), (), ())
    )
    width = len(alphas)
    rows = [values[i : i + width] for i in range(0, len(values), width)]
    return LandscapeResult(
        model=target.name,
        step=target.step,
        dimensions=options.dimensions,
        directions=options.directions,
        num_images=int(center[2] or 0),
        split=options.split,
        loss=center[0],
        error=float(center[1] or 0.0),
        alphas=alphas,
        betas=betas,
        losses=tuple(tuple(value[0] for value in row) for row in rows),
        errors=tuple(tuple(value[1] for value in row) for row in rows),
        curvature=tuple(
            _curvature_point(point, curvature) for point, curvature in zip(curvature_coords, curvatures, strict=True)
        ),
        non_convex_fraction=non_convex_fraction(curvatures),
        largest=largest_eigenvalues,
        largest_errors=largest_errors,
        smallest=smallest_eigenvalues,
        trajectory=evaluator.trajectory,
        explained_variance=evaluator.explained_variance,
    )


def _curvature_point(point: Sequence[float], eigenvalues: PointValues) -> CurvaturePoint:
    return CurvaturePoint(point[0], point[1] if len(point) > 1 else 0.0, eigenvalues[0], eigenvalues[1])


def non_convex_fraction(curvatures: Sequence[PointValues]) -> float | None:
    """The share of (smallest, largest) eigenvalues with |smallest / largest| above 0.1; None where there are none.

    Li et al. 2018, Sec. 6. Where both are above 0 the surface is convex whatever their ratio, and is not counted.
    """
    finite_pairs = [
        (low, high) for low, high in (curvature[:2] for curvature in curvatures) if low is not None and high
    ]
    return (
        sum(low < 0 and abs(low / high) > NON_CONVEX_RATIO for low, high in finite_pairs) / len(finite_pairs)
        if finite_pairs
        else None
    )


def _check_options(options: LandscapeOptions) -> None:
    if options.directions not in DIRECTION_KINDS:
        raise unknown_name("directions", options.directions, DIRECTION_KINDS)
    if options.dimensions not in (1, 2):
        raise invalid("1 or 2 dimensions", options.dimensions, "2")
    minimums = {
        "points_per_axis": 2,
        "curvature_points": 0,
        "lanczos_iterations": 2,
        "num_hessian_images": 1,
        "num_eigenvalues": 0,
    }
    for name, minimum in minimums.items():
        if getattr(options, name) < minimum:
            raise invalid(f"{name} of at least {minimum}", getattr(options, name), str(minimum))
    if not options.radius > 0:
        raise invalid("a radius above 0", options.radius, "1")


def _grid_coordinates(
    evaluator: LandscapeEvaluator, options: LandscapeOptions
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Coordinates along both directions: around the weights, or around the whole way; those of one dimension: (0,)."""
    ranges = [(-options.radius, options.radius)] * 2
    if evaluator.trajectory:
        coordinates = [
            [0.0, *(point.alpha for point in evaluator.trajectory)],
            [0.0, *(point.beta for point in evaluator.trajectory)],
        ]
        margins = [_GRID_MARGIN * max(max(values) - min(values), 1e-6) for values in coordinates]
        ranges = [
            (min(values) - margin, max(values) + margin) for values, margin in zip(coordinates, margins, strict=True)
        ]
    alphas, betas = (_evenly_spaced_values(low, high, options.points_per_axis) for low, high in ranges)
    return alphas, betas if options.dimensions == 2 else (0.0,)


def _evenly_spaced_values(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(round(low + (high - low) * i / (count - 1), 6) + 0.0 for i in range(count))


def _curvature_coordinates(
    alphas: Sequence[float], betas: Sequence[float], options: LandscapeOptions
) -> list[tuple[float, ...]]:
    """Where the curvature is measured: a coarser grid over the same plane, its middle alone where it is one point."""
    if not options.curvature_points:
        return []
    if options.curvature_points == 1:
        return [(0.0,) * options.dimensions]
    xs, ys = (_evenly_spaced_values(axis[0], axis[-1], options.curvature_points) for axis in (alphas, betas))
    return [(a, b) for b in ys for a in xs] if options.dimensions == 2 else [(a,) for a in xs]
