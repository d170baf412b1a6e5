"""How alike the layers of networks are: centred kernel alignment of what they make of the same pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.analysis.layers import layers_by_depth, outputs_of
from reslab.analysis.subject import Subject
from reslab.spec.errors import refuse

# Networks compute in float32, of which the last digits differ from batch to batch.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SimilarityOptions:
    """`layers` by name; the first convolution and every unit where none. `unbiased`: with the estimator that few
    pictures do not raise."""

    layers: tuple[str, ...] = ()
    unbiased: bool = False


_DEFAULT = SimilarityOptions()


@dataclass(frozen=True)
class Alike:
    """`values[i][j]` is the similarity of layer `rows[i]` of `first` and layer `columns[j]` of `second`, 1 for equal up
    to rotation and scale; None where a layer hands out the same for every picture."""

    first: str
    second: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Similarity:
    """Each network with itself, then each with each."""

    subjects: tuple[str, ...]
    num_images: int
    unbiased: bool
    pairs: tuple[Alike, ...]


def similarity(subjects: Sequence[Subject], options: SimilarityOptions = _DEFAULT) -> Similarity:
    """Linear CKA between the layers of one and of every two networks, on the same pictures.

    Kornblith et al. 2019, arXiv:1905.00414, Eq. 4. Raises ValueError for an unknown layer, fewer than 4 pictures, and
    networks that saw other pictures.
    """
    labels = subjects[0].labels.cpu()
    if len(labels) < 4:
        raise refuse("at least 4 pictures", len(labels), "128")
    for subject in subjects[1:]:
        if not torch.equal(subject.labels.cpu(), labels):
            raise refuse("networks that are shown the same pictures", f"{subjects[0].name} and {subject.name} are not")
    grams = [_grams(subject, options) for subject in subjects]
    places = [(i, i) for i in range(len(subjects))]
    places += [(i, j) for i in range(len(subjects)) for j in range(i + 1, len(subjects))]
    pairs = tuple(_alike(subjects[i], subjects[j], grams[i], grams[j], options.unbiased) for i, j in places)
    return Similarity(tuple(subject.name for subject in subjects), len(labels), options.unbiased, pairs)


def _grams(subject: Subject, options: SimilarityOptions) -> dict[str, Tensor]:
    names = options.layers or layers_by_depth(subject.model)
    outputs = outputs_of(subject.model, names, subject.images)
    return {name: gram(output) for name, output in outputs.items()}


def gram(features: Tensor) -> Tensor:
    """(N, ...) to the samples' inner products (N, N) in float64, each feature centred; zeros where the features of all
    samples are equal to rounding."""
    flat = features.flatten(1).double()
    centred = flat - flat.mean(0)
    if float(centred.norm()) <= _ROUNDING * float(flat.norm()):
        return torch.zeros(len(flat), len(flat), dtype=torch.float64)
    return (centred @ centred.T).cpu()


def _alike(
    first: Subject, second: Subject, rows: dict[str, Tensor], columns: dict[str, Tensor], unbiased: bool
) -> Alike:
    values = tuple(tuple(cka(a, b, unbiased) for b in columns.values()) for a in rows.values())
    return Alike(first.name, second.name, tuple(rows), tuple(columns), values)


def cka(one: Tensor, other: Tensor, unbiased: bool = False) -> float | None:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of two matrices of inner products (N, N); None where one is zero.

    With linear K = X X', L = Y Y' of centred features this is ||Y'X||^2 / (||X'X|| ||Y'Y||) (Kornblith et al. 2019, Eq.
    4). `unbiased` takes Song et al.'s estimator of HSIC (2012, JMLR 13, Eq. 5), which may fall below 0.
    """
    hsic = hsic_unbiased if unbiased else hsic_biased
    # Of size 1 first: features of a faint network are not those of a silent one.
    one, other = (matrix / matrix.norm().clamp_min(1e-300) for matrix in (one, other))
    scale = hsic(one, one) * hsic(other, other)
    return hsic(one, other) / scale**0.5 if scale > 1e-30 else None


def hsic_biased(one: Tensor, other: Tensor) -> float:
    """tr(K H L H) / (N - 1)^2 with H = 1 - 11'/N (Gretton et al. 2005); K and L need not be centred."""
    centred = [matrix - matrix.mean(0) - matrix.mean(1, keepdim=True) + matrix.mean() for matrix in (one, other)]
    return float((centred[0] * centred[1]).sum()) / (len(one) - 1) ** 2


def hsic_unbiased(one: Tensor, other: Tensor) -> float:
    """[tr(K L) + 1'K1 1'L1 / ((N-1)(N-2)) - 2 / (N-2) 1'K L 1] / (N (N-3)), the diagonals of K and L zero (Song et al.
    2012, Eq. 5); N at least 4."""
    number = len(one)
    k, ell = (matrix - torch.diag(torch.diagonal(matrix)) for matrix in (one, other))
    sums = k.sum() * ell.sum() / ((number - 1) * (number - 2))
    crossed = 2 / (number - 2) * (k.sum(0) @ ell.sum(0))
    return float(((k * ell).sum() + sums - crossed) / (number * (number - 3)))
