"""Nearest neighbors: the images that are closest in a layer's features."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from reslab.analysis.layers import block_names, layer_outputs, pool_features
from reslab.analysis.target import AnalysisTarget, Labels, image_data_uri, sample_images
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind


@dataclass(frozen=True)
class NeighborOptions:
    """Show the `num_neighbors` nearest of `max_searched` images of `split` for the first `num_queries` images.

    An empty split searches the target's other images. The `layer` defaults to the last block.
    """

    num_queries: int = 6
    num_neighbors: int = 7
    layer: str = ""
    split: str = "train"
    max_searched: int = 2000
    seed: int = 0


_DEFAULT_OPTIONS = NeighborOptions()


@dataclass(frozen=True)
class Neighbor:
    """An image (a data URI) with its class, and the cosine between its features and those of the query."""

    image: str
    label: str
    cosine: float


@dataclass(frozen=True)
class NeighborQuery:
    """An image and its neighbors, nearest first."""

    image: str
    label: str
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True)
class NeighborResult:
    """The queries with their neighbors, and how often these share the class, over all images of the target.

    The fractions are None where an image has no one class. `same_class_fraction` counts neighbors of the query's class,
    `knn_accuracy` queries whose class is the most frequent among their neighbors; `chance_accuracy` is that of always
    predicting the largest class.
    """

    model: str
    step: int | None
    layer: str
    split: str
    num_searched: int
    num_images: int
    same_class_fraction: float | None
    knn_accuracy: float | None
    chance_accuracy: float | None
    queries: tuple[NeighborQuery, ...]


def analyze_neighbors(target: AnalysisTarget, options: NeighborOptions = _DEFAULT_OPTIONS) -> NeighborResult:
    """Find neighbors by the cosine of a layer's features, each map averaged to one number.

    Raises ValueError for an unknown layer or split, and for more neighbors than there are images.
    """
    layer = options.layer or block_names(target.model)[-1]
    layer, query_features = _normalized_features(target, layer, target.images)
    split = options.split if target.data is not None else ""
    search_images, labels = (
        sample_images(target, split, options.max_searched, options.seed) if split else (None, target.labels)
    )
    search_features = query_features if search_images is None else _normalized_features(target, layer, search_images)[1]
    if not 1 <= options.num_neighbors < len(search_features) or options.num_queries < 1:
        required = f"num_queries of at least 1, and num_neighbors of 1 to {len(search_features) - 1}"
        raise invalid(required, options, "num_neighbors=7")
    cosines = query_features @ search_features.T
    # An image is not its own neighbor, also where the target's images come from the split that is searched.
    if search_images is None:
        cosines.fill_diagonal_(-2.0)
    elif target.data is not None and split == target.data.eval_split:
        cosines[_identical_images(target.images, search_images)] = -2.0
    top = cosines.topk(options.num_neighbors, dim=1)
    shared = _shared_classes(target, labels, top.indices)
    searched = target if search_images is None else replace(target, images=search_images, labels=labels)
    return NeighborResult(
        model=target.name,
        step=target.step,
        layer=layer,
        split=split,
        num_searched=len(search_features),
        num_images=len(query_features),
        same_class_fraction=shared[0],
        knn_accuracy=shared[1],
        chance_accuracy=shared[2],
        queries=tuple(
            NeighborQuery(
                image=image_data_uri(target, i),
                label=target.label_text(i),
                neighbors=tuple(
                    _neighbor(searched, int(j), float(cosine))
                    for j, cosine in zip(top.indices[i], top.values[i], strict=True)
                ),
            )
            for i in range(min(options.num_queries, len(query_features)))
        ),
    )


def _shared_classes(
    target: AnalysisTarget, labels: Labels, neighbors: Tensor
) -> tuple[float | None, float | None, float | None]:
    """Return how often a neighbor, and the most frequent class among them, is right, and the largest class's share."""
    if target.task.spec.target is not TargetKind.CLASS:
        return None, None, None
    assert isinstance(labels, Tensor)
    neighbor_labels, own = labels[neighbors], target.class_labels
    votes = neighbor_labels.mode(dim=1).values
    return (
        float((neighbor_labels == own[:, None]).float().mean()),
        float((votes == own).float().mean()),
        float(torch.bincount(labels).max() / len(labels)),
    )


def _identical_images(images: Tensor, candidates: Tensor) -> Tensor:
    """Return which images and candidates are equal, bool (N, M)."""
    return torch.stack([(candidates == image).flatten(1).all(1) for image in images])


def _neighbor(searched: AnalysisTarget, index: int, cosine: float) -> Neighbor:
    return Neighbor(image_data_uri(searched, index), searched.label_text(index), cosine)


def _normalized_features(target: AnalysisTarget, layer: str, images: Tensor) -> tuple[str, Tensor]:
    """Return the label of the layer's last call, and its outputs as unit vectors (N, features)."""
    name, output = list(layer_outputs(target.model, [layer], images).items())[-1]
    return name, functional.normalize(pool_features(output), dim=1)
