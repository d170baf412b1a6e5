"""Boxes drawn over images, with their labels."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from reslab.data.mask_colors import voc_color
from reslab.data.masks import VOID
from reslab.report.images import (
    MarkedBox,
    box_color,
    box_text,
    class_color,
    draw_boxes,
    draw_mask,
    mark_boxes,
    mask_image,
    unique_stems,
)

NAMES = ("cat", "dog", "traffic light")


def color_at(image: Image.Image, color: tuple[int, int, int]) -> np.ndarray:
    """Return the mask of the pixels of exactly this color."""
    return (np.asarray(image) == color).all(2)


def test_an_outline_lies_on_the_outermost_pixels_of_its_box() -> None:
    image = np.full((60, 80), 90, np.uint8)
    result = draw_boxes(image, [(10.2, 5.0, 40.0, 30.4), (70, 50, 80, 60)], [2, 1])
    assert isinstance(result, Image.Image)
    drawn = np.asarray(result)
    assert drawn.shape == (60, 80, 3)
    changed = (drawn != 90).any(2)
    rows, columns = changed[:45, :60].any(1).nonzero()[0], changed[:45, :60].any(0).nonzero()[0]
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (5, 29, 10, 39)
    assert not changed[9:26, 14:36].any()
    assert changed[59, 79]
    assert color_at(result, box_color(2)).any()
    assert color_at(result, box_color(1)).any()
    assert (image == 90).all()


def test_without_boxes_the_image_stays() -> None:
    image = np.random.default_rng(0).integers(0, 255, (9, 7, 3)).astype(np.uint8)
    assert np.array_equal(np.asarray(draw_boxes(image, [], [], [], NAMES)), image)
    tiny = np.asarray(draw_boxes(image, [(2, 3, 2.2, 3.3)], [4]))
    assert tuple(tiny[3, 2].tolist()) == box_color(4)
    assert int((tiny != image).any(2).sum()) <= 1


def test_a_pillow_image_is_copied_and_gray_ones_become_rgb() -> None:
    image = Image.new("L", (50, 40), 200)
    result = draw_boxes(image, [(5, 5, 45, 35)], [0], [0.5], NAMES)
    assert (result.mode, result.size) == ("RGB", (50, 40))
    assert image.getextrema() == (200, 200)
    assert draw_boxes(result, [], []) is not result


def test_a_label_is_above_its_box_or_inside_at_the_border() -> None:
    for top, expected in ((100, False), (2, True)):
        result = draw_boxes(np.zeros((300, 400, 3), np.uint8), [(50, top, 350, 280)], [1], [0.75], NAMES)
        rows, columns = color_at(result, box_color(1)).nonzero()
        is_inside = color_at(result, box_color(1))[top + 8 : top + 11, 60:70].any()
        assert bool(is_inside) == expected
        assert (rows.min() < top - 5) != expected
        assert columns.min() >= 50


def test_labels_stay_in_the_image_and_apart() -> None:
    boxes = [(-5.0, -4.0, 30.0, 12.0), (0.0, 0.0, 40.0, 14.0), (170.0, 140.0, 220.0, 170.0)]
    image = np.zeros((160, 200, 3), np.uint8)
    result = draw_boxes(image, boxes, [0, 1, 2], [0.9, 0.8, 0.7], NAMES)
    areas = [
        int(color_at(draw_boxes(image, [box], [i], [0.9], NAMES), box_color(i)).sum()) for i, box in enumerate(boxes)
    ]
    shown = [int(color_at(result, box_color(i)).sum()) for i in range(3)]
    assert all(drawn > 0.6 * alone for drawn, alone in zip(shown, areas, strict=True))


def test_a_higher_score_is_drawn_over_a_lower_one() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    box = (10, 10, 90, 90)
    for scores, top, below in (((0.9, 0.2), 0, 1), ((0.2, 0.9), 1, 0)):
        result = draw_boxes(image, [box, box], [0, 1], scores)
        assert color_at(result, box_color(top)).any()
        assert not color_at(result, box_color(below)).any()


def test_lines_and_labels_grow_with_the_image() -> None:
    heights = []
    for side in (400, 1600):
        marks = [MarkedBox((side / 4, side / 4, side / 2, side / 2), (0, 114, 178), "cat")]
        rows = color_at(mark_boxes(np.zeros((side, side), np.uint8), marks), (0, 114, 178)).any(1).nonzero()[0]
        heights.append(side / 4 - rows[0])
    assert heights[1] > 2.5 * heights[0]


def test_dashes_have_gaps() -> None:
    marks = [MarkedBox((20, 20, 380, 280), (0, 114, 178), is_dashed=dashed) for dashed in (False, True)]
    solid, dashed = (
        int(color_at(mark_boxes(np.zeros((300, 400), np.uint8), [mark]), mark.color).sum()) for mark in marks
    )
    assert 0.4 * solid < dashed < 0.7 * solid


def test_text_that_the_bundled_font_lacks_is_drawn_without_error() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    for name in ("chaise à bascule", "собака", "狗"):
        assert color_at(draw_boxes(image, [(10, 40, 190, 90)], [0], [1.0], [name]), box_color(0)).any()


def test_the_first_colors_differ_for_color_blind_readers() -> None:
    """After Machado et al. 2009 (severity 1): no two of the first seven colors are near each other."""
    protan = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
    deutan = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    colors = (np.array([box_color(label) for label in range(7)]) / 255) ** 2.2
    for matrix in (np.eye(3), protan, deutan):
        seen = (colors @ matrix.T).clip(0, 1) ** (1 / 2.2)
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(7, 1)]
        assert distances.min() > 0.12
    assert all(one != other for one, other in pairwise(box_color(label) for label in range(90)))


def test_a_score_is_not_rounded_up_to_one() -> None:
    assert box_text("cat", 0.9999) == "cat 0.99"
    assert box_text("cat", 1.0) == "cat 1.00"
    assert box_text("cat", 0.104) == "cat 0.10"
    assert box_text("cat") == "cat"


def test_what_does_not_fit_together_is_refused() -> None:
    image, boxes = np.zeros((10, 10, 3), np.uint8), [(1, 1, 5, 5)]
    with pytest.raises(ValueError, match="a label, and a score if any, for each box; got: 1 boxes, 2 labels"):
        draw_boxes(image, boxes, [0, 1])
    with pytest.raises(ValueError, match="1 labels, 0 scores"):
        draw_boxes(image, boxes, [0], [])
    with pytest.raises(ValueError, match="labels from 0 to 2; got: 3 to 3"):
        draw_boxes(image, boxes, [3], [0.5], NAMES)
    with pytest.raises(ValueError, match="uint8 image"):
        draw_boxes(image.astype(np.float32), boxes, [0])


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


def test_names_are_those_of_the_images_or_else_their_paths() -> None:
    paths = ["a/1.jpg", "b/1.jpg", "b/2.jpg", "a_1.jpg", "a_1.png", "..", "b/2.jpg"]
    stems = unique_stems(paths)
    assert stems == {
        "a/1.jpg": "a_1.jpg", "b/1.jpg": "b_1.jpg", "b/2.jpg": "2", "a_1.jpg": "a_1.jpg_2", "a_1.png": "a_1.png",
        "..": "image",
    }  # fmt: skip
    assert len(set(stems.values())) == len(stems)


def test_the_palette_is_that_of_voc() -> None:
    mask = np.array([[0, 1, 255]], dtype=np.uint8)
    image = mask_image(mask)
    assert np.array_equal(np.array(image), mask)
    assert np.array(image.convert("RGB"))[0].tolist() == [list(voc_color(number)) for number in (0, 1, 255)]
