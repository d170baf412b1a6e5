"""The samples of a step: shares of ranks, repeats, class balance; the shares of ranks in evaluation."""

from itertools import islice

import pytest
import torch

from reslab.data.image_datasets import TensorImageDataset
from reslab.data.loader import TrainLoader, eval_loader
from reslab.data.rng import hash_key, hash_keys, mix64, repeat_keys
from reslab.data.sampler import StatelessSampler, balanced_order
from reslab.spec.preprocess import Preprocess

NUM = 50
LABELS = torch.tensor([0] * 40 + [1] * 8 + [3] * 2)
PIXELS = torch.randint(0, 256, (NUM, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
IMAGES = TensorImageDataset(PIXELS, LABELS)
PREPROCESS = Preprocess(1, "", (0.5,), (0.25,))


def train(batch: int = 12, **options: object) -> TrainLoader:
    return TrainLoader(IMAGES, batch, "pad(1) crop(6)", PREPROCESS, 0, "cpu", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{}, {"num_repeats": 3}, {"class_balanced": True}, {"class_balanced": True, "num_repeats": 2}],
)
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_batch_of_one(options: dict[str, object], world_size: int) -> None:
    whole = list(islice(train(**options).iter_from(2), 5))
    parts = [
        list(islice(train(rank=rank, world_size=world_size, **options).iter_from(2), 5)) for rank in range(world_size)
    ]
    for step, batch in enumerate(whole):
        assert all(len(part[step][2]) == 12 // world_size for part in parts)
        for index, expected in enumerate(batch):
            assert torch.equal(torch.cat([part[step][index] for part in parts]), expected)


@pytest.mark.parametrize("num_repeats", [2, 3, 5])
def test_each_sample_is_repeated_with_other_augmentation(num_repeats: int) -> None:
    batches = train(num_repeats=num_repeats)
    assert batches.num_steps_per_epoch == 4  # as long an epoch as without
    epoch = list(islice(batches.iter_from(), 4))
    indices = torch.cat([i for _, _, i in epoch])
    counts = indices.bincount()
    num_whole = 48 // num_repeats
    assert sorted(counts[counts > 0].tolist(), reverse=True)[:num_whole] == [num_repeats] * num_whole
    keys_of_all = torch.cat(
        [batches.sampler.step_indices(step).augmentation_keys(0, torch.device("cpu")) for step in range(4)]
    )
    assert len(keys_of_all.unique()) == 48  # every copy is augmented in its own way
    for _, _, chosen in epoch:
        assert bool((chosen[0::2] != chosen[1::2]).all())  # neighbours, who may be mixed, are different samples
    other = torch.cat([i for _, _, i in islice(batches.iter_from(4), 4)])
    assert not torch.equal(indices, other)


def test_repeats_take_the_samples_of_timms_sampler() -> None:
    """As RepeatAugSampler: the head of the permutation, each sample `repeats` times in a row, cut to N."""
    from timm.data.distributed_sampler import RepeatAugSampler

    sampler = RepeatAugSampler(range(NUM), num_replicas=1, rank=0, shuffle=False, num_repeats=3, selected_round=0)
    expected = torch.tensor(list(sampler))[:48].sort().values
    sampling = StatelessSampler(LABELS, 12, 0, num_repeats=3)
    order = StatelessSampler(LABELS, 1, 0)
    head = torch.cat([order.step_indices(step).indices for step in range(NUM)])
    place_of = head.argsort()
    result = torch.cat([place_of[sampling.step_indices(step).indices] for step in range(4)])
    assert torch.equal(result.sort().values, expected)


def test_copies_have_keys_of_their_own() -> None:
    own = hash_keys(3, 1, torch.arange(5))
    result = repeat_keys(own, torch.tensor([0, 1, 2, 0, 1]))
    assert result[[0, 3]].tolist() == own[[0, 3]].tolist()
    golden = 0x9E3779B97F4A7C15 - (1 << 64)
    assert result[1] == mix64(own[1] + golden)
    assert len({*result.tolist(), *own.tolist()}) == 8
    draw = StatelessSampler(LABELS, 10, 5, num_repeats=1).step_indices(7)
    assert draw.augmentation_keys(5, torch.device("cpu")).tolist() == [hash_key(5, 1, i) for i in draw.indices.tolist()]


def test_balanced_draws_every_class_equally_often() -> None:
    drawn = torch.cat([balanced_order(LABELS, NUM, 0, epoch) for epoch in range(400)])
    by_class = LABELS[drawn].bincount(minlength=4)
    assert by_class[2] == 0
    expected = len(drawn) / 3
    for number in by_class[[0, 1, 3]].tolist():
        assert abs(number - expected) < 5 * (expected * 2 / 3) ** 0.5
    by_sample = drawn.bincount(minlength=NUM)
    for label, size in ((0, 40), (1, 8), (3, 2)):
        mean = expected / size
        assert bool(((by_sample[label == LABELS] - mean).abs() < 5 * mean**0.5).all())
    assert not torch.equal(balanced_order(LABELS, NUM, 0, 0), balanced_order(LABELS, NUM, 0, 1))
    assert not torch.equal(balanced_order(LABELS, NUM, 0, 0), balanced_order(LABELS, NUM, 1, 0))


def test_balanced_batches_are_a_function_of_the_step() -> None:
    whole = list(islice(train(class_balanced=True).iter_from(), 9))
    for start in (1, 5):
        for one, other in zip(
            islice(train(class_balanced=True).iter_from(start), 9 - start), whole[start:], strict=True
        ):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    rare = [(i, x) for x, _, indices in whole[:4] for i, x in zip(indices.tolist(), x, strict=True) if i >= 48]
    for sample in (48, 49):  # drawn again and again, and augmented differently each time
        copies = torch.stack([x for i, x in rare if i == sample])
        assert len(copies) > 4
        assert len(copies.unique(dim=0)) > 2


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("batch", [1, 8, 50, 64])
def test_evaluation_is_shared_whole_batch_by_whole_batch(world_size: int, batch: int) -> None:
    alone = list(eval_loader(IMAGES, batch, PREPROCESS, "cpu"))
    shared = [
        list(eval_loader(IMAGES, batch, PREPROCESS, "cpu", rank=r, world_size=world_size)) for r in range(world_size)
    ]
    assert sum(map(len, shared)) == len(alone)
    for index, expected in enumerate(alone):
        result = shared[index % world_size][index // world_size]
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world_size": 5}, "a batch size that 5 ranks share evenly; got: 12; nearest valid: 10"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"rank": -1}, "rank -1 of 1"),
        ({"world_size": 0}, "rank 0 of 0"),
        ({"num_repeats": 0}, "num_repeats of 1 or more"),
        ({"batch": 51}, "nearest valid: 50"),
    ],
)
def test_invalid_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        train(**options)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_invalid_evaluation_ranks() -> None:
    with pytest.raises(ValueError, match="rank 3 of 2"):
        eval_loader(IMAGES, 8, PREPROCESS, "cpu", rank=3, world_size=2)


@pytest.mark.parametrize("num_repeats", [2, 3])
def test_copies_of_a_sample_have_both_alternating_bits(num_repeats: int) -> None:
    sampler = StatelessSampler(LABELS, 12, 0, num_repeats)
    bits: dict[tuple[int, int], list[int]] = {}
    for step in range(2 * sampler.num_steps_per_epoch):
        drawn = sampler.step_indices(step)
        keys = drawn.augmentation_keys(0, torch.device("cpu"), alternates=True)
        for index, key in zip(drawn.indices.tolist(), keys.tolist(), strict=True):
            bits.setdefault((drawn.epoch, index), []).append(key & 1)
    whole = {place: sum(values) for place, values in bits.items() if len(values) == num_repeats}
    assert len(whole) > 10
    assert all(0 < count < num_repeats for count in whole.values())
