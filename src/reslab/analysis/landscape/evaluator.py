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

from reslab.analysis.inputs import Examples, score
from reslab.analysis.landscape.directions import Plane, random_direction, trajectory_directions, weights_of
from reslab.analysis.landscape.hessian import hessian_product, spectrum
from reslab.analysis.progress import tell
from reslab.analysis.subject import Subject
from reslab.nn.checkpoints.safetensors_io import read_tensors
from reslab.spec.errors import refuse

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


Values = tuple[float | None, ...]


@dataclass
class KeptPoints:
    """Values by kind and coordinates, of one `key` (network, pictures, directions); a file may hold many keys.

    Every value is one line, written at once; a last line that was cut short is measured again. Without a `path`
    nothing is kept.
    """

    path: Path | None
    key: str
    known: dict[tuple[str, tuple[float, ...]], Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        if self.path.is_dir():
            raise refuse("a file to keep points in", f"{self.path}, a folder", str(self.path / "points.jsonl"))
        text = self.path.read_bytes().decode("utf-8", errors="replace")
        if text and not text.endswith("\n"):
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in text.splitlines():
            self._read(line)

    def _read(self, line: str) -> None:
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            return
        if isinstance(found, dict) and found.get("key") == self.key:
            self.known[found["kind"], tuple(found["at"])] = tuple(found["values"])

    def get(self, kind: str, at: Sequence[float]) -> Values | None:
        """What was measured there; None where nothing was."""
        return self.known.get((kind, tuple(at)))

    def put(self, kind: str, at: Sequence[float], values: Values) -> Values:
        """Keep what was measured there."""
        self.known[kind, tuple(at)] = values
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"key": self.key, "kind": kind, "at": list(at), "values": list(values)})
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return values


def key_of(tensors: Mapping[str, Tensor], words: Sequence[Any]) -> str:
    """16 digits of SHA-256 over tensors by name and over words."""
    found = hashlib.sha256(repr(list(words)).encode())
    for name, tensor in tensors.items():
        found.update(f"{name}{tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


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


_TELL_EVERY_SECONDS = 5.0


def announce(
    name: str,
    scene: Scene,
    grid: Sequence[Sequence[float]],
    bends: Sequence[Sequence[float]],
    options: LandscapeOptions,
) -> list[float]:
    """Say what is to be measured and how long it will take, from one point and one product; refuse what is too long.

    The seconds of each point and each curvature, in their order; 0 of those that are known already.
    """
    left = [point for point in grid if scene.kept.get("loss", point) is None]
    left_bends = [point for point in bends if scene.kept.get("curvature", point) is None]
    one = _seconds_of_a_point(scene, options) if left else 0.0
    top = options.eigenvalues and scene.kept.get("eigenvalues", (options.eigenvalues,)) is None
    product = _seconds_of_a_product(scene) if left_bends or top else 0.0
    bend = product * options.iterations
    ends = product * max(options.iterations, 4 * options.eigenvalues) if top else 0.0
    minutes = (len(left) * one + len(left_bends) * bend + ends) / 60
    words = f"{len(left)} points of {one:.2g} s"
    if left_bends:
        words += f" and {len(left_bends)} curvatures of {bend:.2g} s"
    if minutes > options.most_minutes:
        fewer = max(2, int(options.points * math.sqrt(options.most_minutes / minutes)))
        got = f"about {minutes:.0f} minutes: {words}"
        hint = f"--set most_minutes={math.ceil(minutes)} goes on all the same"
        raise refuse(f"a landscape of at most {options.most_minutes:g} minutes", got, f"points={fewer}", hint)
    done = len(grid) + len(bends) - len(left) - len(left_bends)
    kept = f", {done} known already" if done else ""
    tell(f"{name}: {words}, about {_minutes(minutes)}{kept}")
    seconds = [one if scene.kept.get("loss", point) is None else 0.0 for point in grid]
    return seconds + [bend if scene.kept.get("curvature", point) is None else 0.0 for point in bends]


def _minutes(minutes: float) -> str:
    return f"{60 * minutes:.0f} s" if minutes < 2 else f"{minutes:.0f} min"


def _seconds_of_a_point(scene: Scene, options: LandscapeOptions) -> float:
    scene.plane.move(scene.model, (0.0,) * options.dimensions)
    began = time.perf_counter()
    score(scene.model, scene.examples)
    return time.perf_counter() - began


def _seconds_of_a_product(scene: Scene) -> float:
    product, size = hessian_product(scene.model, *scene.hessian_batch)
    vector = torch.ones(size).to(scene.hessian_batch[0])
    began = time.perf_counter()
    product(vector).sum().item()
    return time.perf_counter() - began


class Steps:
    """Counts what is done, and tells every few seconds; `seconds` are what the steps were told to take, by which the
    time that is left is reckoned: a curvature takes many times as long as a point."""

    def __init__(self, name: str, seconds: Sequence[float]) -> None:
        self.name, self.seconds, self.done = name, seconds, 0
        self.began = self.told = time.monotonic()

    def __call__(self, value: Values) -> Values:
        self.done += 1
        now = time.monotonic()
        if now - self.told >= _TELL_EVERY_SECONDS:
            self.told = now
            behind, ahead = sum(self.seconds[: self.done]), sum(self.seconds[self.done :])
            left = (now - self.began) * ahead / behind if behind else ahead
            tell(f"{self.name}: {self.done} of {len(self.seconds)}, {left:.0f} s left")
        return value
