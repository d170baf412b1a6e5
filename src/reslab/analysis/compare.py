"""Two networks held against each other: curves, weights, predictions that flipped, a paired test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reslab.analysis.inputs import Examples, class_name, picture
from reslab.analysis.subject import Subject
from reslab.metrics.intervals import Paired, paired
from reslab.spec.errors import refuse

_KINDS = ("train", "eval")


@dataclass(frozen=True)
class CompareOptions:
    """`split`: judge on this one (`own`: the subjects' pictures; empty: the whole held-out split where there is one).
    At most `pictures` flipped ones are shown, those that were surest first."""

    split: str = ""
    pictures: int = 14


_DEFAULT = CompareOptions()


@dataclass(frozen=True)
class ComparedNetwork:
    """One of the two: its accuracy on the pictures, and of a run what it was (`model` with the axes that differ from
    the zoo's), and its log."""

    name: str
    accuracy: float
    loss: float
    num_parameters: int
    model: str = ""
    data: str = ""
    recipe: str = ""
    seed: int = 0
    log: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Flipped:
    """A picture that one calls right and the other wrong, with the class and the probability of each."""

    index: int
    picture: str
    label: str
    first: str
    first_probability: float
    second: str
    second_probability: float


@dataclass(frozen=True)
class LayerDistance:
    """A weight of both networks: norms, the distance as a share of their mean norm, the cosine between them."""

    name: str
    norms: tuple[float, float]
    distance: float
    cosine: float


@dataclass(frozen=True)
class Comparison:
    """`num_other` counts the parameters that are not in both with one shape."""

    networks: tuple[ComparedNetwork, ...]
    num_images: int
    split: str
    paired: Paired
    flipped: tuple[Flipped, ...]
    weights: tuple[LayerDistance, ...]
    num_other: int


def compare(subjects: Sequence[Subject], options: CompareOptions = _DEFAULT) -> Comparison:
    """Two networks on the same pictures, and their weights where names and shapes agree.

    The test is McNemar's (1947), exact: of the pictures that only one calls right, either is as likely the one that
    does. Raises ValueError unless there are two, and where they were shown other pictures.
    """
    if len(subjects) != 2:
        raise refuse("two networks to compare", len(subjects), "2", "reslab inspect compare RUN RUN")
    first, second = subjects
    split = _split(first, options)
    logits, labels = _judged(first, split)
    others, theirs = _judged(second, split)
    if not torch.equal(labels, theirs):
        raise refuse("two networks on the same pictures", f"other labels for {first.name} and {second.name}")
    distances, num_other = layer_distances(first, second)
    found = [_network(subject, told, labels) for subject, told in ((first, logits), (second, others))]
    return Comparison(
        tuple(found),
        len(labels),
        split,
        paired(logits.argmax(1), others.argmax(1), labels),
        _flipped(first, split, logits, others, labels, options.pictures),
        distances,
        num_other,
    )


def _split(subject: Subject, options: CompareOptions) -> str:
    if options.split == "own" or (subject.data is None and not options.split):
        return ""
    return options.split or (subject.data.held_out if subject.data else "")


@torch.no_grad()
def _judged(subject: Subject, split: str) -> tuple[Tensor, Tensor]:
    """Logits and labels of every picture."""
    found = [(subject.model(x).float().cpu(), y.cpu()) for x, y in Examples(subject, split)]
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])


def _network(subject: Subject, logits: Tensor, labels: Tensor) -> ComparedNetwork:
    accuracy = int((logits.argmax(1) == labels).sum()) / len(labels)
    loss = float(torch.nn.functional.cross_entropy(logits, labels))
    size = sum(parameter.numel() for parameter in subject.model.parameters())
    run = subject.run
    if run is None:
        return ComparedNetwork(subject.name, accuracy, loss, size)
    facts = run.facts
    lines = tuple(line for line in run.log.lines() if line.get("kind") in _KINDS)
    data, recipe = (facts[part]["name"] for part in ("data", "recipe"))
    seed = int(facts.get("seed", 0))
    return ComparedNetwork(subject.name, accuracy, loss, size, run.network, data, recipe, seed, lines)


def _flipped(
    subject: Subject, split: str, first: Tensor, second: Tensor, labels: Tensor, most: int
) -> tuple[Flipped, ...]:
    """The flipped pictures of which the wrong network was surest."""
    one, two = first.softmax(1), second.softmax(1)
    called, other = one.argmax(1), two.argmax(1)
    places = torch.nonzero((called == labels) != (other == labels))[:, 0]
    wrong = torch.where(called[places] == labels[places], two[places].amax(1), one[places].amax(1))
    chosen = places[wrong.argsort(descending=True, stable=True)[:most]]
    if not len(chosen):
        return ()
    images = _pictures(subject, split, chosen)
    shown = Subject("", subject.model, images, labels[chosen], subject.data, subject.classes)
    return tuple(
        Flipped(
            int(i),
            picture(shown, row),
            class_name(subject, int(labels[i])),
            class_name(subject, int(called[i])),
            float(one[i, called[i]]),
            class_name(subject, int(other[i])),
            float(two[i, other[i]]),
        )
        for row, i in enumerate(chosen)
    )


def _pictures(subject: Subject, split: str, chosen: Tensor) -> Tensor:
    """The pictures at these places, in this order, with no more than a batch of others in memory."""
    wanted, begin = {int(i) for i in chosen}, 0
    found: dict[int, Tensor] = {}
    for x, _ in Examples(subject, split):
        found |= {i: x[i - begin].cpu() for i in wanted if begin <= i < begin + len(x)}
        begin += len(x)
    return torch.stack([found[int(i)] for i in chosen])


def layer_distances(first: Subject, second: Subject) -> tuple[tuple[LayerDistance, ...], int]:
    """The weights with more than one dimension that both networks have, and how many parameters they do not share."""
    one, two = (dict(subject.model.named_parameters()) for subject in (first, second))
    common = [name for name in one if name in two and one[name].shape == two[name].shape]
    found = []
    for name in common:
        a, b = (parameters[name].detach().cpu().double().flatten() for parameters in (one, two))
        if one[name].ndim < 2:
            continue
        norms = float(a.norm()), float(b.norm())
        mean = max(sum(norms) / 2, 1e-30)
        cosine = float(a @ b) / max(norms[0] * norms[1], 1e-30)
        found.append(LayerDistance(name, norms, float((a - b).norm()) / mean, cosine))
    return tuple(found), len(set(one) ^ set(two)) + len(set(one) & set(two)) - len(common)
