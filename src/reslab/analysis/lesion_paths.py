"""The 2^n paths through a residual network, by length: their number and the gradient that flows through them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import comb
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional

from reslab.analysis.target import AnalysisTarget, as_residual_network
from reslab.nn.block import ResidualBlock
from reslab.nn.dense import DenseNetwork
from reslab.nn.network import ResidualNetwork, SharedStage
from reslab.training.losses import LossFn


@dataclass(frozen=True)
class PathLength:
    """The paths through `length` branches: their fraction of the 2^n paths, and the gradient they transport.

    `gradient_norm` is the mean norm that one such path brings to the first block's input, `contribution` the fraction
    of the total that all of them bring (norm times number).
    """

    length: int
    fraction: float
    gradient_norm: float
    contribution: float


@dataclass(frozen=True, eq=False)
class BlockLink:
    """One block for backpropagation through either path: the output once as a function of the shortcut alone, once of
    the branch alone.

    Both outputs have the same value. A gate counts with the shortcut.
    """

    x: Tensor
    shortcut_output: Tensor
    branch_output: Tensor

    def backward(self, gradient: Tensor, through_branch: bool) -> Tensor:
        """Return the part of the gradient at the block's input that comes through one of the two paths."""
        output = self.branch_output if through_branch else self.shortcut_output
        if not output.requires_grad:
            return torch.zeros_like(self.x)
        (input_gradient,) = torch.autograd.grad(output, self.x, gradient, retain_graph=True, allow_unused=True)
        return torch.zeros_like(self.x) if input_gradient is None else input_gradient


def measure_path_lengths(
    target: AnalysisTarget, draws: int, num_images: int, seed: int
) -> tuple[tuple[PathLength, ...], str]:
    """Return the paths by length with the gradient they transport, and a note that says why there are none.

    Veit et al. 2016, arXiv:1605.06431, Sec. 5 and Fig. 6: of n blocks, C(n, k) / 2^n of the paths have length k. For
    each k, k blocks are drawn `draws` times, and the gradient is propagated through the branches of these and the
    shortcuts of the others. All draws share one forward pass over `num_images` images.
    """
    if not draws:
        return (), ""
    if isinstance(target.model, DenseNetwork):
        return (), "paths are not measured: they are those of a whole network from image to logits, not of a backbone"
    try:
        network = as_residual_network(target)
    except ValueError as error:
        return (), f"paths are not measured: {error}"
    if any(block.merge is None for _, block in network.blocks()):
        return (), "paths are not measured: a plain network has only one"
    links, gradient = build_block_links(
        network, target.images[:num_images], target.labels[:num_images], target.task.default_loss()
    )
    rng, num_blocks = random.Random(seed), len(links)
    norms = []
    for length in range(num_blocks + 1):
        num_samples = 1 if length in (0, num_blocks) else draws  # there is one path without and one with all branches
        paths = [rng.sample(range(num_blocks), length) for _ in range(num_samples)]
        norms.append(fmean(float(path_gradient(links, gradient, path).norm()) for path in paths))
    fractions = [comb(num_blocks, k) / 2**num_blocks for k in range(num_blocks + 1)]
    total = sum(fraction * norm for fraction, norm in zip(fractions, norms, strict=True)) or 1.0
    rows = zip(range(num_blocks + 1), fractions, norms, strict=True)
    return tuple(PathLength(k, fraction, norm, fraction * norm / total) for k, fraction, norm in rows), ""


def build_block_links(
    model: ResidualNetwork, x: Tensor, y: Tensor, loss_fn: LossFn | None = None
) -> tuple[list[BlockLink], Tensor]:
    """Return the blocks as links, in the order they run, and the loss gradient at the last one's output.

    The loss is the mean cross-entropy, unless another is given. Every link starts at a leaf tensor, so that any path
    can be backpropagated block by block.
    """
    links = []
    with torch.enable_grad():
        link_inputs, last_output = _collect_link_inputs(model, x)
        for ahead, block, link_input in link_inputs:
            links.append(_make_link(ahead, block, link_input.detach().requires_grad_()))
        last_output = last_output.detach().requires_grad_()
        loss = (loss_fn or functional.cross_entropy)(model.forward_tail(last_output), y)
        (gradient,) = torch.autograd.grad(loss, last_output)
    return links, gradient


@torch.no_grad()
def _collect_link_inputs(
    model: ResidualNetwork, x: Tensor
) -> tuple[list[tuple[Callable[[Tensor], Tensor], ResidualBlock, Tensor]], Tensor]:
    """Return each call of a block with what runs ahead of it (a transition) and its input, and the last output."""
    links: list[tuple[Callable[[Tensor], Tensor], ResidualBlock, Tensor]] = []
    out = model.forward_stem(x)
    for name, stage in model.stages():
        num_calls = stage.num_repeats if isinstance(stage, SharedStage) else len(stage)
        for index in range(num_calls):
            block = stage[0 if isinstance(stage, SharedStage) else index]
            assert isinstance(block, ResidualBlock)
            ahead = partial(model.forward_transition, name) if index == 0 else _identity
            links.append((ahead, block, out))
            out = block(ahead(out))
    return links, out


def _identity(x: Tensor) -> Tensor:
    return x


def _make_link(ahead: Callable[[Tensor], Tensor], block: ResidualBlock, x: Tensor) -> BlockLink:
    assert block.merge is not None
    assert block.downsample is not None
    p = block.pre(ahead(x))
    branch, shortcut = block.branch(p), block.downsample(p)
    shortcut_output = block.post(block.merge(p, shortcut, branch.detach()))
    branch_output = block.post(block.merge(p.detach(), shortcut.detach(), branch))
    return BlockLink(x, shortcut_output, branch_output)


def path_gradient(links: Sequence[BlockLink], gradient: Tensor, branches: Sequence[int]) -> Tensor:
    """Return the gradient at the first block's input along one path.

    The path takes the branches of the blocks in `branches`, counted from 0, and the shortcuts of the others.
    """
    branch_indices = set(branches)
    for i in range(len(links) - 1, -1, -1):
        gradient = links[i].backward(gradient, i in branch_indices)
    return gradient
