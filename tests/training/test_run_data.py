"""The data of a run, named again: its own images keep the recorded split, so that none is trained on and held out."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reslab.analysis.inputs import ImageOptions, load_inputs
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.run import Run
from reslab.training.train import train

SIDE, NUM_IMAGES = 8, 30


def add_images(root: Path, start: int, stop: int) -> None:
    rng = np.random.default_rng(start)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(start, stop):
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "photos"
    add_images(root, 0, NUM_IMAGES)
    return root


@pytest.fixture(scope="module")
def photo_run(photos: Path, tiny: dict[str, Any]) -> Run:
    """A run that holds out 3 images of each class; by default 6 would be."""
    return train(data=photos, output=photos.parent / "run", val_fraction=0.1, batch_size=16, **tiny)


def held_out(run: Run) -> set[str]:
    return set(run.metadata["data"]["split_record"]["names"])


def evaluated(model: Any, data: Any, **options: Any) -> set[str]:
    return set(evaluate(model, data, keep_predictions=True, **options).names)


def test_images_that_a_run_was_trained_on_are_not_evaluated_as_held_out(
    photo_run: Run, photos: Path, tmp_path: Path
) -> None:
    held = held_out(photo_run)
    assert len(held) == 6
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    for model in (photo_run, photo_run.path, str(photo_run.weights_path)):
        assert evaluated(model, photos) == held
        assert evaluated(model, str(moved)) == held
    assert evaluated(photo_run, photos, val_fraction=0.1) == held
    add_images(moved, NUM_IMAGES, NUM_IMAGES + 10)
    assert evaluated(photo_run, moved) == held
    with pytest.raises(ValueError, match=r"own validation split of photos, a fraction of 0\.1; got: 0\.4.* trained on"):
        evaluate(photo_run, photos, val_fraction=0.4)


def test_other_images_are_split_anew(photo_run: Run, tmp_path: Path) -> None:
    add_images(tmp_path / "others", 50, 70)
    assert len(evaluated(photo_run, tmp_path / "others")) == 8
    assert len(evaluated(photo_run, tmp_path / "others", val_fraction=0.5)) == 20


def test_recorded_images_that_are_gone_are_an_error(photo_run: Run, photos: Path, tmp_path: Path) -> None:
    first = photos / min(held_out(photo_run))
    shutil.move(first, tmp_path / first.name)
    try:
        with pytest.raises(ValueError, match=f"1 of them missing: {min(held_out(photo_run))}"):
            evaluate(photo_run, photos)
    finally:
        shutil.move(tmp_path / first.name, first)


def test_the_analysis_of_a_run_takes_its_held_out_images(photo_run: Run, photos: Path) -> None:
    assert photo_run.arch is not None
    inputs = load_inputs(photo_run.arch, ImageOptions(photos, num_images=6), photo_run)
    assert inputs.data is not None
    split = inputs.data.split("val")
    assert {split.name(i) for i in range(len(split))} == held_out(photo_run)


def test_an_ensemble_holds_out_the_same_images(photo_run: Run, photos: Path, tiny: dict[str, Any]) -> None:
    other = train(data=photos, output=photos.parent / "other", val_fraction=0.3, batch_size=16, **tiny)
    for data in (None, photos):
        with pytest.raises(ValueError, match=r"hold out the same validation images of photos; got: .*run and .*other"):
            evaluate([photo_run, other], data)
    assert evaluated([photo_run, photo_run.path], photos, val_fraction=0.1) == held_out(photo_run)
