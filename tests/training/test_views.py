"""Several views of a picture, averaged, against the crops written out."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.training.evaluation.loop import evaluate_batches
from reslab.training.evaluation.tta import VIEWS, Views


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
        "five-crop(8)": corners(x, 8),
        "ten-crop(8)": ten,
        "five-crop(8) flip": ten,
    }
    for words, views in expected.items():
        torch.testing.assert_close(Views(model, words)(x).softmax(1), mean_of(model, views), msg=words)
        assert len(list(Views(model, words).views(x))) == len(views)


def test_scales_bring_the_shorter_side_to_each_size() -> None:
    model, x = network(), images()
    found = list(Views(model, "scales(6,12,24)").views(x))
    assert [tuple(view.shape[-2:]) for view in found] == [(6, 7), (12, 14), (24, 28)]
    assert torch.equal(found[1], x)
    expected = functional.interpolate(x, (24, 28), mode="bilinear", antialias=True)
    torch.testing.assert_close(found[2], expected)
    assert len(list(Views(model, "scales(6,12) flip").views(x))) == 4


def test_it_is_judged_like_any_network_and_its_loss_is_that_of_the_mean() -> None:
    model, x, y = network(), images(), torch.tensor([0, 1, 2, 0, 1])
    found = evaluate_batches(Views(model, "flip"), [(x, y, torch.arange(5))], 3, keep_probabilities=True)
    mean = mean_of(model, [x, x.flip(3)])
    assert found.loss == pytest.approx(-mean.gather(1, y[:, None]).log().mean().item(), rel=1e-5)
    assert found.num_correct == int((mean.argmax(1) == y).sum())
    assert found.probabilities is not None
    torch.testing.assert_close(found.probabilities, mean)


@pytest.mark.parametrize(
    ("words", "said"),
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
def test_views_that_mean_nothing_are_refused(words: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Views(network(), words)


def test_a_picture_too_small_to_crop_is_told() -> None:
    with pytest.raises(ValueError, match="at least 13x13 to crop; got: 12x14; let the evaluation end with center-crop"):
        Views(network(), "ten-crop(13)")(images())


def test_every_example_of_the_table_can_be_built() -> None:
    for example, _, _ in VIEWS.values():
        Views(network(), example)
