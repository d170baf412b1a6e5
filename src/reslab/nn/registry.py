"""The builders of operations by family and name, the site that a builder is given, and layers for any number of axes.

A builder returns one new module: `@builder(Family.LAYER, "se")` above `def squeeze_excite(site, ratio, ...)`. The
arguments come checked from the operation's entry in `reslab.spec.operations`; those without a value are left out. Maps
are signals (N C T), images (N C H W), and volumes or clips (N C D H W).
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn
from torch.fx import Proxy

from reslab.spec.arch import Arch, ConvSpec
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, signature_params
from reslab.spec.operations import (
    ACT_GAINS,
    MAPS,
    OPERATIONS,
    Family,
    Operation,
    Place,
    get_operation,
    is_pool,
    parse_kind,
)

if TYPE_CHECKING:
    from reslab.spec.layout import BlockSpec

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
    block: "BlockSpec | None" = None

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


# What the builders of each family are given of the site; all other parameters are arguments of the operation.
CONTEXT: dict[Family, tuple[str, ...]] = {
    Family.LAYER: ("site", "size", "stride"),
    Family.CONV: ("site", "spec", "bias"),
    Family.NORM: ("channels", "eps", "momentum", "dims"),
    Family.ACT: (),
}


def register_operation(
    name: str,
    *,
    family: str = Family.LAYER,
    reference: str = "",
    description: str = "",
    places: tuple[str, ...] = MAPS,
    gain: float | None = None,
) -> Callable[[BuilderT], BuilderT]:
    """Return a decorator that registers an operation: a layer, or a kind of convolution, norm or activation.

    The function returns one new module. It may have these parameters, by `family`; all others are arguments of the
    operation, with their types, defaults and ranges (`reslab.Param`) from the signature:

    * `layer`: `site` (`Site`, with `site.channels`). With `size` and `stride` it is a pool: `name3/2` gives both, and
      in a block without them it takes the block's stride. `places` are block, stem, transition and head.
    * `conv`: `site`, `spec` (`ConvSpec`: channels, kernel, stride, groups, dilation) and `bias`.
    * `norm`: `channels`, `eps`, `momentum` and `dims`, the dimension of the maps.
    * `act`: none. `gain` is that of a scaled-standardized convolution after it.

    The description is by default the docstring. Raises ValueError for a name that is taken, or a parameter without a
    type.
    """
    kind = Family(family)

    def register(function: BuilderT) -> BuilderT:
        names = inspect.signature(function).parameters
        context = tuple(parameter for parameter in CONTEXT[kind] if parameter in names)
        operation = Operation(
            description or describe(function),
            reference,
            signature_params(function, context),
            tuple(Place(place) for place in places) if kind is Family.LAYER else (),
            is_pool=kind is Family.LAYER and "stride" in context,
        )
        OPERATIONS[kind].register(name, operation, function)
        BUILDERS[kind][name] = _with_context(function, kind, context)
        if gain is not None:
            ACT_GAINS[name] = gain
        return function

    return register


def _with_context(function: Callable[..., Any], family: Family, context: tuple[str, ...]) -> Builder:
    """Return a builder that takes all that the family is given, and passes on what the function has parameters for."""

    def build(*place: Any, **values: Any) -> nn.Module | None:
        given = dict(zip(CONTEXT[family], place, strict=False))
        given |= {name: values.pop(name) for name in CONTEXT[family] if name in values}
        module: nn.Module | None = function(**{name: given[name] for name in context if name in given}, **values)
        return module

    return build


def call_with_context(function: Callable[..., Any], context: Mapping[str, Any], args: Iterable[tuple[str, Any]]) -> Any:
    """Call a registered function with its arguments, and those entries of the context that it has parameters for."""
    names = inspect.signature(function).parameters
    return function(**{name: value for name, value in context.items() if name in names}, **dict(args))


def describe(function: Callable[..., Any]) -> str:
    """Return the first line of a docstring, without the full stop."""
    return (inspect.getdoc(function) or "").partition("\n")[0].rstrip(".")


def make_conv(site: Site, spec: ConvSpec, bias: bool, kind: str = "") -> nn.Module:
    """Return a convolution of this kind, by default the network's (`Arch.conv`)."""
    name, values = parse_kind(Family.CONV, kind or site.arch.conv)
    module = BUILDERS[Family.CONV][name](site, spec, bias, **values)
    assert module is not None
    return module


def make_layer(op: Op, site: Site) -> nn.Module | None:
    """Return the module of an operation; None for a norm without norms, and for a pool without a stride to make.

    A pool in a block that gives no stride of its own takes the block's (`BlockSpec.has_pool`).
    """
    if op.name not in BUILDERS[Family.LAYER]:
        raise unknown_name("operation", op.name, BUILDERS[Family.LAYER])
    values = get_operation(Family.LAYER, op.name).bind(op)
    if is_pool(op):
        if site.block is not None and not site.block.has_pool(op):
            return None
        stride = op.stride or (site.block.stride if site.block is not None else op.size or 1)
        return BUILDERS[Family.LAYER][op.name](site, size=op.size, stride=stride, **values)
    return BUILDERS[Family.LAYER][op.name](site, **values)


def make_activation(kind: str) -> nn.Module:
    """Return a new activation module, not in place. Raises ValueError for an unknown kind, with the nearest ones."""
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


CONV_TYPES = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layer_class(name: str, dims: int) -> Any:
    """Return the class of torch.nn for maps of 1, 2 or 3 dimensions: `Conv` and 3 give `nn.Conv3d`."""
    return getattr(nn, f"{name}{dims}d")


def map_axes(x: Tensor) -> tuple[int, ...]:
    """Return the axes of the map: all but batch and channels; those of images while torch.fx traces."""
    return (2, 3) if isinstance(x, Proxy) else tuple(range(2, x.ndim))


def per_channel(vector: Tensor, x: Tensor) -> Tensor:
    """Return a vector of channels in a shape that multiplies N C ..."""
    return vector.view(1, -1, *map_ones(x))


def map_ones(x: Tensor) -> tuple[int, ...]:
    """Return the sides of a map of one position with as many dimensions as those of N C ..."""
    return (1,) * len(map_axes(x))
