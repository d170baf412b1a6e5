"""MixUp and CutMix: timm's arithmetic bit for bit, lambdas of their distribution, batches as functions of the step."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import timm.data.mixup as timms
import torch
from PIL import Image

from reslab.data.image_datasets import FileImageDataset, TensorImageDataset
from reslab.data.loader import TrainLoader, eval_loader
from reslab.data.transforms.mixup import BatchMixer, MixParams, cutmix_box, mix_images, mix_targets, swap_neighbors
from reslab.data.transforms.pipeline import parse_train_transform
from reslab.spec.preprocess import Preprocess

NUM, CLASSES = 24, 4
PIXELS = torch.randint(0, 256, (NUM, 3, 8, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(NUM) * 7 % CLASSES
PREPROCESS = Preprocess(3, "", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
IN_MEMORY = TensorImageDataset(PIXELS, LABELS)
# timm mixes entry i with entry N - 1 - i; ours are neighbours: this order brings ours to timm's places.
TO_TIMM = torch.tensor([0, 2, 4, 6, 7, 5, 3, 1])


@pytest.mark.parametrize("lam", [0.0, 0.137, 0.5, 0.91, 1.0])
def test_mixup_is_timms(lam: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(8, 3, 8, 10), LABELS[:8]
    theirs = timms.Mixup(mixup_alpha=1.0, label_smoothing=0.0, num_classes=CLASSES)
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (lam, False))
    expected_x, expected_y = theirs(x[TO_TIMM].clone(), y[TO_TIMM])
    result = mix_images(x.clone(), MixParams(lam))
    assert torch.equal(result[TO_TIMM], expected_x)
    assert torch.equal(mix_targets(y, CLASSES, lam)[TO_TIMM], expected_y)


@pytest.mark.parametrize("lam", [0.0, 0.137, 0.5, 0.91, 1.0])
@pytest.mark.parametrize("middle", [(0, 0), (3, 4), (7, 9), (5, 0)])
def test_cutmix_is_timms(lam: float, middle: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(8, 3, 8, 10), LABELS[:8]
    theirs = timms.Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=CLASSES)
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (lam, True))
    places = iter(middle)
    monkeypatch.setattr(timms.np.random, "randint", lambda low, high, size=None: next(places))
    expected_x, expected_y = theirs(x[TO_TIMM].clone(), y[TO_TIMM])
    if lam == 1.0:  # timm leaves such a batch before it looks for a box
        middle = (0, 0)
    top, left, bottom, right = box = cutmix_box(lam, *middle, 8, 10)
    corrected = 1 - (bottom - top) * (right - left) / 80
    assert torch.equal(mix_images(x.clone(), MixParams(corrected, box))[TO_TIMM], expected_x)
    torch.testing.assert_close(mix_targets(y, CLASSES, corrected)[TO_TIMM], expected_y, rtol=0, atol=1e-7)


def test_partners_are_neighbors() -> None:
    assert swap_neighbors(torch.arange(6)).tolist() == [1, 0, 3, 2, 5, 4]
    assert swap_neighbors(torch.arange(5)).tolist() == [1, 0, 3, 2, 0]
    assert swap_neighbors(torch.arange(1)).tolist() == [0]


def train(images: object, words: str = "flip mixup(0.4) cutmix(1)", batch: int = 8, **options: object) -> TrainLoader:
    return TrainLoader(images, batch, words, PREPROCESS, 0, "cpu", num_classes=CLASSES, **options)  # type: ignore[arg-type]


def test_a_batch_is_the_mix_that_its_step_draws() -> None:
    plain = list(islice(train(IN_MEMORY, "flip").iter_from(), 12))
    boxes = 0
    for step, (x, targets, indices) in enumerate(islice(train(IN_MEMORY).iter_from(), 12)):
        own, y, same = plain[step]
        assert torch.equal(indices, same)
        how = BatchMixer(0.4, 1.0).sample_params(0, step, 8, 10)
        boxes += how.box is not None
        other, other_y = swap_neighbors(own), swap_neighbors(torch.nn.functional.one_hot(y, CLASSES).float())
        if how.box is None:
            expected = own * how.lam + other * (1 - how.lam)
        else:
            top, left, bottom, right = how.box
            expected = own.clone()
            expected[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
            assert how.lam == 1 - (bottom - top) * (right - left) / 80
        torch.testing.assert_close(x, expected)
        torch.testing.assert_close(targets, torch.nn.functional.one_hot(y, CLASSES) * how.lam + other_y * (1 - how.lam))
        assert (targets.dtype, targets.shape) == (torch.float32, (8, CLASSES))
        torch.testing.assert_close(targets.sum(1), torch.ones(8))
        torch.nn.functional.cross_entropy(torch.zeros(8, CLASSES), targets)
    assert 2 < boxes < 10


@pytest.mark.parametrize("workers", [0, 1])
def test_any_start_and_workers_give_the_same_mixes(tmp_path: Path, workers: int) -> None:
    for i, image in enumerate(PIXELS):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i:02}.png")
    files = FileImageDataset(tuple(tmp_path / f"{i:02}.png" for i in range(NUM)), LABELS, 3, tmp_path)
    whole = list(islice(train(IN_MEMORY).iter_from(), 9))
    for start in (0, 4):
        result = list(islice(train(files, num_workers=workers).iter_from(start), 9 - start))
        for one, other in zip(result, whole[start:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("num_repeats", [1, 3])
def test_ranks_together_are_one(world_size: int, num_repeats: int) -> None:
    whole = list(islice(train(IN_MEMORY, num_repeats=num_repeats).iter_from(1), 6))
    parts = [
        list(islice(train(IN_MEMORY, num_repeats=num_repeats, rank=rank, world_size=world_size).iter_from(1), 6))
        for rank in range(world_size)
    ]
    for step, batch in enumerate(whole):
        for index, expected in enumerate(batch):
            assert torch.equal(torch.cat([part[step][index] for part in parts]), expected)


def test_lambdas_are_of_the_beta_distribution() -> None:
    for alpha in (0.2, 1.0):
        result = np.sort([BatchMixer(mixup=alpha).sample_params(0, step, 8, 8).lam for step in range(4000)])
        expected = np.sort(np.random.default_rng(0).beta(alpha, alpha, 4000))
        assert abs(result - expected).max() < 0.06
        assert abs(result.mean() - 0.5) < 0.03
    boxes = [BatchMixer(0.2, 1.0).sample_params(0, step, 8, 8).box is not None for step in range(2000)]
    assert abs(np.mean(boxes) - 0.5) < 0.05
    assert all(BatchMixer(cutmix=1.0).sample_params(0, step, 8, 8).box for step in range(50))
    assert (
        BatchMixer(0.2).sample_params(0, 3, 8, 8)
        != BatchMixer(0.2).sample_params(1, 3, 8, 8)
        != BatchMixer(0.2).sample_params(1, 4, 8, 8)
    )


def test_everything_is_made_on_the_device() -> None:
    batches = TrainLoader(IN_MEMORY, 7, "flip mixup(1) cutmix(1)", PREPROCESS, 0, "meta")
    for batch in islice(batches.iter_from(), 4):
        assert [part.device.type for part in batch] == ["meta"] * 3
        assert batch[1].shape == (7, CLASSES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mixup(0.2) flip", "nearest valid: flip mixup(0.2)"),
        ("mixup", "mixup with its arguments (alpha)"),
        ("mixup(0)", "alpha of mixup as a number from 0.001"),
        ("cutmix(-1)", "alpha of cutmix"),
        ("mixup(1) mixup(2)", "mixup once in a transform"),
        ("mixup(1,2)", "nearest valid: mixup(0.2)"),
        ("cutmx(1)", "nearest: 'cutmix'"),
    ],
)
def test_invalid_expressions(words: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_train_transform(words)
    assert message in str(caught.value)


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="an even number each"):
        train(IN_MEMORY, batch=6, world_size=2)
    with pytest.raises(ValueError, match="at least 4 classes for labels up to 3; got: 3"):
        TrainLoader(IN_MEMORY, 8, "mixup(1)", PREPROCESS, 0, "cpu", num_classes=3)
    with pytest.raises(ValueError, match="mixes the images of a training batch"):
        eval_loader(IN_MEMORY, 8, Preprocess(3, "mixup(1)", PREPROCESS.mean, PREPROCESS.std), "cpu")
