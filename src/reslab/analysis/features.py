"""What a network has learned to look for: kernels of its first convolution, and the maps of any layer."""

from dataclasses import dataclass

from torch import Tensor, nn

from reslab.analysis.inputs import class_name, picture, plain
from reslab.analysis.layers import default_layers, first_convolution, layer_named, outputs_of
from reslab.analysis.subject import Subject
from reslab.spec.errors import refuse

Map = tuple[tuple[float, ...], ...]
_SILENT = 1e-12
# A unit that is shared may run a hundred times.
_MOST_RUNS = 4


@dataclass(frozen=True)
class FeatureOptions:
    """`layers` by name (the first convolution and each stage's last unit where none, of many runs a few), for the
    subject's picture number `picture`; at most `channels` maps a layer, those with the most energy, and as many
    kernels."""

    layers: tuple[str, ...] = ()
    picture: int = 0
    channels: int = 12


_DEFAULT = FeatureOptions()


@dataclass(frozen=True)
class Kernel:
    """One filter: `channel` it makes, its Euclidean norm, and its numbers [input channel][row][column]; where it reads
    neither 1 nor 3 channels, their sum."""

    channel: int
    norm: float
    values: tuple[Map, ...]


@dataclass(frozen=True)
class LayerMaps:
    """Maps of a layer for one picture. `num_silent` channels are zero everywhere on all pictures; `zeros` is the share
    of values that are zero, `mean` and `std` are over all pictures."""

    layer: str
    shape: tuple[int, ...]
    num_channels: int
    num_silent: int
    zeros: float
    mean: float
    std: float
    channels: tuple[int, ...]
    maps: tuple[Map, ...]


@dataclass(frozen=True)
class Features:
    """A picture (a data URI), the kernels of the first convolution, and what the layers make of it."""

    subject: str
    step: int | None
    picture: str
    label: str
    num_images: int
    convolution: str
    kernels: tuple[Kernel, ...]
    layers: tuple[LayerMaps, ...]


def features(subject: Subject, options: FeatureOptions = _DEFAULT) -> Features:
    """Kernels and feature maps as numbers, and how many channels say nothing.

    Raises ValueError for an unknown layer, one without maps, and a picture that is not there.
    """
    if not 0 <= options.picture < len(subject.images):
        raise refuse(f"a picture from 0 to {len(subject.images) - 1}", options.picture, "0")
    if options.channels < 1:
        raise refuse("channels of at least 1", options.channels, "12")
    names = options.layers or default_layers(subject.model)
    outputs = outputs_of(subject.model, names, subject.images)
    shown = list(outputs) if options.layers else _spread(list(outputs), len(names) + _MOST_RUNS)
    name = first_convolution(subject.model)
    conv = layer_named(subject.model, name)
    assert isinstance(conv, nn.Conv2d)
    return Features(
        subject.name,
        subject.step,
        picture(subject, options.picture),
        class_name(subject, int(subject.labels[options.picture])),
        len(subject.images),
        name,
        kernels_of(conv, options.channels),
        tuple(_layer(name, outputs[name], options) for name in shown),
    )


def _spread(names: list[str], most: int) -> list[str]:
    """At most so many, evenly taken, first and last among them."""
    if len(names) <= most:
        return names
    return [names[round(place * (len(names) - 1) / (most - 1))] for place in range(most)]


def kernels_of(conv: nn.Conv2d, most: int) -> tuple[Kernel, ...]:
    """The `most` filters of the largest norm, largest first."""
    weight = conv.weight.detach().cpu().float()
    norms = weight.flatten(1).norm(dim=1)
    order = norms.argsort(descending=True, stable=True)[:most].tolist()
    parts = weight if weight.shape[1] in (1, 3) else weight.sum(1, keepdim=True)
    return tuple(Kernel(i, float(norms[i]), tuple(plain(part) for part in parts[i])) for i in order)


def _layer(name: str, output: Tensor, options: FeatureOptions) -> LayerMaps:
    if output.ndim != 4:
        raise refuse("a layer with maps (N, C, H, W)", f"{name}, of {tuple(output.shape)}")
    own = output[options.picture]
    energy = own.square().mean((1, 2))
    order = energy.argsort(descending=True, stable=True)[: options.channels].tolist()
    silent = (output.abs() <= _SILENT).all(dim=3).all(dim=2).all(dim=0)
    return LayerMaps(
        layer=name,
        shape=tuple(output.shape[1:]),
        num_channels=output.shape[1],
        num_silent=int(silent.sum()),
        zeros=float((output == 0).float().mean()),
        mean=float(output.mean()),
        std=float(output.std()),
        channels=tuple(order),
        maps=tuple(plain(own[i]) for i in order),
    )
