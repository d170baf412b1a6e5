"""Masks of objects from polygons and run lengths, against pycocotools."""

from pathlib import Path

import numpy as np
import pytest
from mask_files import write_mask
from pycocotools import mask as reference

from reslab.data.segments import InstanceNumber, Polygons, RunLengths, decode_segments, encode_mask, polygon_mask

# pycocotools 2.0.10 itself calls numpy in the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def random_polygon(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A polygon that may cross itself, leave the image and repeat a corner."""
    points = generator.uniform(-6, max(height, width) + 6, (int(generator.integers(3, 9)), 2))
    points = points.round() if generator.random() < 0.3 else points
    return np.concatenate([points, points[-1:]]).reshape(-1) if generator.random() < 0.2 else points.reshape(-1)


def test_polygons_have_the_pixels_of_pycocotools() -> None:
    generator = np.random.default_rng(0)
    num_set = 0
    for _ in range(300):
        height, width = generator.integers(1, 40, 2).tolist()
        polygon = random_polygon(generator, height, width)
        expected = reference.decode(reference.frPyObjects([polygon.tolist()], height, width))[..., 0]
        result = polygon_mask(polygon, height, width)
        assert result.shape == (height, width)
        assert np.array_equal(result, expected)
        num_set += int(expected.sum())
    assert num_set > 10_000


def test_an_object_of_several_polygons_is_their_union() -> None:
    polygons = [[1.0, 1, 9, 1, 9, 9, 1, 9], [6.0, 6, 18, 6, 18, 15, 6, 15]]
    expected = reference.decode(reference.merge(reference.frPyObjects(polygons, 20, 24)))
    assert np.array_equal(Polygons(tuple(map(np.array, polygons))).decode(20, 24), expected)


def test_run_lengths_are_those_of_pycocotools() -> None:
    generator = np.random.default_rng(1)
    for density in (0.02, 0.5, 0.98, 0, 1):
        mask = np.asfortranarray(generator.random((37, 53)) < density).astype(np.uint8)
        encoded = reference.encode(mask)
        assert np.array_equal(RunLengths(encoded["counts"], 37, 53).decode(37, 53), mask)
        runs = np.diff(np.flatnonzero(np.concatenate(([1], np.diff(mask.T.reshape(-1)) != 0, [1]))))
        counts = (0, *runs.tolist()) if mask[0, 0] else tuple(runs.tolist())
        assert np.array_equal(RunLengths(counts, 37, 53).decode(37, 53), mask)


def test_masks_are_encoded_as_by_pycocotools() -> None:
    generator = np.random.default_rng(2)
    for height, width in ((37, 53), (1, 1), (400, 3)):
        for density in (0.001, 0.02, 0.5, 0.98, 0, 1):
            mask = generator.random((height, width)) < density
            encoded = encode_mask(mask)
            assert encoded.counts == reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
            assert (encoded.height, encoded.width) == (height, width)
            assert np.array_equal(encoded.decode(height, width), mask)
            assert encoded.to_dict() == {"size": [height, width], "counts": encoded.counts.decode()}


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (RunLengths((5, 4), 3, 3), "required: a segmentation of 4x3, like the image; got: 3x3"),
        (RunLengths((5, 4), 4, 3), "required: runs of 12 pixels in a segmentation; got: 9 pixels"),
        (RunLengths(b"54", 4, 3), "required: runs of 12 pixels in a segmentation; got: 9 pixels"),
    ],
)
def test_runs_that_do_not_suit_the_image_are_an_error(segment: RunLengths, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment.decode(4, 3)


def test_instances_of_a_mask_file(tmp_path: Path) -> None:
    numbers = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)
    write_mask(tmp_path / "a.png", numbers)
    segments = [InstanceNumber(tmp_path / "a.png", number) for number in (2, 1)]
    masks = decode_segments([*segments, RunLengths((0, 6), 2, 3)], 2, 3)
    assert masks.dtype == np.uint8
    assert masks.tolist() == [[[0, 0, 0], [1, 1, 0]], [[0, 1, 1], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]]
    assert np.array_equal(segments[0].decode(2, 3), masks[0])
