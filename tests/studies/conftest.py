"""A study of two tiny networks on a few digits, its store, and a place to do it in."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reslab.spec.study import AnalysisRequest, Claim, RowSpec, ScalePreset, ScalePresets, Study
from reslab.studies.job import JobContext
from reslab.studies.store import StudyStore

TINY = (
    "model.depths=1,1,1",
    "model.widths=2,2,2",
    "model.stem=conv3(2) norm act",
    "duration=4 steps",
    "schedule.milestones=3 steps",
    "train_transform=none",
    "batch_size=16",
)


@pytest.fixture
def study() -> Study:
    """A residual network and its plain twin; four steps of 16 digits of 40."""
    cut = ScalePreset(
        "tiny", tuple(word for word in TINY if word != "train_transform=none"), data="digits", num_images=40, seeds=2
    )
    cut = replace(cut, overrides=(*cut.overrides, "train_transform="))
    return Study(
        name="test/tiny",
        title="Two tiny networks",
        reference="a test",
        rows=(
            RowSpec("plain", "plain20_cifar", "cifar10", "he2015-cifar"),
            RowSpec("residual", "resnet20_cifar", "cifar10", "he2015-cifar"),
        ),
        presets=ScalePresets(cut, cut),
        claims=(Claim("plain tests worse than residual", "plain", ">", "residual"),),
    )


@pytest.fixture
def place(tmp_path: Path) -> JobContext:
    """A store of its own; what is said goes nowhere."""
    return JobContext(StudyStore(tmp_path / "store"), device="cpu")


@pytest.fixture
def said(place: JobContext) -> tuple[JobContext, list[str]]:
    """The place, and the list of what is said there."""
    lines: list[str] = []
    return replace(place, on_message=lines.append), lines


Changed = Callable[..., Study]


@pytest.fixture
def changed(study: Study) -> Changed:
    """The study with other settings of its cut."""

    def change(asked: tuple[AnalysisRequest, ...] = (), **cut: Any) -> Study:
        found = replace(study.presets.smoke, **cut)
        return replace(study, presets=ScalePresets(found, found), analyses=asked)

    return change
