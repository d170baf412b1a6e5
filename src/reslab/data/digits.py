"""The handwritten digits that scikit-learn bundles: 1,797 grey pictures of 8x8, ten classes."""

from pathlib import Path

import numpy as np
import torch

from reslab.data.dataset_info import Entry, Found
from reslab.data.image_datasets import TensorImages
from reslab.data.splits import carve

TEST_FRACTION = 0.2
TEST_SEED = 0


def read_digits(entry: Entry, data_dir: Path | None) -> Found:
    """Pixels v of 0..16 as round(255 v / 16); one fixed stratified split, 1,438 train and 359 test, in the record."""
    from sklearn.datasets import load_digits  # takes a second, which no other data set should pay

    bundled = load_digits()
    pixels = np.round(bundled.images * 255 / 16).astype(np.uint8)
    images = TensorImages(torch.from_numpy(pixels)[:, None], torch.from_numpy(bundled.target.astype(np.int64)))
    splits, record = carve(images, TEST_FRACTION, TEST_SEED, entry.classes, into="test")
    return Found(splits, "scikit-learn", split_record=record)
