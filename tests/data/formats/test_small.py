"""The drawn birds and airplanes: reproducible, in two classes that color does not tell apart, with correct polygons."""

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Polygon

from reslab.data.formats.small import _draw_images, _draw_shape_images, _polygon, _shape_mask
from reslab.data.registry import open_dataset


@pytest.fixture(scope="module")
def data():
    return open_dataset("birds-airplanes")


def test_the_splits_have_the_shape_of_cifar2(data):
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1000, "test": 500}
    assert data.classes == ("airplane", "bird")
    for split in data.splits.values():
        assert split.images.dtype == torch.uint8
        assert split.images.shape[1:] == (3, 32, 32)
        assert split.labels.bincount().tolist() == [len(split) // 2] * 2


def test_an_image_depends_on_its_split_and_index_only(data):
    assert torch.equal(_draw_images(20, 0).images, data.split("train").images[:20])
    assert torch.equal(_draw_images(20, 1).images, data.split("test").images[:20])
    assert not torch.equal(data.split("test").images[:20], data.split("train").images[:20])


def test_no_image_is_in_both_splits(data):
    train, test = (data.split(name).images.flatten(1).unique(dim=0) for name in ("train", "test"))
    assert len(torch.cat([train, test]).unique(dim=0)) == 1500


def test_the_mean_color_does_not_distinguish_the_classes(data):
    sklearn_linear = pytest.importorskip("sklearn.linear_model")
    colors = {name: split.images.float().mean((2, 3)).numpy() for name, split in data.splits.items()}
    labels = {name: split.labels.numpy() for name, split in data.splits.items()}
    classifier = sklearn_linear.LogisticRegression().fit(colors["train"], labels["train"])
    assert classifier.score(colors["test"], labels["test"]) < 0.6


def test_polygons_contain_the_points_that_matplotlib_finds_in_them():
    rng = np.random.default_rng(0)
    angles = np.sort(rng.uniform(0, 2 * np.pi, (8, 4)), axis=1)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # on a circle, in order: convex
    points = rng.uniform(-1, 1, (8, 30, 30, 2))
    expected = [
        Polygon(c).contains_points(p.reshape(-1, 2)).reshape(30, 30) for c, p in zip(corners, points, strict=True)
    ]
    x, y = torch.from_numpy(points).unbind(-1)
    inside = _polygon(
        x, y, tuple((torch.from_numpy(corners[:, k, 0]), torch.from_numpy(corners[:, k, 1])) for k in range(4))
    )
    assert 0.2 < np.mean(expected) < 0.8
    assert np.array_equal(inside.numpy(), np.array(expected))


def test_the_splits_and_what_they_hold() -> None:
    data = open_dataset("drawn-shapes")
    assert (data.task, data.classes) == ("detection", ("disk", "square", "triangle"))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 400, "test": 100}
    assert min(data.split("train").count_objects(3)) > 200
    image, target = data.split("test")[0]
    assert (image.shape, image.dtype, float(image.max()) <= 1) == ((3, 64, 64), torch.float32, True)
    assert 1 <= len(target["labels"]) <= 3
    with pytest.raises(ValueError, match="required: labels for the task classification in drawn-shapes"):
        open_dataset("drawn-shapes", task="classification")


def test_an_image_of_shapes_depends_on_its_split_and_index_only() -> None:
    few, data = _draw_shape_images(5, 1), open_dataset("drawn-shapes")
    test = data.split("test")
    assert torch.equal(few.images.images, test.images.images[:5])
    assert np.array_equal(few.table.boxes, test.table.boxes[: len(few.table.boxes)])
    assert open_dataset("drawn-shapes").fingerprint == data.fingerprint
    held_out = open_dataset("drawn-shapes", val_fraction=0.2)
    assert held_out.describe() == "drawn-shapes: 320 train, 80 val, 100 test, 3 classes"


def test_the_last_object_is_bright_up_to_the_sides_of_its_box() -> None:
    dataset = _draw_shape_images(40, 0)
    for i in range(len(dataset)):
        x1, y1, x2, y2 = dataset.table.boxes[dataset.table.rows(i)][-1].astype(int)
        bright = dataset.images.images[i].amin(0) > 110
        part = bright[y1:y2, x1:x2]
        assert part.any(0).all()
        assert part.any(1).all()


@pytest.mark.parametrize(("shape", "share"), [("square", 1.0), ("disk", np.pi / 4), ("triangle", 0.5)])
def test_a_shape_has_its_area(shape: str, share: float) -> None:
    assert _shape_mask(shape, 200).float().mean().item() == pytest.approx(share, abs=0.005)
