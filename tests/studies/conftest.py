"""A study of two tiny networks on a few digits, and a store to run it in."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reslab.spec.study import AnalysisRequest, Claim, RowSpec, ScalePreset, ScalePresets, Study
from reslab.studies.plan import JobContext, StudyStore

TINY = (
    "model.depths=1,1,1",
    "model.widths=2,2,2",
    "model.stem=conv3(2) norm act",
    "duration=4 steps",
    "schedule.milestones=3 steps",
    "batch_size=16",
    "train_transform=",
)


@pytest.fixture(scope="module", autouse=True)
def quick_reports(empty_plots: None) -> None:
    """The trainings of these tests write reports with empty plots."""


@pytest.fixture
def study() -> Study:
    """A residual network and its plain twin: four steps of 16 of 40 digits."""
    preset = ScalePreset("tiny", TINY, data="digits", num_images=40, seeds=2)
    return Study(
        name="test/tiny",
        title="Two tiny networks",
        reference="a test",
        rows=(
            RowSpec("plain", "plain20_cifar", "cifar10", "he2015-cifar"),
            RowSpec("residual", "resnet20_cifar", "cifar10", "he2015-cifar"),
        ),
        presets=ScalePresets(preset, preset),
        claims=(Claim("plain tests worse than residual", "plain", ">", "residual"),),
    )


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    """A context with a store of its own that drops all messages."""
    return JobContext(StudyStore(tmp_path / "store"), device="cpu")


@pytest.fixture
def recorded(context: JobContext) -> tuple[JobContext, list[str]]:
    """A context, and the list that collects its messages."""
    messages: list[str] = []
    return replace(context, on_message=messages.append), messages


StudyFactory = Callable[..., Study]


@pytest.fixture
def make_study(study: Study) -> StudyFactory:
    """Return the study with analyses, and with other values in its preset."""

    def make(analyses: tuple[AnalysisRequest, ...] = (), **preset_values: Any) -> Study:
        preset = replace(study.presets.smoke, **preset_values)
        return replace(study, presets=ScalePresets(preset, preset), analyses=analyses)

    return make
