"""A run is told where it trains at another size than it is judged at."""

from dataclasses import replace

import pytest

from reslab.spec.recipes import RECIPES
from reslab.training.setup import size_notes


@pytest.mark.parametrize(
    ("augment", "side", "told"),
    [
        ("random-resized-crop(32) flip", 224, "--set test='resize(37) center-crop(32)'"),
        ("pad(4) crop(80)", 32, "trained on 80x80, judged at 32x32"),
        ("random-resized-crop(224) flip", 224, ""),
        ("random-resized-crop(176)", 224, ""),
        ("pad(4) crop(32) flip", 32, ""),
        ("flip", 224, ""),
        ("", 28, ""),
    ],
)
def test_sizes_far_apart_are_told(augment: str, side: int, told: str) -> None:
    notes = size_notes(replace(RECIPES["photos"], augment=augment), (3, side, side))
    assert bool(notes) == bool(told)
    assert told in "".join(notes)
