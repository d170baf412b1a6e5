"""Which pictures a network takes for alike: nearest neighbours in a layer's features."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reslab.analysis.inputs import class_name, image_data_uri, sample_images
from reslab.analysis.layers import block_names, layer_outputs, pool_features
from reslab.analysis.subject import AnalysisTarget
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class NeighborOptions:
    """For the first `queries` pictures the `neighbours` nearest among `most` of `split` (empty: the other pictures of
    the subject). `layer` by name, the last unit where empty."""

    num_queries: int = 6
    num_neighbors: int = 7
    layer: str = ""
    split: str = "train"
    max_searched: int = 2000
    seed: int = 0


_DEFAULT_OPTIONS = NeighborOptions()


@dataclass(frozen=True)
class Neighbor:
    """A picture (a data URI) with its class, and the cosine of its features and those asked with."""

    image: str
    label: str
    cosine: float


@dataclass(frozen=True)
class NeighborQuery:
    """A picture and its neighbours, the nearest first."""

    image: str
    label: str
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True)
class NeighborResult:
    """`same_class` is the share of neighbours of the query's class, over all the subject's pictures; `voted` the share
    of pictures whose class most of their neighbours have; `chance` is what one class in all would give."""

    model: str
    step: int | None
    layer: str
    split: str
    num_searched: int
    num_images: int
    same_class_fraction: float
    knn_accuracy: float
    chance_accuracy: float
    queries: tuple[NeighborQuery, ...]


def analyze_neighbors(target: AnalysisTarget, options: NeighborOptions = _DEFAULT_OPTIONS) -> NeighborResult:
    """Neighbours by the cosine of a layer's features, each map averaged to one number.

    Raises ValueError for an unknown layer or split, and for more neighbours than there are pictures.
    """
    layer = options.layer or block_names(target.model)[-1]
    layer, query_features = _normalized_features(target, layer, target.images)
    split = options.split if target.data is not None else ""
    search_images, labels = (
        sample_images(target, split, options.max_searched, options.seed) if split else (None, target.labels)
    )
    search_features = query_features if search_images is None else _normalized_features(target, layer, search_images)[1]
    if not 1 <= options.num_neighbors < len(search_features) or options.num_queries < 1:
        raise invalid(f"1 query or more, and 1 to {len(search_features) - 1} neighbours", options, "num_neighbors=7")
    cosines = query_features @ search_features.T
    # A picture is not its own neighbour, also where the split is the one that the subject's pictures are of.
    if search_images is None:
        cosines.fill_diagonal_(-2.0)
    elif target.data is not None and split == target.data.eval_split:
        cosines[_identical_images(target.images, search_images)] = -2.0
    top = cosines.topk(options.num_neighbors, dim=1)
    is_same_class = labels[top.indices] == target.labels[:, None]
    votes = labels[top.indices].mode(dim=1).values
    searched = (
        target
        if search_images is None
        else AnalysisTarget("", target.model, search_images, labels, target.data, target.classes)
    )
    return NeighborResult(
        model=target.name,
        step=target.step,
        layer=layer,
        split=split,
        num_searched=len(search_features),
        num_images=len(query_features),
        same_class_fraction=float(is_same_class.float().mean()),
        knn_accuracy=float((votes == target.labels).float().mean()),
        chance_accuracy=float(torch.bincount(labels).max() / len(labels)),
        queries=tuple(
            NeighborQuery(
                image_data_uri(target, i),
                class_name(target, int(target.labels[i])),
                tuple(_neighbor(searched, int(j), float(cosine)) for j, cosine in zip(*_top_row(top, i), strict=True)),
            )
            for i in range(min(options.num_queries, len(query_features)))
        ),
    )


def _identical_images(images: Tensor, candidates: Tensor) -> Tensor:
    """Which pictures are the same ones, (N, M)."""
    return torch.stack([(candidates == image).flatten(1).all(1) for image in images])


def _top_row(top: "torch.return_types.topk", row: int) -> tuple[Tensor, Tensor]:
    return top.indices[row], top.values[row]


def _neighbor(searched: AnalysisTarget, index: int, cosine: float) -> Neighbor:
    return Neighbor(image_data_uri(searched, index), class_name(searched, int(searched.labels[index])), cosine)


def _normalized_features(target: AnalysisTarget, layer: str, images: Tensor) -> tuple[str, Tensor]:
    """The layer, or the last of its runs, and unit vectors (N, features) of what it hands out."""
    name, output = list(layer_outputs(target.model, [layer], images).items())[-1]
    return name, functional.normalize(pool_features(output), dim=1)
