"""Random numbers without state: each is a hash of (seed, epoch, sample, operation), so no random state is ever saved.

The hash is SplitMix64's finalizer (Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators", Fig. 16;
constants of Stafford's variant 13), in 64-bit integers that wrap around. It gives the same numbers on every device.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Hash several numbers to a signed 64-bit number: hash_key(seed, epoch), hash_key(seed, epoch, sample)."""
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
    # torch shifts copies of the sign bit in; the hash needs zeros.
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def mix64(value: Tensor) -> Tensor:
    """Apply SplitMix64's finalizer, a bijection of the 64-bit numbers, to every entry of an int64 tensor."""
    value = (value ^ _shift(value, 30)) * _to_signed(_MULTIPLIER_1)
    value = (value ^ _shift(value, 27)) * _to_signed(_MULTIPLIER_2)
    return value ^ _shift(value, 31)


def hash_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """Return `hash_key(seed, epoch, i)` for every i of an int64 tensor, in its shape and on its device."""
    return mix64(indices + _to_signed((hash_key(seed, epoch) & _MASK_64) + _GOLDEN_GAMMA))


def repeat_keys(keys: Tensor, repeat_index: Tensor) -> Tensor:
    """Return other keys for copies of a sample, (N,) int64: copy 0 keeps its key, copy c > 0 gets a hash of both."""
    return torch.where(repeat_index > 0, mix64(keys + repeat_index * _to_signed(_GOLDEN_GAMMA)), keys)


def permutation(n: int, *numbers: int) -> Tensor:
    """Return the permutation of 0..n-1 that belongs to these numbers, (n,) int64: the indices sorted by their hash.

    The hash is a bijection, so no two hashes are equal and the order is the same on every machine and version.
    """
    return hash_keys(numbers[0], hash_key(*numbers[1:]), torch.arange(n)).argsort()


def set_alternating_bit(
    keys: Tensor, seed: int, epoch: int, indices: Tensor, repeat_index: Tensor | None = None
) -> Tensor:
    """Replace the lowest bit of each sample's key by one that changes from epoch to epoch, (N,) int64.

    It begins with a hash of (seed, sample): 0 for one half of the samples, 1 for the other. Copies of a sample in an
    epoch, numbered by `repeat_index`, have both in turn.
    """
    number = hash_keys(seed, -1, indices) + epoch + (0 if repeat_index is None else repeat_index)
    return keys & -2 | number & 1


def augmentation_keys(
    seed: int, epoch: int, indices: Tensor, repeat_index: Tensor | None = None, alternates: bool = False
) -> Tensor:
    """Return the key of each sample's augmentation, a hash of (seed, epoch, sample, copy), (N,) int64.

    With `alternates` its lowest bit is another one in each epoch, for `alternating-flip`.
    """
    keys = hash_keys(seed, epoch, indices)
    if repeat_index is not None:
        keys = repeat_keys(keys, repeat_index)
    return set_alternating_bit(keys, seed, epoch, indices, repeat_index) if alternates else keys


class RandomDraws:
    """The random numbers of one operation for N samples: draw k of sample i is a function of its key, k and `op_index`.

    Every method takes the number of the draw and returns one number a sample, (N, ...); `alternating_bit` is that of
    `set_alternating_bit`.
    """

    def __init__(self, keys: Tensor, op_index: int = 0) -> None:
        self.alternating_bit = keys & 1
        self.keys = mix64(keys + _to_signed((op_index + 1) * _GOLDEN_GAMMA))

    def bits(self, draw: int) -> Tensor:
        """Return 64 random bits, (N,) int64."""
        return mix64(self.keys + _to_signed((draw + 1) * _GOLDEN_GAMMA))

    def uniform(self, draw: int) -> Tensor:
        """Return multiples of 2^-24 in [0, 1), (N,) float32."""
        return _to_uniform(self.bits(draw))

    def uniforms(self, draws: range) -> Tensor:
        """Return `uniform` of several draws, (N, len(draws)) float32."""
        offsets = torch.tensor([_to_signed((draw + 1) * _GOLDEN_GAMMA) for draw in draws], device=self.keys.device)
        return _to_uniform(mix64(self.keys[:, None] + offsets))

    def integers(self, draw: int, high: int) -> Tensor:
        """Return integers in 0..high-1, (N,) int64; `high` is at most 2^31."""
        return (_shift(self.bits(draw), 33) * high) >> 31

    def bernoulli(self, draw: int, probability: float) -> Tensor:
        """Return True with a probability, (N,) bool."""
        return self.uniform(draw) < probability

    def per_sample(self) -> "list[RandomDraws]":
        """Return the draws of each sample; the first sample to need a number draws it for all of them.

        For images that are transformed one by one: a draw for one sample costs as much as one for a hundred.
        """
        cache: dict[int | range, Tensor] = {}
        return [_SampleDraws(self, index, cache) for index in range(len(self.keys))]


class _SampleDraws(RandomDraws):
    """The draws of one sample of a batch; all samples share `cache`, the draws of the batch so far."""

    def __init__(self, batch_draws: RandomDraws, index: int, cache: dict[int | range, Tensor]) -> None:
        self.keys = batch_draws.keys[index : index + 1]
        self.alternating_bit = batch_draws.alternating_bit[index : index + 1]
        self._batch_draws, self._index, self._cache = batch_draws, index, cache

    def bits(self, draw: int) -> Tensor:
        if draw not in self._cache:
            self._cache[draw] = self._batch_draws.bits(draw)
        return self._cache[draw][self._index : self._index + 1]

    def uniforms(self, draws: range) -> Tensor:
        if draws not in self._cache:
            self._cache[draws] = self._batch_draws.uniforms(draws)
        return self._cache[draws][self._index : self._index + 1]


def _to_uniform(bits: Tensor) -> Tensor:
    return (bits >> 40 & 0xFFFFFF).to(torch.float32) * 2.0**-24


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """Seed the global CPU generators (torch, numpy, random) inside, and restore their state afterwards.

    For third-party code that draws from them: torchvision's transforms, a user's dataset.
    """
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    # Not torch.manual_seed: that would also seed the generators of every GPU, which are not restored here.
    torch.default_generator.manual_seed(seed & 0x7FFFFFFFFFFFFFFF)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
