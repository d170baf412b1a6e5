"""The drawn shapes: reproducible, with boxes that their pixels fill from side to side."""

import numpy as np
import pytest
import torch

from reslab.data.formats.drawn import _draw_images, _shape_mask
from reslab.data.registry import open_dataset


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


def test_an_image_depends_on_its_split_and_index_only() -> None:
    few, data = _draw_images(5, 1), open_dataset("drawn-shapes")
    test = data.split("test")
    assert torch.equal(few.images.images, test.images.images[:5])
    assert np.array_equal(few.table.boxes, test.table.boxes[: len(few.table.boxes)])
    assert open_dataset("drawn-shapes").fingerprint == data.fingerprint
    held_out = open_dataset("drawn-shapes", val_fraction=0.2)
    assert held_out.describe() == "drawn-shapes: 320 train, 80 val, 100 test, 3 classes"


def test_the_last_object_is_bright_up_to_the_sides_of_its_box() -> None:
    dataset = _draw_images(40, 0)
    for i in range(len(dataset)):
        x1, y1, x2, y2 = dataset.table.boxes[dataset.table.rows(i)][-1].astype(int)
        bright = dataset.images.images[i].amin(0) > 110
        part = bright[y1:y2, x1:x2]
        assert part.any(0).all()
        assert part.any(1).all()


@pytest.mark.parametrize(("shape", "share"), [("square", 1.0), ("disk", np.pi / 4), ("triangle", 0.5)])
def test_a_shape_has_its_area(shape: str, share: float) -> None:
    assert _shape_mask(shape, 200).float().mean().item() == pytest.approx(share, abs=0.005)
