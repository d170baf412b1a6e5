"""Loss, error and curvature of a network at points of a plane in weight space, each point kept in a file.

The plane is spanned by filter-normalized random directions, or the principal ones of a training trajectory. The
curvature is given by the extreme eigenvalues of the Hessian, from its products with vectors.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.target import BatchLoss, EvalBatches, EvalScore, Labels, cross_entropy_loss, score_model
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


Point = tuple[float, ...]
PointValues = tuple[float | None, ...]


@dataclass(frozen=True)
class TrajectoryPoint:
    """The position of the run after `step` steps, in the plane of the landscape."""

    step: int
    alpha: float
    beta: float


class PointKind(StrEnum):
    """The measurements that are cached for a point."""

    LOSS = "loss"
    CURVATURE = "curvature"
    EIGENVALUES = "eigenvalues"


@dataclass
class PointCache:
    """Measured values by kind and point. A file holds one JSON line for each, with the `key` of the landscape.

    The key depends on network, images and directions, and one file may hold several. A line is written as soon as it is
    measured, and an incomplete last line is ignored. Without a `path` nothing is stored.
    """

    path: Path | None
    key: str
    values_by_point: dict[tuple[str, Point], PointValues] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        if self.path.is_dir():
            raise invalid("a file for cache_file", f"{self.path}, a folder", str(self.path / "points.jsonl"))
        text = self.path.read_bytes().decode("utf-8", errors="replace")
        if text and not text.endswith("\n"):
            # A killed process left an incomplete line: end it, so that the next line does not continue it.
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

    def get(self, kind: PointKind, point: Sequence[float]) -> PointValues | None:
        """Return the values of a point, or None if it was not measured."""
        return self.values_by_point.get((kind, tuple(point)))

    def put(self, kind: PointKind, point: Sequence[float], values: PointValues) -> PointValues:
        """Store the values of a point, and return them."""
        self.values_by_point[kind, tuple(point)] = values
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"key": self.key, "kind": kind, "point": list(point), "values": list(values)})
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return values


def cache_key(tensors: Mapping[str, Tensor], settings: Sequence[Any]) -> str:
    """Return the first 16 digits of the SHA-256 of named tensors and settings."""
    digest = hashlib.sha256(repr(list(settings)).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class LandscapeEvaluator:
    """A copy of the network that moves in a plane of weights, with its images and the cache of measured points."""

    model: nn.Module
    plane: WeightPlane
    batches: EvalBatches
    hessian_batch: tuple[Tensor, Labels]
    cache: PointCache
    trajectory: tuple[TrajectoryPoint, ...] = ()
    explained_variance: tuple[float, ...] = ()

    @property
    def origin(self) -> Point:
        """The coordinates of the network's own weights."""
        return (0.0,) * len(self.plane.directions)

    def loss(self, point: Point) -> PointValues:
        """Return loss (None if infinite or NaN), error and number of images at a point."""
        cached = self.cache.get(PointKind.LOSS, point)
        if cached is not None:
            return cached
        self.plane.set_weights(self.model, point)
        score = self._score()
        assert score.loss is not None
        loss, error = (value if math.isfinite(value) else None for value in (score.loss, score.error))
        values = (loss, error, score.num_images)
        return self.cache.put(PointKind.LOSS, point, values)

    def curvature(self, point: Point, num_iterations: int) -> PointValues:
        """Return the smallest and the largest eigenvalue of the Hessian at a point; None if the loss is not finite."""
        cached = self.cache.get(PointKind.CURVATURE, point)
        if cached is not None:
            return cached
        eigenvalues, _ = self._eigenvalues_at(point, num_iterations, 1)
        values = (eigenvalues[-1], eigenvalues[0]) if eigenvalues else (None, None)
        return self.cache.put(PointKind.CURVATURE, point, values)

    def top_eigenvalues(
        self, num_eigenvalues: int, num_iterations: int
    ) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """Return, at the network's own weights, the largest eigenvalues, bounds on their errors, and the smallest."""
        cached = self.cache.get(PointKind.EIGENVALUES, (num_eigenvalues,))
        if cached is None:
            eigenvalues, errors = self._eigenvalues_at(self.origin, num_iterations, num_eigenvalues)
            cached = self.cache.put(PointKind.EIGENVALUES, (num_eigenvalues,), (*eigenvalues, *errors))
        if not cached:
            return (), (), ()
        # The cached order: the largest eigenvalues, the smallest one, and an error for each of the largest.
        values = [float(value or 0.0) for value in cached]
        count = (len(values) - 1) // 2
        return tuple(values[:count]), tuple(values[count + 1 :]), (values[count],)

    def _eigenvalues_at(
        self, point: Point, num_iterations: int, num_eigenvalues: int
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the largest eigenvalues followed by the smallest one, and bounds on the errors of the largest."""
        self.plane.set_weights(self.model, point)
        x, y = self.hessian_batch
        hvp, dim = hessian_vector_product(self.model, x, y, self.batches.target.batch_loss)
        start_vector = torch.randn(dim, generator=torch.Generator().manual_seed(0)).to(x)
        try:
            spectrum = lanczos_spectrum(hvp, dim, num_iterations, num_eigenvalues, start_vector)
        except ArithmeticError:
            return (), ()
        return (*spectrum.largest, spectrum.smallest[0]), spectrum.largest_errors

    def _score(self) -> EvalScore:
        """Return error and loss with the current weights: of a detector the loss of training, its only one."""
        score = score_model(self.model, self.batches)
        if score.loss is not None:
            return score
        batch_loss = self.batches.target.batch_loss
        with torch.no_grad():
            losses = [float(batch_loss(self.model, x, y)) * len(y) for x, y in self.batches]
        return replace(score, loss=sum(losses) / score.num_images)

    def time_loss(self) -> float:
        """Return the seconds that the loss takes at one point."""
        self.plane.set_weights(self.model, self.origin)
        start_time = time.perf_counter()
        self._score()
        return time.perf_counter() - start_time

    def time_hessian_product(self) -> float:
        """Return the seconds of one Hessian-vector product."""
        hvp, dim = hessian_vector_product(self.model, *self.hessian_batch, self.batches.target.batch_loss)
        vector = torch.ones(dim).to(self.hessian_batch[0])
        start_time = time.perf_counter()
        hvp(vector).sum().item()
        return time.perf_counter() - start_time


HessianVectorProduct = Callable[[Tensor], Tensor]

_CONVERGENCE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class HessianSpectrum:
    """The largest eigenvalues in descending and the smallest ones in ascending order, with bounds on their errors.

    `num_products` is the number of Hessian-vector products that were computed.
    """

    largest: tuple[float, ...]
    smallest: tuple[float, ...]
    largest_errors: tuple[float, ...]
    smallest_errors: tuple[float, ...]
    num_products: int


def hessian_vector_product(
    model: nn.Module, x: Tensor, y: Any, loss_fn: BatchLoss = cross_entropy_loss
) -> tuple[HessianVectorProduct, int]:
    """Return the function v -> H v and the length of v; H is the Hessian of the batch's mean loss.

    H v is the gradient of (gradient . v) (Pearlmutter 1994), which takes two backward passes and no matrix. The model
    keeps its mode: in eval mode norms use their running statistics. Parameters that the loss does not depend on are
    left out.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        loss = loss_fn(model, x, y)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    used_parameters = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None and g.requires_grad]
    flat_gradient = torch.cat([gradient.flatten() for _, gradient in used_parameters])

    def multiply(vector: Tensor) -> Tensor:
        second_gradients = torch.autograd.grad(
            flat_gradient, [p for p, _ in used_parameters], vector, retain_graph=True, allow_unused=True
        )
        parts = [
            torch.zeros_like(p) if part is None else part
            for (p, _), part in zip(used_parameters, second_gradients, strict=True)
        ]
        return torch.cat([part.detach().flatten() for part in parts])

    return multiply, len(flat_gradient)


def lanczos_spectrum(
    hvp: HessianVectorProduct,
    dim: int,
    num_iterations: int,
    num_eigenvalues: int = 1,
    start_vector: Tensor | None = None,
) -> HessianSpectrum:
    """Return the largest and smallest eigenvalues of a symmetric matrix of size `dim`, given by its vector products.

    The Lanczos method, started from `start_vector` (dim,) and with full reorthogonalization; it stops early once the
    Krylov space is exhausted. The bound on an error is the last residual times the last entry of the Ritz vector, and
    at least the rounding of float32. Raises ArithmeticError if a product is infinite or NaN.
    """
    vector = torch.randn(dim, generator=torch.Generator().manual_seed(0)) if start_vector is None else start_vector
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(min(num_iterations, dim)):
        residual = hvp(basis[-1].to(vector))
        if not bool(residual.isfinite().all()):
            raise ArithmeticError("the Hessian-vector product is not finite")
        diagonal.append(float(residual @ basis[-1]))
        for _ in range(2):  # one pass leaves rounding errors that grow into copies of converged eigenvalues
            for previous in basis:
                residual = residual - (residual @ previous) * previous
        off_diagonal.append(float(residual.norm()))
        if off_diagonal[-1] <= _CONVERGENCE_TOLERANCE * max(1e-12, max(map(abs, diagonal))):
            break
        basis.append(residual / off_diagonal[-1])
    return _extreme_eigenvalues(diagonal, off_diagonal, num_eigenvalues)


def _extreme_eigenvalues(
    diagonal: Sequence[float], off_diagonal: Sequence[float], num_eigenvalues: int
) -> HessianSpectrum:
    num_products = len(diagonal)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for i, value in enumerate(off_diagonal[: num_products - 1]):
        matrix[i, i + 1] = matrix[i + 1, i] = value
    ritz_values, ritz_vectors = torch.linalg.eigh(matrix)
    rounding = torch.finfo(torch.float32).eps * float(ritz_values.abs().max())
    errors = (abs(off_diagonal[-1]) * ritz_vectors[-1].abs()).clamp_min(rounding).tolist()
    eigenvalues = ritz_values.tolist()
    num_eigenvalues = min(num_eigenvalues, num_products)
    return HessianSpectrum(
        largest=tuple(reversed(eigenvalues[num_products - num_eigenvalues :])),
        smallest=tuple(eigenvalues[:num_eigenvalues]),
        largest_errors=tuple(reversed(errors[num_products - num_eigenvalues :])),
        smallest_errors=tuple(errors[:num_eigenvalues]),
        num_products=num_products,
    )
