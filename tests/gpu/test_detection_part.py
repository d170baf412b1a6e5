"""The part `detection` of the GPU benchmark: its order of trainings, its rows, and what happens when one fails."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detection_jobs import (
    RETINANET,
    SPLITS,
    TRANSFORMS,
    Group,
    Job,
    detector_settings,
    link_all_splits,
    list_jobs,
    make_small,
    open_in_memory,
)
from job_pool import JobPool, Outcome
from part_detection import DetectionRun, main
from part_result import REQUIRED_DATA, PartArgs, PartResult, Status

from reslab.data.boxes import BoxImageDataset
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.registry import open_dataset


class InstantPool:
    """Runs the jobs one after another when they are waited for."""

    def __init__(self, run: Callable[[Job], dict[str, Any]]) -> None:
        self.run, self.running, self.order = run, list[Job](), list[Job]()

    @property
    def num_running(self) -> int:
        return len(self.running)

    @property
    def has_room(self) -> bool:
        return not self.running

    def start(self, job: Job) -> None:
        self.running.append(job)
        self.order.append(job)

    def wait(self, seconds: float) -> list[Outcome]:
        job = self.running.pop()
        try:
            return [Outcome(job, self.run(job))]
        except ValueError as error:
            return [Outcome(job, None, str(error))]


def measured(job: Job, ap50: float = 0.5) -> dict[str, Any]:
    values = {"AP50": ap50, "AP": 0.25, "AP75": 0.2, "VOC mAP": 0.5, "images": "72 test", "train s": 1.0, "s": 2.0}
    return {"accuracy": 0.9, "training images": 50000, "device": "a GPU", **values}


def run_jobs(tmp_path: Path, run: Callable[[Job], dict[str, Any]], seconds: float = 1e6) -> tuple[Any, list[Job]]:
    pool, result = InstantPool(run), PartResult(tmp_path / "detection.json", seconds)
    jobs = list_jobs(has_cifar10=True, small=False)
    DetectionRun(jobs, pool, result, small=False).run()  # type: ignore[arg-type]
    return json.loads((tmp_path / "detection.json").read_text()), pool.order


def test_the_long_training_takes_the_transform_that_is_best_on_validation_images(tmp_path: Path) -> None:
    scores = dict(zip(TRANSFORMS, (0.6, 0.8, 0.7), strict=True))
    values, order = run_jobs(tmp_path, lambda job: measured(job, scores.get(job.transform, 0.5)))
    assert [job.group for job in order[:3]] == [Group.RECIPE] * 3
    assert [job.seed for job in order[:3]] == [0, 1, 2]
    assert {job.transform for job in order if job.group is Group.LONG} == {TRANSFORMS[1]}
    assert {job.transform for job in order if job.group is Group.RECIPE} == {""}
    counts = {title: len(rows) for title, rows in values["tables"].items()}
    expected = {group: 3 for group in Group if group is not Group.BACKBONE} | {Group.STUDY: 6}
    assert counts == expected
    assert "recipe retinanet_resnet18_fpn_320: AP50 0.5 (standard deviation 0), AP 0.250, 3 seeds" in values["line"]
    assert "choice" not in values["line"]
    assert values["notes"][0].startswith("ResNet-18 on CIFAR-10, 15 epochs of 50,000 images: accuracy 0.9000")


def test_after_a_failed_training_only_those_that_need_it_are_left_out(tmp_path: Path) -> None:
    def run(job: Job) -> dict[str, Any]:
        if job.group is Group.BACKBONE or (job.group is Group.RECIPE and job.seed == 1):
            raise ValueError("no memory")
        return measured(job)

    values, order = run_jobs(tmp_path, run)
    assert Group.PRETRAINED not in {job.group for job in order}
    assert [row["seed"] for row in values["tables"][Group.RECIPE]] == [0, 2]
    assert f"failed: {Group.RECIPE}, {RETINANET}, seed 1: no memory" in values["notes"]
    assert any(note.startswith(f"not started: {Group.PRETRAINED}") for note in values["notes"])


def test_a_training_that_would_not_end_in_time_is_not_started(tmp_path: Path) -> None:
    # A second a step: after the first training those of 540 steps no longer fit into the 400 s, those of 250 do.
    values, order = run_jobs(tmp_path, lambda job: {**measured(job), "s": job.cost}, seconds=400)
    assert [job.group for job in order] == [Group.RECIPE, *[Group.STUDY] * 6]
    assert values["notes"][-1].startswith(f"not started: {Group.RECIPE}, {RETINANET}, seed 1")


def test_the_rows_of_the_study_are_its_own(tmp_path: Path) -> None:
    for name, backbone in (("residual-18", None), ("plain-18", "plain18")):
        model, overrides = detector_settings(Job(Group.STUDY, name, 0, 10, "study"), small=False)
        assert (model, overrides["duration"]) == ("fasterrcnn_resnet18_fpn_320", "10 epochs")
        assert (overrides.get("model.backbone"), overrides["model.min_size"]) == (backbone, "160")
    model, overrides = detector_settings(Job(Group.RECIPE, RETINANET, 0, 15), small=False)
    assert (model, overrides) == (RETINANET, {"duration": "15 epochs", "eval_interval": "100000"})


def test_the_splits_are_joined_and_their_images_decoded(tmp_path: Path) -> None:
    link_all_splits(make_small(tmp_path / "bccd"), tmp_path)
    counts = {"test": {"train": 10, "test": 4}, "val": {"train": 6, "val": 4}}
    counts["study"] = {"train": 6, "val": 4, "test": 4}
    shapes = open_dataset("drawn-shapes")
    for name in SPLITS:
        data = open_in_memory(tmp_path / f"data-{name}")
        assert {split: len(images) for split, images in data.splits.items()} == counts[name]
        train = data.split("train")
        assert isinstance(train, BoxImageDataset)
        assert isinstance(train.images, TensorImageDataset)
        assert train.name(0).endswith("train-0.png")
        pixels, target = train[0]
        expected_pixels, expected = shapes.split("train")[0]
        assert pixels.equal(expected_pixels)
        assert target["boxes"].equal(expected["boxes"])
        names = [data.classes[label - 1] for label in target["labels"].tolist()]
        assert names == [shapes.classes[label - 1] for label in expected["labels"].tolist()]


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_process_that_dies_while_idle_is_replaced(is_noticed: bool) -> None:
    pool = JobPool(functools.partial, (eval,), 1)
    try:
        pool.start("2 ** 2")
        assert [outcome.value for outcome in pool.wait(60)] == [4]
        process = pool._slots[0].process
        process.kill()
        process.join()
        if not is_noticed:  # it dies between the check and the message
            process.is_alive = lambda: True  # type: ignore[method-assign]
        pool.start("3 ** 2")
        assert pool.wait(60) == [Outcome("3 ** 2", 9)]
        assert len(pool._slots) == 1
    finally:
        pool.close()


def test_without_blood_cells_nothing_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "detection.json"
    assert main(PartArgs(path, 60.0, None, small=False)) == 0
    values = json.loads(path.read_text())
    assert (values["status"], values["line"], values["tables"]) == (Status.SKIPPED, REQUIRED_DATA["bccd"], {})


def test_only_the_job_of_a_process_that_dies_fails() -> None:
    pool, outcomes = JobPool(functools.partial, (eval,), 2), list[Outcome]()
    try:
        pending = ["2 ** 2", "__import__('os')._exit(3)", "int('a\\nb')", "3 ** 2"]
        while pending or pool.num_running:
            while pending and pool.has_room:
                pool.start(pending.pop(0))
            outcomes += pool.wait(60)
    finally:
        pool.close()
    results = {outcome.job: (outcome.value, outcome.error) for outcome in outcomes}
    assert results["2 ** 2"] == (4, "")
    assert results["3 ** 2"] == (9, "")
    assert results["int('a\\nb')"][1].startswith("ValueError: invalid literal")
    assert results["__import__('os')._exit(3)"] == (None, "its process ended with exit code 3")
