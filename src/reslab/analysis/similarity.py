"""How alike the layers of networks are: centred kernel alignment of what they make of the same pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.analysis.layers import layer_outputs, layers_by_depth
from reslab.analysis.subject import AnalysisTarget
from reslab.spec.errors import invalid

# Networks compute in float32, of which the last digits differ from batch to batch.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SimilarityOptions:
    """`layers` by name; the first convolution and every unit where none. `unbiased`: with the estimator that few
    pictures do not raise."""

    layers: tuple[str, ...] = ()
    unbiased: bool = False


_DEFAULT_OPTIONS = SimilarityOptions()


@dataclass(frozen=True)
class LayerSimilarity:
    """`values[i][j]` is the similarity of layer `rows[i]` of `first` and layer `columns[j]` of `second`, 1 for equal up
    to rotation and scale; None where a layer hands out the same for every picture."""

    first: str
    second: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class SimilarityResult:
    """Each network with itself, then each with each."""

    models: tuple[str, ...]
    num_images: int
    unbiased: bool
    pairs: tuple[LayerSimilarity, ...]


def analyze_similarity(
    targets: Sequence[AnalysisTarget], options: SimilarityOptions = _DEFAULT_OPTIONS
) -> SimilarityResult:
    """Linear CKA between the layers of one and of every two networks, on the same pictures.

    Kornblith et al. 2019, arXiv:1905.00414, Eq. 4. Raises ValueError for an unknown layer, fewer than 4 pictures, and
    networks that saw other pictures.
    """
    labels = targets[0].labels.cpu()
    if len(labels) < 4:
        raise invalid("at least 4 pictures", len(labels), "128")
    for target in targets[1:]:
        if not torch.equal(target.labels.cpu(), labels):
            raise invalid("networks that are shown the same pictures", f"{targets[0].name} and {target.name} are not")
    grams = [_gram_matrices(target, options) for target in targets]
    index_pairs = [(i, i) for i in range(len(targets))]
    index_pairs += [(i, j) for i in range(len(targets)) for j in range(i + 1, len(targets))]
    pairs = tuple(
        _layer_similarity(targets[i], targets[j], grams[i], grams[j], options.unbiased) for i, j in index_pairs
    )
    return SimilarityResult(tuple(target.name for target in targets), len(labels), options.unbiased, pairs)


def _gram_matrices(target: AnalysisTarget, options: SimilarityOptions) -> dict[str, Tensor]:
    names = options.layers or layers_by_depth(target.model)
    outputs = layer_outputs(target.model, names, target.images)
    return {name: gram_matrix(output) for name, output in outputs.items()}


def gram_matrix(features: Tensor) -> Tensor:
    """(N, ...) to the samples' inner products (N, N) in float64, each feature centred; zeros where the features of all
    samples are equal to rounding."""
    flat = features.flatten(1).double()
    centered = flat - flat.mean(0)
    if float(centered.norm()) <= _ROUNDING * float(flat.norm()):
        return torch.zeros(len(flat), len(flat), dtype=torch.float64)
    return (centered @ centered.T).cpu()


def _layer_similarity(
    first: AnalysisTarget, second: AnalysisTarget, rows: dict[str, Tensor], columns: dict[str, Tensor], unbiased: bool
) -> LayerSimilarity:
    values = tuple(tuple(cka(a, b, unbiased) for b in columns.values()) for a in rows.values())
    return LayerSimilarity(first.name, second.name, tuple(rows), tuple(columns), values)


def cka(gram_a: Tensor, gram_b: Tensor, unbiased: bool = False) -> float | None:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of two matrices of inner products (N, N); None where one is zero.

    With linear K = X X', L = Y Y' of centred features this is ||Y'X||^2 / (||X'X|| ||Y'Y||) (Kornblith et al. 2019, Eq.
    4). `unbiased` takes Song et al.'s estimator of HSIC (2012, JMLR 13, Eq. 5), which may fall below 0.
    """
    hsic = hsic_unbiased if unbiased else hsic_biased
    # Of size 1 first: features of a faint network are not those of a silent one.
    gram_a, gram_b = (matrix / matrix.norm().clamp_min(1e-300) for matrix in (gram_a, gram_b))
    scale = hsic(gram_a, gram_a) * hsic(gram_b, gram_b)
    return hsic(gram_a, gram_b) / scale**0.5 if scale > 1e-30 else None


def hsic_biased(gram_a: Tensor, gram_b: Tensor) -> float:
    """tr(K H L H) / (N - 1)^2 with H = 1 - 11'/N (Gretton et al. 2005); K and L need not be centred."""
    centered = [matrix - matrix.mean(0) - matrix.mean(1, keepdim=True) + matrix.mean() for matrix in (gram_a, gram_b)]
    return float((centered[0] * centered[1]).sum()) / (len(gram_a) - 1) ** 2


def hsic_unbiased(gram_a: Tensor, gram_b: Tensor) -> float:
    """[tr(K L) + 1'K1 1'L1 / ((N-1)(N-2)) - 2 / (N-2) 1'K L 1] / (N (N-3)), the diagonals of K and L zero (Song et al.
    2012, Eq. 5); N at least 4."""
    num_samples = len(gram_a)
    k, ell = (matrix - torch.diag(torch.diagonal(matrix)) for matrix in (gram_a, gram_b))
    sum_term = k.sum() * ell.sum() / ((num_samples - 1) * (num_samples - 2))
    cross_term = 2 / (num_samples - 2) * (k.sum(0) @ ell.sum(0))
    return float(((k * ell).sum() + sum_term - cross_term) / (num_samples * (num_samples - 3)))
