"""Images with boxes and masks: moved to the bit as torchvision.transforms.v2 moves them with the same parameters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from reslab.data.rng import RandomDraws, hash_key, hash_keys
from reslab.data.transforms import kernels, ops
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.data.transforms.steps import FUNCTIONS
from reslab.spec.transform_grammar import bind_args, parse_transforms
from reslab.spec.transforms import TRANSFORMS, TransformKind

SIZE = (40, 56)
IMAGE = torch.randint(20, 220, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
KEYS = hash_keys(1, 4, torch.arange(12)).tolist()
FILL = {tv_tensors.Image: 90, "others": 0}


def target() -> dict[str, Any]:
    mask = torch.zeros(2, *SIZE, dtype=torch.uint8)
    mask[0, 5:21, 8:30], mask[1, 12:38, 25:50] = 1, 2
    boxes = torch.tensor([[8, 5, 30, 21], [25, 12, 50, 38]])
    return {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=SIZE),
        "centers": tv_tensors.BoundingBoxes(torch.tensor([[19.0, 13, 22, 16]]), format="CXCYWH", canvas_size=SIZE),
        "mask": tv_tensors.Mask(mask),
        "labels": torch.tensor([1, 2]),
        "name": "sample",
    }


def sized(transform: v2.Transform, params: dict[str, Any]) -> v2.Transform:
    """torchvision's transform with these parameters in place of random ones."""
    transform.make_params = lambda flat_inputs: params
    return transform


def crop_params(top: int, left: int, height: int, width: int) -> dict[str, Any]:
    return {"top": top, "left": left, "height": height, "width": width}


def torchvision_crop(draws: RandomDraws) -> v2.Transform:
    top, left = int(draws.integers(0, SIZE[0] - 23)), int(draws.integers(1, SIZE[1] - 23))
    padding = {"needs_crop": True, "needs_pad": False, "padding": [0, 0, 0, 0]}
    return sized(v2.RandomCrop(24), {**crop_params(top, left, 24, 24), **padding})


Resampling = Callable[[Tensor, Any], tuple[Tensor, Any]]


def resampling(
    make: Callable[[F.InterpolationMode], v2.Transform], mode: F.InterpolationMode = F.InterpolationMode.BILINEAR
) -> Resampling:
    """torchvision's transform, of masks by `nearest-exact`: its own choice for masks shifts them against the image."""

    def run(image: Tensor, target: dict[str, Any]) -> tuple[Tensor, Any]:
        mask = make(F.InterpolationMode.NEAREST_EXACT)(tv_tensors.Image(target["mask"]))
        moved, others = make(mode)(image, target)
        return moved, {**others, "mask": tv_tensors.Mask(mask.as_subclass(Tensor))}

    return run


def torchvision_scale_crop(draws: RandomDraws) -> Resampling:
    ((height, width, top, left),) = ops.scale_crop_boxes(draws, *SIZE, size=20, min_side=24, max_side=60)
    padding = {"needs_crop": True, "needs_pad": False, "padding": [0, 0, 0, 0]}
    crop = sized(v2.RandomCrop(20), {**crop_params(top, left, 20, 20), **padding})
    return resampling(lambda mode: v2.Compose([v2.Resize([height, width], mode), crop]))


def torchvision_random_resize(draws: RandomDraws) -> Resampling:
    scale = (0.5 + 1.1 * float(draws.uniform(0))) * 30 / 40
    return resampling(lambda mode: v2.Resize([round(40 * scale), round(56 * scale)], mode))


def torchvision_perspective(draws: RandomDraws) -> v2.Transform:
    corners = kernels.perspective_corners(draws, SIZE, 0.6)
    coefficients = F._geometry._get_perspective_coeffs(*corners)
    transform = v2.RandomPerspective(p=float(draws.bernoulli(0, 0.7)), fill=FILL)
    return sized(transform, {"coefficients": coefficients})


def torchvision_affine(draws: RandomDraws) -> v2.Transform:
    params = kernels.affine_params(draws, SIZE, (20.0, 0.2, 0.8, 1.2, 10.0))
    return sized(v2.RandomAffine(0, interpolation=F.InterpolationMode.BILINEAR, fill=FILL), params)


def torchvision_elastic(draws: RandomDraws) -> v2.Transform:
    return sized(v2.ElasticTransform(fill=FILL), {"displacement": kernels.elastic_displacement(draws, SIZE, 40, 3)})


def torchvision_rotation(draws: RandomDraws) -> v2.Transform:
    angle = (2 * float(draws.uniform(0)) - 1) * 30
    return sized(v2.RandomRotation(30, F.InterpolationMode.BILINEAR, fill=FILL), {"angle": angle})


SAME: dict[str, Callable[[RandomDraws], Callable[..., Any]]] = {
    "pad(3)": lambda draws: v2.Pad(3),
    "pad-to(50,fill=90)": lambda draws: v2.Pad([0, 0, 0, 10], fill=FILL),
    "crop(24)": torchvision_crop,
    "flip(0.4)": lambda draws: v2.RandomHorizontalFlip(float(draws.bernoulli(0, 0.4))),
    "alternating-flip": lambda draws: v2.RandomHorizontalFlip(float(draws.alternating_bit)),
    "vertical-flip(0.4)": lambda draws: v2.RandomVerticalFlip(float(draws.bernoulli(0, 0.4))),
    "resize(30)": lambda draws: resampling(lambda mode: v2.Resize(30, mode)),
    "resize(30,33,bicubic)": lambda draws: resampling(
        lambda mode: v2.Resize([30, 33], mode), F.InterpolationMode.BICUBIC
    ),
    "random-resize(0.5,1.6,30)": torchvision_random_resize,
    "center-crop(33)": lambda draws: v2.CenterCrop(33),
    "random-resized-crop(24)": lambda draws: resampling(
        lambda mode: sized(
            v2.RandomResizedCrop(24, interpolation=mode), crop_params(*ops.random_crop_box(draws, *SIZE, 0.08))
        )
    ),
    "random-scale-crop(20,24,60)": torchvision_scale_crop,
    "rotate(30,fill=90)": torchvision_rotation,
    "affine(20,0.2,0.8,1.2,10,fill=90)": torchvision_affine,
    "perspective(0.6,0.7,fill=90)": torchvision_perspective,
    "elastic(40,3,fill=90)": torchvision_elastic,
}


def assert_same_sample(result: tuple[Tensor, Any], expected: tuple[Tensor, Any]) -> None:
    assert torch.equal(result[0], expected[0].as_subclass(Tensor))
    for name, value in expected[1].items():
        if not isinstance(value, Tensor):
            assert result[1][name] == value
            continue
        assert type(result[1][name]) is type(value)
        assert torch.equal(result[1][name].as_subclass(Tensor), value.as_subclass(Tensor)), name
        if isinstance(value, tv_tensors.BoundingBoxes):
            assert (result[1][name].canvas_size, result[1][name].format) == (value.canvas_size, value.format)


@pytest.mark.parametrize("expression", SAME)
def test_a_geometric_transform_is_torchvisions(expression: str) -> None:
    pipeline, (call,) = TransformPipeline(expression), parse_transforms(expression)
    for key in KEYS:
        draws = RandomDraws(torch.tensor([key]), 0)
        expected = SAME[expression](draws)(tv_tensors.Image(IMAGE), target())
        result = pipeline.apply_sample(IMAGE, target(), key)
        assert_same_sample(result, expected)
        assert torch.equal(result[0], pipeline.apply_image(IMAGE, key))
    assert TRANSFORMS[call.name].kind is TransformKind.GEOMETRIC


def test_every_geometric_transform_is_compared() -> None:
    compared = {call.name for expression in SAME for call in parse_transforms(expression)}
    assert compared == {name for name, spec in TRANSFORMS.items() if spec.kind is TransformKind.GEOMETRIC}


def chance(draws: RandomDraws, probability: float) -> float:
    return float(draws.bernoulli(0, probability))


COLOR: dict[str, Callable[[RandomDraws], v2.Transform]] = {
    "grayscale(0.5)": lambda draws: v2.RandomGrayscale(chance(draws, 0.5)),
    "gaussian-blur(7,0.5,3)": lambda draws: sized(
        v2.GaussianBlur(7), {"sigma": [0.5 + 2.5 * float(draws.uniform(1))] * 2}
    ),
    "sharpness(1.7)": lambda draws: v2.RandomAdjustSharpness(1.7, chance(draws, 0.5)),
    "solarize(100)": lambda draws: v2.RandomSolarize(100, chance(draws, 0.5)),
    "posterize(3)": lambda draws: v2.RandomPosterize(3, chance(draws, 0.5)),
    "autocontrast": lambda draws: v2.RandomAutocontrast(chance(draws, 0.5)),
    "equalize": lambda draws: v2.RandomEqualize(chance(draws, 0.5)),
    "invert": lambda draws: v2.RandomInvert(chance(draws, 0.5)),
}


@pytest.mark.parametrize("expression", COLOR)
def test_a_color_transform_is_torchvisions_and_leaves_the_target(expression: str) -> None:
    pipeline, applied = TransformPipeline(expression), 0
    for key in KEYS:
        draws = RandomDraws(torch.tensor([key]), 0)
        expected = COLOR[expression](draws)(tv_tensors.Image(IMAGE), target())
        result = pipeline.apply_sample(IMAGE, target(), key)
        assert_same_sample(result, expected)
        assert torch.equal(result[1]["mask"], target()["mask"])
        applied += not torch.equal(result[0], IMAGE)
    assert applied > 2


def seeded(make: Callable[[], v2.Transform]) -> Callable[[RandomDraws, Tensor], Tensor]:
    def run(draws: RandomDraws, image: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(draws.bits(0)[0]) & (1 << 63) - 1)
            return make()(image)

    return run


SEEDED = {
    "color-jitter(0.4,0.3,0.2,0.1)": seeded(lambda: v2.ColorJitter(0.4, 0.3, 0.2, 0.1)),
    "erase(0.7)": seeded(lambda: v2.RandomErasing(0.7)),
    "randaugment-torchvision(3,8)": seeded(lambda: v2.RandAugment(3, 8)),
    "trivial-augment": seeded(lambda: v2.TrivialAugmentWide()),
    "auto-augment(svhn)": seeded(lambda: v2.AutoAugment(v2.AutoAugmentPolicy.SVHN)),
    "augmix(2,4)": seeded(lambda: v2.AugMix(2, 4)),
    "torchvision(ElasticTransform,alpha=50)": seeded(lambda: v2.ElasticTransform(alpha=50)),
    "torchvision(RandomPosterize,bits=2,p=0.5)": seeded(lambda: v2.RandomPosterize(2, 0.5)),
    "torchvision(RandomChoice,[GaussianNoise(sigma=0.2),torchvision(RandomInvert,1)])": seeded(
        lambda: v2.RandomChoice([v2.GaussianNoise(sigma=0.2), v2.RandomInvert(1)])
    ),
    "torchvision(AutoAugment,policy=cifar10,interpolation=bilinear)": seeded(
        lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, F.InterpolationMode.BILINEAR)
    ),
    "torchvision(ToDtype,dtype=float32,scale=true)": lambda draws, image: F.to_dtype(image, torch.float32, scale=True),
}


@pytest.mark.parametrize("expression", SEEDED)
def test_a_transform_under_the_seed_of_its_sample(expression: str) -> None:
    pipeline = TransformPipeline(expression)
    for key in KEYS[:4]:
        draws = RandomDraws(torch.tensor([key]), 0)
        assert torch.equal(pipeline.apply_image(IMAGE, key), SEEDED[expression](draws, IMAGE))


def test_every_transform_is_compared_with_another_library() -> None:
    compared = {call.name for expression in (*SAME, *COLOR, *SEEDED) for call in parse_transforms(expression)}
    elsewhere = {"randaugment", "lighting", "cutout"}  # timm, the covariance of the paper, the authors' code
    assert set(FUNCTIONS) == (compared | elsewhere) - {"torchvision"}


def test_a_pipeline_moves_a_sample_as_its_image() -> None:
    expression = "random-scale-crop(32,36,64) flip rotate(20) color-jitter(0.4) erase(0.5) lighting(0.1) grayscale(0.5)"
    pipeline = TransformPipeline(expression)
    for key in KEYS:
        coordinates = torch.stack(torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij"))
        # A mask that shows every pixel's own number tells where the pixels of the image went.
        number = tv_tensors.Mask(coordinates[0] * SIZE[1] + coordinates[1] + 1)
        image, (moved, untouched) = pipeline.apply_sample(tv_tensors.Image(IMAGE), [number, {"label": 3}], key)
        assert type(image) is Tensor
        assert torch.equal(image, pipeline.apply_image(IMAGE, key))
        assert (tuple(moved.shape), untouched) == ((32, 32), {"label": 3})
        assert moved.unique().numel() > 200


def test_torchvision_moves_boxes_too() -> None:
    pipeline = TransformPipeline("torchvision(RandomIoUCrop) torchvision(SanitizeBoundingBoxes) resize(32,32)")
    sample = {"boxes": target()["boxes"], "labels": torch.tensor([1, 2])}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(RandomDraws(torch.tensor([KEYS[3]]), 0).bits(0)) & (1 << 63) - 1)
        expected = v2.Compose([v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes(), v2.Resize([32, 32])])(
            tv_tensors.Image(IMAGE), sample
        )
    assert_same_sample(pipeline.apply_sample(IMAGE, sample, KEYS[3]), expected)


def sample_error(expression: str, part: Any) -> str:
    with pytest.raises(ValueError) as caught:
        TransformPipeline(expression).apply_sample(IMAGE, {"part": part}, 5)
    return str(caught.value)


@pytest.mark.parametrize("name", [name for name, spec in TRANSFORMS.items() if spec.kind is TransformKind.POLICY])
def test_a_policy_has_no_way_to_move_boxes(name: str) -> None:
    assert f"without boxes and masks for {name}" in sample_error(name, target()["boxes"])
    image, labels = TransformPipeline(name).apply_sample(IMAGE, {"labels": torch.tensor(3)}, 5)
    assert torch.equal(image, TransformPipeline(name).apply_image(IMAGE, 5))
    assert labels == {"labels": torch.tensor(3)}


def test_samples_that_do_not_fit() -> None:
    assert "nearest valid: pad(3)" in sample_error("pad(3,reflect)", target()["boxes"])
    masks = TransformPipeline("pad(3,reflect)").apply_sample(IMAGE, target()["mask"], 5)[1]
    assert torch.equal(masks, F.pad(target()["mask"], [3], padding_mode="reflect"))
    small = tv_tensors.Mask(torch.zeros(8, 9))
    assert "required: boxes and masks of 40x56, like the image; got: 8x9" in sample_error("flip", small)


def test_a_seed_of_its_own_for_every_sample() -> None:
    """Elastic fields differ between samples, are uniform before smoothing, and smooth as torchvision's."""
    fields = [
        kernels.elastic_displacement(RandomDraws(torch.tensor([hash_key(0, 0, i)])), SIZE, 1.0, 0.1) for i in range(2)
    ]
    assert not torch.equal(*fields)
    scaled = fields[0] * torch.tensor([SIZE[1], SIZE[0]])
    assert -1 <= float(scaled.min()) < -0.99
    assert abs(float(scaled.mean())) < 0.03
    smooth = kernels.elastic_displacement(RandomDraws(torch.tensor([hash_key(0, 0, 0)])), SIZE, 1.0, 2.0)
    expected = F.gaussian_blur(scaled.permute(3, 0, 1, 2), [17, 17], [2.0, 2.0]).permute(1, 2, 3, 0)
    torch.testing.assert_close(smooth * torch.tensor([SIZE[1], SIZE[0]]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("torchvision(Elastic)", "unknown transform of torchvision 'Elastic'; nearest: 'ElasticTransform'"),
        ("torchvision(MixUp,num_classes=3)", "nearest valid: mixup(0.2)"),
        ("torchvision(RandomRotation)", "RandomRotation(degrees"),
        ("torchvision(GaussianBlur,4)", "Kernel size value should be an odd and positive number"),
        ("torchvision(Resize,8,interpolation=cubic)", "unknown interpolation 'cubic'; nearest: 'bicubic'"),
        ("torchvision(FiveCrop,8)", "an image tensor (C, H, W) from torchvision(FiveCrop,8); got: a tuple"),
        ("gaussian-blur(81)", "nearest valid: gaussian-blur(79)"),
    ],
)
def test_invalid_transforms_of_torchvision(expression: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        TransformPipeline(expression).apply_image(IMAGE, 3)
    assert message in str(caught.value)


def test_values_and_channels_that_do_not_fit() -> None:
    floats = IMAGE / 255 - 0.5
    for name in ("color-jitter(0.4)", "solarize", "trivial-augment", "invert", "equalize", "augmix"):
        with pytest.raises(ValueError, match=f"pixels from 0 to 1 for {parse_transforms(name)[0].name}"):
            TransformPipeline(name).apply_image(floats, 3)
    for name in ("color-jitter(0.4)", "sharpness(2)", "autocontrast", "grayscale(1)", "trivial-augment"):
        with pytest.raises(ValueError, match=f"1 or 3 channels for {parse_transforms(name)[0].name}; got: 4 channels"):
            TransformPipeline(name).apply_image(torch.zeros(4, 8, 8, dtype=torch.uint8), 3)
        gray = torch.zeros(1, 8, 8, dtype=torch.uint8)
        assert TransformPipeline(name).apply_image(gray, 3).shape == (1, 8, 8)
    assert bind_args(*parse_transforms("solarize")) == (128, 0.5)
