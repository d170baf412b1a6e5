"""Layer responses: the standard deviation of every convolution's output before the nonlinearity or the addition."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.layers import call_label, with_statistics
from reslab.analysis.target import AnalysisTarget
from reslab.nn.operations.layers import Bias, Scale
from reslab.spec.errors import invalid

_NON_BRANCH_NAME = re.compile(r"(^|\.)(downsample|shortcut|merge|se|attn|attn_last)(\.|$)")
_NORM_TYPES = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_AFFINE_TYPES = (Bias, Scale)


@dataclass(frozen=True)
class ResponseOptions:
    """The convolutions to measure, by `kernel_sizes` (`3` for He et al.'s figure; all if empty), and the `statistics`.

    `statistics` are those that norms use: `auto` takes the batch's before any training, else the running ones.
    """

    kernel_sizes: tuple[int, ...] = ()
    statistics: str = "auto"


@dataclass(frozen=True)
class LayerResponse:
    """One call of a convolution: `std` over images, channels and positions; `after_norm`: measured after its norm."""

    name: str
    label: str
    std: float
    after_norm: bool


@dataclass(frozen=True)
class ResponseResult:
    """The layers in the order they run, their `sorted_std` from the largest down, and the mean over the layers."""

    model: str
    step: int | None
    layers: tuple[LayerResponse, ...]
    sorted_std: tuple[float, ...]
    mean_std: float


def analyze_responses(target: AnalysisTarget, options: ResponseOptions) -> ResponseResult:
    """Measure the standard deviation of each convolution's response (He et al. 2015, arXiv:1512.03385, Fig. 7).

    The response is the layer's output after normalization and before the nonlinearity or the addition. In any block
    layout it is the output of a convolution, or of the norm (or bias, or scale) that takes that very tensor as input.
    So in a pre-activated block the first convolution's response is the output of the next norm, and the response of
    the last one, which goes straight into the addition, is its own output. Stem and branches count, shortcuts and gates
    do not. Before any training a norm makes every response 1. Raises ValueError if there is no convolution to measure.
    """
    model = with_statistics(target.model, options.statistics)
    responses: list[LayerResponse] = []
    with torch.no_grad(), _record_responses(model, options.kernel_sizes, responses):
        model(target.images)
    if not responses:
        kernel_text = ",".join(map(str, options.kernel_sizes))
        available_sizes = sorted({module.kernel_size[0] for module in model.modules() if isinstance(module, nn.Conv2d)})
        got = f"{target.name}, with kernel sizes {', '.join(map(str, available_sizes)) or 'none'}"
        raise invalid(f"a convolution{f' of kernel size {kernel_text}' if kernel_text else ''}", got)
    stds = sorted((layer.std for layer in responses), reverse=True)
    return ResponseResult(target.name, target.step, tuple(responses), tuple(stds), sum(stds) / len(stds))


@contextmanager
def _record_responses(
    model: nn.Module, kernel_sizes: tuple[int, ...], responses: list[LayerResponse]
) -> Iterator[None]:
    """Append to `responses` while the model runs; each is measured at once, as a later layer may overwrite it."""
    # The output of the last measured layer: a norm that takes this very tensor replaces the measurement by its own.
    pending: list[Tensor] = []
    call_counts: Counter[str] = Counter()

    def measure(name: str, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            label = call_label(name, call_counts[name])
            call_counts[name] += 1
            responses.append(LayerResponse(name, label, _std(output), False))
            pending[:] = [output]
        elif pending and arguments and arguments[0] is pending[0]:
            previous, is_norm = responses.pop(), isinstance(module, _NORM_TYPES)
            output = _norm_without_act(module, arguments[0], output)
            responses.append(LayerResponse(previous.name, previous.label, _std(output), previous.after_norm or is_norm))
            pending[:] = [output]

    handles = [
        module.register_forward_hook(lambda *call, name=name: measure(name, *call))
        for name, module in model.named_modules()
        if not _NON_BRANCH_NAME.search(name) and _is_measured(module, kernel_sizes)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_measured(module: nn.Module, kernel_sizes: tuple[int, ...]) -> bool:
    if isinstance(module, nn.Conv2d):
        return not kernel_sizes or module.kernel_size[0] in kernel_sizes
    return isinstance(module, _NORM_TYPES + _AFFINE_TYPES)


def _norm_without_act(module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    """Return the normalized values alone where a norm of timm includes an activation, else `output`."""
    if hasattr(module, "act") and isinstance(module, nn.BatchNorm2d):
        return nn.functional.batch_norm(
            x,
            module.running_mean,
            module.running_var,
            weight=module.weight,
            bias=module.bias,
            training=module.training,
            momentum=0.0,
            eps=module.eps,
        )
    if hasattr(module, "act") and isinstance(module, nn.GroupNorm):
        return nn.functional.group_norm(x, module.num_groups, module.weight, module.bias, module.eps)
    return output


def _std(tensor: Tensor) -> float:
    return float(tensor.double().std(correction=0))
