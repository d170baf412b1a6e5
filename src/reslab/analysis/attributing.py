"""The question `attribution`: for some pictures, what in them speaks for the class, by three methods."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.analysis.attribution import grad_cam, integrated_gradients, occlusion
from reslab.analysis.layers import default_layers
from reslab.analysis.pixels import class_name, picture, plain
from reslab.analysis.subject import Subject
from reslab.spec.errors import refuse, unknown

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
    chosen, logits = _chosen(subject, options)
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
def _chosen(subject: Subject, options: AttributionOptions) -> tuple[Tensor, Tensor]:
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
