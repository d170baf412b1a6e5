"""Boxes drawn over images."""

import numpy as np

from reslab.data.formats.mask_classes import voc_color
from reslab.report.boxes import draw_boxes


def test_an_outline_lies_on_the_outermost_pixels_of_its_box() -> None:
    image = np.full((60, 80), 90, np.uint8)
    drawn = draw_boxes(image, [(10.2, 5.0, 40.0, 30.4), (70, 50, 80, 60)], [2, 1])
    assert drawn.shape == (60, 80, 3)
    assert drawn.dtype == np.uint8
    changed = (drawn != 90).any(2)
    rows, columns = changed[:45, :60].any(1).nonzero()[0], changed[:45, :60].any(0).nonzero()[0]
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (5, 29, 10, 39)
    assert not changed[9:26, 14:36].any()
    assert changed[59, 79]
    assert (drawn == voc_color(2)).all(2).any()
    assert (drawn == voc_color(1)).all(2).any()
    assert (image == 90).all()


def test_without_boxes_the_image_stays() -> None:
    image = np.random.default_rng(0).integers(0, 255, (9, 7, 3)).astype(np.uint8)
    assert np.array_equal(draw_boxes(image, [], []), image)
    tiny = draw_boxes(image, [(2, 3, 2.2, 3.3)], [4])
    assert tuple(tiny[3, 2].tolist()) == voc_color(4)
    assert int((tiny != image).any(2).sum()) <= 1
