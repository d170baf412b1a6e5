"""The draws and pixels of every transform are those of the version that defined it."""

import numpy as np
import pytest

from reslab.spec.transform_grammar import parse_transforms
from reslab.spec.transforms import TRANSFORMS, TransformKind
from tests.data.transforms.golden import EXPRESSIONS, GOLDEN, render

KNOWN = dict(np.load(GOLDEN))
# The batch of random-resized-crop is a product of matrices, whose sums another CPU may round to the other gray level.
ROUNDED = {"random-resized-crop(10)|batch", "random-resized-crop(10,0.3,bicubic)|batch"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_pixels_are_as_recorded(expression: str) -> None:
    for name, result in render(expression).items():
        known = KNOWN[name]
        assert (result.shape, result.dtype) == (known.shape, known.dtype)
        if result.dtype != np.uint8:
            np.testing.assert_allclose(result, known, rtol=0, atol=1e-5)
        elif name in ROUNDED:
            assert abs(result.astype(int) - known).max() <= 1
        else:
            assert np.array_equal(result, known)


def test_every_transform_is_recorded() -> None:
    recorded = {call.name for expression in EXPRESSIONS for call in parse_transforms(expression)}
    assert {spec.name for spec in TRANSFORMS.values() if spec.kind is not TransformKind.BATCH} <= recorded
