"""The hash against SplitMix64 in plain integers; properties of draws, permutations and temporary seeds."""

import random
from contextlib import suppress

import numpy as np
import torch

from reslab.data.rng import RandomDraws, hash_key, hash_keys, mix64, permutation, temporary_seed

MASK = (1 << 64) - 1


def splitmix64(state: int, count: int) -> list[int]:
    """The generator as published: add the golden gamma, mix."""
    result = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        result.append(z ^ (z >> 31))
    return result


def test_mix_is_splitmix64() -> None:
    # The first outputs for seed 1234567, as other implementations print them.
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(1234567, 5) == published
    gamma = 0x9E3779B97F4A7C15
    states = [(1234567 + gamma * (k + 1)) & MASK for k in range(5)]
    signed = torch.tensor([state - (1 << 64) if state >> 63 else state for state in states])
    assert [value & MASK for value in mix64(signed).tolist()] == published


def test_hash_keys_equals_hash_key_of_each_index() -> None:
    indices = torch.tensor([0, 1, 7, 49_999])
    assert hash_keys(3, 5, indices).tolist() == [hash_key(3, 5, i) for i in indices.tolist()]
    assert len({hash_key(a, b, c) for a in range(4) for b in range(4) for c in range(4)}) == 64


def test_permutation_is_one_and_depends_on_every_number() -> None:
    order = permutation(1000, 0, 0)
    assert order.sort().values.tolist() == list(range(1000))
    assert torch.equal(order, permutation(1000, 0, 0))
    for other in (permutation(1000, 1, 0), permutation(1000, 0, 1)):
        assert (order == other).sum() < 20


def test_draws_are_even_and_apart() -> None:
    draws = RandomDraws(hash_keys(0, 0, torch.arange(40_000)), op_index=1)
    first, second = draws.uniform(0), draws.uniform(1)
    assert float(first.min()) >= 0
    assert float(first.max()) < 1
    assert abs(float(first.mean()) - 0.5) < 0.005
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.02
    counts = draws.integers(2, 9).bincount(minlength=9)
    assert len(counts) == 9
    assert (counts - 40_000 / 9).abs().max() < 300
    assert abs(float(draws.bernoulli(3, 0.25).float().mean()) - 0.25) < 0.01


def test_draws_depend_on_position_and_sample_only() -> None:
    many = RandomDraws(hash_keys(0, 0, torch.arange(100)), op_index=2).bits(5)
    some = RandomDraws(hash_keys(0, 0, torch.tensor([40, 3])), op_index=2).bits(5)
    assert some.tolist() == [many[40], many[3]]
    assert RandomDraws(hash_keys(0, 0, torch.tensor([40])), op_index=1).bits(5) != many[40]


def test_seeded_gives_the_generators_back() -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = [drawn(), drawn()]
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    first = drawn()
    with temporary_seed(hash_key(9)):
        inside = drawn()
    assert inside != first
    seen = []
    with suppress(KeyError), temporary_seed(hash_key(9)):
        seen.append(drawn())
        raise KeyError
    assert seen == [inside]
    assert [first, drawn()] == expected


def test_several_draws_at_once_are_the_same_numbers() -> None:
    draws = RandomDraws(hash_keys(3, 1, torch.arange(50)), 2)
    assert torch.equal(draws.uniforms(range(1, 40, 4)), torch.stack([draws.uniform(k) for k in range(1, 40, 4)], 1))


def test_the_draws_of_each_sample_are_those_of_all() -> None:
    whole = RandomDraws(hash_keys(5, 0, torch.arange(9)), 1)
    for index, one in enumerate(whole.per_sample()):
        assert torch.equal(one.keys, whole.keys[index : index + 1])
        for name, arguments in {
            "bits": (3,), "uniform": (2,), "uniforms": (range(4, 7),), "integers": (1, 50), "bernoulli": (0, 0.3),
        }.items():  # fmt: skip
            expected = getattr(whole, name)(*arguments)[index : index + 1]
            assert torch.equal(getattr(one, name)(*arguments), expected)
            assert torch.equal(getattr(RandomDraws(torch.empty(0, dtype=torch.int64)), name)(*arguments), expected[:0])
