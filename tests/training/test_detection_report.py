"""The report of a trained detector: the numbers of its evaluation, and its images with their boxes in place."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detection_runs import boxes_run, write_voc

from reslab.training.evaluation.evaluate import evaluate
from reslab.training.run import Run
from reslab.training.tasks import detection
from reslab.training.tasks.detection import Detection

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from page_reader import assert_sound

pytestmark = pytest.mark.real_plots


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("detector")
    return boxes_run(write_voc(folder / "voc"), folder / "run", epochs=1)


def test_the_report_has_every_section_and_no_loss_of_the_evaluation(run: Run) -> None:
    page = assert_sound(run.report_path.read_text(encoding="utf-8"))
    sections = ["precision", "errors", "worst", "classes", "confusion"]
    assert [anchor for anchor in page.values("id") if anchor in sections] == sections
    assert "with boxes: 0 of" in " ".join(page.values("alt"))
    assert "mean over the validation images" not in page.text
    assert "validation loss" not in page.text
    assert "diverged" not in page.text


def test_the_results_are_those_of_the_evaluation(run: Run) -> None:
    evaluation = evaluate(run.path, data=run.path.parent / "voc", keep_predictions=True, device="cpu", workers=0)
    results = Detection.results(evaluation)
    assert results.coco is evaluation.coco
    assert list(results.num_objects) == evaluation.object_counts()
    for image in results.worst:
        index = [one.image_id for one in evaluation.targets].index(image.target.image_id)
        assert image.image.name == evaluation.sample_name(index)
        assert np.array_equal(image.image.pixels.transpose(2, 0, 1), evaluation.dataset.preview(index).numpy())


@pytest.mark.parametrize(("channels", "shape"), [(3, (750, 600, 3)), (1, (750, 600))])
def test_a_large_image_is_reduced_with_its_scale(channels: int, shape: tuple[int, ...]) -> None:
    pixels = torch.arange(1500).remainder(251).to(torch.uint8)[None, :, None].expand(channels, 1500, 1200)
    dataset = SimpleNamespace(preview=lambda i: pixels)
    image = detection._load_image(SimpleNamespace(dataset=dataset, sample_name=str), 4)  # type: ignore[arg-type]
    assert (image.name, image.scale, image.pixels.shape) == ("4", 0.5, shape)
    assert image.pixels.reshape(750, 600, -1)[10, 7, 0] == 20
