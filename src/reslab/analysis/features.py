"""Learned features: kernels, feature maps and dead channels of a network, and the similarity of layers (linear CKA)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reslab.analysis.inputs import are_equal_labels
from reslab.analysis.layers import default_layers, get_layer, layer_outputs, layers_by_depth, require_first_conv
from reslab.analysis.target import AnalysisTarget, image_data_uri, map_to_rows
from reslab.spec.errors import invalid

FloatMatrix = tuple[tuple[float, ...], ...]
_DEAD_THRESHOLD = 1e-12
# A shared block may run a hundred times; show the maps of a few calls.
_MAX_EXTRA_CALLS = 4


@dataclass(frozen=True)
class FeatureOptions:
    """The layers and the image to show: the `max_channels` maps with the most energy a layer, and as many kernels.

    `layers` default to the first convolution and the last block of each stage; of many calls a few are shown.
    """

    layers: tuple[str, ...] = ()
    image_index: int = 0
    max_channels: int = 12


_FEATURE_OPTIONS = FeatureOptions()


@dataclass(frozen=True)
class Kernel:
    """One filter: its output channel, its Euclidean norm, and its `values` [input channel][row][column].

    Where the convolution has neither 1 nor 3 input channels, `values` are their sum.
    """

    channel: int
    norm: float
    values: tuple[FloatMatrix, ...]


@dataclass(frozen=True)
class LayerFeatureMaps:
    """The maps of a layer for one image, and statistics over all images.

    `num_dead` channels are zero at every position of every image; `zero_fraction` is the fraction of zeros.
    """

    layer: str
    shape: tuple[int, ...]
    num_channels: int
    num_dead: int
    zero_fraction: float
    mean: float
    std: float
    channels: tuple[int, ...]
    maps: tuple[FloatMatrix, ...]


@dataclass(frozen=True)
class FeatureResult:
    """An image (a data URI), the kernels of the first convolution, and the feature maps of the layers."""

    model: str
    step: int | None
    image: str
    label: str
    num_images: int
    first_conv: str
    kernels: tuple[Kernel, ...]
    layers: tuple[LayerFeatureMaps, ...]


def analyze_features(target: AnalysisTarget, options: FeatureOptions = _FEATURE_OPTIONS) -> FeatureResult:
    """Return kernels, feature maps and the number of dead channels as numbers.

    Raises ValueError for an unknown layer, a layer without maps, and an image index out of range.
    """
    if not 0 <= options.image_index < len(target.images):
        raise invalid(f"image_index from 0 to {len(target.images) - 1}", options.image_index, "0")
    if options.max_channels < 1:
        raise invalid("max_channels of at least 1", options.max_channels, "12")
    names = options.layers or default_layers(target.model)
    outputs = layer_outputs(target.model, names, target.images)
    selected = list(outputs) if options.layers else _evenly_spaced(list(outputs), len(names) + _MAX_EXTRA_CALLS)
    conv_name = require_first_conv(target.model)
    conv = get_layer(target.model, conv_name)
    assert isinstance(conv, nn.Conv2d)
    return FeatureResult(
        model=target.name,
        step=target.step,
        image=image_data_uri(target, options.image_index),
        label=target.label_text(options.image_index),
        num_images=len(target.images),
        first_conv=conv_name,
        kernels=largest_kernels(conv, options.max_channels),
        layers=tuple(_layer_feature_maps(name, outputs[name], options) for name in selected),
    )


def _evenly_spaced(names: list[str], max_count: int) -> list[str]:
    """Return at most `max_count` names, evenly spaced, with the first and the last."""
    if len(names) <= max_count:
        return names
    return [names[round(i * (len(names) - 1) / (max_count - 1))] for i in range(max_count)]


def largest_kernels(conv: nn.Conv2d, max_kernels: int) -> tuple[Kernel, ...]:
    """Return the `max_kernels` filters with the largest norm, largest first."""
    weight = conv.weight.detach().cpu().float()
    norms = weight.flatten(1).norm(dim=1)
    order = norms.argsort(descending=True, stable=True)[:max_kernels].tolist()
    filters = weight if weight.shape[1] in (1, 3) else weight.sum(1, keepdim=True)
    return tuple(Kernel(i, float(norms[i]), tuple(map_to_rows(plane) for plane in filters[i])) for i in order)


def _layer_feature_maps(name: str, output: Tensor, options: FeatureOptions) -> LayerFeatureMaps:
    if output.ndim != 4:
        raise invalid("a layer with maps (N, C, H, W)", f"{name}, of {tuple(output.shape)}")
    image_maps = output[options.image_index]
    energy = image_maps.square().mean((1, 2))
    order = energy.argsort(descending=True, stable=True)[: options.max_channels].tolist()
    is_dead = (output.abs() <= _DEAD_THRESHOLD).all(dim=3).all(dim=2).all(dim=0)
    return LayerFeatureMaps(
        layer=name,
        shape=tuple(output.shape[1:]),
        num_channels=output.shape[1],
        num_dead=int(is_dead.sum()),
        zero_fraction=float((output == 0).float().mean()),
        mean=float(output.mean()),
        std=float(output.std()),
        channels=tuple(order),
        maps=tuple(map_to_rows(image_maps[i]) for i in order),
    )


# Features are float32, whose last digits differ from batch to batch.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SimilarityOptions:
    """The `layers` (the first convolution and every block by default), and the estimator.

    The plain estimator grows where there are few images; the `unbiased` one does not.
    """

    layers: tuple[str, ...] = ()
    unbiased: bool = False


_SIMILARITY_OPTIONS = SimilarityOptions()


@dataclass(frozen=True)
class LayerSimilarity:
    """The similarity `values[i][j]` of layer `rows[i]` of `first` and layer `columns[j]` of `second`.

    1 means equal up to rotation and scale; None, that one of the layers has the same features for every image.
    """

    first: str
    second: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class SimilarityResult:
    """Each network compared with itself, then each pair of networks."""

    models: tuple[str, ...]
    num_images: int
    unbiased: bool
    pairs: tuple[LayerSimilarity, ...]


def analyze_similarity(
    targets: Sequence[AnalysisTarget], options: SimilarityOptions = _SIMILARITY_OPTIONS
) -> SimilarityResult:
    """Compute linear CKA between the layers of each network and of each pair of networks, on the same images.

    Kornblith et al. 2019, arXiv:1905.00414, Eq. 4. Raises ValueError for an unknown layer, fewer than 4 images, and
    targets with different images.
    """
    labels = targets[0].labels
    if len(labels) < 4:
        raise invalid("at least 4 images", len(labels), "128")
    for target in targets[1:]:
        if not are_equal_labels(target.labels, labels):
            raise invalid("networks on the same images", f"other labels for {targets[0].name} and {target.name}")
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
    """Return the inner products (N, N) of the samples' centered features (N, ...), in float64.

    They are zeros where the features of all samples are equal up to rounding.
    """
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
    """Return HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of two Gram matrices (N, N); None where one is zero.

    With linear K = X X', L = Y Y' of centered features this is ||Y'X||^2 / (||X'X|| ||Y'Y||) (Kornblith et al. 2019,
    Eq. 4). `unbiased` takes Song et al.'s estimator of HSIC (2012, JMLR 13, Eq. 5), which may fall below 0.
    """
    hsic = hsic_unbiased if unbiased else hsic_biased
    # Scale to norm 1 first, so that small features are not taken for zero ones.
    gram_a, gram_b = (matrix / matrix.norm().clamp_min(1e-300) for matrix in (gram_a, gram_b))
    scale = hsic(gram_a, gram_a) * hsic(gram_b, gram_b)
    return hsic(gram_a, gram_b) / scale**0.5 if scale > 1e-30 else None


def hsic_biased(gram_a: Tensor, gram_b: Tensor) -> float:
    """Return tr(K H L H) / (N - 1)^2 with H = 1 - 11'/N (Gretton et al. 2005); K and L need not be centered."""
    centered = [matrix - matrix.mean(0) - matrix.mean(1, keepdim=True) + matrix.mean() for matrix in (gram_a, gram_b)]
    return float((centered[0] * centered[1]).sum()) / (len(gram_a) - 1) ** 2


def hsic_unbiased(gram_a: Tensor, gram_b: Tensor) -> float:
    """Return [tr(K L) + 1'K1 1'L1 / ((N-1)(N-2)) - 2 / (N-2) 1'K L 1] / (N (N-3)), N at least 4.

    Song et al. 2012, Eq. 5; the diagonals of K and L are set to zero.
    """
    num_samples = len(gram_a)
    k, ell = (matrix - torch.diag(torch.diagonal(matrix)) for matrix in (gram_a, gram_b))
    sum_term = k.sum() * ell.sum() / ((num_samples - 1) * (num_samples - 2))
    cross_term = 2 / (num_samples - 2) * (k.sum(0) @ ell.sum(0))
    return float(((k * ell).sum() + sum_term - cross_term) / (num_samples * (num_samples - 3)))
