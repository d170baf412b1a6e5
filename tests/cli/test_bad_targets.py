"""Wrong labels, values and masks on the command line: an error that says what to do, and no folder of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NUM_IMAGES = 6


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    for i in range(NUM_IMAGES):
        write(tmp_path / "cells" / "images" / f"{i}.png", noise(12, 16, 3))
        write(tmp_path / "cells" / "masks" / f"{i}.png", noise(12, 16) % 2)
    (tmp_path / "cells" / "classes.txt").write_text("ground\ncell\n")
    return tmp_path / "cells" / "masks"


def other_mask(name: str, pixels: np.ndarray) -> Callable[[Path], None]:
    def replace(masks: Path) -> None:
        (masks / "0.png").unlink()
        write(masks / name, pixels)

    return replace


def one_pixel(masks: Path) -> None:
    for i in range(NUM_IMAGES):
        write(masks.parent / "images" / f"{i}.png", noise(1, 1, 3))
        write(masks / f"{i}.png", noise(1, 1) % 2)


BAD_MASKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "size": (other_mask("0.png", noise(12, 12) % 2), "the size of the image, 12x16; got: 12x12; export the mask at"),
    "turned": (other_mask("0.png", noise(16, 12) % 2), "got: 16x12; EXIF may rotate the image"),
    "float": (other_mask("0.tif", noise(12, 16).astype(np.float32)), "got: mode F; save the numbers of the classes"),
    "lossy": (other_mask("0.jpg", noise(12, 16) % 2), "a lossless format such as PNG; got: JPEG"),
    "class": (other_mask("0.png", noise(12, 16) % 2 * 7), r"the 2 classes \(0 to 1\), or 255 for void; got: 7;"),
    "color": (other_mask("0.png", noise(12, 16, 3)), "masks of numbers, as no list gives colors; got: #"),
    "none": (lambda masks: (masks / "0.png").unlink(), r"0\.png: an image without a mask in"),
    "alone": (lambda masks: write(masks / "x.png", noise(12, 16) % 2), r"x\.png: a mask without an image in"),
    "pixel": (one_pixel, "images of at least 4x4, .*; got: 1x1; nearest valid: 4x4"),
}


@pytest.mark.parametrize("case", list(BAD_MASKS))
def test_masks_that_cannot_be_used(masks: Path, tmp_path: Path, command: Any, case: str) -> None:
    change, message = BAD_MASKS[case]
    change(masks)
    outcome = command("train", masks.parent, "-o", tmp_path / "run", "--device", "cpu")
    assert outcome.code != 0
    assert_says(outcome.err, message)
    assert not (tmp_path / "run").exists()


BAD_LABELS = {
    "nan": ("regression", ["0.5", "nan"], r"a number in the column label in line 3 of .*; got: 'nan'; fill it in"),
    "infinite": ("regression", ["0.5", "-inf"], r"a number in the column label in line 3 of .*; got: '-inf'"),
    "empty": ("regression", ["0.5", ""], r"a number in the column label in line 3 of .*; fill it in, or remove"),
    "text": ("regression", ["0.5", "many"], r"a number in the column label in line 3 of .*; got: 'many'"),
    "large": ("regression", ["0.5", "1e300"], r"finite numbers as labels; got: inf for .*1\.png; fill in"),
    "other class": ("multi-label", ["a|b", "a", "b", "a", "a|c"], r"images have too.*got: 'c' in line 6; rename"),
}


@pytest.mark.parametrize("case", list(BAD_LABELS))
def test_labels_that_cannot_be_used(tmp_path: Path, command: Any, case: str) -> None:
    task, labels, message = BAD_LABELS[case]
    rows = ["path,label,split"]
    for i in range(NUM_IMAGES):
        write(tmp_path / f"{i}.png", noise(12, 12, 3))
        label = labels[i] if i < len(labels) else labels[0]
        rows.append(f"{i}.png,{label},{'train' if i < 4 else 'val'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    outcome = command("train", tmp_path / "labels.csv", "--task", task, "-o", tmp_path / "run", "--device", "cpu")
    assert outcome.code != 0
    assert_says(outcome.err, message)
    assert not (tmp_path / "run").exists()


def assert_says(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        raise ValueError(" ".join(text.split()))
