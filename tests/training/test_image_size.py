"""One image size: the training crop, the evaluation crop and the network's described input agree."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from reslab.data.adapters import as_dataset
from reslab.data.registry import open_dataset
from reslab.deploy.predict import predict
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.runtime.distributed import ProcessGroup
from reslab.spec.recipe import Recipe
from reslab.spec.recipes import RECIPES
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.image_size import (
    check_sizes,
    fit_eval_transform,
    fit_train_transform,
    output_size,
    scale_transform,
    with_image_size,
)
from reslab.training.options import TrainOptions
from reslab.training.setup import TrainSetup, setup_run
from reslab.training.train import train

NARROW = {"widths": "8,8,8", "depths": "1,1,1", "stem": "conv3(8) norm act"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs of different sizes in two class folders, with a validation split."""
    root = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("val", 4)):
        for i in range(count):
            path = root / split / ("cat" if i % 2 else "dog") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 256, (150 + 3 * i, 170 - 2 * i, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(path)
    return root


def make_setup(data: Any, path: Path, model: Any = None, recipe: Any = None, **overrides: Any) -> TrainSetup:
    options = TrainOptions(
        model=model, data=data, recipe=recipe, recipe_overrides=overrides, pretrained=False, num_images=None
    )
    return setup_run(options, path / "run", ProcessGroup(), workers=0)


def sizes(setup: TrainSetup) -> tuple[int, int, int]:
    """Return the sides of a training batch, of an evaluation image and of the network's described input."""
    x, _, _ = next(setup.loop.loader.iter_from(0))
    assert isinstance(setup.loop.model, ResidualNetwork)
    assert x.shape[2] == x.shape[3]
    assert setup.input_size[1] == setup.input_size[2]
    assert setup.loop.model.arch.image_size == tuple(setup.input_size[1:])
    return x.shape[3], setup.input_size[1], setup.loop.model.arch.image_size[0]


@pytest.mark.parametrize(
    ("model", "recipe", "overrides", "size"),
    [
        ("resnet20_cifar", None, {}, 32),  # the network is described for 32
        ("resnet20_cifar", "finetune", {"pretrained": "false"}, 32),
        ("resnet18", None, {}, 224),
        ("resnet20_cifar", None, {"image_size": "64"}, 64),
        ("resnet18", "photos", {"image_size": 96}, 96),
        ("resnet20_cifar", None, {"train_transform": "random-resized-crop(48) flip"}, 48),
        ("resnet20_cifar", "cifar", {"image_size": 40}, 40),  # only pads and crops, so images are resized first
        (None, None, {"image_size": 32}, 32),  # chooses resnet20_cifar
    ],
)
def test_training_evaluation_and_network_have_one_size(
    photos: Path, tmp_path: Path, model: str | None, recipe: str | None, overrides: dict[str, Any], size: int
) -> None:
    setup = make_setup(photos, tmp_path, model, recipe, batch_size=2, **{"optimizer.lr": 0.1}, **overrides)
    assert sizes(setup) == (size, size, size)
    assert output_size(setup.data.preprocess.transform) == size


def test_a_shrunk_size_is_reported_with_the_flag_that_changes_it(photos: Path, tmp_path: Path) -> None:
    setup = make_setup(photos, tmp_path, "resnet20_cifar")
    text = next(message for message in setup.messages if "described for 32x32" in message)
    assert text.endswith("--size 224")
    assert setup.recipe.image_size == 32


@pytest.mark.parametrize(("size", "train_text"), [(8, "pad(1) crop(8)"), (16, "resize(16) pad(2) crop(16)")])
def test_images_of_one_size_are_resized_if_requested(tmp_path: Path, size: int, train_text: str) -> None:
    setup = make_setup("digits", tmp_path, "resnet20_cifar", None, image_size=size)
    assert sizes(setup) == (size, size, size)
    assert setup.recipe.train_transform == train_text
    assert setup.data.preprocess.transform == ("" if size == 8 else "resize(16)")


def test_tensors_and_named_datasets_keep_their_size(tmp_path: Path) -> None:
    images = torch.zeros((8, 3, 48, 48), dtype=torch.uint8)
    setup = make_setup((images, torch.arange(8) % 2), tmp_path, "resnet20_cifar", None, batch_size=4)
    assert sizes(setup) == (48, 48, 48)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"image_size": 64, "train_transform": "random-resized-crop(32)"}, "--size 32"),
        ({"image_size": 64, "eval_transform": "resize(73) center-crop(96)"}, "--size 96"),
        ({"eval_transform": "resize(73) center-crop(64)"}, "--size 224 or --size 64"),
    ],
)
def test_sizes_that_contradict_each_other_are_an_error(
    photos: Path, tmp_path: Path, overrides: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        make_setup(photos, tmp_path, "resnet18", "photos", **overrides)
    assert not (tmp_path / "run").exists()


def test_transforms_that_were_both_set_are_kept_and_reported(photos: Path, tmp_path: Path) -> None:
    texts = {"train_transform": "random-resized-crop(32)", "eval_transform": "resize(110) center-crop(96)"}
    setup = make_setup(photos, tmp_path, "resnet18", "photos", **texts)
    assert setup.recipe.train_transform == "random-resized-crop(32)"
    assert setup.data.preprocess.transform == "resize(110) center-crop(96)"
    assert any("--size 32" in message for message in setup.messages)


@pytest.mark.parametrize(
    ("transform", "size", "image_size", "expected"),
    [
        ("resize(256) center-crop(224)", 64, None, "resize(73) center-crop(64)"),
        ("resize(236,bicubic) center-crop(224)", 112, None, "resize(118,bicubic) center-crop(112)"),
        ("resize(232) center-crop(224)", 224, None, "resize(232) center-crop(224)"),
        ("", 64, None, "resize(73) center-crop(64)"),
        ("", 64, (32, 32), "resize(64)"),
        ("", 64, (32, 48), "resize(64) center-crop(64)"),
        ("", 32, (32, 32), ""),
    ],
)
def test_the_evaluation_transform_of_a_size(
    transform: str, size: int, image_size: tuple[int, int] | None, expected: str
) -> None:
    assert fit_eval_transform(transform, size, image_size) == expected


@pytest.mark.parametrize(
    ("transform", "size", "image_size", "expected"),
    [
        ("random-resized-crop(224,0.35) flip", 64, None, "random-resized-crop(64,0.35) flip"),
        ("random-scale-crop(224,256,480) flip", 112, None, "random-scale-crop(112,128,240) flip"),
        ("pad(4,reflect) crop(32) flip", 64, (32, 32), "resize(64) pad(8,reflect) crop(64) flip"),
        ("pad(4) crop(32) flip", 32, (32, 32), "pad(4) crop(32) flip"),
        ("pad(size=4) crop(size=32)", 64, None, "resize(64) center-crop(64) pad(size=8) crop(size=64)"),
        ("flip", 64, None, "resize(64) center-crop(64) flip"),
        ("", 8, (8, 8), ""),
    ],
)
def test_the_training_transform_of_a_size(
    transform: str, size: int, image_size: tuple[int, int] | None, expected: str
) -> None:
    assert fit_train_transform(transform, size, image_size) == expected


@pytest.mark.parametrize(
    ("transform", "side", "is_error"),
    [
        ("random-resized-crop(32) flip", 224, True),
        ("pad(4) crop(80)", 32, True),
        ("random-resized-crop(224) flip", 224, False),
        ("random-resized-crop(160)", 224, False),
        ("flip", 224, False),
    ],
)
def test_sizes_far_apart_are_an_error(transform: str, side: int, is_error: bool) -> None:
    recipe = replace(RECIPES["photos"], train_transform=transform)
    if is_error:
        with pytest.raises(ValueError, match=f"--size {output_size(transform)} or --size {side}"):
            check_sizes(recipe, {}, (3, side, side))
    else:
        assert check_sizes(recipe, {}, (3, side, side)) == ()


def test_scaling_changes_sizes_alone() -> None:
    assert scale_transform("resize(256,320) crop(224) erase(0.1) pad(1)", 0.25) == (
        "resize(64,80) crop(56) erase(0.1) pad(1)"
    )
    with pytest.raises(ValueError, match="image_size"):
        Recipe("", "", image_size=-1)


def test_a_run_is_evaluated_predicted_and_resumed_at_its_size(photos: Path, tmp_path: Path) -> None:
    overrides = {f"model.{axis}": value for axis, value in NARROW.items()} | {"batch_size": 4}
    arguments = {"overrides": overrides, "workers": 0, "on_log": lambda record: None, "output": tmp_path / "run"}
    run = train("resnet20_cifar", photos, epochs=1, image_size=48, **arguments)
    assert run.arch is not None
    assert run.arch.image_size == (48, 48)
    resumed = train("resnet20_cifar", photos, epochs=2, image_size=48, resume=True, **arguments)
    assert resumed.result is not None
    assert resumed.result["steps"] == 4
    with pytest.raises(ValueError, match="image_size as in the run, 48"):
        train("resnet20_cifar", photos, epochs=3, image_size=32, resume=True, **arguments)
    same = evaluate(resumed, keep_predictions=True)
    given = evaluate(resumed, image_size=48, keep_predictions=True)
    larger = evaluate(resumed, image_size=64, keep_predictions=True)
    by_hand = evaluate(resumed, eval_transform="resize(73) center-crop(64)", keep_predictions=True)
    assert torch.equal(same.probabilities, given.probabilities)
    assert torch.allclose(larger.probabilities, by_hand.probabilities, atol=1e-6)
    assert not torch.allclose(larger.probabilities, same.probabilities, atol=1e-6)
    files = sorted(path for path in (photos / "val").rglob("*.png"))
    predictions = predict(resumed, files, image_size=64, top_k=2)
    for i, prediction in enumerate(predictions):
        probabilities = {score.name: score.probability for score in prediction.classes}
        expected = larger.probabilities[i].tolist()
        assert [probabilities[name] for name in larger.classes] == pytest.approx(expected, abs=1e-5)


def test_a_network_by_name_is_evaluated_at_its_described_size(photos: Path) -> None:
    weights = create_model("resnet20_cifar", num_classes=2).state_dict()
    evaluation = evaluate("resnet20_cifar", photos, pretrained=weights, keep_predictions=True)
    by_hand = evaluate(
        "resnet20_cifar",
        photos,
        pretrained=weights,
        eval_transform="resize(37) center-crop(32)",
        keep_predictions=True,
    )
    assert torch.allclose(evaluation.probabilities, by_hand.probabilities, atol=1e-6)


def test_a_network_that_flattens_has_one_size() -> None:
    model = create_model("book_net")
    assert isinstance(model, ResidualNetwork)
    assert with_image_size(model, 32) is model
    with pytest.raises(ValueError, match="flattens"):
        with_image_size(model, 64)
    other = create_model("resnet18")
    assert isinstance(other, ResidualNetwork)
    assert with_image_size(other, 64).arch.image_size == (64, 64)
    assert other.arch.image_size == (224, 224)
    with pytest.raises(ValueError, match="at least 32"):
        with_image_size(other, 16)


def test_as_dataset_with_its_own_preprocessing_keeps_it(tmp_path: Path, photos: Path) -> None:
    data = open_dataset(photos)
    data = as_dataset(replace(data, preprocess=replace(data.preprocess, transform="resize(40) center-crop(28)")))
    assert sizes(make_setup(data, tmp_path, "resnet20_cifar", "photos", train_transform="random-resized-crop(28)")) == (
        28,
        28,
        28,
    )
