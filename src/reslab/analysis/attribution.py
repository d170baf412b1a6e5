"""Which part of a picture speaks for a class: Grad-CAM, integrated gradients, occlusion; of any module.

The question `attribution`: for some pictures, what in them speaks for the class, by three methods.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from reslab.analysis.inputs import class_name, picture, plain
from reslab.analysis.layers import default_layers, layer_named
from reslab.analysis.subject import Subject
from reslab.spec.errors import refuse, unknown


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


TARGETS = ("predicted", "label")

Map = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class AttributionOptions:
    """The first `pictures` (`wrong`: of those called wrong), for the class `target`: `predicted` or `label`. `layer` is
    Grad-CAM's, the last unit where empty. `steps` of the integral; a square of `square` pixels (0: a quarter of the
    side), moved by half of that."""

    pictures: int = 5
    wrong: bool = False
    target: str = "predicted"
    layer: str = ""
    steps: int = 64
    square: int = 0


_DEFAULT = AttributionOptions()


@dataclass(frozen=True)
class Attributed:
    """One picture (`index` among the subject's, `picture` a data URI) with its maps, pooled where they are large.

    `left_over` is the sum of the integrated gradients less the rise of the class's score from the mean picture, as a
    share of the rise: 0 where they are complete.
    """

    index: int
    picture: str
    label: str
    predicted: str
    target: str
    probability: float
    grad_cam: Map
    integrated: Map
    occlusion: Map
    left_over: float


@dataclass(frozen=True)
class Attribution:
    """The pictures with what speaks for the class in them; `layer` is Grad-CAM's."""

    subject: str
    step: int | None
    layer: str
    square: int
    pictures: tuple[Attributed, ...]


def attribute(subject: Subject, options: AttributionOptions = _DEFAULT) -> Attribution:
    """Grad-CAM, integrated gradients from the mean picture, and occlusion, for the logit of each picture's class.

    Sources with each function of `reslab.analysis.attribution`. Raises ValueError for an unknown layer or target.
    """
    if options.target not in TARGETS:
        raise unknown("target", options.target, TARGETS)
    if options.pictures < 1 or options.square < 0:
        raise refuse("1 picture or more, a square of 0 or more pixels", options)
    layer = options.layer or default_layers(subject.model)[-1]
    chosen, logits = _chosen_attributing(subject, options)
    x = subject.images[chosen]
    labels = subject.labels[chosen].to(x.device)
    target = logits.argmax(1) if options.target == "predicted" else labels
    square = options.square or max(1, min(x.shape[-2:]) // 4)
    maps = grad_cam(subject.model, x, target, layer)
    integrated = integrated_gradients(subject.model, x, target, 0.0, options.steps)
    covered = occlusion(subject.model, x, target, square, max(1, square // 2))
    left_over = _left_over(subject, x, target, integrated)
    probabilities = logits.softmax(1)
    found = [
        Attributed(
            index=int(chosen[row]),
            picture=picture(subject, int(chosen[row])),
            label=class_name(subject, int(labels[row])),
            predicted=class_name(subject, int(logits[row].argmax())),
            target=class_name(subject, int(target[row])),
            probability=float(probabilities[row, target[row]]),
            grad_cam=plain(maps[row]),
            integrated=plain(integrated[row].sum(0)),
            occlusion=plain(covered[row]),
            left_over=float(left_over[row]),
        )
        for row in range(len(chosen))
    ]
    return Attribution(subject.name, subject.step, layer, square, tuple(found))


@torch.no_grad()
def _chosen_attributing(subject: Subject, options: AttributionOptions) -> tuple[Tensor, Tensor]:
    """Which pictures, and their logits."""
    logits = torch.cat([subject.model(x).float() for x in subject.images.split(64)])
    places = torch.arange(len(logits))
    if options.wrong:
        places = places[(logits.argmax(1) != subject.labels.to(logits.device)).cpu()]
        if not len(places):
            raise refuse(
                "a picture that is called wrong", f"none among {len(logits)}", next_step="ask with more --images"
            )
    places = places[: options.pictures]
    return places, logits[places]


@torch.no_grad()
def _left_over(subject: Subject, x: Tensor, target: Tensor, integrated: Tensor) -> Tensor:
    scores = [subject.model(images).gather(1, target[:, None])[:, 0] for images in (x, torch.zeros_like(x))]
    rise = scores[0] - scores[1]
    return (integrated.sum((1, 2, 3)) - rise) / rise.abs().clamp_min(1e-6)
