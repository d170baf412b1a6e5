"""What a network has learned to look for: kernels of its first convolution, and the maps of any layer."""

from dataclasses import dataclass

from torch import Tensor, nn

from reslab.analysis.inputs import class_name, image_data_uri, map_to_rows
from reslab.analysis.layers import default_layers, first_conv_name, get_layer, layer_outputs
from reslab.analysis.subject import AnalysisTarget
from reslab.spec.errors import invalid

FloatMatrix = tuple[tuple[float, ...], ...]
_DEAD_THRESHOLD = 1e-12
# A unit that is shared may run a hundred times.
_MAX_CALLS = 4


@dataclass(frozen=True)
class FeatureOptions:
    """`layers` by name (the first convolution and each stage's last unit where none, of many runs a few), for the
    subject's picture number `picture`; at most `channels` maps a layer, those with the most energy, and as many
    kernels."""

    layers: tuple[str, ...] = ()
    image_index: int = 0
    max_channels: int = 12


_DEFAULT_OPTIONS = FeatureOptions()


@dataclass(frozen=True)
class Kernel:
    """One filter: `channel` it makes, its Euclidean norm, and its numbers [input channel][row][column]; where it reads
    neither 1 nor 3 channels, their sum."""

    channel: int
    norm: float
    values: tuple[FloatMatrix, ...]


@dataclass(frozen=True)
class LayerFeatureMaps:
    """Maps of a layer for one picture. `num_silent` channels are zero everywhere on all pictures; `zeros` is the share
    of values that are zero, `mean` and `std` are over all pictures."""

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
    """A picture (a data URI), the kernels of the first convolution, and what the layers make of it."""

    model: str
    step: int | None
    image: str
    label: str
    num_images: int
    first_conv: str
    kernels: tuple[Kernel, ...]
    layers: tuple[LayerFeatureMaps, ...]


def analyze_features(target: AnalysisTarget, options: FeatureOptions = _DEFAULT_OPTIONS) -> FeatureResult:
    """Kernels and feature maps as numbers, and how many channels say nothing.

    Raises ValueError for an unknown layer, one without maps, and a picture that is not there.
    """
    if not 0 <= options.image_index < len(target.images):
        raise invalid(f"a picture from 0 to {len(target.images) - 1}", options.image_index, "0")
    if options.max_channels < 1:
        raise invalid("channels of at least 1", options.max_channels, "12")
    names = options.layers or default_layers(target.model)
    outputs = layer_outputs(target.model, names, target.images)
    selected = list(outputs) if options.layers else _evenly_spaced(list(outputs), len(names) + _MAX_CALLS)
    conv_name = first_conv_name(target.model)
    conv = get_layer(target.model, conv_name)
    assert isinstance(conv, nn.Conv2d)
    return FeatureResult(
        target.name,
        target.step,
        image_data_uri(target, options.image_index),
        class_name(target, int(target.labels[options.image_index])),
        len(target.images),
        conv_name,
        largest_kernels(conv, options.max_channels),
        tuple(_layer_feature_maps(conv_name, outputs[conv_name], options) for conv_name in selected),
    )


def _evenly_spaced(names: list[str], max_count: int) -> list[str]:
    """At most so many, evenly taken, first and last among them."""
    if len(names) <= max_count:
        return names
    return [names[round(i * (len(names) - 1) / (max_count - 1))] for i in range(max_count)]


def largest_kernels(conv: nn.Conv2d, max_kernels: int) -> tuple[Kernel, ...]:
    """The `most` filters of the largest norm, largest first."""
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
