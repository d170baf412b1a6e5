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

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB
_MASK_64 = 0xFFFFFFFFFFFFFFFF


def _to_signed(value: int) -> int:
    value &= _MASK_64
    return value - (1 << 64) if value >> 63 else value


def _mix64_int(value: int) -> int:
    value = (value ^ (value >> 30)) * _MULTIPLIER_1 & _MASK_64
    value = (value ^ (value >> 27)) * _MULTIPLIER_2 & _MASK_64
    return value ^ (value >> 31)


def hash_key(*numbers: int) -> int:
    """One 64-bit number (signed) from several, each of which changes it: key(seed, epoch), key(seed, epoch, sample)."""
    value = 0
    for number in numbers:
        value = _mix64_int((value + _GOLDEN_GAMMA + (number & _MASK_64)) & _MASK_64)
    return _to_signed(value)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Return the seed of the noise inside the network (dropout, stochastic depth) at one step, 63 bits.

    Step -1 seeds the initial weights.
    """
    return hash_key(seed, step, rank) & (1 << 63) - 1


def _shift(value: Tensor, bits: int) -> Tensor:
    # The shift of torch carries the sign along; a hash needs zeros.
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def mix64(value: Tensor) -> Tensor:
    """SplitMix64's finaliser on every entry of an int64 tensor: a bijection of the 64-bit numbers."""
    value = (value ^ _shift(value, 30)) * _to_signed(_MULTIPLIER_1)
    value = (value ^ _shift(value, 27)) * _to_signed(_MULTIPLIER_2)
    return value ^ _shift(value, 31)


def hash_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """`key(seed, epoch, i)` for every i of an int64 tensor, on its device, shape kept."""
    return mix64(indices + _to_signed((hash_key(seed, epoch) & _MASK_64) + _GOLDEN_GAMMA))


def repeat_keys(keys: Tensor, repeat_index: Tensor) -> Tensor:
    """Other keys for the copies of a sample: copy 0 keeps its key, copy c > 0 has a hash of both; (N,) int64."""
    return torch.where(repeat_index > 0, mix64(keys + repeat_index * _to_signed(_GOLDEN_GAMMA)), keys)


def permutation(n: int, *numbers: int) -> Tensor:
    """The order of 0..num-1 that belongs to these numbers, (num,) int64: the places sorted by their hash.

    The hash is a bijection, so no two are equal and the order is the same on every machine and version.
    """
    return hash_keys(numbers[0], hash_key(*numbers[1:]), torch.arange(n)).argsort()


class RandomDraws:
    """The random numbers of one word for N samples: draw k of sample i is a function of (its key, place, k)."""

    def __init__(self, keys: Tensor, op_index: int = 0) -> None:
        self.keys = mix64(keys + _to_signed((op_index + 1) * _GOLDEN_GAMMA))

    def bits(self, draw: int) -> Tensor:
        """Draw number `draw` of every sample, (N,) int64, all 64 bits."""
        return mix64(self.keys + _to_signed((draw + 1) * _GOLDEN_GAMMA))

    def per_sample(self) -> "list[RandomDraws]":
        """The draws of each sample by itself; what is asked of one is drawn for all at once, and kept for the others.

        For a batch of pictures that come one by one: a draw of one sample costs as much as one of a hundred.
        """
        cache: dict[object, Tensor] = {}
        return [_SampleDraws(self, index, cache) for index in range(len(self.keys))]

    def uniform(self, draw: int) -> Tensor:
        """In [0, 1), (N,) float32, a multiple of 2^-24."""
        return (self.bits(draw) >> 40 & 0xFFFFFF).to(torch.float32) * 2.0**-24

    def uniforms(self, draws: range) -> Tensor:
        """`uniform` of several draws at once, (N, len(draws)) float32."""
        offsets = torch.tensor([_to_signed((draw + 1) * _GOLDEN_GAMMA) for draw in draws], device=self.keys.device)
        return (mix64(self.keys[:, None] + offsets) >> 40 & 0xFFFFFF).to(torch.float32) * 2.0**-24

    def integers(self, draw: int, high: int) -> Tensor:
        """In 0..below-1, (N,) int64; `below` up to 2^31."""
        return (_shift(self.bits(draw), 33) * high) >> 31

    def bernoulli(self, draw: int, probability: float) -> Tensor:
        """True with a probability, (N,) bool."""
        return self.uniform(draw) < probability


class _SampleDraws(RandomDraws):
    """The draws of the sample at `place` among those of `whole`; `known` is shared by the samples."""

    def __init__(self, batch_draws: RandomDraws, index: int, cache: dict[object, Tensor]) -> None:
        self.keys = batch_draws.keys[index : index + 1]
        self._batch_draws, self._index, self._cache = batch_draws, index, cache

    def _cached(self, name: str, *args: Any) -> Tensor:
        if (name, args) not in self._cache:
            self._cache[name, args] = getattr(RandomDraws, name)(self._batch_draws, *args)
        return self._cache[name, args][self._index : self._index + 1]

    def bits(self, draw: int) -> Tensor:
        return self._cached("bits", draw)

    def uniform(self, draw: int) -> Tensor:
        return self._cached("uniform", draw)

    def uniforms(self, draws: range) -> Tensor:
        return self._cached("uniforms", draws)

    def integers(self, draw: int, high: int) -> Tensor:
        return self._cached("integers", draw, high)

    def bernoulli(self, draw: int, probability: float) -> Tensor:
        return self._cached("bernoulli", draw, probability)


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """The global CPU generators (torch, numpy, random) start from `number` inside, and are as before afterwards.

    For code of others that draws from them: torchvision's transforms, a user's data set.
    """
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    # Not torch.manual_seed: it would also seed, and not give back, the generators of every GPU.
    torch.default_generator.manual_seed(seed & 0x7FFFFFFFFFFFFFFF)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
