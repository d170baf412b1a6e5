"""What a landscape will cost, said beforehand, and how far its measurement is."""

import math
import time
from collections.abc import Sequence

import torch

from reslab.analysis.inputs import score
from reslab.analysis.landscape.evaluator import Scene
from reslab.analysis.landscape.hessian import hessian_product
from reslab.analysis.landscape_data import LandscapeOptions
from reslab.analysis.landscape_points import Values
from reslab.analysis.progress import tell
from reslab.spec.errors import refuse

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
