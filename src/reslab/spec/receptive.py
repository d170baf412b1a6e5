"""How far a network sees: the receptive field of one place of its last map."""

from collections.abc import Iterator

from reslab.spec.arch import Arch
from reslab.spec.geometry import is_pool, word_stride
from reslab.spec.layout import plan_stages


def receptive_field(arch: Arch) -> int:
    """Input pixels, along one side, that one place of the last unit's output depends on, through the branches.

    r = 1 + sum over convolutions and pools of (kernel - 1) * dilation * (product of the strides before it);
    Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", equation (2).
    """
    field, jump = 1, 1
    for kernel, stride, dilation in _windows(arch):
        field += (kernel - 1) * dilation * jump
        jump *= stride
    return field


def _windows(arch: Arch) -> Iterator[tuple[int, int, int]]:
    """Kernel, stride and dilation of every window from the input to the last unit, in order."""
    for word in arch.stem_words:
        if word.name == "conv" or (is_pool(word) and word.size):
            yield word.size or 3, word_stride(word), 1
    for stage in plan_stages(arch):
        for unit in stage:
            yield from ((conv.kernel, conv.stride, conv.dilation) for conv in unit.convs)
