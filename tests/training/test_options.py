"""The options of `train`: overrides, conflicts, and the defaults of recipe and data."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from reslab.data.dataset import DatasetSplits
from reslab.data.registry import open_dataset
from reslab.spec.recipe import NormalizeConfig, Recipe
from reslab.spec.zoo import ARCHS
from reslab.training.options import (
    TrainOptions,
    apply_recipe_defaults,
    default_model,
    default_recipe,
    describe_pretrained,
    parse_batch_size,
    qualified_name,
    recipe_defaults,
    resolve_arch_for_data,
    split_overrides,
    warn_about_stem,
    with_eval_preprocess,
)


@pytest.fixture(scope="module")
def digits() -> DatasetSplits:
    return open_dataset("digits")


def test_overrides_are_split_and_arguments_get_their_keys() -> None:
    recipe, arch = split_overrides({"model.order": "wide", "ema.decay": 0.9}, epochs=2, batch_size=32, lr=0.1)
    assert recipe == {"ema.decay": 0.9, "duration": "2 epochs", "batch_size": 32, "optimizer.lr": 0.1}
    assert arch == {"order": "wide"}
    assert split_overrides(None, epochs=1)[0] == {"duration": "1 epoch"}
    assert split_overrides(None) == ({}, {})


@pytest.mark.parametrize(
    ("overrides", "arguments", "key"),
    [
        ({"duration": "3 epochs"}, {"epochs": 2}, "duration"),
        ({"batch_size": "64"}, {"batch_size": 32}, "batch_size"),
        ({"optimizer.lr": 0.2}, {"lr": 0.1}, "optimizer.lr"),
    ],
)
def test_an_override_must_not_contradict_an_argument(
    overrides: dict[str, Any], arguments: dict[str, Any], key: str
) -> None:
    with pytest.raises(ValueError, match=f"one value of {key}"):
        split_overrides(overrides, **arguments)


def test_the_same_value_in_another_spelling_is_no_conflict() -> None:
    recipe, _ = split_overrides({"duration": "2 epoch", "optimizer.lr": "0.10"}, epochs=2, lr=0.1)
    assert recipe == {"duration": "2 epochs", "optimizer.lr": 0.1}
    TrainOptions(val_fraction=0.1, recipe_overrides={"val_fraction": "0.10"})
    with pytest.raises(ValueError, match="one value of model"):
        TrainOptions(model="resnet18", recipe_overrides={"model": "resnet34"})


@pytest.mark.parametrize(
    ("given", "expected"), [(None, (None, False)), (64, (64, False)), ("64", (64, False)), ("auto", (None, True))]
)
def test_a_batch_size_is_a_number_or_auto(given: int | str | None, expected: tuple[int | None, bool]) -> None:
    assert parse_batch_size(given) == expected


def test_what_run_json_records_of_weights_and_callables() -> None:
    assert [describe_pretrained(given) for given in (None, True, "a1_in1k", {"w": torch.zeros(1)})] == [
        None,
        "published weights",
        "a1_in1k",
        "a state dict",
    ]
    assert qualified_name(None) is None
    assert qualified_name(torch.nn.functional.cross_entropy) == "torch.nn.functional.cross_entropy"


RECIPE = Recipe("mine", "test", model="resnet20_cifar", data="digits", val_fraction=0.2, arch=("merge=drop-path(0.1)",))


def test_a_recipe_provides_what_is_not_given() -> None:
    options, messages = apply_recipe_defaults(TrainOptions(recipe=RECIPE))
    assert (options.model, options.data, options.val_fraction) == ("resnet20_cifar", "digits", 0.2)
    assert options.recipe_arch_overrides == ("merge=drop-path(0.1)",)
    assert len(messages) == 3


def test_what_is_given_comes_before_the_recipe() -> None:
    given = TrainOptions(
        model="resnet18", data="cifar10", recipe=RECIPE, val_fraction=0.1, recipe_overrides={"arch": ""}
    )
    assert apply_recipe_defaults(given) == (given, ())
    assert recipe_defaults(
        TrainOptions(recipe_overrides={"normalize.mean": "0.5", "normalize.std": "1"})
    ).normalize == (NormalizeConfig((0.5,), (1.0,)))


def test_the_architecture_takes_overrides_before_recipe_before_data(digits: DatasetSplits) -> None:
    arch = resolve_arch_for_data(
        "resnet20_cifar",
        digits,
        (1, 8, 8),
        overrides={"order": "wide", "drop_rate": "0.2"},
        recipe_overrides=("drop_rate=0.5", "last_norm_weight=0"),
    )
    assert (arch.num_classes, arch.in_channels, arch.image_size) == (10, 1, (8, 8))
    assert (arch.order, arch.drop_rate, arch.last_norm_weight) == ("wide", 0.2, 0.0)
    assert resolve_arch_for_data("resnet18", digits, (1, 8, 8), overrides={"num_classes": 7}).num_classes == 7


@pytest.mark.parametrize(
    ("model", "overrides", "merge"),
    [
        ("resnet20_cifar", {}, "drop-path(0.1)"),
        ("rezero56_cifar", {}, "drop-path(0.1) rezero add"),
        ("resnet20_cifar", {"merge": "gate(-6)"}, "gate(-6)"),
    ],
)
def test_a_recipes_merge_joins_that_of_the_network(
    digits: DatasetSplits, model: str, overrides: dict[str, Any], merge: str
) -> None:
    recipe_overrides = ("merge=drop-path(0.1)",)
    arch = resolve_arch_for_data(model, digits, (1, 8, 8), overrides=overrides, recipe_overrides=recipe_overrides)
    assert arch.merge == merge


def test_evaluation_follows_the_recipes_normalization(digits: DatasetSplits) -> None:
    one_for_all = Recipe("", "", eval_transform="resize(9)", normalize=NormalizeConfig((0.5,), (0.25,)))
    preprocess = with_eval_preprocess(digits, one_for_all).preprocess
    assert (preprocess.transform, preprocess.mean, preprocess.std) == ("resize(9)", (0.5,), (0.25,))
    assert with_eval_preprocess(digits, Recipe("", "")) is digits
    per_pixel = with_eval_preprocess(digits, Recipe("", "", normalize=NormalizeConfig(per_pixel_mean=True)))
    assert per_pixel.preprocess.mean_image.startswith("1x8x8:")
    with pytest.raises(ValueError, match="a mean for each of 1 channels"):
        with_eval_preprocess(digits, Recipe("", "", normalize=NormalizeConfig((0.5,) * 3, (1.0,) * 3)))


def test_the_default_model_and_recipe_follow_the_data() -> None:
    assert default_model((1, 8, 8)) == "resnet20_cifar"
    assert default_model((3, 32, 32)) == "resnet20_cifar"
    assert default_model((3, 224, 224)) == "resnet18"
    assert default_recipe("digits", (1, 8, 8), False).train_transform == "pad(1) crop(8)"
    assert default_recipe("fashion-mnist", (1, 28, 28), False).train_transform == "pad(2) crop(28)"
    assert default_recipe("cifar10", (3, 32, 32), False).train_transform == "pad(4) crop(32) flip"
    assert default_recipe("mine", (3, 40, 40), False).train_transform == "pad(5) crop(40) flip"
    assert default_recipe("mine", (1, 14, 14), False).train_transform == "pad(2) crop(14)"
    assert default_recipe("photos", (3, 224, 224), True).name == "photos"
    assert default_recipe("photos", (3, 224, 224), False).name == "photos-scratch"
    assert default_recipe("photos", (3, 96, 96), False).train_transform == "random-resized-crop(96) flip"


@pytest.mark.parametrize(("name", "twin"), [("resnet18", "resnet18_cifar"), ("resnet18_d2l", "resnet18_cifar")])
def test_an_imagenet_stem_on_small_images_is_warned_of(name: str, twin: str) -> None:
    with pytest.warns(UserWarning, match=rf"leaves 8 of 32 pixels.*'{twin}'"):
        warn_about_stem(ARCHS[name], (3, 32, 32))


@pytest.mark.parametrize(("name", "side"), [("resnet18", 64), ("resnet20_cifar", 8), ("book_net", 32)])
def test_other_networks_are_not_warned_of(name: str, side: int) -> None:
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        warn_about_stem(ARCHS[name], (3, side, side))
    assert raised == []


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        ({"data": "resnet18"}, "--model resnet18"),
        ({"model": "digits"}, "--data digits"),
        ({"model": "FOLDER"}, "--data FOLDER"),
        ({"recipe": "resnet18"}, "--model resnet18"),
        ({"model": "finetune"}, "--recipe finetune"),
    ],
)
def test_swapped_arguments_are_reported(tmp_path: Path, arguments: dict[str, str], nearest: str) -> None:
    given = {key: value.replace("FOLDER", str(tmp_path)) for key, value in arguments.items()}
    with pytest.raises(ValueError) as error:
        TrainOptions(**given)
    assert str(error.value).endswith(f"nearest valid: {nearest.replace('FOLDER', str(tmp_path))}")


def test_a_folder_with_the_name_of_a_model_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet18").mkdir()
    assert TrainOptions(model="resnet18", data="resnet18").data == "resnet18"


def test_short_keys_are_the_arguments_of_train() -> None:
    expected = split_overrides(None, epochs=3, lr=0.2, image_size=64)
    assert split_overrides({"epochs": 3, "lr": 0.2, "size": 64}) == expected
    with pytest.raises(ValueError, match=r"one value of optimizer\.lr"):
        split_overrides({"lr": "0.1"}, lr=0.2)
