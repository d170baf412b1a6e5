"""Weights made to fit a new number of classes or of input channels."""

import math
import statistics
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from reslab.spec.preprocess import Preprocess


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution's weight O C H W for `in_channels`: summed over C for one channel, else repeated and times C
    / in_channels.

    So a picture whose channels are all alike gives what it gave before, wherever C divides in_channels (as timm has
    it).
    """
    channels = weight.shape[1]
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, math.ceil(in_channels / channels), 1, 1)[:, :in_channels]
    return repeated * (channels / in_channels)


def adapt_preprocess(preprocess: Preprocess, in_channels: int) -> Preprocess:
    """The preprocessing for `in_channels`: the average of mean and std for one channel, else both repeated."""
    if preprocess.channels == in_channels:
        return preprocess
    mean, std = (_adapt_numbers(numbers, in_channels) for numbers in (preprocess.mean, preprocess.std))
    return Preprocess(in_channels, preprocess.words, mean, std)


def _adapt_numbers(numbers: tuple[float, ...], count: int) -> tuple[float, ...]:
    if count == 1:
        return (statistics.mean(numbers),)
    return tuple(numbers[i % len(numbers)] for i in range(count))


def last_linear(network: nn.Module) -> str | None:
    """The name of the last linear layer, which tells the classes; None where there is none."""
    return _last(name for name, module in network.named_modules() if isinstance(module, nn.Linear))


def first_conv(network: nn.Module) -> str | None:
    """The name of the first convolution, which reads the input; None where there is none."""
    return next((name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)), None)


def _last(names: Iterable[str]) -> str | None:
    found = list(names)
    return found[-1] if found else None


def same_but_for_ones(tensor: Tensor, shape: torch.Size) -> bool:
    """Whether only trailing ones part the shapes: a linear layer kept as a 1x1 convolution, or the reverse."""
    longer, shorter = sorted((tuple(tensor.shape), tuple(shape)), key=len, reverse=True)
    return longer[: len(shorter)] == shorter and all(side == 1 for side in longer[len(shorter) :]) and bool(shorter)
