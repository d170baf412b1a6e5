"""How much of the classes can be read off each unit by a linear rule."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.analysis.inputs import more_pictures
from reslab.analysis.layers import layers_by_depth, outputs_of, pooled
from reslab.analysis.subject import Subject
from reslab.spec.errors import refuse


@dataclass(frozen=True)
class ProbeOptions:
    """Fitted on `most` pictures of `split`, judged on the subject's own. `layers` by name, the first convolution and
    every unit where none; `strength` is that of the data against the penalty on the weights (scikit-learn's C)."""

    layers: tuple[str, ...] = ()
    split: str = "train"
    most: int = 1000
    strength: float = 1.0
    seed: int = 0


_DEFAULT = ProbeOptions()


@dataclass(frozen=True)
class Probe:
    """A linear rule on one layer's features: its accuracy on held-out pictures and on those it was fitted to."""

    layer: str
    num_features: int
    accuracy: float
    fitted: float


@dataclass(frozen=True)
class Probes:
    """A probe a layer, first to last; `own` is the accuracy of the network itself, `chance` of the commonest class."""

    subject: str
    step: int | None
    num_fitted: int
    num_images: int
    own: float
    chance: float
    probes: tuple[Probe, ...]


def probes(subject: Subject, options: ProbeOptions = _DEFAULT) -> Probes:
    """Logistic regression on each layer's features, each map averaged to one number, standardised.

    Alain and Bengio 2016, arXiv:1610.01644. Without a data set half of the subject's pictures fit and half judge.
    Raises ValueError for an unknown layer or split, and where the pictures to fit to are of one class.
    """
    if options.most < 2 or not options.strength > 0:
        raise refuse("2 pictures or more and a strength above 0", options, str(_DEFAULT))
    x, y, held, labels = _parts(subject, options)
    if len(y.unique()) < 2:
        raise refuse("pictures of at least 2 classes to fit to", "one class", next_step="raise most")
    names = options.layers or layers_by_depth(subject.model)
    fitted, judged = outputs_of(subject.model, names, x), outputs_of(subject.model, names, held)
    with torch.no_grad():
        own = torch.cat([subject.model(part).argmax(1) for part in held.split(64)])
    return Probes(
        subject=subject.name,
        step=subject.step,
        num_fitted=len(y),
        num_images=len(labels),
        own=float((own == labels).float().mean()),
        chance=float(torch.bincount(labels).max() / len(labels)),
        probes=tuple(_probe(name, fitted[name], y, judged[name], labels, options.strength) for name in fitted),
    )


def _parts(subject: Subject, options: ProbeOptions) -> Sequence[Tensor]:
    if subject.data is not None:
        return (*more_pictures(subject, options.split, options.most, options.seed), subject.images, subject.labels)
    half = len(subject.images) // 2
    images, labels = subject.images, subject.labels
    return images[:half], labels[:half], images[half:], labels[half:]


def _probe(name: str, x: Tensor, y: Tensor, held: Tensor, labels: Tensor, strength: float) -> Probe:
    # Imported late: scikit-learn takes a second to load.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, seen = (pooled(maps).cpu().double().numpy() for maps in (x, held))
    rule = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one that has not settled after 300 steps is near enough to be judged
        rule.fit(known, y.cpu().numpy())
    accuracies = [float(rule.score(*part)) for part in ((seen, labels.cpu().numpy()), (known, y.cpu().numpy()))]
    return Probe(name, known.shape[1], *accuracies)
