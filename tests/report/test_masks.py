"""Masks over images: colors of classes, stripes of void."""

import numpy as np

from reslab.data.masks import VOID
from reslab.report.masks import class_color, draw_mask


def test_classes_are_painted_and_void_is_striped() -> None:
    image = np.full((20, 30), 100, dtype=np.uint8)
    mask = np.zeros((10, 15), dtype=np.uint8)  # half the size of the image
    mask[:5] = 1
    mask[5:, 10:] = VOID
    drawn = draw_mask(image, mask)
    assert (drawn.shape, drawn.dtype) == ((20, 30, 3), np.uint8)
    assert (drawn[10:, :20] == 100).all()
    expected = 0.45 * 100 + 0.55 * np.array(class_color(1))
    np.testing.assert_array_equal(drawn[:10], np.broadcast_to(expected.round(), (10, 30, 3)))
    assert set(np.unique(drawn[10:, 20:])) == {110, 190}
    assert (draw_mask(np.repeat(image[..., None], 3, axis=2), mask) == drawn).all()


def test_the_first_classes_have_colors_that_differ() -> None:
    assert class_color(0) is None
    colors = np.array([class_color(number) for number in range(1, 11)])
    distances = np.abs(colors[:, None] - colors[None]).sum(2) + 1000 * np.eye(10, dtype=int)
    assert distances.min() > 90
