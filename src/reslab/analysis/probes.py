"""Linear probes and nearest neighbors in the features of a layer."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reslab.analysis.layers import block_names, layer_outputs, layers_by_depth, pool_features
from reslab.analysis.target import AnalysisTarget, Labels, image_data_uri, sample_images
from reslab.metrics.multilabel import mean_average_precision
from reslab.metrics.regression import mean_regression_metrics, regression_metrics
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind


@dataclass(frozen=True)
class LinearProbeOptions:
    """The probes are fitted on `max_fit_images` images of `fit_split` and evaluated on the target's own.

    `layers` default to the first convolution and every block. `inverse_regularization` is scikit-learn's C, in
    regression 1 / alpha.
    """

    layers: tuple[str, ...] = ()
    fit_split: str = "train"
    max_fit_images: int = 1000
    inverse_regularization: float = 1.0
    seed: int = 0


_PROBE_OPTIONS = LinearProbeOptions()


@dataclass(frozen=True)
class LinearProbe:
    """A linear model on one layer's features, with its score on held-out images and on those of the fit."""

    layer: str
    num_features: int
    score: float
    fit_score: float


@dataclass(frozen=True)
class LinearProbeResult:
    """One probe for each layer, first to last; `baseline_score` is that of the best constant prediction.

    The score is the accuracy, the mean average precision of several labels, or the R² of values: `metric` names it,
    `is_fraction` is True where it is shown in percent.
    """

    model: str
    step: int | None
    metric: str
    is_fraction: bool
    num_fit_images: int
    num_images: int
    model_score: float
    baseline_score: float
    probes: tuple[LinearProbe, ...]


Predict = Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class _ProbeMethod:
    """The fit, score and baseline of probes for targets of one kind.

    `fit` returns a function from features to predictions; `score` compares predictions with labels; `predictions` makes
    them of a network's outputs; `baseline` is the score of the best constant.
    """

    metric: str
    is_fraction: bool
    fit: Callable[[np.ndarray, np.ndarray, float], Predict]
    score: Callable[[Tensor, Tensor], float]
    predictions: Callable[[AnalysisTarget, Tensor], Tensor]
    baseline: Callable[[Tensor], float]


def _fit_classes(features: np.ndarray, labels: np.ndarray, inverse_regularization: float) -> Predict:
    classifier = _standardized(_logistic(inverse_regularization)).fit(features, labels)
    return lambda inputs: torch.from_numpy(classifier.predict(inputs))


def _fit_labels(features: np.ndarray, labels: np.ndarray, inverse_regularization: float) -> Predict:
    """Fit one logistic regression a class; a class that all images show, or none, gets equal scores."""
    columns = [
        _standardized(_logistic(inverse_regularization)).fit(features, column) if column.min() != column.max() else None
        for column in labels.T
    ]

    def predict(inputs: np.ndarray) -> Tensor:
        scores = [np.zeros(len(inputs)) if model is None else model.decision_function(inputs) for model in columns]
        return torch.from_numpy(np.stack(scores, 1))

    return predict


def _fit_values(features: np.ndarray, labels: np.ndarray, inverse_regularization: float) -> Predict:
    from sklearn.linear_model import Ridge

    model = _standardized(Ridge(alpha=1 / inverse_regularization)).fit(features, labels)
    return lambda inputs: torch.from_numpy(model.predict(inputs).reshape(len(inputs), -1))


def _logistic(inverse_regularization: float) -> Any:
    from sklearn.linear_model import LogisticRegression  # imported here: scikit-learn takes a second to load

    return LogisticRegression(C=inverse_regularization, max_iter=300)


def _standardized(model: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), model)


_METHODS: dict[TargetKind, _ProbeMethod] = {
    TargetKind.CLASS: _ProbeMethod(
        "accuracy",
        True,
        _fit_classes,
        score=lambda predicted, labels: float((predicted == labels).float().mean()),
        predictions=lambda target, outputs: outputs.argmax(1),
        baseline=lambda labels: float(torch.bincount(labels).max() / len(labels)),
    ),
    TargetKind.MULTI_HOT: _ProbeMethod(
        "mean average precision",
        True,
        _fit_labels,
        score=mean_average_precision,
        predictions=lambda target, outputs: outputs,
        baseline=lambda labels: mean_average_precision(torch.zeros_like(labels), labels),
    ),
    TargetKind.VALUES: _ProbeMethod(
        "R²",
        False,
        _fit_values,
        score=lambda predicted, labels: mean_regression_metrics(regression_metrics(predicted, labels)).r2,
        predictions=lambda target, outputs: target.task.decode(outputs),
        baseline=lambda labels: 0.0,
    ),
}


def analyze_probes(target: AnalysisTarget, options: LinearProbeOptions = _PROBE_OPTIONS) -> LinearProbeResult:
    """Fit a linear model to each layer's features, each map averaged to one number and standardized.

    Alain and Bengio 2016, arXiv:1610.01644: a logistic regression of the class, one for each of several labels, or a
    ridge regression of values. Without a dataset, half of the target's images are used to fit and half to
    evaluate. Raises ValueError for an unknown layer or split, and if the images of the fit share one target.
    """
    if options.max_fit_images < 2 or not options.inverse_regularization > 0:
        required = "max_fit_images of at least 2 and inverse_regularization above 0"
        raise invalid(required, options, str(_PROBE_OPTIONS))
    method = _METHODS[target.task.spec.target]
    fit_images, fit_labels, eval_images, eval_labels = _fit_eval_split(target, options)
    if len(fit_labels.unique(dim=0)) < 2:
        raise invalid("at least 2 classes to fit a probe", "images of one class", next_step="raise max_fit_images")
    names = options.layers or layers_by_depth(target.model)
    fit_features = layer_outputs(target.model, names, fit_images)
    eval_features = layer_outputs(target.model, names, eval_images)
    with torch.no_grad():
        outputs = torch.cat([target.task.predict(target.model, batch) for batch in eval_images.split(64)])
    eval_labels, fit_labels = eval_labels.cpu(), fit_labels.cpu()
    return LinearProbeResult(
        model=target.name,
        step=target.step,
        metric=method.metric,
        is_fraction=method.is_fraction,
        num_fit_images=len(fit_labels),
        num_images=len(eval_labels),
        model_score=method.score(method.predictions(target, outputs).cpu(), eval_labels),
        baseline_score=method.baseline(eval_labels),
        probes=tuple(
            _fit_probe(
                name,
                method,
                fit_data=(fit_features[name], fit_labels),
                eval_data=(eval_features[name], eval_labels),
                inverse_regularization=options.inverse_regularization,
            )
            for name in fit_features
        ),
    )


def _fit_eval_split(target: AnalysisTarget, options: LinearProbeOptions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the images and labels to fit the probes on, and those to evaluate them on."""
    images, labels = target.images, target.labels
    if target.data is not None:
        fit_images, fit_labels = sample_images(target, options.fit_split, options.max_fit_images, options.seed)
        assert isinstance(fit_labels, Tensor)
        return fit_images, fit_labels, images, labels
    half = len(images) // 2
    return images[:half], labels[:half], images[half:], labels[half:]


def _fit_probe(
    name: str,
    method: _ProbeMethod,
    *,
    fit_data: tuple[Tensor, Tensor],
    eval_data: tuple[Tensor, Tensor],
    inverse_regularization: float,
) -> LinearProbe:
    """Fit a probe to (features, labels) and evaluate it on others."""
    fit_inputs, eval_inputs = (
        pool_features(features).cpu().double().numpy() for features in (fit_data[0], eval_data[0])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that has not converged after 300 iterations is close enough
        predict = method.fit(fit_inputs, fit_data[1].numpy(), inverse_regularization)
    return LinearProbe(
        layer=name,
        num_features=fit_inputs.shape[1],
        score=method.score(predict(eval_inputs), eval_data[1]),
        fit_score=method.score(predict(fit_inputs), fit_data[1]),
    )


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


_NEIGHBOR_OPTIONS = NeighborOptions()


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


def analyze_neighbors(target: AnalysisTarget, options: NeighborOptions = _NEIGHBOR_OPTIONS) -> NeighborResult:
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
