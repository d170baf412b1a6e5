"""Which part of a picture speaks for a class: Grad-CAM, integrated gradients, occlusion; of any module."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from reslab.analysis.layers import layer_named
from reslab.spec.errors import refuse


def grad_cam(model: nn.Module, x: Tensor, target: Tensor, layer: str | nn.Module) -> Tensor:
    """relu(sum_k a_k A_k) with a_k the mean over positions of d y_target / d A_k; (N, C, H, W) to (N, h, w).

    A_k are the maps of `layer` (a name or a module), h and w their size. Selvaraju et al. 2017, arXiv:1610.02391, Eqs.
    1 and 2. Raises ValueError for an unknown layer and for one that hands out no maps.
    """
    module = layer_named(model, layer) if isinstance(layer, str) else layer
    kept: list[Tensor] = []
    handle = module.register_forward_hook(_keeper(kept))
    try:
        with torch.enable_grad():
            scores = model(x.detach().requires_grad_())
            if not kept or kept[-1].ndim != 4:
                raise refuse("a layer with maps (N, C, H, W)", tuple(kept[-1].shape) if kept else "one that never runs")
            (gradient,) = torch.autograd.grad(_chosen(scores, target).sum(), kept[-1])
    finally:
        handle.remove()
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * kept[-1].detach()).sum(1).relu()


def _keeper(kept: list[Tensor]) -> Callable[..., Tensor]:
    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # what comes next may change it in place

    return keep


def integrated_gradients(
    model: nn.Module, x: Tensor, target: Tensor, baseline: Tensor | float = 0.0, num_steps: int = 50
) -> Tensor:
    """(x - b) times the mean gradient of y_target on the line from the baseline b to x; (N, C, H, W) in and out.

    Sundararajan, Taly and Yan 2017, arXiv:1703.01365, Eq. 1; the integral by Gauss and Legendre's rule of `num_steps`
    points. Its sum over a picture is y_target(x) - y_target(b) (their completeness), up to the rule's error.
    """
    if num_steps < 1:
        raise refuse("num_steps of at least 1", num_steps, "50")
    x = x.detach()
    start = torch.full_like(x, baseline) if isinstance(baseline, float | int) else baseline.detach().expand_as(x)
    places, weights = np.polynomial.legendre.leggauss(num_steps)
    total = torch.zeros_like(x)
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        point = (start + float(place) * (x - start)).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(_chosen(model(point), target).sum(), point)
        total += float(weight) * gradient
    return (x - start) * total


@torch.no_grad()
def occlusion(model: nn.Module, x: Tensor, target: Tensor, size: int, stride: int, fill: float = 0.0) -> Tensor:
    """How far y_target falls where a square of `size` is covered with `fill`; (N, C, H, W) to (N, H, W).

    A pixel's value is the mean over the squares that cover it, one every `stride` pixels, the last cut at the edge.
    Zeiler and Fergus 2014, arXiv:1311.2901, Sec. 4.2. Raises ValueError for a stride that leaves gaps.
    """
    height, width = x.shape[-2:]
    if not 1 <= stride <= size or size > min(height, width):
        got = f"size {size}, stride {stride}"
        raise refuse(f"a stride of 1 to size, and a size up to {min(height, width)}", got)
    whole = _chosen(model(x), target)
    falls, covered = x.new_zeros(len(x), height, width), x.new_zeros(height, width)
    for top in _starts(height, size, stride):
        for left in _starts(width, size, stride):
            hidden = x.clone()
            hidden[:, :, top : top + size, left : left + size] = fill
            fall = whole - _chosen(model(hidden), target)
            falls[:, top : top + size, left : left + size] += fall[:, None, None]
            covered[top : top + size, left : left + size] += 1
    return falls / covered


def _starts(side: int, size: int, stride: int) -> range:
    return range(0, side - size + stride, stride)


def _chosen(scores: Tensor, target: Tensor) -> Tensor:
    """(N, classes) to (N,): each sample's score of its class."""
    return scores.gather(1, target[:, None])[:, 0]
