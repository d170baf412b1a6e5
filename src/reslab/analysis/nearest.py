"""Which pictures a network takes for alike: nearest neighbours in a layer's features."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reslab.analysis.inputs import class_name, more_pictures, picture
from reslab.analysis.layers import outputs_of, pooled, unit_layers
from reslab.analysis.subject import Subject
from reslab.spec.errors import refuse


@dataclass(frozen=True)
class NearestOptions:
    """For the first `queries` pictures the `neighbours` nearest among `most` of `split` (empty: the other pictures of
    the subject). `layer` by name, the last unit where empty."""

    queries: int = 6
    neighbours: int = 7
    layer: str = ""
    split: str = "train"
    most: int = 2000
    seed: int = 0


_DEFAULT = NearestOptions()


@dataclass(frozen=True)
class Neighbour:
    """A picture (a data URI) with its class, and the cosine of its features and those asked with."""

    picture: str
    label: str
    cosine: float


@dataclass(frozen=True)
class Query:
    """A picture and its neighbours, the nearest first."""

    picture: str
    label: str
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Nearest:
    """`same_class` is the share of neighbours of the query's class, over all the subject's pictures; `voted` the share
    of pictures whose class most of their neighbours have; `chance` is what one class in all would give."""

    subject: str
    step: int | None
    layer: str
    split: str
    num_searched: int
    num_images: int
    same_class: float
    voted: float
    chance: float
    queries: tuple[Query, ...]


def nearest(subject: Subject, options: NearestOptions = _DEFAULT) -> Nearest:
    """Neighbours by the cosine of a layer's features, each map averaged to one number.

    Raises ValueError for an unknown layer or split, and for more neighbours than there are pictures.
    """
    layer = options.layer or unit_layers(subject.model)[-1]
    layer, own = _features(subject, layer, subject.images)
    split = options.split if subject.data is not None else ""
    pool, labels = more_pictures(subject, split, options.most, options.seed) if split else (None, subject.labels)
    others = own if pool is None else _features(subject, layer, pool)[1]
    if not 1 <= options.neighbours < len(others) or options.queries < 1:
        raise refuse(f"1 query or more, and 1 to {len(others) - 1} neighbours", options, "neighbours=7")
    cosines = own @ others.T
    # A picture is not its own neighbour, also where the split is the one that the subject's pictures are of.
    if pool is None:
        cosines.fill_diagonal_(-2.0)
    elif subject.data is not None and split == subject.data.held_out:
        cosines[_equal(subject.images, pool)] = -2.0
    best = cosines.topk(options.neighbours, dim=1)
    same = labels[best.indices] == subject.labels[:, None]
    votes = labels[best.indices].mode(dim=1).values
    seen = subject if pool is None else Subject("", subject.model, pool, labels, subject.data, subject.classes)
    return Nearest(
        subject=subject.name,
        step=subject.step,
        layer=layer,
        split=split,
        num_searched=len(others),
        num_images=len(own),
        same_class=float(same.float().mean()),
        voted=float((votes == subject.labels).float().mean()),
        chance=float(torch.bincount(labels).max() / len(labels)),
        queries=tuple(
            Query(
                picture(subject, i),
                class_name(subject, int(subject.labels[i])),
                tuple(_neighbour(seen, int(j), float(cosine)) for j, cosine in zip(*_row(best, i), strict=True)),
            )
            for i in range(min(options.queries, len(own)))
        ),
    )


def _equal(one: Tensor, other: Tensor) -> Tensor:
    """Which pictures are the same ones, (N, M)."""
    return torch.stack([(other == picture).flatten(1).all(1) for picture in one])


def _row(best: "torch.return_types.topk", row: int) -> tuple[Tensor, Tensor]:
    return best.indices[row], best.values[row]


def _neighbour(seen: Subject, index: int, cosine: float) -> Neighbour:
    return Neighbour(picture(seen, index), class_name(seen, int(seen.labels[index])), cosine)


def _features(subject: Subject, layer: str, images: Tensor) -> tuple[str, Tensor]:
    """The layer, or the last of its runs, and unit vectors (N, features) of what it hands out."""
    name, output = list(outputs_of(subject.model, [layer], images).items())[-1]
    return name, functional.normalize(pooled(output), dim=1)
