"""Randomness without state: every draw is a hash of (seed, epoch, sample, place), so nothing random is ever saved.

The hash is SplitMix64's finaliser (Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators", Fig. 16;
constants of Stafford's variant 13), in 64-bit integers that wrap around. It gives the same numbers on every device.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = 0xFFFFFFFFFFFFFFFF


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mixed(value: int) -> int:
    value = (value ^ (value >> 30)) * _FIRST & _MASK
    value = (value ^ (value >> 27)) * _SECOND & _MASK
    return value ^ (value >> 31)


def key(*numbers: int) -> int:
    """One 64-bit number (signed) from several, each of which changes it: key(seed, epoch), key(seed, epoch, sample)."""
    found = 0
    for number in numbers:
        found = _mixed((found + _GOLDEN + (number & _MASK)) & _MASK)
    return _signed(found)


def _shift(value: Tensor, bits: int) -> Tensor:
    # The shift of torch carries the sign along; a hash needs zeros.
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def mix(value: Tensor) -> Tensor:
    """SplitMix64's finaliser on every entry of an int64 tensor: a bijection of the 64-bit numbers."""
    value = (value ^ _shift(value, 30)) * _signed(_FIRST)
    value = (value ^ _shift(value, 27)) * _signed(_SECOND)
    return value ^ _shift(value, 31)


def keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """`key(seed, epoch, i)` for every i of an int64 tensor, on its device, shape kept."""
    return mix(indices + _signed((key(seed, epoch) & _MASK) + _GOLDEN))


def again(keys: Tensor, copies: Tensor) -> Tensor:
    """Other keys for the copies of a sample: copy 0 keeps its key, copy c > 0 has a hash of both; (N,) int64."""
    return torch.where(copies > 0, mix(keys + copies * _signed(_GOLDEN)), keys)


def permutation(num: int, *numbers: int) -> Tensor:
    """The order of 0..num-1 that belongs to these numbers, (num,) int64: the places sorted by their hash.

    The hash is a bijection, so no two are equal and the order is the same on every machine and version.
    """
    return keys(numbers[0], key(*numbers[1:]), torch.arange(num)).argsort()


class Draws:
    """The random numbers of one word for N samples: draw k of sample i is a function of (its key, place, k)."""

    def __init__(self, keys: Tensor, place: int = 0) -> None:
        self.keys = mix(keys + _signed((place + 1) * _GOLDEN))

    def bits(self, draw: int) -> Tensor:
        """Draw number `draw` of every sample, (N,) int64, all 64 bits."""
        return mix(self.keys + _signed((draw + 1) * _GOLDEN))

    def each(self) -> "list[Draws]":
        """The draws of each sample by itself; what is asked of one is drawn for all at once, and kept for the others.

        For a batch of pictures that come one by one: a draw of one sample costs as much as one of a hundred.
        """
        known: dict[object, Tensor] = {}
        return [_Drawn(self, place, known) for place in range(len(self.keys))]

    def uniform(self, draw: int) -> Tensor:
        """In [0, 1), (N,) float32, a multiple of 2^-24."""
        return (self.bits(draw) >> 40 & 0xFFFFFF).to(torch.float32) * 2.0**-24

    def uniforms(self, draws: range) -> Tensor:
        """`uniform` of several draws at once, (N, len(draws)) float32."""
        places = torch.tensor([_signed((draw + 1) * _GOLDEN) for draw in draws], device=self.keys.device)
        return (mix(self.keys[:, None] + places) >> 40 & 0xFFFFFF).to(torch.float32) * 2.0**-24

    def integers(self, draw: int, below: int) -> Tensor:
        """In 0..below-1, (N,) int64; `below` up to 2^31."""
        return (_shift(self.bits(draw), 33) * below) >> 31

    def chance(self, draw: int, probability: float) -> Tensor:
        """True with a probability, (N,) bool."""
        return self.uniform(draw) < probability


class _Drawn(Draws):
    """The draws of the sample at `place` among those of `whole`; `known` is shared by the samples."""

    def __init__(self, whole: Draws, place: int, known: dict[object, Tensor]) -> None:
        self.keys = whole.keys[place : place + 1]
        self._whole, self._place, self._known = whole, place, known

    def _part(self, name: str, *asked: Any) -> Tensor:
        if (name, asked) not in self._known:
            self._known[name, asked] = getattr(Draws, name)(self._whole, *asked)
        return self._known[name, asked][self._place : self._place + 1]

    def bits(self, draw: int) -> Tensor:
        return self._part("bits", draw)

    def uniform(self, draw: int) -> Tensor:
        return self._part("uniform", draw)

    def uniforms(self, draws: range) -> Tensor:
        return self._part("uniforms", draws)

    def integers(self, draw: int, below: int) -> Tensor:
        return self._part("integers", draw, below)

    def chance(self, draw: int, probability: float) -> Tensor:
        return self._part("chance", draw, probability)


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """The global CPU generators (torch, numpy, random) start from `number` inside, and are as before afterwards.

    For code of others that draws from them: torchvision's transforms, a user's data set.
    """
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    # Not torch.manual_seed: it would also seed, and not give back, the generators of every GPU.
    torch.default_generator.manual_seed(number & 0x7FFFFFFFFFFFFFFF)
    np.random.seed(number & 0xFFFFFFFF)
    random.seed(number)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
