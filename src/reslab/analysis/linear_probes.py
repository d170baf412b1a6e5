"""Linear probes: how well a linear model on each layer's features predicts the targets."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.analysis.layers import layer_outputs, layers_by_depth, pool_features
from reslab.analysis.target import AnalysisTarget, sample_images
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


_DEFAULT_OPTIONS = LinearProbeOptions()


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


def analyze_probes(target: AnalysisTarget, options: LinearProbeOptions = _DEFAULT_OPTIONS) -> LinearProbeResult:
    """Fit a linear model to each layer's features, each map averaged to one number and standardized.

    Alain and Bengio 2016, arXiv:1610.01644: a logistic regression of the class, one for each of several labels, or a
    ridge regression of values. Without a dataset, half of the target's images are used to fit and half to
    evaluate. Raises ValueError for an unknown layer or split, and if the images of the fit share one target.
    """
    if options.max_fit_images < 2 or not options.inverse_regularization > 0:
        required = "max_fit_images of at least 2 and inverse_regularization above 0"
        raise invalid(required, options, str(_DEFAULT_OPTIONS))
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
