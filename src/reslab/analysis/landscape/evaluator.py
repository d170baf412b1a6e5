"""A copy of a network that moves in a plane of weights: its loss, its error and its curvature at any point.

What is asked of a landscape, and the plain data that answer it.

Points of a landscape as they are measured, kept in a file so that a measurement can be gone on with.

What a landscape will cost, said beforehand, and how far its measurement is.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.inputs import EvalBatches, score_model
from reslab.analysis.landscape.directions import WeightPlane, clone_parameters, random_direction, trajectory_directions
from reslab.analysis.landscape.hessian import hessian_vector_product, lanczos_spectrum
from reslab.analysis.progress import report_progress
from reslab.analysis.subject import AnalysisTarget
from reslab.nn.checkpoints.safetensors_io import read_tensors
from reslab.spec.errors import invalid

DIRECTION_KINDS = ("random", "trajectory")
NON_CONVEX_RATIO = 0.1


@dataclass(frozen=True)
class LandscapeOptions:
    """`points` a side of the grid, from -`reach` to `reach` times the filters' own length; `directions` are `random` or
    those of the run's `trajectory`. `curvature` points a side with the Hessian's ends by `iterations` products on
    `hessian_images` pictures (0: none), and the `eigenvalues` largest at the weights. `keep` is a file to go on from;
    refused where it would take more than `most_minutes`."""

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


@dataclass(frozen=True)
class TrajectoryPoint:
    """Where the run was after `step` steps, in the plane of the picture."""

    step: int
    alpha: float
    beta: float


@dataclass(frozen=True)
class CurvaturePoint:
    """The smallest and the largest eigenvalue of the Hessian at a point; None where the loss is no finite number."""

    alpha: float
    beta: float
    smallest: float | None
    largest: float | None


@dataclass(frozen=True)
class LandscapeResult:
    """`losses[j][i]` and `errors[j][i]` are those at alphas[i], betas[j]; None where the loss is no finite number.

    `not_convex` is the share of curvature points where |smallest / largest eigenvalue| is above 0.1; `largest` and
    `smallest` are eigenvalues at the weights, with bounds on their errors. `explained` is the share of the run's
    squared distance along each direction, where these are its own."""

    model: str
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
    curvature: tuple[CurvaturePoint, ...] = ()
    non_convex_fraction: float | None = None
    largest: tuple[float, ...] = ()
    largest_errors: tuple[float, ...] = ()
    smallest: tuple[float, ...] = ()
    trajectory: tuple[TrajectoryPoint, ...] = ()
    explained_variance: tuple[float, ...] = ()


PointValues = tuple[float | None, ...]


@dataclass
class PointCache:
    """Values by kind and coordinates, of one `key` (network, pictures, directions); a file may hold many keys.

    Every value is one line, written at once; a last line that was cut short is measured again. Without a `path`
    nothing is kept.
    """

    path: Path | None
    key: str
    values_by_point: dict[tuple[str, tuple[float, ...]], PointValues] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        if self.path.is_dir():
            raise invalid("a file to keep points in", f"{self.path}, a folder", str(self.path / "points.jsonl"))
        text = self.path.read_bytes().decode("utf-8", errors="replace")
        if text and not text.endswith("\n"):
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in text.splitlines():
            self._read_line(line)

    def _read_line(self, line: str) -> None:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            return
        if isinstance(record, dict) and record.get("key") == self.key:
            self.values_by_point[record["kind"], tuple(record["point"])] = tuple(record["values"])

    def get(self, kind: str, point: Sequence[float]) -> PointValues | None:
        """What was measured there; None where nothing was."""
        return self.values_by_point.get((kind, tuple(point)))

    def put(self, kind: str, point: Sequence[float], values: PointValues) -> PointValues:
        """Keep what was measured there."""
        self.values_by_point[kind, tuple(point)] = values
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"key": self.key, "kind": kind, "point": list(point), "values": list(values)})
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return values


def cache_key(tensors: Mapping[str, Tensor], settings: Sequence[Any]) -> str:
    """16 digits of SHA-256 over tensors by name and over words."""
    digest = hashlib.sha256(repr(list(settings)).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class LandscapeEvaluator:
    """A copy of the network that moves in a plane, what it is judged on, and what is known already."""

    model: nn.Module
    plane: WeightPlane
    batches: EvalBatches
    hessian_batch: tuple[Tensor, Tensor]
    cache: PointCache
    trajectory: tuple[TrajectoryPoint, ...] = ()
    explained_variance: tuple[float, ...] = ()


def build_evaluator(target: AnalysisTarget, options: LandscapeOptions) -> LandscapeEvaluator:
    """The plane that the options ask for, through the subject's weights, with the points that `keep` holds already.

    Raises ValueError where a trajectory is asked for of what is no run, or of one with too few snapshots.
    """
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
    hessian_batch = target.images[:num_hessian_images], target.labels[:num_hessian_images]
    tensors = {**model.state_dict(), "images": target.images, "labels": target.labels}
    settings = [
        options.directions,
        options.dimensions,
        options.seed,
        options.split,
        options.lanczos_iterations,
        num_hessian_images,
    ]
    cache = PointCache(Path(options.cache_file) if options.cache_file else None, cache_key(tensors, settings))
    return LandscapeEvaluator(
        model, plane, EvalBatches(target, options.split), hessian_batch, cache, trajectory, explained_variance
    )


def _trajectory_plane(
    target: AnalysisTarget, origin: dict[str, Tensor], dimensions: int
) -> tuple[WeightPlane, tuple[TrajectoryPoint, ...], tuple[float, ...]]:
    """The plane in which the run moved most, and its way in it."""
    if target.run is None:
        raise invalid("a run, whose snapshots tell its way", target.name, "directions=random")
    snapshots = [(step, read_tensors(path)) for step, path in target.run.snapshots()]
    moved_snapshots = [
        (step, snapshot_weights)
        for step, snapshot_weights in snapshots
        if any(not torch.equal(snapshot_weights[name], origin[name].cpu()) for name in origin)
    ]
    directions, coordinates, explained_variance = trajectory_directions(
        [weights for _, weights in moved_snapshots], origin, dimensions
    )
    points = [(step, [*row.tolist(), 0.0]) for (step, _), row in zip(moved_snapshots, coordinates, strict=True)]
    return (
        WeightPlane(origin, directions),
        tuple(TrajectoryPoint(step, coords[0], coords[1]) for step, coords in points),
        explained_variance,
    )


def evaluate_point(evaluator: LandscapeEvaluator, point: Sequence[float]) -> PointValues:
    """Loss, error and number of pictures at a point."""
    cached = evaluator.cache.get("loss", point)
    if cached is not None:
        return cached
    evaluator.plane.set_weights(evaluator.model, point)
    score = score_model(evaluator.model, evaluator.batches)
    return evaluator.cache.put("loss", point, (_finite_or_none(score.loss), score.error, score.num_images))


def evaluate_curvature(evaluator: LandscapeEvaluator, point: Sequence[float], options: LandscapeOptions) -> PointValues:
    """The smallest and the largest eigenvalue of the Hessian at a point."""
    cached = evaluator.cache.get("curvature", point)
    if cached is not None:
        return cached
    spectrum = _eigenvalues_at(evaluator, point, options.lanczos_iterations, 1)
    return evaluator.cache.put("curvature", point, (spectrum[0][-1], spectrum[0][0]) if spectrum[0] else (None, None))


def evaluate_top_eigenvalues(
    evaluator: LandscapeEvaluator, options: LandscapeOptions
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """At the weights: the largest eigenvalues, bounds on their errors, the smallest one."""
    num_eigenvalues = options.num_eigenvalues
    cached = evaluator.cache.get("eigenvalues", (num_eigenvalues,))
    if cached is None:
        largest, errors = _eigenvalues_at(
            evaluator,
            (0.0,) * options.dimensions,
            max(options.lanczos_iterations, 4 * num_eigenvalues),
            num_eigenvalues,
        )
        cached = evaluator.cache.put("eigenvalues", (num_eigenvalues,), (*largest, *errors))
    if not cached:
        return (), (), ()
    values = [float(value or 0.0) for value in cached]
    count = (len(values) - 1) // 2
    return tuple(values[:count]), tuple(values[count + 1 :]), (values[count],)


def _eigenvalues_at(
    evaluator: LandscapeEvaluator, point: Sequence[float], num_iterations: int, num_eigenvalues: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The `count` largest eigenvalues and then the smallest, and bounds on the errors of the largest."""
    evaluator.plane.set_weights(evaluator.model, point)
    x, y = evaluator.hessian_batch
    hvp, dim = hessian_vector_product(evaluator.model, x, y)
    start_vector = torch.randn(dim, generator=torch.Generator().manual_seed(0)).to(x)
    try:
        spectrum = lanczos_spectrum(hvp, dim, num_iterations, num_eigenvalues, start_vector)
    except ArithmeticError:
        return (), ()
    return (*spectrum.largest, spectrum.smallest[0]), spectrum.largest_errors


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


_PROGRESS_INTERVAL_SECONDS = 5.0


def announce_cost(
    name: str,
    evaluator: LandscapeEvaluator,
    grid: Sequence[Sequence[float]],
    curvature_coords: Sequence[Sequence[float]],
    options: LandscapeOptions,
) -> list[float]:
    """Say what is to be measured and how long it will take, from one point and one product; refuse what is too long.

    The seconds of each point and each curvature, in their order; 0 of those that are known already.
    """
    missing_points = [point for point in grid if evaluator.cache.get("loss", point) is None]
    missing_curvatures = [point for point in curvature_coords if evaluator.cache.get("curvature", point) is None]
    point_seconds = _time_point(evaluator, options) if missing_points else 0.0
    needs_eigenvalues = (
        options.num_eigenvalues and evaluator.cache.get("eigenvalues", (options.num_eigenvalues,)) is None
    )
    product_seconds = _time_hessian_product(evaluator) if missing_curvatures or needs_eigenvalues else 0.0
    curvature_seconds = product_seconds * options.lanczos_iterations
    eigenvalue_seconds = (
        product_seconds * max(options.lanczos_iterations, 4 * options.num_eigenvalues) if needs_eigenvalues else 0.0
    )
    minutes = (
        len(missing_points) * point_seconds + len(missing_curvatures) * curvature_seconds + eigenvalue_seconds
    ) / 60
    description = f"{len(missing_points)} points of {point_seconds:.2g} s"
    if missing_curvatures:
        description += f" and {len(missing_curvatures)} curvatures of {curvature_seconds:.2g} s"
    if minutes > options.max_minutes:
        suggested_points = max(2, int(options.points_per_axis * math.sqrt(options.max_minutes / minutes)))
        got = f"about {minutes:.0f} minutes: {description}"
        hint = f"--set max_minutes={math.ceil(minutes)} goes on all the same"
        raise invalid(
            f"a landscape of at most {options.max_minutes:g} minutes", got, f"points_per_axis={suggested_points}", hint
        )
    num_cached = len(grid) + len(curvature_coords) - len(missing_points) - len(missing_curvatures)
    cached_text = f", {num_cached} known already" if num_cached else ""
    report_progress(f"{name}: {description}, about {_format_minutes(minutes)}{cached_text}")
    seconds = [point_seconds if evaluator.cache.get("loss", point) is None else 0.0 for point in grid]
    return seconds + [
        curvature_seconds if evaluator.cache.get("curvature", point) is None else 0.0 for point in curvature_coords
    ]


def _format_minutes(minutes: float) -> str:
    return f"{60 * minutes:.0f} s" if minutes < 2 else f"{minutes:.0f} min"


def _time_point(evaluator: LandscapeEvaluator, options: LandscapeOptions) -> float:
    evaluator.plane.set_weights(evaluator.model, (0.0,) * options.dimensions)
    start_time = time.perf_counter()
    score_model(evaluator.model, evaluator.batches)
    return time.perf_counter() - start_time


def _time_hessian_product(evaluator: LandscapeEvaluator) -> float:
    hvp, dim = hessian_vector_product(evaluator.model, *evaluator.hessian_batch)
    vector = torch.ones(dim).to(evaluator.hessian_batch[0])
    start_time = time.perf_counter()
    hvp(vector).sum().item()
    return time.perf_counter() - start_time


class LandscapeProgress:
    """Counts what is done, and tells every few seconds; `seconds` are what the steps were told to take, by which the
    time that is left is reckoned: a curvature takes many times as long as a point."""

    def __init__(self, name: str, step_seconds: Sequence[float]) -> None:
        self.name, self.step_seconds, self.num_done = name, step_seconds, 0
        self.start_time = self.last_report_time = time.monotonic()

    def __call__(self, value: PointValues) -> PointValues:
        self.num_done += 1
        now = time.monotonic()
        if now - self.last_report_time >= _PROGRESS_INTERVAL_SECONDS:
            self.last_report_time = now
            seconds_done, seconds_ahead = (
                sum(self.step_seconds[: self.num_done]),
                sum(self.step_seconds[self.num_done :]),
            )
            remaining_seconds = (
                (now - self.start_time) * seconds_ahead / seconds_done if seconds_done else seconds_ahead
            )
            report_progress(f"{self.name}: {self.num_done} of {len(self.step_seconds)}, {remaining_seconds:.0f} s left")
        return value
