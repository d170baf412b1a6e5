"""RandAugment against timm: every operation pixel for pixel, and how often and how strongly each is drawn."""

import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import timm.data.auto_augment as timms
import torch
from PIL import Image

from reslab.data.rng import RandomDraws, hash_keys
from reslab.data.transforms import rand_augment as ours
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.data.transforms.rand_augment import RAND_AUGMENT_OPS

NAMES = {
    "auto-contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize-add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear-x": "ShearX",
    "shear-y": "ShearY",
    "translate-x": "TranslateXRel",
    "translate-y": "TranslateYRel",
}
IMAGE = Image.fromarray(
    np.asarray(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)).resize(
            (53, 40), Image.Resampling.BICUBIC
        )
    )
)


def test_the_operations_are_timms_in_its_order() -> None:
    assert list(NAMES) == list(RAND_AUGMENT_OPS)
    assert [NAMES[name] for name in RAND_AUGMENT_OPS] == timms._RAND_INCREASING_TRANSFORMS


@pytest.mark.parametrize("name", RAND_AUGMENT_OPS)
@pytest.mark.parametrize("magnitude", [0.0, 3.3, 9.0, 10.0])
def test_an_operation_is_timms(name: str, magnitude: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for sign in (1.0, -1.0):
        for way in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
            operation = timms.AugmentOp(
                NAMES[name], 1.0, magnitude, {"img_mean": (128, 128, 128), "interpolation": way}
            )
            chosen = SimpleNamespace(random=lambda sign=sign: 0.25 if sign > 0 else 0.75)
            monkeypatch.setattr(timms, "random", chosen)
            black = name == "posterize" and magnitude == 10  # no bit is kept, which today's Pillow refuses
            expected = np.zeros((40, 53, 3)) if black else np.asarray(operation(IMAGE))
            result = np.asarray(RAND_AUGMENT_OPS[name](IMAGE, magnitude / 10, sign, way))
            assert np.array_equal(result, expected)


def test_an_image_is_a_function_of_its_draws() -> None:
    pixels = torch.from_numpy(np.array(IMAGE)).permute(2, 0, 1)
    images = pixels.expand(40, -1, -1, -1)
    sample_keys = hash_keys(0, 0, torch.arange(40))
    result = TransformPipeline("randaugment(9,0.5)").apply_batch(images, sample_keys)
    draws = RandomDraws(sample_keys, 0)
    numbers = torch.stack([draws.uniform(k) for k in range(12)], 1)
    changed = 0
    for row, image in zip(numbers.tolist(), result, strict=True):
        expected = IMAGE
        for which, applied, radius, angle, sign, way in (row[:6], row[6:]):
            if applied < 0.5:
                normal = np.sqrt(-2 * np.log(1 - radius)) * np.cos(2 * np.pi * angle)
                level = min(max(9 + 0.5 * normal, 0), 10) / 10
                name = list(RAND_AUGMENT_OPS)[int(which * 15)]
                mode = Image.Resampling.BILINEAR if way < 0.5 else Image.Resampling.BICUBIC
                expected = RAND_AUGMENT_OPS[name](expected, level, 1.0 if sign < 0.5 else -1.0, mode)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected))
        changed += not torch.equal(image, pixels)
    assert 20 < changed < 40


def test_operations_and_magnitudes_come_as_often_as_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 6,000 layers: every operation in 1/30 of them, the levels those of timm's draws."""
    seen: dict[str, list[list[float]]] = {"ours": [], "timm": []}
    names: Counter[int] = Counter()

    def recorded(index: int):  # type: ignore[no-untyped-def]
        def operation(image, level, sign, way):  # type: ignore[no-untyped-def]
            names[index] += 1
            seen["ours"].append([level * sign, way == Image.Resampling.BICUBIC])
            return image

        return operation

    monkeypatch.setattr(ours, "_OPS_IN_ORDER", tuple(recorded(index) for index in range(15)))
    TransformPipeline("randaugment(7,1)").apply_batch(
        torch.zeros(3000, 1, 2, 2, dtype=torch.uint8), hash_keys(0, 0, torch.arange(3000))
    )
    assert set(names) == set(range(15))
    assert all(abs(number - 200) < 60 for number in names.values())  # four standard deviations are 56
    random.seed(0)
    transform = timms.AugmentOp("ShearX", 0.5, 7, {"magnitude_std": 1.0})
    monkeypatch.setitem(timms.NAME_TO_OP, "ShearX", None)
    transform.aug_fn = lambda img, factor, **_: seen["timm"].append([factor / 0.3, 0.0])  # type: ignore[assignment]
    for _ in range(6000):
        transform(IMAGE)
    actual, theirs = np.array(seen["ours"]), np.array(seen["timm"])
    assert abs(len(actual) - len(theirs)) < 250
    assert abs(actual[:, 0].mean()) < 0.05  # signs are even
    assert abs(actual[:, 1].mean() - 0.5) < 0.04  # the two ways of interpolation too
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert abs(np.quantile(abs(actual[:, 0]), share) - np.quantile(abs(theirs[:, 0]), share)) < 0.02


def test_randaugment_keeps_gray_and_rejects_four_channels() -> None:
    grey = torch.randint(0, 256, (30, 1, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sample_keys = hash_keys(0, 0, torch.arange(30))
    assert TransformPipeline("randaugment").apply_batch(grey, sample_keys).shape == (30, 1, 9, 7)
    with pytest.raises(ValueError, match="4 channels"):
        TransformPipeline("randaugment").apply_batch(torch.zeros(2, 4, 8, 8, dtype=torch.uint8), sample_keys[:2])
    with pytest.raises(ValueError, match="pixels from 0 to 1 for randaugment; got: 0 to 3"):
        TransformPipeline("randaugment").apply_batch(torch.linspace(0, 3, 48).view(2, 1, 4, 6), sample_keys[:2])
