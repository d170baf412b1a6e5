"""How strongly each layer answers: the standard deviation of its response, ahead of nonlinearity and addition."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.blocks import as_asked, run_label
from reslab.analysis.subject import Subject
from reslab.nn.layers import Bias, Scale
from reslab.spec.errors import refuse

_ASIDE = re.compile(r"(^|\.)(downsample|shortcut|mix|se|attn|attn_last)(\.|$)")
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_AFFINE = (Bias, Scale)


@dataclass(frozen=True)
class ResponseOptions:
    """`kernels`: only convolutions of these sizes (`3` is He et al.'s figure), all where empty; `statistics` of the
    norms: `auto` is the batch's before any training, else the running ones."""

    kernels: tuple[int, ...] = ()
    statistics: str = "auto"


@dataclass(frozen=True)
class Response:
    """One run of a convolution: `std` over images, channels and places; `after_norm`: whether a norm read it first."""

    name: str
    label: str
    std: float
    after_norm: bool


@dataclass(frozen=True)
class Responses:
    """The layers in their order; `sorted_std` from the largest; `mean_std` over the layers."""

    subject: str
    step: int | None
    layers: tuple[Response, ...]
    sorted_std: tuple[float, ...]
    mean_std: float


def ask_responses(subject: Subject, options: ResponseOptions) -> Responses:
    """The standard deviation of each convolution's response: He et al. 2015, arXiv:1512.03385, Fig. 7.

    The response is the layer's output after normalisation and before the nonlinearity or the addition. In any order it
    is found by what is computed: the output of a convolution, or of the norm (or bias, or scale) that reads that very
    output. So in a pre-activated unit the first convolution's response is what the next norm makes of it, while the
    last one's, which is added as it is, is its own output. Stem and branches count; shortcuts and gates do not. Where
    no training has been, a norm makes every response 1. Raises ValueError where there is no convolution to measure.
    """
    model = as_asked(subject.model, options.statistics)
    found: list[Response] = []
    with torch.no_grad(), _listening(model, options.kernels, found):
        model(subject.images)
    if not found:
        kernels = ",".join(map(str, options.kernels))
        sizes = sorted({module.kernel_size[0] for module in model.modules() if isinstance(module, nn.Conv2d)})
        got = f"{subject.name}, with kernels of {', '.join(map(str, sizes)) or 'no size'}"
        raise refuse(f"a convolution{f' of kernel {kernels}' if kernels else ''}", got)
    values = sorted((layer.std for layer in found), reverse=True)
    return Responses(subject.name, subject.step, tuple(found), tuple(values), sum(values) / len(values))


@contextmanager
def _listening(model: nn.Module, kernels: tuple[int, ...], found: list[Response]) -> Iterator[None]:
    """Measures while the model runs. At once, as a later word may overwrite an output in place."""
    waiting: list[Tensor] = []
    runs: Counter[str] = Counter()

    def heard(name: str, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            label = run_label(name, runs[name])
            runs[name] += 1
            found.append(Response(name, label, _std(output), False))
            waiting[:] = [output]
        elif waiting and arguments and arguments[0] is waiting[0]:
            last, normed = found.pop(), isinstance(module, _NORMS)
            output = _before_act(module, arguments[0], output)
            found.append(Response(last.name, last.label, _std(output), last.after_norm or normed))
            waiting[:] = [output]

    handles = [
        module.register_forward_hook(lambda *call, name=name: heard(name, *call))
        for name, module in model.named_modules()
        if not _ASIDE.search(name) and _counts(module, kernels)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _counts(module: nn.Module, kernels: tuple[int, ...]) -> bool:
    if isinstance(module, nn.Conv2d):
        return not kernels or module.kernel_size[0] in kernels
    return isinstance(module, _NORMS + _AFFINE)


def _before_act(module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
    """timm's norms that hold an activation: what their norm alone gives."""
    if hasattr(module, "act") and isinstance(module, nn.BatchNorm2d):
        return nn.functional.batch_norm(
            x, module.running_mean, module.running_var, module.weight, module.bias, module.training, 0.0, module.eps
        )
    if hasattr(module, "act") and isinstance(module, nn.GroupNorm):
        return nn.functional.group_norm(x, module.num_groups, module.weight, module.bias, module.eps)
    return output


def _std(tensor: Tensor) -> float:
    return float(tensor.double().std(correction=0))
