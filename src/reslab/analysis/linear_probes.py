"""Linear probes: how well a linear classifier on each layer's features predicts the classes."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.analysis.layers import layer_outputs, layers_by_depth, pool_features
from reslab.analysis.target import AnalysisTarget, sample_images
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class LinearProbeOptions:
    """The probes are fitted on `max_fit_images` images of `fit_split` and evaluated on the target's own.

    `layers` default to the first convolution and every block. `inverse_regularization` is scikit-learn's C.
    """

    layers: tuple[str, ...] = ()
    fit_split: str = "train"
    max_fit_images: int = 1000
    inverse_regularization: float = 1.0
    seed: int = 0


_DEFAULT_OPTIONS = LinearProbeOptions()


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier on one layer's features, with its accuracy on held-out images and on those of the fit."""

    layer: str
    num_features: int
    accuracy: float
    fit_accuracy: float


@dataclass(frozen=True)
class LinearProbeResult:
    """One probe for each layer, first to last; `chance_accuracy` is that of always predicting the largest class."""

    model: str
    step: int | None
    num_fit_images: int
    num_images: int
    model_accuracy: float
    chance_accuracy: float
    probes: tuple[LinearProbe, ...]


def analyze_probes(target: AnalysisTarget, options: LinearProbeOptions = _DEFAULT_OPTIONS) -> LinearProbeResult:
    """Fit a logistic regression to each layer's features, each map averaged to one number and standardized.

    Alain and Bengio 2016, arXiv:1610.01644. Without a dataset, half of the target's images are used to fit and half to
    evaluate. Raises ValueError for an unknown layer or split, and if the images of the fit share one class.
    """
    if options.max_fit_images < 2 or not options.inverse_regularization > 0:
        required = "max_fit_images of at least 2 and inverse_regularization above 0"
        raise invalid(required, options, str(_DEFAULT_OPTIONS))
    fit_images, fit_labels, eval_images, eval_labels = _fit_eval_split(target, options)
    if len(fit_labels.unique()) < 2:
        raise invalid("at least 2 classes to fit a probe", "images of one class", next_step="raise max_fit_images")
    names = options.layers or layers_by_depth(target.model)
    fit_features = layer_outputs(target.model, names, fit_images)
    eval_features = layer_outputs(target.model, names, eval_images)
    with torch.no_grad():
        predictions = torch.cat([target.model(batch).argmax(1) for batch in eval_images.split(64)])
    return LinearProbeResult(
        model=target.name,
        step=target.step,
        num_fit_images=len(fit_labels),
        num_images=len(eval_labels),
        model_accuracy=float((predictions == eval_labels).float().mean()),
        chance_accuracy=float(torch.bincount(eval_labels).max() / len(eval_labels)),
        probes=tuple(
            _fit_probe(
                name,
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
        return (*sample_images(target, options.fit_split, options.max_fit_images, options.seed), images, labels)
    half = len(images) // 2
    return images[:half], labels[:half], images[half:], labels[half:]


def _fit_probe(
    name: str, *, fit_data: tuple[Tensor, Tensor], eval_data: tuple[Tensor, Tensor], inverse_regularization: float
) -> LinearProbe:
    """Fit a probe to (features, labels) and evaluate it on others."""
    # Imported here: scikit-learn takes a second to load.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (fit_inputs, fit_labels), (eval_inputs, eval_labels) = (
        (pool_features(features).cpu().double().numpy(), labels.cpu().numpy())
        for features, labels in (fit_data, eval_data)
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_regularization, max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that has not converged after 300 iterations is close enough
        classifier.fit(fit_inputs, fit_labels)
    return LinearProbe(
        layer=name,
        num_features=fit_inputs.shape[1],
        accuracy=float(classifier.score(eval_inputs, eval_labels)),
        fit_accuracy=float(classifier.score(fit_inputs, fit_labels)),
    )
