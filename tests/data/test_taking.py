"""Fewer training pictures: shares, the record, and the same pictures again."""

import pytest
import torch

from reslab.data.registry import open_data
from reslab.data.taking import shares, take


def test_every_class_has_its_share_and_at_least_one() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 19 + [3])
    counts = labels[shares(labels, 20)].bincount()
    assert counts.tolist() == [10, 6, 3, 1]  # of 10, 6, 3.8 and 0.2: the smallest class is kept
    assert labels[shares(labels, 10)].bincount().tolist() == [5, 3, 1, 1]


def test_all_of_them_are_all_of_them() -> None:
    labels = torch.tensor([1, 0, 2, 2, 1, 0, 0])
    assert shares(labels, 7) == list(range(7))


def test_what_is_taken_is_recorded_and_judged_on_the_whole_test_split() -> None:
    whole = open_data("digits")
    cut = take(whole, 100)
    assert len(cut.split("train")) == 100
    assert len(cut.split("test")) == len(whole.split("test"))
    assert cut.split_record["num_images"] == 100
    assert cut.split_record["indices"] == whole.split_record["indices"]
    assert cut.fingerprint != whole.fingerprint
    assert take(whole, 100).fingerprint == cut.fingerprint
    assert take(cut, 100) is cut


@pytest.mark.parametrize("number", [0, 9, 1439, 10**6])
def test_numbers_that_cannot_be_had(number: int) -> None:
    with pytest.raises(ValueError, match="num_images from 10, one a class, to the 1,438 training pictures of digits"):
        take(open_data("digits"), number)
