"""A copy of a network that moves in a plane of weights: its loss, its error and its curvature at any point."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from reslab.analysis.inputs import Examples, score
from reslab.analysis.landscape.directions import Plane, random_direction, trajectory_directions, weights_of
from reslab.analysis.landscape.hessian import hessian_product, spectrum
from reslab.analysis.landscape_data import LandscapeOptions, Visited
from reslab.analysis.landscape_points import KeptPoints, Values, key_of
from reslab.analysis.subject import Subject
from reslab.nn.checkpoints.safetensors_io import read_tensors
from reslab.spec.errors import refuse


@dataclass(frozen=True, eq=False)
class Scene:
    """A copy of the network that moves in a plane, what it is judged on, and what is known already."""

    model: nn.Module
    plane: Plane
    examples: Examples
    hessian_batch: tuple[Tensor, Tensor]
    kept: KeptPoints
    trajectory: tuple[Visited, ...] = ()
    explained: tuple[float, ...] = ()


def open_scene(subject: Subject, options: LandscapeOptions) -> Scene:
    """The plane that the options ask for, through the subject's weights, with the points that `keep` holds already.

    Raises ValueError where a trajectory is asked for of what is no run, or of one with too few snapshots.
    """
    model = copy.deepcopy(subject.model).requires_grad_().eval()
    origin = weights_of(model)
    trajectory: tuple[Visited, ...] = ()
    explained: tuple[float, ...] = ()
    if options.directions == "random":
        generator = torch.Generator().manual_seed(options.seed)
        plane = Plane(origin, tuple(random_direction(origin, generator) for _ in range(options.dimensions)))
    else:
        plane, trajectory, explained = _trajectory(subject, origin, options.dimensions)
    number = options.hessian_images
    batch = subject.images[:number], subject.labels[:number]
    tensors = {**model.state_dict(), "images": subject.images, "labels": subject.labels}
    words = [options.directions, options.dimensions, options.seed, options.split, options.iterations, number]
    kept = KeptPoints(Path(options.keep) if options.keep else None, key_of(tensors, words))
    return Scene(model, plane, Examples(subject, options.split), batch, kept, trajectory, explained)


def _trajectory(
    subject: Subject, origin: dict[str, Tensor], dimensions: int
) -> tuple[Plane, tuple[Visited, ...], tuple[float, ...]]:
    """The plane in which the run moved most, and its way in it."""
    if subject.run is None:
        raise refuse("a run, whose snapshots tell its way", subject.name, "directions=random")
    steps = [(step, read_tensors(path)) for step, path in subject.run.snapshots()]
    others = [(step, w) for step, w in steps if any(not torch.equal(w[n], origin[n].cpu()) for n in origin)]
    directions, places, explained = trajectory_directions([weights for _, weights in others], origin, dimensions)
    way = [(step, [*row.tolist(), 0.0]) for (step, _), row in zip(others, places, strict=True)]
    return Plane(origin, directions), tuple(Visited(step, at[0], at[1]) for step, at in way), explained


def value_at(scene: Scene, point: Sequence[float]) -> Values:
    """Loss, error and number of pictures at a point."""
    known = scene.kept.get("loss", point)
    if known is not None:
        return known
    scene.plane.move(scene.model, point)
    found = score(scene.model, scene.examples)
    return scene.kept.put("loss", point, (_finite(found.loss), found.error, found.num_images))


def curvature_at(scene: Scene, point: Sequence[float], options: LandscapeOptions) -> Values:
    """The smallest and the largest eigenvalue of the Hessian at a point."""
    known = scene.kept.get("curvature", point)
    if known is not None:
        return known
    found = _spectrum(scene, point, options.iterations, 1)
    return scene.kept.put("curvature", point, (found[0][-1], found[0][0]) if found[0] else (None, None))


def top_at_weights(
    scene: Scene, options: LandscapeOptions
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """At the weights: the largest eigenvalues, bounds on their errors, the smallest one."""
    number = options.eigenvalues
    known = scene.kept.get("eigenvalues", (number,))
    if known is None:
        largest, errors = _spectrum(scene, (0.0,) * options.dimensions, max(options.iterations, 4 * number), number)
        known = scene.kept.put("eigenvalues", (number,), (*largest, *errors))
    if not known:
        return (), (), ()
    values = [float(value or 0.0) for value in known]
    count = (len(values) - 1) // 2
    return tuple(values[:count]), tuple(values[count + 1 :]), (values[count],)


def _spectrum(
    scene: Scene, point: Sequence[float], iterations: int, count: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The `count` largest eigenvalues and then the smallest, and bounds on the errors of the largest."""
    scene.plane.move(scene.model, point)
    x, y = scene.hessian_batch
    product, size = hessian_product(scene.model, x, y)
    start = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(x)
    try:
        found = spectrum(product, size, iterations, count, start)
    except ArithmeticError:
        return (), ()
    return (*found.largest, found.smallest[0]), found.largest_errors


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
