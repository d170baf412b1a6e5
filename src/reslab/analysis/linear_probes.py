"""How much of the classes can be read off each unit by a linear rule."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.analysis.inputs import sample_images
from reslab.analysis.layers import layer_outputs, layers_by_depth, pool_features
from reslab.analysis.subject import AnalysisTarget
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class LinearProbeOptions:
    """Fitted on `most` pictures of `split`, judged on the subject's own. `layers` by name, the first convolution and
    every unit where none; `strength` is that of the data against the penalty on the weights (scikit-learn's C)."""

    layers: tuple[str, ...] = ()
    fit_split: str = "train"
    max_fit_images: int = 1000
    inverse_regularization: float = 1.0
    seed: int = 0


_DEFAULT_OPTIONS = LinearProbeOptions()


@dataclass(frozen=True)
class LinearProbe:
    """A linear rule on one layer's features: its accuracy on held-out pictures and on those it was fitted to."""

    layer: str
    num_features: int
    accuracy: float
    fit_accuracy: float


@dataclass(frozen=True)
class LinearProbeResult:
    """A probe a layer, first to last; `own` is the accuracy of the network itself, `chance` of the commonest class."""

    model: str
    step: int | None
    num_fit_images: int
    num_images: int
    model_accuracy: float
    chance_accuracy: float
    probes: tuple[LinearProbe, ...]


def analyze_probes(target: AnalysisTarget, options: LinearProbeOptions = _DEFAULT_OPTIONS) -> LinearProbeResult:
    """Logistic regression on each layer's features, each map averaged to one number, standardised.

    Alain and Bengio 2016, arXiv:1610.01644. Without a data set half of the subject's pictures fit and half judge.
    Raises ValueError for an unknown layer or split, and where the pictures to fit to are of one class.
    """
    if options.max_fit_images < 2 or not options.inverse_regularization > 0:
        raise invalid("2 pictures or more and a strength above 0", options, str(_DEFAULT_OPTIONS))
    fit_images, fit_labels, eval_images, eval_labels = _fit_eval_split(target, options)
    if len(fit_labels.unique()) < 2:
        raise invalid("pictures of at least 2 classes to fit to", "one class", next_step="raise max_fit_images")
    names = options.layers or layers_by_depth(target.model)
    fit_features, eval_features = (
        layer_outputs(target.model, names, fit_images),
        layer_outputs(target.model, names, eval_images),
    )
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
                name, fit_features[name], fit_labels, eval_features[name], eval_labels, options.inverse_regularization
            )
            for name in fit_features
        ),
    )


def _fit_eval_split(target: AnalysisTarget, options: LinearProbeOptions) -> Sequence[Tensor]:
    if target.data is not None:
        return (
            *sample_images(target, options.fit_split, options.max_fit_images, options.seed),
            target.images,
            target.labels,
        )
    half = len(target.images) // 2
    images, labels = target.images, target.labels
    return images[:half], labels[:half], images[half:], labels[half:]


def _fit_probe(
    name: str,
    fit_features: Tensor,
    fit_labels: Tensor,
    eval_features: Tensor,
    eval_labels: Tensor,
    inverse_regularization: float,
) -> LinearProbe:
    # Imported late: scikit-learn takes a second to load.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fit_inputs, eval_inputs = (pool_features(maps).cpu().double().numpy() for maps in (fit_features, eval_features))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_regularization, max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one that has not settled after 300 steps is near enough to be judged
        classifier.fit(fit_inputs, fit_labels.cpu().numpy())
    accuracies = [
        float(classifier.score(*part))
        for part in ((eval_inputs, eval_labels.cpu().numpy()), (fit_inputs, fit_labels.cpu().numpy()))
    ]
    return LinearProbe(name, fit_inputs.shape[1], *accuracies)
