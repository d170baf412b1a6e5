"""He et al.'s protocols on photographs of many sizes: ten crops, and fully convolutional at several scales.

Here a quarter of the size; `resize(256) center-crop(256)` and `ten-crop(224)` are `resize(64) center-crop(64)` and
`ten-crop(56)`.

Several views of an image, averaged, against the crops written out.
"""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as tv_functional

from reslab.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from reslab.data.decode import read_image
from reslab.spec.recipes import RECIPES
from reslab.training.checkpoint import load_run_network
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.evaluation.loop import evaluate_batches
from reslab.training.evaluation.tta import TTA_OPS, TTATransforms
from reslab.training.run import Run
from reslab.training.tasks.classification import Classification
from reslab.training.tasks.multilabel import MultiLabel
from reslab.training.tasks.regression import Regression
from reslab.training.tasks.segmentation import Segmentation
from reslab.training.train import train

CLASSES = Classification(tuple("abc"))
SIZES = ((60, 90), (80, 64), (100, 70), (66, 66), (72, 110))
SMALL = {"model.depths": "1,1", "model.widths": "16,32", "model.strides": "1,2", "model.stem": "conv7/2(16) norm act"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small network on a folder of two classes, its images of five sizes."""
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val"):
        for i, (height, width) in enumerate(SIZES * 2):
            path = root / "data" / split / f"class{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    settings = {
        **SMALL,
        "batch_size": "5",
        "duration": "2 steps",
        "train_transform": "random-scale-crop(56,64,120) flip",
    }
    settings["eval_transform"] = "resize(64) center-crop(56)"
    options: dict[str, Any] = {"overrides": settings, "on_log": lambda line: None}
    return train("resnet18", root / "data", "he2015-imagenet", output=root / "run", **options)


def originals(run: Run) -> list[Tensor]:
    """The validation images as they are, normalised, in the order of the folder."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    paths = sorted((run.path.parent / "data" / "val").rglob("*.png"))
    return [((read_image(path) / 255 - mean) / std)[None] for path in paths]


def test_ten_crops(run: Run) -> None:
    evaluation = evaluate(run, eval_transform="resize(64) center-crop(64)", tta="ten-crop(56)", keep_predictions=True)
    network = load_run_network(run.path).eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = []
    for path in sorted((run.path.parent / "data" / "val").rglob("*.png")):
        whole = tv_functional.center_crop(tv_functional.resize(read_image(path), [64], antialias=True), [64, 64])
        crops = torch.cat(tv_functional.ten_crop(((whole / 255 - mean) / std)[None], [56, 56]))
        expected.append(network(crops).softmax(1).mean(0))
    assert evaluation.probabilities is not None
    torch.testing.assert_close(evaluation.probabilities, torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_fully_convolutional_at_several_scales(run: Run) -> None:
    evaluation = evaluate(run, eval_transform="", tta="scales(56,64,96,120)", batch_size=1, keep_predictions=True)
    network, expected = load_run_network(run.path).eval(), []
    for x in originals(run):
        scaled = [tv_functional.resize(x, [side], antialias=True) for side in (56, 64, 96, 120)]
        assert {min(view.shape[-2:]) for view in scaled} == {56, 64, 96, 120}
        # Fully convolutional: the last layer at every place of the last map, then the mean over places.
        answers = []
        for view in scaled:
            kept: list[Tensor] = []
            hook = network.avgpool.register_forward_pre_hook(lambda module, given, into=kept: into.append(given[0]))
            network(view)
            hook.remove()
            weight, bias = network.fc.weight, network.fc.bias
            each = torch.nn.functional.conv2d(kept[0], weight[:, :, None, None], bias)
            answers.append(each.mean((2, 3)).softmax(1))
        expected.append(torch.cat(answers).mean(0))
    assert evaluation.probabilities is not None
    assert evaluation.num_samples == len(SIZES) * 2
    torch.testing.assert_close(evaluation.probabilities, torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_the_notes_of_the_recipe_give_the_evaluations_of_the_paper() -> None:
    notes = RECIPES["he2015-imagenet"].notes
    assert '--eval-transform "resize(256) center-crop(256)" --tta "ten-crop(224)"' in notes
    assert '--eval-transform "" --tta "scales(224,256,384,480,640)" --batch-size 1' in notes


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def images() -> Tensor:
    return torch.randn(5, 1, 12, 14, generator=torch.Generator().manual_seed(0))


def mean_of(model: nn.Module, views: list[Tensor]) -> Tensor:
    return torch.stack([model(view).softmax(1) for view in views]).mean(0)


def corners(x: Tensor, size: int) -> list[Tensor]:
    """12x14 pixels: four corners and the middle."""
    top, left = (12 - size) // 2, (14 - size) // 2
    middle = x[..., top : top + size, left : left + size]
    return [x[..., :size, :size], x[..., :size, -size:], x[..., -size:, :size], x[..., -size:, -size:], middle]


def test_flips_and_crops_are_averaged_probabilities() -> None:
    model, x = network(), images()
    ten = [*corners(x, 8), *corners(x.flip(3), 8)]
    expected = {
        "": [x],
        "flip": [x, x.flip(3)],
        "shift(2)": [x, *(functional.pad(x, (2,) * 4, "reflect")[..., k : k + 12, k : k + 14] for k in (0, 4))],
        "five-crop(8)": corners(x, 8),
        "ten-crop(8)": ten,
        "five-crop(8) flip": ten,
    }
    for words, views in expected.items():
        torch.testing.assert_close(TTATransforms(model, words, CLASSES)(x).softmax(1), mean_of(model, views), msg=words)
        assert len(list(TTATransforms(model, words, CLASSES).views(x))) == len(views)


def test_scales_bring_the_shorter_side_to_each_size() -> None:
    model, x = network(), images()
    result = list(TTATransforms(model, "scales(6,12,24)", CLASSES).views(x))
    assert [tuple(view.shape[-2:]) for view in result] == [(6, 7), (12, 14), (24, 28)]
    assert torch.equal(result[1], x)
    expected = functional.interpolate(x, (24, 28), mode="bilinear", antialias=True)
    torch.testing.assert_close(result[2], expected)
    assert len(list(TTATransforms(model, "scales(6,12) flip", CLASSES).views(x))) == 4


def test_it_is_evaluated_like_any_network_and_its_loss_is_that_of_the_mean() -> None:
    model, x, y = network(), images(), torch.tensor([0, 1, 2, 0, 1])
    evaluation = evaluate_batches(
        TTATransforms(model, "flip", CLASSES), [(x, y, torch.arange(5))], CLASSES, keep_predictions=True
    )
    mean = mean_of(model, [x, x.flip(3)])
    assert evaluation.loss == pytest.approx(-mean.gather(1, y[:, None]).log().mean().item(), rel=1e-5)
    assert evaluation.num_correct == int((mean.argmax(1) == y).sum())
    assert evaluation.probabilities is not None
    torch.testing.assert_close(evaluation.probabilities, mean)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("flop", "nearest: 'flip'"),
        ("flip(2)", "flip with whole numbers"),
        ("ten-crop", r"ten-crop\(224\)"),
        ("ten-crop(8,9)", r"ten-crop\(224\)"),
        ("five-crop(0.5)", r"five-crop\(224\)"),
        ("scales", r"scales\(224"),
        ("flip2", "flip with whole numbers"),
    ],
)
def test_invalid_views_raise(words: str, options: str) -> None:
    with pytest.raises(ValueError, match=options):
        TTATransforms(network(), words, CLASSES)


def test_an_image_too_small_to_crop_is_reported() -> None:
    with pytest.raises(ValueError, match="at least 13x13 to crop; got: 12x14; let the evaluation end with center-crop"):
        TTATransforms(network(), "ten-crop(13)", CLASSES)(images())


@pytest.mark.parametrize("name", TTA_OPS)
def test_the_example_of_every_operation_runs(name: str) -> None:
    with torch.no_grad():
        probabilities = TTATransforms(network(), TTA_OPS[name].example, CLASSES)(torch.rand(2, 1, 224, 224)).softmax(1)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    assert probabilities.shape == (2, 3)


def test_outputs_at_each_pixel_are_flipped_back() -> None:
    model, task = nn.Conv2d(1, 4, 3, padding=1), Segmentation(tuple("abcd"))
    x = images()
    views = [model(x), model(x.flip(3)).flip(3), model(x.flip(2)).flip(2), model(x.flip(2, 3)).flip(2, 3)]
    probabilities = [view.softmax(1) for view in views]
    torch.testing.assert_close(TTATransforms(model, "flip", task)(x).softmax(1), (sum(probabilities[:2])) / 2)
    torch.testing.assert_close(
        TTATransforms(model, "flip vertical-flip", task)(x).softmax(1), torch.stack(probabilities).mean(0)
    )
    with pytest.raises(ValueError, match=r"for segmentation; got: five-crop\(8\); nearest valid: flip"):
        TTATransforms(model, "flip five-crop(8)", task)


def test_probabilities_of_labels_and_numbers_are_averaged_as_they_are() -> None:
    model, x = network(), images()
    labels = TTATransforms(model, "flip", MultiLabel(tuple("abc")))(x)
    torch.testing.assert_close(labels.sigmoid(), (model(x).sigmoid() + model(x.flip(3)).sigmoid()) / 2)
    numbers = TTATransforms(model, "flip", Regression(tuple("abc"), (0.0,) * 3, (1.0,) * 3))(x)
    torch.testing.assert_close(numbers, (model(x) + model(x.flip(3))) / 2)
    very_sure = torch.tensor([[60.0, -60.0, 200.0]])
    assert torch.equal(MultiLabel(tuple("abc")).average_views([very_sure, very_sure]), very_sure)


@pytest.mark.parametrize(
    ("shape", "views"),
    [
        ((2, 3, 16), "vertical-flip"),
        ((2, 3, 16), "flip shift(1)"),
        ((2, 3, 16), "scales(8)"),
        ((1, 1, 4, 8, 8), "five-crop(4)"),
    ],
)
def test_views_of_images_are_none_of_signals_and_volumes(shape: tuple[int, ...], views: str) -> None:
    """`vertical-flip` would reverse the channels of a signal, and `scales` resize them."""
    with pytest.raises(ValueError, match=r"images for the view .*(signals|volumes) of shape.*nearest valid: flip"):
        TTATransforms(nn.Flatten(), views, CLASSES)(torch.zeros(shape))
    flipped = TTATransforms(nn.Flatten(), "flip", CLASSES)(torch.randn(shape))
    assert flipped.shape == (shape[0], np.prod(shape[1:]))
