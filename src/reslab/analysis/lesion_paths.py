"""The 2^n paths of a residual network: how many there are of each length, and the gradient that flows through them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.blocks import network_of
from reslab.analysis.subject import Subject
from reslab.nn.block import Unit
from reslab.nn.network import Network


@dataclass(frozen=True)
class PathLength:
    """Paths through `length` branches: their share of the 2^n paths, the mean norm of the gradient that one of them
    carries to the first unit's input, and the share of the gradient that all of them carry (norms times number)."""

    length: int
    share: float
    gradient: float
    contribution: float


@dataclass(frozen=True, eq=False)
class Link:
    """One unit as the gradient sees it: from its output back to its input, by the shortcut or by the branch alone.

    y is the same tensor's value in both; the gate, where there is one, counts with the shortcut.
    """

    x: Tensor
    by_shortcut: Tensor
    by_branch: Tensor

    def back(self, gradient: Tensor, branch: bool) -> Tensor:
        """The gradient at the unit's input that came along one of the two ways."""
        y = self.by_branch if branch else self.by_shortcut
        if not y.requires_grad:
            return torch.zeros_like(self.x)
        (found,) = torch.autograd.grad(y, self.x, gradient, retain_graph=True, allow_unused=True)
        return torch.zeros_like(self.x) if found is None else found


def path_lengths(subject: Subject, draws: int, num_images: int, seed: int) -> tuple[tuple[PathLength, ...], str]:
    """Paths by length with the gradient they carry, and why there are none.

    Veit et al. 2016, arXiv:1605.06431, Sec. 5 and Fig. 6: of n units C(n, k) / 2^n of the paths have length k; for each
    k, `draws` times, k units are drawn, and the gradient goes back through the branches of these and the shortcuts of
    the others. All draws share one forward pass over `num_images` pictures.
    """
    if not draws:
        return (), ""
    try:
        network = network_of(subject)
    except ValueError as error:
        return (), f"no paths: {error}"
    if any(unit.mix is None for _, unit in network.units()):
        return (), "a plain network has one path"
    links, gradient = chain(network, subject.images[:num_images], subject.labels[:num_images])
    draw, number = random.Random(seed), len(links)
    norms = []
    for length in range(number + 1):
        tries = 1 if length in (0, number) else draws
        norms.append(fmean(_norm(links, gradient, draw.sample(range(number), length)) for _ in range(tries)))
    shares = [comb(number, k) / 2**number for k in range(number + 1)]
    total = sum(share * norm for share, norm in zip(shares, norms, strict=True)) or 1.0
    rows = zip(range(number + 1), shares, norms, strict=True)
    return tuple(PathLength(k, share, norm, share * norm / total) for k, share, norm in rows), ""


def chain(model: Network, x: Tensor, y: Tensor) -> tuple[list[Link], Tensor]:
    """The units as links, in the order they run, and the loss's gradient at the last one's output.

    The loss is the mean cross-entropy; every link begins at a leaf, so that each can be gone back through alone.
    """
    links = []
    with torch.enable_grad():
        found = _inputs(model, x)
        for unit, held in found[:-1]:
            assert isinstance(unit, Unit)
            links.append(_link(unit, held.detach().requires_grad_()))
        last = found[-1][1].detach().requires_grad_()
        loss = functional.cross_entropy(model.run_head(last), y)
        (gradient,) = torch.autograd.grad(loss, last)
    return links, gradient


@torch.no_grad()
def _inputs(model: Network, x: Tensor) -> list[tuple[nn.Module | None, Tensor]]:
    """Each unit that runs with its input, and at last (None, the last unit's output)."""
    found: list[tuple[nn.Module | None, Tensor]] = []
    handles = [
        unit.register_forward_pre_hook(lambda module, arguments: found.append((module, arguments[0])))
        for _, unit in model.units()
    ]
    try:
        out = model.run_stem(x)
        for _, stage in model.stages():
            out = stage(out)
    finally:
        for handle in handles:
            handle.remove()
    return [*found, (None, out)]


def _link(unit: Unit, x: Tensor) -> Link:
    assert unit.mix is not None
    assert unit.downsample is not None
    p = unit.before(x)
    branch, shortcut = unit.branch(p), unit.downsample(p)
    by_shortcut = unit.after(unit.mix(p, shortcut, branch.detach()))
    by_branch = unit.after(unit.mix(p.detach(), shortcut.detach(), branch))
    return Link(x, by_shortcut, by_branch)


def _norm(links: Sequence[Link], gradient: Tensor, branches: Sequence[int]) -> float:
    return float(along(links, gradient, branches).norm())


def along(links: Sequence[Link], gradient: Tensor, branches: Sequence[int]) -> Tensor:
    """The gradient at the first unit's input along one path: through the branches of these units, counted from 0, and
    the shortcuts of the others."""
    taken = set(branches)
    for i in range(len(links) - 1, -1, -1):
        gradient = links[i].back(gradient, i in taken)
    return gradient
