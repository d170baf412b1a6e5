"""The builders of operations by family and name, and the place that a builder is told about.

A builder returns one new module: `@builder(Family.LAYER, "se")` above `def squeeze_excite(site, ratio, ...)`. The
arguments come checked from the operation's entry in `reslab.spec.operations`; those without a value are left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn

from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.layout import BlockSpec, ConvSpec
from reslab.spec.operations import Family, parse_kind

NormLayer = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Site:
    """The place of an operation.

    * `arch`: the network. `channels`: of the maps at this place. `norm`: builds the network's norm for a number of
      channels; None without norms.
    * `conv`: the convolution to build, for the operation `conv`. `block`: the block, None outside blocks.
    """

    arch: Arch
    channels: int
    norm: NormLayer | None
    conv: ConvSpec | None = None
    block: BlockSpec | None = None

    def at(self, channels: int) -> "Site":
        """Return the same place with another number of channels."""
        return replace(self, channels=channels)

    @property
    def names(self) -> Mapping[str, float]:
        """The values of the names in a factor: std, L and l (`reslab.spec.operations.BLOCK_NAMES`)."""
        if self.block is None:
            return {"std": 1.0, "L": self.arch.num_blocks, "l": 0}
        return {"std": self.block.expected_std, "L": self.block.num_blocks, "l": self.block.index + 1}


Builder = Callable[..., nn.Module | None]
BuilderT = TypeVar("BuilderT", bound=Callable[..., Any])

BUILDERS: dict[Family, dict[str, Builder]] = {family: {} for family in Family}


def builder(family: Family, *names: str) -> Callable[[BuilderT], BuilderT]:
    """Return a decorator that registers a builder under these names."""

    def register(function: BuilderT) -> BuilderT:
        for name in names:
            BUILDERS[family][name] = function
        return function

    return register


def make_activation(kind: str) -> nn.Module:
    """Return a new activation module, never in place. Raises ValueError for an unknown kind, with the nearest ones."""
    name, values = parse_kind(Family.ACT, kind)
    module = BUILDERS[Family.ACT][name](**values)
    assert module is not None
    return module


def make_norm_layer(kind: str, eps: float, momentum: float, dims: int = 2) -> NormLayer | None:
    """Return a function that builds a norm of this kind for a number of channels; None for the kind `none`.

    Raises ValueError for an unknown kind; the function raises it for groups that do not divide the channels.
    """
    name, values = parse_kind(Family.NORM, kind)
    if name == "none":
        return None
    if name == "custom":
        step = "build the network with create_model(..., norm_layer=...)"
        raise invalid("norm_layer=CALLABLE with norm=custom", "no norm_layer", next_step=step)
    options = {"eps": eps, "momentum": momentum, "dims": dims} | values

    def make_norm(channels: int) -> nn.Module:
        module = BUILDERS[Family.NORM][name](channels, **options)
        assert module is not None
        return module

    return make_norm


def get_norm_layer(arch: Arch) -> NormLayer | None:
    """Return a function that builds the network's norm for a number of channels; None without norms."""
    return make_norm_layer(arch.norm, arch.norm_eps, arch.norm_momentum, arch.dims)
