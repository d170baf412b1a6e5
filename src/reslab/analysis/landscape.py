"""The loss landscape around a network's weights: a line or a surface, and its curvature."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from reslab.analysis.landscape_evaluator import (
    LandscapeEvaluator,
    Point,
    PointCache,
    PointKind,
    PointValues,
    TrajectoryPoint,
    WeightPlane,
    cache_key,
    clone_parameters,
    random_direction,
    trajectory_directions,
)
from reslab.analysis.target import AnalysisTarget, ErrorMeasure, EvalBatches, Labels, report_progress
from reslab.nn.checkpoints.safetensors_io import read_tensors
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.task import TargetKind

DIRECTION_KINDS = ("random", "trajectory")
NON_CONVEX_RATIO = 0.1
_GRID_MARGIN = 0.2
_PROGRESS_INTERVAL_SECONDS = 5.0
_MINIMUMS = {
    "points_per_axis": 2,
    "curvature_points": 0,
    "lanczos_iterations": 2,
    "num_hessian_images": 1,
    "num_eigenvalues": 0,
}


@dataclass(frozen=True)
class LandscapeOptions:
    """The grid of points, the directions it lies in, and the curvature to measure.

    The grid has `points_per_axis` from -`radius` to `radius`, in units of the filters' own norms. `directions` are
    `random`, or the principal ones of the run's `trajectory`. The extreme eigenvalues of the Hessian are measured with
    `lanczos_iterations` on `num_hessian_images` images, at `curvature_points` a side (0: none), and the
    `num_eigenvalues` largest at the weights themselves. `cache_file` stores every point, so that an interrupted
    analysis can continue. A landscape that would take more than `max_minutes` is an error.
    """

    dimensions: int = 2
    points_per_axis: int = 11
    radius: float = 1.0
    directions: str = "random"
    split: str = ""
    curvature_points: int = 3
    lanczos_iterations: int = 12
    num_hessian_images: int = 64
    num_eigenvalues: int = 3
    cache_file: str = ""
    max_minutes: float = 30.0
    seed: int = 0

    @property
    def eigenvalue_iterations(self) -> int:
        """Lanczos iterations for the largest eigenvalues at the weights: several of them need more than one does."""
        return max(self.lanczos_iterations, 4 * self.num_eigenvalues)


_DEFAULT_OPTIONS = LandscapeOptions()


@dataclass(frozen=True)
class CurvaturePoint:
    """The smallest and the largest eigenvalue of the Hessian at a point; None where the loss is not finite."""

    alpha: float
    beta: float
    smallest: float | None
    largest: float | None


@dataclass(frozen=True)
class LandscapeResult:
    """The losses and errors `[j][i]` at alphas[i], betas[j] (a loss is None where it is not finite), and the curvature.

    `measure` says what an error is.
    `non_convex_fraction` is the fraction of curvature points with |smallest / largest eigenvalue| above 0.1. `largest`
    and `smallest` are eigenvalues at the weights themselves, `largest_errors` bounds on the errors of the former.
    `explained_variance` is the fraction of the run's squared distance along each direction of its `trajectory`.
    """

    model: str
    step: int | None
    dimensions: int
    directions: str
    num_images: int
    split: str
    loss: float | None
    error: float | None
    measure: ErrorMeasure
    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    losses: tuple[tuple[float | None, ...], ...]
    errors: tuple[tuple[float | None, ...], ...]
    curvature: tuple[CurvaturePoint, ...] = ()
    non_convex_fraction: float | None = None
    largest: tuple[float, ...] = ()
    largest_errors: tuple[float, ...] = ()
    smallest: tuple[float, ...] = ()
    trajectory: tuple[TrajectoryPoint, ...] = ()
    explained_variance: tuple[float, ...] = ()


def analyze_landscape(target: AnalysisTarget, options: LandscapeOptions = _DEFAULT_OPTIONS) -> LandscapeResult:
    """Measure the loss at w + alpha d1 + beta d2, with random or principal directions d1 and d2, and the curvature.

    Li et al. 2018, arXiv:1712.09913, Secs. 4, 6 and 7. Norms keep their running statistics and, along random
    directions, their weights. The estimated time is reported first (see `progress_callback`). Every point is cached as
    soon as it is measured, so that an interrupted analysis continues from its `cache_file`.
    The loss of a detector is that of its training, with the same sample of anchors at every point.
    Raises ValueError for an invalid option, for a detector of two stages, and if it would take more than `max_minutes`.
    """
    _check_options(options)
    evaluator = build_evaluator(target, options)
    alphas, betas = _grid_coordinates(evaluator, options)
    grid = [(alpha, beta)[: options.dimensions] for beta, alpha in product(betas, alphas)]
    curvature_points = _curvature_points(alphas, betas, options)
    expected_seconds = _announce_cost(target.name, evaluator, grid, curvature_points, options)
    center = evaluator.loss(evaluator.origin)
    progress = LandscapeProgress(target.name, expected_seconds)
    values = []
    for point in grid:
        values.append(evaluator.loss(point))
        progress.advance()
    curvatures = []
    for point in curvature_points:
        curvatures.append(evaluator.curvature(point, options.lanczos_iterations))
        progress.advance()
    largest, largest_errors, smallest = (
        evaluator.top_eigenvalues(options.num_eigenvalues, options.eigenvalue_iterations)
        if options.num_eigenvalues
        else ((), (), ())
    )
    rows = [values[i : i + len(alphas)] for i in range(0, len(values), len(alphas))]
    return LandscapeResult(
        model=target.name,
        step=target.step,
        dimensions=options.dimensions,
        directions=options.directions,
        num_images=int(center[2] or 0),
        split=options.split,
        loss=center[0],
        error=center[1],
        measure=ErrorMeasure.of_task(target.task),
        alphas=alphas,
        betas=betas,
        losses=tuple(tuple(value[0] for value in row) for row in rows),
        errors=tuple(tuple(value[1] for value in row) for row in rows),
        curvature=tuple(map(_curvature_point, curvature_points, curvatures)),
        non_convex_fraction=non_convex_fraction(curvatures),
        largest=largest,
        largest_errors=largest_errors,
        smallest=smallest,
        trajectory=evaluator.trajectory,
        explained_variance=evaluator.explained_variance,
    )


def build_evaluator(target: AnalysisTarget, options: LandscapeOptions) -> LandscapeEvaluator:
    """Return an evaluator for the plane that the options ask for, through the target's weights.

    Raises ValueError for a detector of two stages, if a trajectory is requested for a target that is no run, and for a
    run with too few snapshots.
    """
    _require_continuous_loss(target)
    model = copy.deepcopy(target.model).requires_grad_().eval()
    origin = clone_parameters(model)
    trajectory: tuple[TrajectoryPoint, ...] = ()
    explained_variance: tuple[float, ...] = ()
    if options.directions == "random":
        generator = torch.Generator().manual_seed(options.seed)
        plane = WeightPlane(origin, tuple(random_direction(origin, generator) for _ in range(options.dimensions)))
    else:
        plane, trajectory, explained_variance = _trajectory_plane(target, origin, options.dimensions)
    num_hessian_images = options.num_hessian_images
    tensors = {**model.state_dict(), "images": target.images, **_label_tensors(target.labels)}
    settings = [
        options.directions,
        options.dimensions,
        options.seed,
        options.split,
        options.lanczos_iterations,
        num_hessian_images,
    ]
    return LandscapeEvaluator(
        model=model,
        plane=plane,
        batches=EvalBatches(target, options.split),
        hessian_batch=(target.images[:num_hessian_images], target.labels[:num_hessian_images]),
        cache=PointCache(Path(options.cache_file) if options.cache_file else None, cache_key(tensors, settings)),
        trajectory=trajectory,
        explained_variance=explained_variance,
    )


def _require_continuous_loss(target: AnalysisTarget) -> None:
    """Raise ValueError for a detector that selects regions: its loss jumps where the weights select others."""
    if target.task.spec.target is not TargetKind.BOXES:
        return
    from torchvision.models.detection.rpn import RegionProposalNetwork  # here: torchvision takes a second to import

    if any(isinstance(module, RegionProposalNetwork) for module in target.model.modules()):
        required = "a detector of one stage, such as RetinaNet: the loss of two jumps where other regions are selected"
        raise invalid(required, target.name, next_step="`reslab analyze gradients` and `lesion` take any detector")


def _label_tensors(labels: Labels) -> dict[str, Tensor]:
    """Return the targets as tensors by name."""
    if isinstance(labels, Tensor):
        return {"labels": labels}
    entries = {f"labels.{i}.{key}": value for i, label in enumerate(labels) for key, value in label.items()}
    return {name: value for name, value in entries.items() if isinstance(value, Tensor)}


def _trajectory_plane(
    target: AnalysisTarget, origin: dict[str, Tensor], dimensions: int
) -> tuple[WeightPlane, tuple[TrajectoryPoint, ...], tuple[float, ...]]:
    """Return the plane in which the run moved most, and the run's trajectory in it."""
    if target.run is None:
        raise invalid("a run with snapshots for directions=trajectory", target.name, "directions=random")
    snapshots = [(step, read_tensors(path)) for step, path in target.run.snapshots()]
    # Snapshots that equal the final weights have no direction.
    moved_snapshots = [
        (step, weights)
        for step, weights in snapshots
        if any(not torch.equal(weights[name], origin[name].cpu()) for name in origin)
    ]
    directions, coordinates, explained_variance = trajectory_directions(
        [weights for _, weights in moved_snapshots], origin, dimensions
    )
    points = [(step, [*row.tolist(), 0.0]) for (step, _), row in zip(moved_snapshots, coordinates, strict=True)]
    trajectory = tuple(TrajectoryPoint(step, coords[0], coords[1]) for step, coords in points)
    return WeightPlane(origin, directions), trajectory, explained_variance


def _curvature_point(point: Point, eigenvalues: PointValues) -> CurvaturePoint:
    return CurvaturePoint(point[0], point[1] if len(point) > 1 else 0.0, eigenvalues[0], eigenvalues[1])


def non_convex_fraction(curvatures: Sequence[PointValues]) -> float | None:
    """Return the fraction of (smallest, largest) eigenvalues with |smallest / largest| above 0.1; None without any.

    Li et al. 2018, Sec. 6. Where both are positive the surface is convex whatever their ratio, and does not count.
    """
    finite_pairs = [
        (low, high) for low, high in (curvature[:2] for curvature in curvatures) if low is not None and high
    ]
    if not finite_pairs:
        return None
    return sum(low < 0 and abs(low / high) > NON_CONVEX_RATIO for low, high in finite_pairs) / len(finite_pairs)


def _check_options(options: LandscapeOptions) -> None:
    if options.directions not in DIRECTION_KINDS:
        raise unknown_name("directions", options.directions, DIRECTION_KINDS)
    if options.dimensions not in (1, 2):
        raise invalid("1 or 2 dimensions", options.dimensions, "2")
    for name, minimum in _MINIMUMS.items():
        if getattr(options, name) < minimum:
            raise invalid(f"{name} of at least {minimum}", getattr(options, name), str(minimum))
    if not options.radius > 0:
        raise invalid("a radius above 0", options.radius, "1")


def _grid_coordinates(
    evaluator: LandscapeEvaluator, options: LandscapeOptions
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the coordinates along both directions, (0,) for the second of a line.

    They surround the weights, or the whole trajectory with a margin.
    """
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
    # Rounded, so that the middle is exactly 0 (and "+ 0.0" turns -0.0 into 0.0): there the weights are the origin's.
    return tuple(round(low + (high - low) * i / (count - 1), 6) + 0.0 for i in range(count))


def _curvature_points(alphas: Sequence[float], betas: Sequence[float], options: LandscapeOptions) -> list[Point]:
    """Return the points where the curvature is measured: a coarser grid over the same plane, or its center alone."""
    if not options.curvature_points:
        return []
    if options.curvature_points == 1:
        return [(0.0,) * options.dimensions]
    xs, ys = (_evenly_spaced_values(axis[0], axis[-1], options.curvature_points) for axis in (alphas, betas))
    return [(a, b) for b in ys for a in xs] if options.dimensions == 2 else [(a,) for a in xs]


def _announce_cost(
    name: str,
    evaluator: LandscapeEvaluator,
    grid: Sequence[Point],
    curvature_points: Sequence[Point],
    options: LandscapeOptions,
) -> list[float]:
    """Report the number of points and the estimated time; return the seconds of each point and of each curvature.

    One point and one Hessian-vector product are timed; cached points take 0 seconds. Raises ValueError if the whole
    would take longer than `max_minutes`.
    """
    needs_loss = [evaluator.cache.get(PointKind.LOSS, point) is None for point in grid]
    needs_curvature = [evaluator.cache.get(PointKind.CURVATURE, point) is None for point in curvature_points]
    needs_eigenvalues = (
        options.num_eigenvalues > 0 and evaluator.cache.get(PointKind.EIGENVALUES, (options.num_eigenvalues,)) is None
    )
    point_seconds = evaluator.time_loss() if any(needs_loss) else 0.0
    product_seconds = evaluator.time_hessian_product() if any(needs_curvature) or needs_eigenvalues else 0.0
    curvature_seconds = product_seconds * options.lanczos_iterations
    seconds = [point_seconds * needed for needed in needs_loss]
    seconds += [curvature_seconds * needed for needed in needs_curvature]
    minutes = (sum(seconds) + product_seconds * options.eigenvalue_iterations * needs_eigenvalues) / 60
    description = f"{sum(needs_loss)} points of {point_seconds:.2g} s"
    if any(needs_curvature):
        description += f" and {sum(needs_curvature)} curvatures of {curvature_seconds:.2g} s"
    if minutes > options.max_minutes:
        suggested_points = max(2, int(options.points_per_axis * math.sqrt(options.max_minutes / minutes)))
        raise invalid(
            f"a landscape of at most {options.max_minutes:g} minutes",
            f"about {minutes:.0f} minutes: {description}",
            nearest=f"points_per_axis={suggested_points}",
            next_step=f"or allow it with --set max_minutes={math.ceil(minutes)}",
        )
    num_cached = (needs_loss + needs_curvature).count(False)
    cached_text = f", {num_cached} read from the cache" if num_cached else ""
    report_progress(f"{name}: {description}, about {_format_minutes(minutes)}{cached_text}")
    return seconds


def _format_minutes(minutes: float) -> str:
    return f"{60 * minutes:.0f} s" if minutes < 2 else f"{minutes:.0f} min"


class LandscapeProgress:
    """Counts the measured points, and reports every few seconds how many there are and how much time is left.

    `step_seconds` are the estimated times of the points: a curvature takes many times as long as a loss.
    """

    def __init__(self, name: str, step_seconds: Sequence[float]) -> None:
        self.name, self.step_seconds, self.num_done = name, step_seconds, 0
        self.start_time = self.last_report_time = time.monotonic()

    def advance(self) -> None:
        """Count one more point."""
        self.num_done += 1
        now = time.monotonic()
        if now - self.last_report_time < _PROGRESS_INTERVAL_SECONDS:
            return
        self.last_report_time = now
        seconds_done = sum(self.step_seconds[: self.num_done])
        seconds_ahead = sum(self.step_seconds[self.num_done :])
        # The estimate is scaled by how it held so far, unless all points so far came from the cache.
        scale = (now - self.start_time) / seconds_done if seconds_done else 1.0
        report_progress(f"{self.name}: {self.num_done} of {len(self.step_seconds)}, {seconds_ahead * scale:.0f} s left")
