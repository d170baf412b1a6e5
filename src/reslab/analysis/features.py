"""Learned features: kernels of the first convolution, feature maps of any layer for one image, and dead channels."""

from dataclasses import dataclass

from torch import Tensor, nn

from reslab.analysis.layers import default_layers, get_layer, layer_outputs, require_first_conv
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


_DEFAULT_OPTIONS = FeatureOptions()


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


def analyze_features(target: AnalysisTarget, options: FeatureOptions = _DEFAULT_OPTIONS) -> FeatureResult:
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
