"""Weight initialization: the schemes of an architecture's `init`, one line each, and the weights they draw."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from reslab.nn.registry import layer_class
from reslab.spec.arch import Arch
from reslab.spec.errors import unknown_name

if TYPE_CHECKING:
    from reslab.nn.block import ResidualBlock


@dataclass(frozen=True)
class InitScheme:
    """The rules that draw fresh weights: `conv` for convolutions, `linear` for linear layers.

    `stem` and `last_conv` (the last convolution of each branch) replace `conv` where they are not empty. Rules:

    * `kaiming-normal-out`: N(0, 2 / fan_out). `kaiming-normal-in`: N(0, 2 / fan_in).
    * `xavier-uniform`; `zeros`; `normal-small`: N(0, 0.01^2).
    * `dirac`: the identity in the first filters, one for each input channel; the rest keeps the default of torch.nn.
    * `fixup`: N(0, 2 / fan_out) times L^(-1 / (2m - 2)) for L blocks of m convolutions.
    * `trunc-normal`: N(0, 0.02^2) cut at 2. `torch`: the default of torch.nn.

    Biases are 0 with `zeros`, `fixup`, `normal-small` and `trunc-normal`; the other rules keep the default of torch.nn.
    """

    conv: str
    linear: str
    reference: str
    stem: str = ""
    last_conv: str = ""


INITS: dict[str, InitScheme] = {
    "torchvision": InitScheme(
        "kaiming-normal-out", "torch", "torchvision 0.29 models/resnet.py; He et al. 2015, arXiv:1502.01852, Eq. 14"
    ),
    "he-in": InitScheme("kaiming-normal-in", "torch", "He et al. 2015, arXiv:1502.01852, Eq. 10"),
    "xavier": InitScheme(
        "xavier-uniform",
        "xavier-uniform",
        "Zhang et al., Dive into Deep Learning, train_ch6; Glorot and Bengio 2010, Eq. 16",
    ),
    "torch": InitScheme("torch", "torch", "the defaults of torch.nn"),
    "book": InitScheme(
        "kaiming-normal-in", "torch", "Stevens, Antiga and Viehmann 2020, Sec. 8.5.3, ResBlock", stem="torch"
    ),
    "goyal": InitScheme(
        "kaiming-normal-out",
        "normal-small",
        "Goyal et al. 2017, arXiv:1706.02677, Sec. 5.1, which does not mention biases",
    ),
    "dirac": InitScheme(
        "dirac", "normal-small", "Jordan 2024, arXiv:2404.00498, Sec. 3.2; the head, smaller, is our own choice"
    ),
    "convnext": InitScheme("trunc-normal", "trunc-normal", "Liu et al. 2022, arXiv:2201.03545, Table 5"),
    "fixup": InitScheme(
        "fixup",
        "zeros",
        "Zhang, Dauphin and Ma 2019, arXiv:1901.09321, Sec. 3",
        stem="kaiming-normal-out",
        last_conv="zeros",
    ),
}


def get_init(name: str) -> InitScheme:
    """Return the scheme of this name. Raises ValueError for an unknown name, with the nearest ones."""
    if name not in INITS:
        raise unknown_name("init", name, INITS)
    return INITS[name]


def _torch_default(weight: Tensor, scale: float) -> None:
    """Leave the weight as torch.nn has drawn it."""


def _kaiming_normal_fan_out(weight: Tensor, scale: float) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _kaiming_normal_fan_in(weight: Tensor, scale: float) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu")


def _xavier_uniform(weight: Tensor, scale: float) -> None:
    nn.init.xavier_uniform_(weight)


def _zeros(weight: Tensor, scale: float) -> None:
    nn.init.zeros_(weight)


def _fixup(weight: Tensor, scale: float) -> None:
    fan_out = weight.shape[0] * math.prod(weight.shape[2:])
    nn.init.normal_(weight, std=scale * math.sqrt(2 / fan_out))


def _normal_small(weight: Tensor, scale: float) -> None:
    nn.init.normal_(weight, std=0.01)


def _trunc_normal(weight: Tensor, scale: float) -> None:
    nn.init.trunc_normal_(weight, std=0.02)


def _dirac(weight: Tensor, scale: float) -> None:
    nn.init.dirac_(weight[: weight.shape[1]])


_INIT_RULES: dict[str, Callable[[Tensor, float], None]] = {
    "torch": _torch_default,
    "kaiming-normal-out": _kaiming_normal_fan_out,
    "kaiming-normal-in": _kaiming_normal_fan_in,
    "xavier-uniform": _xavier_uniform,
    "zeros": _zeros,
    "fixup": _fixup,
    "normal-small": _normal_small,
    "trunc-normal": _trunc_normal,
    "dirac": _dirac,
}


_DRAWS = (
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.zero_,
    Tensor.fill_,
    Tensor.clamp_,
    Tensor.erfinv_,
    Tensor.mul_,
    Tensor.add_,
)


class SkipInit(TorchFunctionMode):
    """In this context, new modules leave their weights undrawn: for the shapes alone, or weights that come later."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DRAWS:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def init_empty_weights() -> Iterator[None]:
    """In the `with` block, new modules have weights on the meta device: shapes without memory or values.

    `SkipInit` avoids draws on the meta device, which import the compiler: two seconds of processor time.
    """
    with torch.device("meta"), SkipInit():
        yield


def init_weights(
    arch: Arch, stem: Iterable[nn.Module], blocks: Iterable["ResidualBlock"], head: Iterable[nn.Module]
) -> None:
    """Draw the weights of a new network: stem, blocks and head by their rules.

    Weights of last norms take the architecture's value, and a merge sets its own (the bias of a gate). The order of the
    draws is part of a run's reproducibility: stem, head, blocks.
    """
    scheme = get_init(arch.init)
    num_convs, conv_class = arch.num_convs, layer_class("Conv", arch.dims)
    scale = arch.num_blocks ** (-1 / (2 * num_convs - 2)) if arch.num_blocks and num_convs > 1 else 1.0
    for module in stem:
        _apply_rule(module, scheme.stem or scheme.conv, conv_class, scale)
    for module in head:
        _apply_rule(module, scheme.linear, nn.Linear, scale)
    for block in blocks:
        _apply_rule(block, scheme.conv, conv_class, scale)
        if scheme.last_conv:
            for branch in block.branches:
                _apply_rule(getattr(branch, f"conv{num_convs}"), scheme.last_conv, conv_class, scale)
            if block.downsample is not None:  # Fixup scales only the layers inside the branches
                _apply_rule(block.downsample, scheme.stem or scheme.conv, conv_class, 1.0)
        _init_last_norms(block, arch)
        if block.merge is not None:
            block.merge.init_weights()


def init_linear(module: nn.Module, arch: Arch) -> None:
    """Draw the weights of the linear layers of a new head by the architecture's rule."""
    _apply_rule(module, get_init(arch.init).linear, nn.Linear, 1.0)


def _apply_rule(module: nn.Module, rule: str, layer_type: type[nn.Module], scale: float) -> None:
    for layer in module.modules():
        if isinstance(layer, layer_type):
            assert isinstance(layer.weight, Tensor)
            if layer.weight.is_meta:  # no values, and each draw would cost a millisecond
                continue
            _INIT_RULES[rule](layer.weight, scale)
            if isinstance(layer.bias, Tensor) and rule in ("zeros", "fixup", "normal-small", "trunc-normal"):
                nn.init.zeros_(layer.bias)


def _init_last_norms(block: "ResidualBlock", arch: Arch) -> None:
    for norm in block.last_norms():
        weight = getattr(norm, "weight", None)
        if arch.last_norm_weight != 1.0 and isinstance(weight, Tensor):
            nn.init.constant_(weight, arch.last_norm_weight)


class _InputReachedError(Exception):
    """Ends an evaluation at the layer whose input is wanted."""


def unfitted_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers whose first weights follow from their inputs (`fit_input`) and are not computed yet."""
    return [
        module for module in model.modules() if hasattr(module, "fit_input") and not getattr(module, "is_fitted", False)
    ]


def fit_input_layers(model: nn.Module, forward: Callable[[Any], object], images: Callable[[], Iterable[Any]]) -> None:
    """Compute the weights that follow from a layer's inputs, layer after layer (`unfitted_layers`).

    Such a layer has a method `fit_input(inputs)`, which takes an iterable of its inputs: for each of `images()` the
    first that reaches it in `forward(image)`, which ends there.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for layer in unfitted_layers(model):
            layer.fit_input(_layer_inputs(layer, forward, images()))  # type: ignore[operator]
    finally:
        for module, mode in modes.items():
            module.training = mode


def _layer_inputs(layer: nn.Module, forward: Callable[[Any], object], images: Iterable[Any]) -> Iterator[Tensor]:
    inputs: list[Tensor] = []

    def keep_input(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs.append(args[0])
        raise _InputReachedError

    for image in images:
        handle = layer.register_forward_pre_hook(keep_input)
        try:
            with torch.no_grad(), contextlib.suppress(_InputReachedError):
                forward(image)
        finally:
            handle.remove()
        if inputs:
            yield inputs.pop()
