"""Every operation on a batch and on one image, against torchvision; invalid expressions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from reslab.data.rng import RandomDraws, hash_keys, set_alternating_bit
from reslab.data.transforms.ops import random_crop_box, random_crop_boxes
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.data.transforms.steps import FUNCTIONS

IMAGES = torch.randint(0, 256, (64, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
KEYS = hash_keys(0, 0, torch.arange(64))

SAME = [
    "pad(4)",
    "pad(4,reflect)",
    "pad-to(36)",
    "pad-to(50,fill=90)",
    "random-resize(0.7,0.7)",
    "resize(20)",
    "resize(24,18)",
    "resize(24,bicubic)",
    "resize(24,18,bicubic)",
    "random-scale-crop(20,24,40)",
    "lighting(0.1)",
    "color-jitter(0.4,0.4,0.4,0.1)",
    "randaugment-torchvision(2,9)",
    "randaugment(9,0.5,3)",
    "center-crop(17)",
    "crop(32)",
    "flip",
    "flip(0.9)",
    "alternating-flip",
    "cutout(9)",
    "cutout(8,fill=90)",
    "pad(4) crop(32) flip",
    "randaugment",
    "trivial-augment",
    "erase(0.8)",
    "",
    "vertical-flip",
    "rotate(30,fill=90)",
    "affine(20,0.2,0.8,1.2,10)",
    "perspective(0.6,0.9)",
    "elastic(20,2)",
    "grayscale(0.5)",
    "gaussian-blur(5)",
    "sharpness(2)",
    "solarize(100)",
    "posterize(2)",
    "autocontrast",
    "equalize",
    "invert",
    "auto-augment(cifar10)",
    "augmix",
    "torchvision(ElasticTransform,alpha=50)",
    "torchvision(RandomApply,[GaussianNoise(sigma=0.3)],p=0.5)",
]


@pytest.mark.parametrize("words", SAME)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_one_image_equals_its_row_of_the_batch(words: str, kind: torch.dtype) -> None:
    augment = TransformPipeline(words)
    images = IMAGES[:16] if kind == torch.uint8 else IMAGES[:16] / 255
    batch = augment.apply_batch(images, KEYS[:16])
    assert batch.dtype == kind
    one = torch.stack(
        [augment.apply_image(image, number) for image, number in zip(images, KEYS.tolist(), strict=False)]
    )
    if "resize" in words and kind == torch.float32:
        torch.testing.assert_close(one, batch, rtol=0, atol=1e-6)  # summed in another order
    else:
        assert torch.equal(one, batch)


def test_every_operation_is_in_a_test() -> None:
    tried = " ".join(SAME) + " random-resized-crop"
    assert [name for name in FUNCTIONS if name not in tried] == []


BICUBIC = F.InterpolationMode.BICUBIC
DETERMINISTIC: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("pad(4)", lambda x: F.pad(x, [4])),
    ("pad(4,reflect)", lambda x: F.pad(x, [4], padding_mode="reflect")),
    ("resize(20)", lambda x: F.resize(x, [20], antialias=True)),
    ("resize(20,bicubic)", lambda x: F.resize(x, [20], BICUBIC, antialias=True)),
    ("center-crop(17)", lambda x: F.center_crop(x, [17])),
    ("center-crop(16)", lambda x: F.center_crop(x, [16])),
    ("flip(1)", F.horizontal_flip),
    ("flip(0)", lambda x: x),
    ("resize(26) center-crop(22)", v2.Compose([v2.Resize(26, antialias=True), v2.CenterCrop(22)])),
]


@pytest.mark.parametrize(("words", "reference"), DETERMINISTIC)
def test_deterministic_operations_equal_torchvision(words: str, reference: Callable[[Tensor], Tensor]) -> None:
    assert torch.equal(TransformPipeline(words).apply_batch(IMAGES, KEYS), reference(IMAGES))


def test_crop_takes_every_position() -> None:
    grid = torch.arange(40 * 40, dtype=torch.float32).view(1, 1, 40, 40).expand(3000, 1, 40, 40)
    result = TransformPipeline("crop(32)").apply_batch(grid, hash_keys(0, 0, torch.arange(3000)))
    tops, lefts = (result[:, 0, 0, 0] // 40).long(), (result[:, 0, 0, 0] % 40).long()
    for sample in (0, 1, 2):
        top, left = int(tops[sample]), int(lefts[sample])
        assert torch.equal(result[sample, 0], grid[0, 0, top : top + 32, left : left + 32])
    assert set(zip(tops.tolist(), lefts.tolist(), strict=True)) == {(y, x) for y in range(9) for x in range(9)}


def test_flip_turns_half() -> None:
    result = TransformPipeline("flip").apply_batch(IMAGES, KEYS)
    turned = (result == IMAGES.flip(3)).flatten(1).all(1)
    kept = (result == IMAGES).flatten(1).all(1)
    assert bool((turned ^ kept).all())
    assert 16 < int(turned.sum()) < 48


def test_cutout_equals_the_authors_code() -> None:
    """github.com/uoguelph-mlrg/Cutout, util/cutout.py, with our draws."""
    for size in (8, 9):
        result = TransformPipeline(f"cutout({size},fill=7)").apply_batch(IMAGES, KEYS)
        draws = RandomDraws(KEYS)
        for image, y, x, own in zip(IMAGES, draws.integers(0, 32), draws.integers(1, 40), result, strict=True):
            y1, x1 = (max(0, int(center) - size // 2) for center in (y, x))
            y2, x2 = (int(center) + (size + 1) // 2 for center in (y, x))  # the authors' sizes are even
            expected = image.clone()
            expected[:, y1:y2, x1:x2] = 7
            assert torch.equal(own, expected)


def test_alternating_flip_turns_each_image_in_every_second_epoch() -> None:
    indices, flip = torch.arange(64), TransformPipeline("alternating-flip")
    turned = []
    for epoch in range(4):
        keys = set_alternating_bit(hash_keys(5, epoch, indices), 5, epoch, indices)
        result = flip.apply_batch(IMAGES, keys)
        turned.append((result == IMAGES.flip(3)).flatten(1).all(1))
        assert bool((turned[-1] ^ (result == IMAGES).flatten(1).all(1)).all())
    assert torch.equal(turned[0], ~turned[1])
    assert torch.equal(turned[0], turned[2])
    assert torch.equal(turned[1], turned[3])
    assert 16 < int(turned[0].sum()) < 48


@pytest.mark.parametrize(
    "words",
    [
        "crop(8)",
        "flip",
        "random-resized-crop(8)",
        "randaugment",
        "erase(0.9)",
        "random-scale-crop(16,20,40)",
        "lighting(0.1)",
        "color-jitter(0.5)",
        "randaugment-torchvision",
    ],
)
def test_random_numbers_depend_on_the_sample_alone(words: str) -> None:
    augment = TransformPipeline(words)
    state = torch.get_rng_state()
    whole = augment.apply_batch(IMAGES, KEYS)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(augment.apply_batch(IMAGES[20:30], KEYS[20:30]), whole[20:30])
    assert not torch.equal(augment.apply_batch(IMAGES, hash_keys(0, 1, torch.arange(64))), whole)
    assert not torch.equal(augment.apply_batch(IMAGES, hash_keys(1, 0, torch.arange(64))), whole)


def test_the_same_operation_twice_draws_twice() -> None:
    once = TransformPipeline("flip").apply_batch(IMAGES, KEYS)
    assert not torch.equal(TransformPipeline("flip flip").apply_batch(IMAGES, KEYS), IMAGES)
    assert not torch.equal(TransformPipeline("flip flip").apply_batch(IMAGES, KEYS), once)


@pytest.mark.parametrize("size", [12, 32, 48])
@pytest.mark.parametrize("way", ["bilinear", "bicubic"])
def test_random_resized_crop_is_torchvisions_resize_of_its_box(size: int, way: str) -> None:
    augment = TransformPipeline(f"random-resized-crop({size},{way})")
    mode = F.InterpolationMode(way)
    batch = augment.apply_batch(IMAGES, KEYS).int()
    boxes = random_crop_boxes(RandomDraws(KEYS, 0), 32, 40, 0.08).tolist()
    for image, (top, left, height, width), result, number in zip(IMAGES, boxes, batch, KEYS.tolist(), strict=True):
        expected = F.resized_crop(image, top, left, height, width, [size, size], mode, antialias=True).int()
        assert int((result - expected).abs().max()) <= (1 if way == "bilinear" else 2)
        assert torch.equal(augment.apply_image(image, number).int(), expected)


def test_scale_crop_is_a_window_of_the_scaled_image() -> None:
    draws = RandomDraws(KEYS, 0)
    result = TransformPipeline("random-scale-crop(24,26,40)").apply_batch(IMAGES, KEYS)
    sides = (draws.integers(0, 15) + 26).tolist()
    assert (min(sides), max(sides)) == (26, 40)
    for image, side, window in zip(IMAGES, sides, result, strict=True):
        scaled = F.resize(image, [side], antialias=True)
        windows = scaled.unfold(1, 24, 1).unfold(2, 24, 1)  # C, tops, lefts, 24, 24
        assert bool((windows == window[:, None, None]).flatten(3).all(3).all(0).any())


def test_lighting_adds_the_principal_colours() -> None:
    """One colour an image, of the covariance P diag(l)^2 P^T std^2 (Krizhevsky et al. 2012, section 4.1)."""
    keys_of_many = hash_keys(0, 0, torch.arange(20000))
    added = TransformPipeline("lighting(0.1)").apply_batch(
        torch.zeros(20000, 3, 1, 2, dtype=torch.float64), keys_of_many
    )
    assert torch.equal(added[..., 0], added[..., 1])
    vectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    expected = vectors @ torch.diag(torch.tensor([0.2175, 0.0188, 0.0045]) ** 2) @ vectors.T * 0.01
    result = torch.cov(added[:, :, 0, 0].T).float()
    torch.testing.assert_close(result, expected, rtol=0.05, atol=2e-6)
    grey = torch.full((64, 3, 2, 2), 100, dtype=torch.uint8)
    changed = TransformPipeline("lighting(0.1)").apply_batch(grey, KEYS)
    exact = TransformPipeline("lighting(0.1)").apply_batch(grey / 255, KEYS) * 255
    assert float((changed - exact).abs().max()) <= 0.5 + 1e-4


def test_boxes_keep_their_bounds() -> None:
    draws = RandomDraws(hash_keys(0, 0, torch.arange(5000)), 0)
    top, left, height, width = random_crop_boxes(draws, 60, 80, 0.2).unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (top + height <= 60) & (left + width <= 80)).all())
    share = height * width / (60 * 80)
    assert 0.19 < float(share.min()) < 0.22
    assert float(share.max()) > 0.9
    assert bool(((width / height > 0.7) & (width / height < 1.4)).all())
    # A strip in which nothing fits: the middle box of the widest allowed aspect.
    assert random_crop_boxes(RandomDraws(KEYS, 0), 4, 400, 0.9).unique(dim=0).tolist() == [[0, 197, 4, 5]]


def refused(words: str, images: Tensor = IMAGES) -> str:
    with pytest.raises(ValueError) as caught:
        TransformPipeline(words).apply_batch(images, KEYS)
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("crp(32)", "nearest: 'crop'"),
        ("pad(4) centre-crop(32)", "nearest valid: center-crop(32)"),
        ("crop(33)", "nearest valid: crop(32)"),
        ("center-crop(41)", "nearest valid: center-crop(32)"),
        ("pad(32,reflect)", "nearest valid: pad(31,reflect)"),
        ("pad(4,edge)", "unknown mode of pad 'edge'"),
        ("crop", "crop(32)"),
        ("crop(0)", "size of crop as a whole number from 1"),
        ("crop(3.5)", "whole number"),
        ("crop(big)", "whole number"),
        ("crop32", "nearest valid: crop(32)"),
        ("flip(2)", "from 0 to 1"),
        ("flip(0.1,0.2)", "arguments (probability)"),
        ("crop(8", "check the brackets"),
        ("resize(20,cubic)", "whole number"),
        ("resize(20,bicubic,3)", "resize with its arguments (size, width, interpolation)"),
        ("random-scale-crop(30,20,40)", "size <= min_side <= max_side"),
        ("random-scale-crop(20,40,30)", "size <= min_side <= max_side"),
        ("randaugment(2,9)", "std of randaugment as a number from 0 to 5; got: randaugment(2,9)"),
        ("randaugment(11)", "magnitude of randaugment"),
        ("flip mixup(0.2)", "mixup(0.2), which mixes the images of a training batch"),
        ("flip mixpu(0.2)", "nearest: 'mixup'"),
    ],
)
def test_invalid_expressions(words: str, message: str) -> None:
    assert message in refused(words)


def test_the_box_of_one_image_is_that_of_the_batch() -> None:
    """Also where the numbers are drawn together for images of several sizes, in numpy and in torch."""
    for trial, (height, width) in enumerate([(300, 400), (1, 7), (40, 3), (2999, 1311), (8, 8), (375, 500), (3, 900)]):
        drawn = hash_keys(trial, 0, torch.arange(500))
        for least in (1e-4, 0.08, 0.9):
            expected = random_crop_boxes(RandomDraws(drawn, 2), height, width, least).tolist()
            assert [
                list(random_crop_box(draws, height, width, least)) for draws in RandomDraws(drawn, 2).per_sample()
            ] == expected
            assert list(random_crop_box(RandomDraws(drawn[7:8], 2), height, width, least)) == expected[7]


def test_images_one_by_one_equal_the_batch() -> None:
    drawn = hash_keys(3, 0, torch.arange(6))
    input_images = torch.randint(256, (6, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augment = TransformPipeline("random-resized-crop(16) flip crop(12) lighting(0.1) randaugment(9,0.5)")
    result = [augment.apply_draws(*pair) for pair in zip(input_images, augment.sample_draws(drawn), strict=True)]
    alone = [augment.apply_image(one_image, int(key)) for one_image, key in zip(input_images, drawn, strict=True)]
    assert all(torch.equal(*pair) for pair in zip(result, alone, strict=True))
    nothing, flip = TransformPipeline(""), TransformPipeline("flip")
    assert torch.equal(nothing.apply_draws(input_images[2], nothing.sample_draws(drawn)[2]), input_images[2])
    turned = [flip.apply_draws(*pair) for pair in zip(input_images, flip.sample_draws(drawn), strict=True)]
    assert torch.equal(torch.stack(turned), flip.apply_batch(input_images, drawn))
