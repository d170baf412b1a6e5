"""The names of the files of predicted masks."""

import numpy as np

from reslab.data.formats.mask_classes import voc_color
from reslab.data.mask_images import mask_image, unique_stems


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
