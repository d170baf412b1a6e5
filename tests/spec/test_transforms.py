"""Transform expressions: their grammar, their arguments, and the errors that name the nearest valid one."""

import subprocess
import sys

import pytest

from reslab.spec.recipe import Recipe, apply_recipe_overrides
from reslab.spec.recipes import RECIPES
from reslab.spec.transform_grammar import TransformCall, bind_args, check_transforms, parse_transforms
from reslab.spec.transforms import TRANSFORMS, TransformKind


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("flip", TransformCall("flip")),
        ("pad( 4 , reflect )", TransformCall("pad", (4, "reflect"))),
        ("a(-1.5, 1e-3, .5)", TransformCall("a", (-1.5, 1e-3, 0.5))),
        ("a(k=1, size=[2, (3.0, x)])", TransformCall("a", (), (("k", 1), ("size", (2, (3.0, "x")))))),
        ("a('two words', true, None)", TransformCall("a", ("two words", True, None))),
        ("a('none', [])", TransformCall("a", ("none", ()))),
        (
            "torchvision(RandomApply, [GaussianBlur(9, sigma=[0.1, 2]), Identity()], p=0.3)",
            TransformCall(
                "torchvision",
                (
                    "RandomApply",
                    (TransformCall("GaussianBlur", (9,), (("sigma", (0.1, 2)),)), TransformCall("Identity")),
                ),
                (("p", 0.3),),
            ),
        ),
        ("callable(my_module.Sharpen)", TransformCall("callable", ("my_module.Sharpen",))),
    ],
)
def test_a_call_is_read_and_written(text: str, call: TransformCall) -> None:
    assert parse_transforms(f" {text}\t") == (call,)
    assert parse_transforms(str(call)) == (call,)


def test_calls_are_separated_by_spaces() -> None:
    assert [str(call) for call in parse_transforms("pad(4) crop( 32 )\n flip")] == ["pad(4)", "crop(32)", "flip"]
    assert parse_transforms("  ") == ()


@pytest.mark.parametrize(
    "text", ["crop(8", "crop(8))", "crop(8)flip", "4 flip", "a(1,,2)", "a(,1)", "a(k=1,2)", "a(k=1,k=2)", "a([1)", "é"]
)
def test_text_that_is_no_expression(text: str) -> None:
    with pytest.raises(ValueError, match=r"required: transforms such as 'random-resized-crop\(224\) flip'"):
        parse_transforms(text)


def test_the_error_for_a_number_alone_names_transforms() -> None:
    with pytest.raises(ValueError) as caught:
        apply_recipe_overrides(RECIPES["cifar"], {"train_transform": "64"})
    assert "required: transforms such as" in str(caught.value)
    assert "nearest valid: 'random-resized-crop(64) flip'" in str(caught.value)
    assert "`reslab transforms`" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("horizontal-flip", "flip"),
        ("HorizontalFlip(0.3)", "flip(0.3)"),
        ("random_horizontal_flip", "flip"),
        ("RandomResizedCrop(224)", "random-resized-crop(224)"),
        ("RandomVerticalFlip", "vertical-flip"),
        ("random-crop(32)", "crop(32)"),
        ("RandomCrop(32,padding=4)", "crop(32)"),
        ("rotation(10)", "rotate(10)"),
        ("RandomRotation(10)", "rotate(10)"),
        ("gray(0.1)", "grayscale(0.1)"),
        ("RandomGrayscale", "grayscale(0.2)"),
        ("ColorJitter(0.2,0.2)", "color-jitter(0.2,0.2)"),
        ("blur(5)", "gaussian-blur(5)"),
        ("random-erasing(0.5)", "erase(0.5)"),
        ("TrivialAugmentWide", "trivial-augment"),
        ("RandAugment(7)", "randaugment(7)"),
        ("AugMix", "augmix"),
        ("MixUp(0.3)", "mixup(0.3)"),
        ("Rotate(20)", "rotate(20)"),
        ("Crop", "crop(32)"),
    ],
)
def test_the_error_for_a_name_of_another_library_names_ours(text: str, nearest: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_transforms(text)
    assert f"nearest valid: {nearest}; " in str(caught.value)
    assert "`reslab transforms` lists all" in str(caught.value)
    check_transforms(nearest)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rotat(10)", "unknown transform 'rotat'; nearest: 'rotate'"),
        ("ScaleJitter2(3)", "torchvision(ScaleJitter2,3)"),
        ("xyzzy", "`reslab transforms` lists all"),
        ("rotate", "rotate with its arguments (degrees, interpolation, fill)"),
        ("rotate(degree=3)", "unknown argument of rotate 'degree'; nearest: 'degrees'"),
        ("rotate(200)", "degrees of rotate as a number from 0 to 180; got: rotate(200)"),
        ("rotate(15,degrees=3)", "degrees of rotate once"),
        ("gaussian-blur(4)", "kernel_size of gaussian-blur as an odd whole number from 1 to 999"),
        ("gaussian-blur(5,2,1)", "min_sigma <= max_sigma"),
        ("affine(max_scale=0.5)", "min_scale <= max_scale"),
        ("flip(true)", "probability of flip"),
        ("flip([1,2])", "probability of flip"),
        ("pad(4,[1])", "unknown mode of pad"),
        ("torchvision", "torchvision with the name of a transform first"),
        ("torchvision(3)", "torchvision with the name of a transform first"),
    ],
)
def test_invalid_transforms(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_transforms(text)
    assert message in str(caught.value)


def test_arguments_by_name_and_by_position_are_the_same() -> None:
    (by_position,) = parse_transforms("affine(10,0.1,0.9,1.1,5,nearest,7)")
    (by_name,) = parse_transforms(
        "affine(10,fill=7,shear=5,interpolation=nearest,min_scale=0.9,max_scale=1.1,translate=0.1)"
    )
    assert bind_args(by_name) == bind_args(by_position) == (10.0, 0.1, 0.9, 1.1, 5.0, "nearest", 7)
    assert bind_args(*parse_transforms("resize(236,bicubic)")) == (236, 0, "bicubic")


def test_the_table_is_complete() -> None:
    for name, spec in TRANSFORMS.items():
        assert check_transforms(spec.example)[0].name == name
        assert spec.reference
        assert spec.summary.endswith((".", "arguments."))
        assert all(arg.summary for arg in spec.args)
        if spec.args and spec.kind is not TransformKind.OPEN:
            values = bind_args(*parse_transforms(spec.example))
            assert len(values) == len(spec.args)


def test_a_recipe_checks_its_transforms() -> None:
    for key in ("train_transform", "eval_transform"):
        with pytest.raises(ValueError, match="nearest: 'crop'"):
            Recipe("", "", **{key: "crp(32)"})


def test_the_table_needs_no_torch() -> None:
    code = "import sys, reslab.spec.recipes, reslab.spec.transform_grammar; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
